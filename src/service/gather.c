/* In: what members give, in any order, some of it twice. Out: when a gathering is complete.
 * Invariant: (key, sequence) of the current one never falls; memory is that of two gatherings at most. */
#include "src/service/gather.h"

#include <stdlib.h>
#include <string.h>

weft_status_t weft_gathers_create(const weft_topology_t *topology, weft_gathers_t *g)
{
    uint32_t ranks = weft_topology_ranks(topology);
    *g = (weft_gathers_t){.topology = *topology};
    g->current.askers = calloc(ranks, sizeof *g->current.askers);
    g->last.askers = calloc(ranks, sizeof *g->last.askers);
    return g->current.askers && g->last.askers ? WEFT_OK : WEFT_ERR_NO_MEMORY;
}

void weft_gathers_destroy(weft_gathers_t *g)
{
    free(g->current.data);
    free(g->last.data);
    free(g->current.askers);
    free(g->last.askers);
    *g = (weft_gathers_t){0};
}

static bool is_member(const weft_gathers_t *g, const weft_members_t *members, uint32_t rank)
{
    return weft_topology_is_trainer(&g->topology, rank) ||
           weft_members_has(*members, weft_topology_replica(&g->topology, rank));
}

static int compare(const weft_wire_gather_t *a, const weft_wire_gather_t *b)
{
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return a->sequence < b->sequence ? -1 : a->sequence > b->sequence;
}

static bool same_shape(const weft_wire_gather_t *a, const weft_wire_gather_t *b)
{
    return a->bytes == b->bytes && memcmp(&a->members, &b->members, sizeof a->members) == 0;
}

static bool begin(weft_gathers_t *g, const weft_wire_gather_t *of,
                  void (*forsake)(void *, const weft_gather_asker_t *), void *user)
{
    weft_gather_t *current = &g->current;
    uint32_t ranks = weft_topology_ranks(&g->topology);
    for (uint32_t p = 0; current->open && p < ranks; p++)
        if (current->askers[p].identity_bytes)
            forsake(user, &current->askers[p]);
    free(current->data);
    memset(current->askers, 0, ranks * sizeof *current->askers);
    current->data = calloc(ranks, (size_t)of->bytes + 1);
    current->of = *of;
    current->open = current->data != NULL;
    return current->open;
}

static bool all_here(const weft_gathers_t *g)
{
    for (uint32_t p = 0; p < weft_topology_ranks(&g->topology); p++)
        if (is_member(g, &g->current.of.members, p) && !g->current.askers[p].identity_bytes)
            return false;
    return true;
}

weft_gather_verdict_t weft_gathers_take(weft_gathers_t *g, uint32_t rank, const weft_wire_gather_t *of,
                                        const uint8_t *data, const weft_gather_asker_t *asker,
                                        void (*forsake)(void *, const weft_gather_asker_t *), void *user)
{
    if (!is_member(g, &of->members, rank) || of->key == 0 || of->bytes > WEFT_WIRE_MAX_GATHER_BYTES)
        return WEFT_GATHER_MALFORMED;
    if (g->last.complete && compare(of, &g->last.of) == 0)
        return same_shape(of, &g->last.of) ? WEFT_GATHER_REPEATED : WEFT_GATHER_MALFORMED;
    int order = compare(of, &g->current.of);
    if (order < 0 || (order == 0 && !g->current.open))
        return WEFT_GATHER_OVERTAKEN;
    if (order > 0 && !begin(g, of, forsake, user))
        return WEFT_GATHER_NO_MEMORY;
    if (!same_shape(of, &g->current.of))
        return WEFT_GATHER_MALFORMED;
    memcpy(g->current.data + (size_t)rank * of->bytes, data, of->bytes);
    g->current.askers[rank] = *asker;
    return all_here(g) ? WEFT_GATHER_COMPLETE : WEFT_GATHER_WAITS;
}

void weft_gathers_conclude(weft_gathers_t *g)
{
    weft_gather_t done = g->current;
    g->current = (weft_gather_t){.of = done.of, .askers = g->last.askers};
    free(g->last.data);
    g->last = done;
    g->last.open = false;
    g->last.complete = true;
}
