/* A selection: which layers a version carries, and which buckets travel for them.
 *
 * A bucket travels when it holds something of a selected layer, or is of digests; trainers and rollouts come
 * to the same ones, since a bucket's content is the same on all members of its route. */
#ifndef WEFT_ASSEMBLE_SELECTION_H
#define WEFT_ASSEMBLE_SELECTION_H

#include "src/plan/program.h"

typedef struct weft_selection {
    const weft_program_t *program;
    bool whole;                         /* the whole model: all of both */
    bool *layers;                       /* [layers of the plan] */
    bool *buckets;                      /* [buckets of the program] */
    size_t num_units;                   /* of selected layers */
    uint64_t payload_bytes, wire_bytes; /* of selected buckets */
} weft_selection_t;

/* Make a selection of the whole model. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_selection_create(const weft_program_t *program, weft_selection_t *selection);
void weft_selection_destroy(weft_selection_t *selection);

/* Select the layers whose name, with leaf or without, matches one of `patterns`, globs separated by commas;
 * "": all. */
void weft_selection_choose(weft_selection_t *selection, const char *patterns);

/* How many layers of the plan the patterns match. */
uint32_t weft_selection_count(const weft_plan_t *plan, const char *patterns);

#endif
