/* Destination sets: the TP ranks that need the same fragment, the same in every replica; and routes, a source
 * with a set. */
#ifndef WEFT_PLAN_SETS_H
#define WEFT_PLAN_SETS_H

#include <weft/plan.h>

typedef struct weft_set {
    uint32_t count;
    uint32_t *tp_ranks; /* [count], ascending */
} weft_set_t;

typedef struct weft_sets {
    weft_set_t *items;
    size_t count, capacity;
} weft_sets_t;

/* Find or add a set of `count` ascending TP ranks; its index in *set. */
weft_status_t weft_sets_intern(weft_sets_t *sets, const uint32_t *tp_ranks, uint32_t count, uint32_t *set);
void weft_sets_destroy(weft_sets_t *sets);

bool weft_set_has(const weft_set_t *set, uint32_t tp_rank);

typedef struct weft_route {
    uint32_t source; /* trainer rank */
    uint32_t set;
} weft_route_t;

typedef struct weft_routes {
    weft_route_t *items; /* sorted by set, then source */
    size_t count, capacity;
} weft_routes_t;

/* The index of a route; it must exist. */
uint32_t weft_routes_find(const weft_routes_t *routes, uint32_t source, uint32_t set);

/* Sort and drop duplicates. */
void weft_routes_normalize(weft_routes_t *routes);

#endif
