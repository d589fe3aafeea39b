/* The calls that block: gathering from all ranks, and forming groups. Each is a rendezvous under the hub's
 * mutex. */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/loopback/backend.h"

/* The first of `ranks` that has left, or -1. ranks NULL: of all. */
static int64_t find_gone(const weft_loopback_t *hub, const uint32_t *ranks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t rank = ranks ? ranks[i] : i;
        if (hub->presence[rank] == LOOPBACK_GONE)
            return rank;
    }
    return -1;
}

/* Put this rank's bytes in their place; the first to come makes the place. */
static weft_status_t gather_put(weft_loopback_t *hub, uint32_t rank, const void *mine, size_t bytes,
                                weft_error_t *error)
{
    if (hub->gather.arrived == 0) {
        free(hub->gather.data);
        hub->gather.data = malloc(bytes * hub->num_ranks + 1);
        if (!hub->gather.data)
            return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: allgather: out of memory", rank);
        hub->gather.bytes = bytes;
    }
    if (hub->gather.bytes != bytes)
        return weft_fail(error, WEFT_ERR_TRANSPORT,
                         "rank %u: allgather of %zu bytes, a rank before came with %zu", rank, bytes,
                         hub->gather.bytes);
    if (bytes)
        memcpy(hub->gather.data + rank * bytes, mine, bytes);
    hub->gather.complete = ++hub->gather.arrived == hub->num_ranks;
    pthread_cond_broadcast(&hub->changed);
    return WEFT_OK;
}

/* Take all bytes; the last to leave makes room for the next gathering. */
static void gather_take(weft_loopback_t *hub, void *all)
{
    size_t bytes = hub->gather.bytes * hub->num_ranks;
    if (bytes)
        memcpy(all, hub->gather.data, bytes);
    if (++hub->gather.left == hub->num_ranks) {
        free(hub->gather.data);
        memset(&hub->gather, 0, sizeof hub->gather);
        pthread_cond_broadcast(&hub->changed);
    }
}

/* Wait until the gathering is complete (or, before joining it, until the one before has been left by all). */
static weft_status_t gather_wait(weft_transport_t *transport, bool complete, uint64_t deadline_us,
                                 weft_error_t *error)
{
    weft_loopback_t *hub = transport->hub;
    while (hub->gather.complete != complete) {
        int64_t gone = find_gone(hub, NULL, hub->num_ranks);
        if (complete && gone >= 0)
            return weft_fail(error, WEFT_ERR_PEER_LOST, "rank %u: allgather: rank %d has left",
                             transport->base.rank, (int)gone);
        if (!weft_loopback_wait(hub, deadline_us))
            return weft_fail(error, WEFT_ERR_TIMEOUT, "rank %u: allgather: %u of %u ranks came within %.1f s",
                             transport->base.rank, hub->gather.arrived, hub->num_ranks,
                             (double)transport->timeout_us * 1e-6);
    }
    return WEFT_OK;
}

static weft_status_t gather_locked(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                   weft_error_t *error)
{
    weft_loopback_t *hub = transport->hub;
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    WEFT_TRY(gather_wait(transport, false, deadline_us, error));
    WEFT_TRY(gather_put(hub, transport->base.rank, mine, bytes, error));
    weft_status_t status = gather_wait(transport, true, deadline_us, error);
    if (status == WEFT_OK)
        gather_take(hub, all);
    else
        hub->gather.arrived--;
    return status;
}

weft_status_t weft_loopback_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                      weft_error_t *error)
{
    if (transport->aborted)
        return weft_fail(error, WEFT_ERR_CLOSED, "rank %u: allgather after abort", transport->base.rank);
    pthread_mutex_lock(&transport->hub->mutex);
    weft_status_t status = gather_locked(transport, mine, bytes, all, error);
    pthread_mutex_unlock(&transport->hub->mutex);
    return status;
}

static void free_group(weft_group_t *group)
{
    free(group->held);
    free(group->sequences);
    free(group->ranks);
    free(group);
}

