/* Gathering, which the bootstrap transport does, and forming groups. */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/ipc/backend.h"

weft_status_t weft_ipc_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error)
{
    WEFT_TRY(weft_ipc_refuse_failed(transport, "allgather", error));
    const weft_transport_ops_t *ops = weft_transport_table(transport->bootstrap);
    weft_status_t status = ops->allgather(transport->bootstrap, mine, bytes, all, error);
    transport->failed = status != WEFT_OK && status != WEFT_ERR_ARGUMENT;
    return status;
}

/* Say where this rank's counters stand, then that it is there. The order of groups that two ranks share is
 * the same for both, so the other has come to this one when it has formed as many with this rank. */
static void announce(weft_transport_t *transport, const weft_group_t *group)
{
    weft_ipc_counters_t *own = &transport->segment->groups[group->id];
    atomic_store(&own->published_before, atomic_load(&own->published));
    atomic_store(&own->acknowledged_before, atomic_load(&own->acknowledged));
    for (uint32_t i = 0; i < group->count; i++)
        if (i != group->position)
            atomic_fetch_add(&transport->segment->joined[group->members[i].rank], 1);
}

static weft_status_t await(weft_transport_t *transport, const weft_group_t *group, uint32_t rank,
                           uint64_t deadline_us, weft_error_t *error)
{
    const weft_ipc_segment_t *segment = transport->peers[rank].segment;
    uint64_t wanted = atomic_load(&transport->segment->joined[rank]);
    for (unsigned round = 0; atomic_load(&segment->joined[transport->base.rank]) < wanted; round++) {
        const char *lost = weft_ipc_lost(transport, rank);
        if (lost)
            return weft_fail(error, WEFT_ERR_PEER_LOST, "rank %u: ipc: creating group %u: rank %u %s",
                             transport->base.rank, group->id, rank, lost);
        if (weft_now_us() >= deadline_us)
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "rank %u: ipc: creating group %u: rank %u did not come within %.1f s",
                             transport->base.rank, group->id, rank, (double)transport->timeout_us * 1e-6);
        if (round >= 100)
            weft_sleep_us(50);
    }
    return WEFT_OK;
}

/* A member that is ahead may have left this group already and formed another of the same id. Then nothing was
 * counted in between, since a root waits until this rank too has acknowledged: its words are still those of
 * this group. */
static weft_status_t await_all(weft_transport_t *transport, weft_group_t *group, weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    for (uint32_t i = 0; i < group->count; i++) {
        struct weft_ipc_member *member = &group->members[i];
        if (i != group->position)
            WEFT_TRY(await(transport, group, member->rank, deadline_us, error));
        const weft_ipc_counters_t *counters = &transport->peers[member->rank].segment->groups[group->id];
        member->published = atomic_load(&counters->published_before);
        member->acknowledged = atomic_load(&counters->acknowledged_before);
    }
    return WEFT_OK;
}

weft_status_t weft_ipc_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                    uint32_t count, weft_group_t **group, weft_error_t *error)
{
    uint32_t position;
    WEFT_TRY(weft_ipc_refuse_failed(transport, "group_create", error));
    WEFT_TRY(weft_transport_check_group(&transport->base, id, ranks, count, &position, error));
    weft_group_t *made = calloc(1, sizeof *made + count * sizeof made->members[0]);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: creating group %u: out of memory",
                         transport->base.rank, id);
    made->id = id;
    made->count = count;
    made->position = position;
    made->root = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++)
        made->members[i].rank = ranks[i];
    announce(transport, made);
    weft_status_t status = await_all(transport, made, error);
    if (status != WEFT_OK) {
        transport->failed = true;
        free(made);
        return status;
    }
    made->next = transport->groups;
    if (made->next)
        made->next->previous = made;
    transport->groups = made;
    *group = made;
    return WEFT_OK;
}

void weft_ipc_group_destroy(weft_transport_t *transport, weft_group_t *group)
{
    if (!group)
        return;
    *(group->previous ? &group->previous->next : &transport->groups) = group->next;
    if (group->next)
        group->next->previous = group->previous;
    free(group);
}
