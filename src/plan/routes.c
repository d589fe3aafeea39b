/* In: patterns. Out: every (source, set) that some layer uses, and whether a communicator for each is
 * affordable. Invariant: a route is listed exactly when a piece travels on it. */
#include <stdlib.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/plan/instances.h"

static weft_status_t add_route(void *user, const weft_piece_t *piece, uint32_t count)
{
    (void)count;
    weft_routes_t *routes = user;
    if (!WEFT_ARRAY_PUSH(routes, (weft_route_t){piece->source, piece->set}))
        return WEFT_ERR_NO_MEMORY;
    if (routes->count == routes->capacity) /* about to grow: drop what is known */
        weft_routes_normalize(routes);
    return WEFT_OK;
}

/* Each TP rank's own set must exist before a pattern says "each". */
static weft_status_t intern_singles(weft_plan_t *plan)
{
    uint32_t tp = plan->rollout->tp;
    bool each = false;
    for (uint32_t i = 0; i < plan->num_patterns; i++)
        each |= plan->patterns[i].whole;
    plan->single_sets = malloc(tp * sizeof *plan->single_sets);
    if (!plan->single_sets)
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t t = 0; t < tp; t++) {
        plan->single_sets[t] = UINT32_MAX;
        if (each)
            WEFT_TRY(weft_sets_intern(&plan->sets, &t, 1, &plan->single_sets[t]));
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
    WEFT_TRY(weft_plan_walk_classes(plan, add_route, &plan->routes));
    weft_routes_normalize(&plan->routes);
    uint32_t direct;
    WEFT_TRY(count_direct_groups(plan, &direct));
    plan->relay = direct > plan->options.max_groups;
    plan->groups_max = plan->relay ? count_relay_groups(plan) : direct;
    return WEFT_OK;
}
