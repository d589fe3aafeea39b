/* Instances: a pattern's layers and experts, those that send alike counted together.
 *
 * Which holder of a box sends depends on the pipeline stage, the place of the expert and the turn of the
 * rotation, and on nothing else of the layer. So what a plan adds up or lists without regard to order is gone
 * through once for each such class: hundreds of times instead of tens of thousands. */
#ifndef WEFT_PLAN_INSTANCES_H
#define WEFT_PLAN_INSTANCES_H

#include "src/plan/plan.h"

typedef struct weft_instance {
    uint32_t layer, expert; /* one of the class; expert of the model, 0 for a layer without */
    uint32_t tp_rank;       /* who holds the expert under the rollout's ep; 0 elsewhere */
    uint32_t count;         /* how many are in the class */
} weft_instance_t;

typedef struct weft_instances {
    weft_instance_t *items;
    uint32_t count;
} weft_instances_t;

/* List the classes of pattern `pattern`; together their counts are its layers times its experts. */
weft_status_t weft_instances_create(const weft_plan_t *plan, uint32_t pattern, weft_instances_t *instances);
void weft_instances_destroy(weft_instances_t *instances);

/* Called for each piece; it stands for `count` of the same source, set and bytes. */
typedef weft_status_t (*weft_instance_fn)(void *user, const weft_piece_t *piece, uint32_t count);

/* Walk the pieces of the whole plan, data and amax, class by class. The order means nothing.
 * Each TP rank's own set must be there (routes.c). */
weft_status_t weft_plan_walk_classes(const weft_plan_t *plan, weft_instance_fn fn, void *user);

#endif
