/* Broadcasts without bytes: two counters.
 *
 * In: a root's start raises its `published`. Out: a receiver's operation k is done when it sees published >=
 * k; its acknowledge raises its own `acknowledged`, and the root's operation k is done when that of every
 * receiver is >= k. Invariant: what a receiver read before it acknowledged, it read before the root's
 * operation was done. */
#include <assert.h>
#include <stdlib.h>

#include "src/base/error.h"
#include "transport/ipc/backend.h"

static void enlist(weft_transport_t *transport, weft_op_t *op)
{
    op->next = transport->ops;
    if (op->next)
        op->next->previous = op;
    transport->ops = op;
}

static void free_op(weft_transport_t *transport, weft_op_t *op)
{
    *(op->previous ? &op->previous->next : &transport->ops) = op->next;
    if (op->next)
        op->next->previous = op->previous;
    free(op);
}

void weft_ipc_ops_drop(weft_transport_t *transport)
{
    while (transport->ops)
        free_op(transport, transport->ops);
}

/* The root's own number is published by this: from here on receivers may read. */
static uint64_t publish(weft_transport_t *transport, const weft_group_t *group)
{
    uint64_t before =
        atomic_fetch_add_explicit(&transport->segment->groups[group->id].published, 1, memory_order_release);
    return before + 1 - group->members[group->position].published;
}

weft_status_t weft_ipc_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                       void *data, size_t bytes, weft_op_t **op)
{
    (void)data;
    if (transport->failed)
        return WEFT_ERR_CLOSED;
    if (root >= group->count || bytes > WEFT_MAX_MESSAGE_BYTES ||
        (group->root != UINT32_MAX && root != group->root))
        return WEFT_ERR_ARGUMENT;
    weft_op_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    group->root = root;
    made->group = group;
    made->gives = root == group->position;
    made->number = made->gives ? publish(transport, group) : ++group->started;
    made->waits = made->gives ? 0 : root;
    enlist(transport, made);
    *op = made;
    return WEFT_OK;
}

weft_status_t weft_ipc_send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                  weft_op_t **op)
{
    (void)data, (void)op;
    if (transport->failed)
        return WEFT_ERR_CLOSED;
    return peer < transport->base.num_ranks && bytes <= WEFT_MAX_MESSAGE_BYTES ? WEFT_ERR_UNSUPPORTED
                                                                               : WEFT_ERR_ARGUMENT;
}

weft_status_t weft_ipc_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                  weft_op_t **op)
{
    return weft_ipc_send_start(transport, peer, data, bytes, op);
}

static const weft_ipc_counters_t *counters_of(const weft_transport_t *transport, const weft_group_t *group,
                                              uint32_t position)
{
    return &transport->peers[group->members[position].rank].segment->groups[group->id];
}

/* Move op->waits past the members that have done their part; true when all have. */
static bool advance(const weft_transport_t *transport, weft_op_t *op)
{
    const weft_group_t *group = op->group;
    if (!op->gives) {
        uint64_t published =
            atomic_load_explicit(&counters_of(transport, group, op->waits)->published, memory_order_acquire);
        return published - group->members[op->waits].published >= op->number;
    }
    for (; op->waits < group->count; op->waits++) {
        if (op->waits == group->position)
            continue;
        uint64_t acknowledged = atomic_load_explicit(&counters_of(transport, group, op->waits)->acknowledged,
                                                     memory_order_acquire);
        if (acknowledged - group->members[op->waits].acknowledged < op->number)
            return false;
    }
    return true;
}

/* The member may have done its part and then left, between our two looks: hence a third. */
static weft_status_t check_peer(const weft_transport_t *transport, weft_op_t *op, bool *done,
                                weft_error_t *error)
{
    uint32_t rank = op->group->members[op->waits].rank;
    const char *lost = weft_ipc_lost(transport, rank);
    if (!lost)
        return WEFT_OK;
    *done = advance(transport, op);
    if (*done || op->group->members[op->waits].rank != rank)
        return WEFT_OK;
    *done = true;
    return weft_fail(error, WEFT_ERR_PEER_LOST,
                     "rank %u: ipc: group %u: rank %u %s before it had %s bucket %llu", transport->base.rank,
                     op->group->id, rank, lost, op->gives ? "read" : "offered",
                     (unsigned long long)op->number);
}

weft_status_t weft_ipc_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error)
{
    weft_status_t status = WEFT_OK;
    *done = advance(transport, op);
    if (!*done)
        status = check_peer(transport, op, done, error);
    if (!*done)
        return WEFT_OK;
    if (status == WEFT_OK && !op->gives)
        op->group->arrived++;
    free_op(transport, op);
    return status;
}

void weft_ipc_acknowledge(weft_transport_t *transport, weft_group_t *group)
{
    assert(group->returned < group->arrived);
    group->returned++;
    atomic_fetch_add_explicit(&transport->segment->groups[group->id].acknowledged, 1, memory_order_release);
}