static weft_group_t *new_group(uint32_t id, const uint32_t *ranks, uint32_t count)
{
    weft_group_t *group = calloc(1, sizeof *group);
    if (!group)
        return NULL;
    group->id = id;
    group->count = count;
    group->held = calloc(count, sizeof *group->held);
    group->sequences = calloc(count, sizeof *group->sequences);
    group->ranks = malloc(count * sizeof *group->ranks);
    if (!group->held || !group->sequences || !group->ranks) {
        free_group(group);
        return NULL;
    }
    memcpy(group->ranks, ranks, count * sizeof *ranks);
    return group;
}

/* The group `id` that still waits for members, or a new one. */
static weft_group_t *join_group(weft_loopback_t *hub, uint32_t id, const uint32_t *ranks, uint32_t count)
{
    for (weft_group_t *group = hub->groups; group; group = group->next)
        if (group->id == id && group->arrived < group->count)
            return group;
    weft_group_t *group = new_group(id, ranks, count);
    if (group) {
        group->next = hub->groups;
        hub->groups = group;
    }
    return group;
}

/* Let go of a group, and free it when nobody holds it any more. Without effect when `rank` does not hold it.
 */
static void let_go(weft_loopback_t *hub, weft_group_t *group, uint32_t rank)
{
    bool any = false;
    for (uint32_t i = 0; i < group->count; i++) {
        if (group->ranks[i] == rank)
            group->held[i] = false;
        any = any || group->held[i];
    }
    if (any)
        return;
    weft_group_t **link = &hub->groups;
    while (*link != group)
        link = &(*link)->next;
    *link = group->next;
    free_group(group);
}

void weft_loopback_groups_leave(weft_loopback_t *hub, uint32_t rank)
{
    for (weft_group_t *group = hub->groups, *next; group; group = next) {
        next = group->next;
        let_go(hub, group, rank);
    }
}

static weft_status_t group_wait(weft_transport_t *transport, weft_group_t *group, weft_error_t *error)
{
    weft_loopback_t *hub = transport->hub;
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    while (group->arrived < group->count) {
        int64_t gone = find_gone(hub, group->ranks, group->count);
        if (gone >= 0)
            return weft_fail(error, WEFT_ERR_PEER_LOST, "rank %u: creating group %u: rank %d has left",
                             transport->base.rank, group->id, (int)gone);
        if (!weft_loopback_wait(hub, deadline_us))
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "rank %u: creating group %u: %u of %u ranks came within %.1f s",
                             transport->base.rank, group->id, group->arrived, group->count,
                             (double)transport->timeout_us * 1e-6);
    }
    return WEFT_OK;
}

static weft_status_t create_locked(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                   uint32_t count, uint32_t position, weft_group_t **group,
                                   weft_error_t *error)
{
    weft_loopback_t *hub = transport->hub;
    weft_group_t *joined = join_group(hub, id, ranks, count);
    if (!joined)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: creating group %u: out of memory",
                         transport->base.rank, id);
    if (joined->count != count || memcmp(joined->ranks, ranks, count * sizeof *ranks))
        return weft_fail(error, WEFT_ERR_TRANSPORT,
                         "rank %u: creating group %u: a rank before came with another list of ranks",
                         transport->base.rank, id);
    joined->arrived++;
    joined->held[position] = true;
    pthread_cond_broadcast(&hub->changed);
    weft_status_t status = group_wait(transport, joined, error);
    if (status == WEFT_OK) {
        *group = joined;
    } else {
        joined->arrived--;
        let_go(hub, joined, transport->base.rank);
    }
    return status;
}

weft_status_t weft_loopback_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                         uint32_t count, weft_group_t **group, weft_error_t *error)
{
    uint32_t position;
    WEFT_TRY(weft_transport_check_group(&transport->base, id, ranks, count, &position, error));
    if (transport->aborted)
        return weft_fail(error, WEFT_ERR_CLOSED, "rank %u: group_create after abort", transport->base.rank);
    pthread_mutex_lock(&transport->hub->mutex);
    weft_status_t status = create_locked(transport, id, ranks, count, position, group, error);
    pthread_mutex_unlock(&transport->hub->mutex);
    return status;
}

void weft_loopback_group_destroy(weft_transport_t *transport, weft_group_t *group)
{
    if (!group)
        return;
    pthread_mutex_lock(&transport->hub->mutex);
    let_go(transport->hub, group, transport->base.rank);
    pthread_mutex_unlock(&transport->hub->mutex);
}
