/* In: patterns. Out: every (source, set) that some layer uses, and whether a communicator for each is
 * affordable. Invariant: a route is listed exactly when a piece travels on it. */
#include <stdlib.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/plan/plan.h"

static weft_status_t add_route(void *user, const weft_piece_t *piece)
{
    weft_routes_t *routes = user;
    if (!WEFT_ARRAY_PUSH(routes, (weft_route_t){piece->source, piece->set}))
        return WEFT_ERR_NO_MEMORY;
    if (routes->count == routes->capacity) /* about to grow: drop what is known */
        weft_routes_normalize(routes);
    return WEFT_OK;
}

/* The most holders a box of the pattern has: sources repeat with that period along instances of a stage. */
static uint32_t rotation_period(const weft_pattern_t *pattern)
{
    uint32_t most = 1;
    for (uint32_t p = 0; p < pattern->num_parts; p++) {
        const weft_placement_t *placement = &pattern->parts[p].placement;
        for (uint32_t box = 0; box < placement->num_boxes; box++) {
            uint32_t holders = placement->first_holder[box + 1] - placement->first_holder[box];
            most = holders > most ? holders : most;
        }
    }
    return most;
}

/* An expert's sources rotate too; under the trainer's ep each has its own, under the rollout's each TP rank
 * its own set. */
static weft_status_t walk_layer(weft_plan_t *plan, uint32_t layer, uint32_t period)
{
    uint32_t experts = weft_plan_local_experts(plan, layer);
    weft_cursor_t cursor = {.layer = layer};
    do {
        bool known = cursor.expert >= period && cursor.expert + 1 < experts;
        if (known && plan->trainer->size[WEFT_AXIS_EP] == 1)
            continue;
        WEFT_TRY(weft_plan_walk(plan, cursor, WEFT_PIECE_DATA, add_route, &plan->routes));
        WEFT_TRY(weft_plan_walk(plan, cursor, WEFT_PIECE_AMAX, add_route, &plan->routes));
    } while (weft_cursor_next(plan, &cursor) && cursor.layer == layer);
    return WEFT_OK;
}

/* Each TP rank's own set must exist before a pattern says "each". */
static weft_status_t intern_singles(weft_plan_t *plan)
{
    for (uint32_t i = 0; i < plan->num_patterns; i++)
        for (uint32_t t = 0; plan->patterns[i].whole && t < plan->rollout->tp; t++) {
            uint32_t set;
            WEFT_TRY(weft_sets_intern(&plan->sets, &t, 1, &set));
        }
    return WEFT_OK;
}

static weft_status_t count_direct_groups(const weft_plan_t *plan, uint32_t *most)
{
    uint32_t *groups = calloc(plan->trainer->num_ranks + plan->rollout->tp, sizeof *groups);
    if (!groups)
        return WEFT_ERR_NO_MEMORY;
    *most = 0;
    for (size_t i = 0; i < plan->routes.count; i++) {
        const weft_set_t *set = &plan->sets.items[plan->routes.items[i].set];
        uint32_t *at_source = &groups[plan->routes.items[i].source];
        *most = ++*at_source > *most ? *at_source : *most;
        for (uint32_t k = 0; k < set->count; k++) {
            uint32_t *at_rank = &groups[plan->trainer->num_ranks + set->tp_ranks[k]];
            *most = ++*at_rank > *most ? *at_rank : *most;
        }
    }
    free(groups);
    return WEFT_OK;
}

/* With relays a rank needs one communicator for each set it is in that has more than one rank. */
static uint32_t count_relay_groups(const weft_plan_t *plan)
{
    uint32_t most = 0;
    for (uint32_t t = 0; t < plan->rollout->tp; t++) {
        uint32_t count = 0;
        for (size_t i = 0; i < plan->sets.count; i++)
            count += weft_set_has(&plan->sets.items[i], t) &&
                     plan->sets.items[i].count * plan->rollout->replicas > 1;
        most = count > most ? count : most;
    }
    return most;
}

weft_status_t weft_plan_make_routes(weft_plan_t *plan)
{
    WEFT_TRY(intern_singles(plan));
    uint32_t stages = plan->trainer->size[WEFT_AXIS_PP];
    uint32_t *walked = calloc((size_t)plan->num_patterns * stages + 1, sizeof *walked);
    weft_status_t status = walked ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint32_t layer = 0; layer < plan->layers->count && status == WEFT_OK; layer++) {
        uint32_t period = rotation_period(weft_plan_pattern(plan, layer));
        if (walked[plan->layer_pattern[layer] * stages + plan->layer_stage[layer]]++ < period)
            status = walk_layer(plan, layer, period);
    }
    free(walked);
    WEFT_TRY(status);
    weft_routes_normalize(&plan->routes);
    uint32_t direct;
    WEFT_TRY(count_direct_groups(plan, &direct));
    plan->relay = direct > plan->options.max_groups;
    plan->groups_max = plan->relay ? count_relay_groups(plan) : direct;
    return WEFT_OK;
}
