#include "src/plan/sets.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/array.h"

weft_status_t weft_sets_intern(weft_sets_t *sets, const uint32_t *tp_ranks, uint32_t count, uint32_t *set)
{
    for (size_t i = 0; i < sets->count; i++) {
        const weft_set_t *known = &sets->items[i];
        if (known->count == count && memcmp(known->tp_ranks, tp_ranks, count * sizeof *tp_ranks) == 0) {
            *set = (uint32_t)i;
            return WEFT_OK;
        }
    }
    uint32_t *copy = malloc(count * sizeof *copy);
    if (!copy || !WEFT_ARRAY_PUSH(sets, (weft_set_t){count, copy})) {
        free(copy);
        return WEFT_ERR_NO_MEMORY;
    }
    memcpy(copy, tp_ranks, count * sizeof *copy);
    *set = (uint32_t)(sets->count - 1);
    return WEFT_OK;
}

void weft_sets_destroy(weft_sets_t *sets)
{
    for (size_t i = 0; i < sets->count; i++)
        free(sets->items[i].tp_ranks);
    WEFT_ARRAY_FREE(sets);
}

bool weft_set_has(const weft_set_t *set, uint32_t tp_rank)
{
    uint32_t low = 0, high = set->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (set->tp_ranks[middle] < tp_rank)
            low = middle + 1;
        else
            high = middle;
    }
    return low < set->count && set->tp_ranks[low] == tp_rank;
}

static int compare_routes(const void *left, const void *right)
{
    const weft_route_t *a = left, *b = right;
    if (a->set != b->set)
        return a->set < b->set ? -1 : 1;
    return a->source < b->source ? -1 : a->source > b->source;
}

void weft_routes_normalize(weft_routes_t *routes)
{
    if (routes->count == 0)
        return;
    qsort(routes->items, routes->count, sizeof *routes->items, compare_routes);
    size_t kept = 1;
    for (size_t i = 1; i < routes->count; i++)
        if (compare_routes(&routes->items[i], &routes->items[kept - 1]) != 0)
            routes->items[kept++] = routes->items[i];
    routes->count = kept;
}

uint32_t weft_routes_find(const weft_routes_t *routes, uint32_t source, uint32_t set)
{
    const weft_route_t wanted = {source, set};
    const weft_route_t *found =
        bsearch(&wanted, routes->items, routes->count, sizeof *routes->items, compare_routes);
    return found ? (uint32_t)(found - routes->items) : UINT32_MAX;
}
