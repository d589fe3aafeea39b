/* Starting operations, testing them, giving them up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/zmq/backend.h"

#define DEPARTED_GRACE_US 200000 /* what a peer sent before it left may take so long to come */

/* ---- Operations in their queues ---- */

static uint64_t num_chunks(uint64_t bytes)
{
    return bytes / WEFT_ZMQ_CHUNK_BYTES + 1;
}

static weft_op_t *new_op(weft_transport_t *t, const weft_op_t *form)
{
    weft_op_t *op = malloc(sizeof *op);
    if (!op)
        return NULL;
    *op = *form;
    if (op->in != WEFT_ZMQ_NOBODY && op->out != WEFT_ZMQ_NOBODY) {
        op->digests = calloc(num_chunks(op->bytes), sizeof *op->digests);
        if (!op->digests) {
            free(op);
            return NULL;
        }
    }
    op->transport = t;
    op->next = t->ops;
    if (op->next)
        op->next->previous = op;
    t->ops = op;
    return op;
}

static void free_op(weft_transport_t *t, weft_op_t *op)
{
    *(op->previous ? &op->previous->next : &t->ops) = op->next;
    if (op->next)
        op->next->previous = op->previous;
    free(op->digests);
    free(op);
}

static void enqueue(weft_transport_t *t, weft_op_t *op)
{
    if (op->in != WEFT_ZMQ_NOBODY) {
        weft_zmq_peer_t *peer = &t->peers[op->in];
        op->in_number = peer->started_in++;
        *(peer->in ? &peer->last_in->next_in : &peer->in) = op;
        peer->last_in = op;
    }
    if (op->out != WEFT_ZMQ_NOBODY) {
        weft_zmq_peer_t *peer = &t->peers[op->out];
        op->out_number = peer->started_out++;
        *(peer->out ? &peer->last_out->next_out : &peer->out) = op;
        peer->last_out = op;
    }
}

/* An operation that failed half way leaves its queues; its peers are given up, so nobody waits in them. */
static void dequeue(weft_transport_t *t, weft_op_t *op)
{
    if (op->in != WEFT_ZMQ_NOBODY && !op->in_done) {
        weft_zmq_peer_t *peer = &t->peers[op->in];
        weft_op_t *before = NULL, *at = peer->in;
        while (at != op)
            before = at, at = at->next_in;
        *(before ? &before->next_in : &peer->in) = op->next_in;
        peer->last_in = peer->last_in == op ? before : peer->last_in;
    }
    if (op->out != WEFT_ZMQ_NOBODY && !op->out_done) {
        weft_zmq_peer_t *peer = &t->peers[op->out];
        weft_op_t *before = NULL, *at = peer->out;
        while (at != op)
            before = at, at = at->next_out;
        *(before ? &before->next_out : &peer->out) = op->next_out;
        peer->last_out = peer->last_out == op ? before : peer->last_out;
    }
}

/* Messages of this rank to itself: the oldest send meets the oldest receive. */
static void match_self(weft_transport_t *t)
{
    weft_zmq_peer_t *self = &t->peers[t->base.rank];
    while (self->in && self->out) {
        weft_op_t *take = self->in, *give = self->out;
        take->refused = take->bytes != give->bytes;
        take->found_bytes = give->bytes;
        if (!take->refused && give->bytes)
            memcpy(take->data, give->data, give->bytes);
        take->in_done = give->out_done = true;
        self->in = take->next_in;
        self->out = give->next_out;
    }
}

/* ---- Starting ---- */

static weft_status_t connect_both(weft_transport_t *t, uint32_t in, uint32_t out)
{
    if (in != WEFT_ZMQ_NOBODY)
        WEFT_TRY(weft_zmq_connect(t, in));
    return out != WEFT_ZMQ_NOBODY ? weft_zmq_connect(t, out) : WEFT_OK;
}

weft_status_t weft_zmq_start(weft_transport_t *t, uint32_t in, uint32_t out, uint32_t channel, void *data,
                             size_t bytes, weft_op_t **op)
{
    if (t->failed)
        return WEFT_ERR_CLOSED;
    WEFT_TRY(connect_both(t, in, out));
    const weft_op_t form = {.in = in,
                            .out = out,
                            .channel = channel,
                            .data = data,
                            .bytes = bytes,
                            .in_done = in == WEFT_ZMQ_NOBODY,
                            .out_done = out == WEFT_ZMQ_NOBODY,
                            .progress_us = weft_now_us()};
    weft_op_t *made = new_op(t, &form);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    enqueue(t, made);
    if (in == t->base.rank || out == t->base.rank) {
        match_self(t);
    } else {
        if (in != WEFT_ZMQ_NOBODY)
            weft_zmq_take_stashed(t, in);
        if (out != WEFT_ZMQ_NOBODY)
            weft_zmq_pump(t, out);
    }
    *op = made;
    return WEFT_OK;
}

static weft_status_t check_start(const weft_transport_t *t, uint32_t rank, uint32_t num_ranks, size_t bytes)
{
    if (t->failed)
        return WEFT_ERR_CLOSED;
    return rank < num_ranks && bytes <= WEFT_MAX_MESSAGE_BYTES ? WEFT_OK : WEFT_ERR_ARGUMENT;
}

/* The chain begins at the root and goes round the group. */
weft_status_t weft_zmq_broadcast_start(weft_transport_t *t, weft_group_t *group, uint32_t root, void *data,
                                       size_t bytes, weft_op_t **op)
{
    WEFT_TRY(check_start(t, root, group->count, bytes));
    uint32_t before = (group->position + group->count - 1) % group->count,
             after = (group->position + 1) % group->count;
    uint32_t in = group->position == root ? WEFT_ZMQ_NOBODY : group->ranks[before];
    uint32_t out = after == root ? WEFT_ZMQ_NOBODY : group->ranks[after];
    return weft_zmq_start(t, in, out, group->id, data, bytes, op);
}

weft_status_t weft_zmq_send_start(weft_transport_t *t, uint32_t peer, const void *data, size_t bytes,
                                  weft_op_t **op)
{
    WEFT_TRY(check_start(t, peer, t->base.num_ranks, bytes));
    return weft_zmq_start(t, WEFT_ZMQ_NOBODY, peer, WEFT_ZMQ_CHANNEL_PAIR, (void *)(uintptr_t)data, bytes,
                          op);
}

weft_status_t weft_zmq_recv_start(weft_transport_t *t, uint32_t peer, void *data, size_t bytes,
                                  weft_op_t **op)
{
    WEFT_TRY(check_start(t, peer, t->base.num_ranks, bytes));
    return weft_zmq_start(t, peer, WEFT_ZMQ_NOBODY, WEFT_ZMQ_CHANNEL_PAIR, data, bytes, op);
}

/* ---- Testing ---- */

/* The peer that keeps the operation from ever ending, or WEFT_ZMQ_NOBODY. A peer that departed may have sent
 * all. */
static uint32_t find_broken(const weft_transport_t *t, const weft_op_t *op)
{
    if (!op->out_done && t->peers[op->out].status != WEFT_OK)
        return op->out;
    if (op->in_done)
        return WEFT_ZMQ_NOBODY;
    const weft_zmq_peer_t *peer = &t->peers[op->in];
    bool may_come = peer->departed && peer->status == WEFT_ERR_PEER_LOST &&
                    weft_now_us() - peer->heard_us < DEPARTED_GRACE_US;
    return peer->status != WEFT_OK && !may_come ? op->in : WEFT_ZMQ_NOBODY;
}

static weft_status_t fail_broken(weft_transport_t *t, const weft_op_t *op, uint32_t rank, weft_error_t *error)
{
    char at[160];
    weft_zmq_describe(t, op, at, sizeof at);
    weft_status_t status = t->peers[rank].status;
    weft_fail(error, status, "rank %u: zmq: rank %u: %s (%s)", t->base.rank, rank, t->peers[rank].why, at);
    if (!op->out_done) /* the rest of the stream would not follow on what went */
        weft_zmq_give_up(t, op->out, status, "an operation before, which it was to be sent, has failed");
    if (!op->in_done)
        weft_zmq_give_up(t, op->in, status, "an operation before, which it sent, has failed");
    return status;
}

static weft_status_t fail_refused(weft_transport_t *t, weft_op_t *op, weft_error_t *error)
{
    if (!op->out_done)
        weft_zmq_give_up(t, op->out, WEFT_ERR_TRANSPORT,
                         "an operation before, which it was to be sent, has failed");
    return weft_fail(error, WEFT_ERR_TRANSPORT,
                     "rank %u: zmq: rank %u sent %llu bytes where %llu were expected", t->base.rank, op->in,
                     (unsigned long long)op->found_bytes, (unsigned long long)op->bytes);
}

/* Whether it has ended, and how. Nothing ends while ZeroMQ reads its memory. */
static bool ended(weft_transport_t *t, weft_op_t *op, weft_status_t *status, weft_error_t *error)
{
    *status = WEFT_OK;
    if (atomic_load_explicit(&op->lent, memory_order_acquire))
        return false;
    uint32_t broken;
    if (op->refused && op->in_done)
        *status = fail_refused(t, op, error);
    else if (op->in_done && op->out_done)
        return true;
    else if ((broken = find_broken(t, op)) != WEFT_ZMQ_NOBODY)
        *status = fail_broken(t, op, broken, error);
    else
        return false;
    return true;
}

weft_status_t weft_zmq_test(weft_transport_t *t, weft_op_t *op, bool *done, weft_error_t *error)
{
    weft_status_t status;
    *done = ended(t, op, &status, error);
    if (!*done) {
        weft_zmq_progress(t);
        *done = ended(t, op, &status, error);
    }
    if (!*done)
        return WEFT_OK;
    dequeue(t, op);
    free_op(t, op);
    return status;
}

void weft_zmq_describe(weft_transport_t *t, const weft_op_t *op, char *text, size_t bytes)
{
    double quiet_s = (double)(weft_now_us() - op->progress_us) * 1e-6;
    unsigned long long total = op->bytes;
    if (!op->in_done)
        snprintf(text, bytes, "%llu of %llu bytes came from rank %u, nothing for %.1f s",
                 (unsigned long long)op->arrived, total, op->in, quiet_s);
    else if (!op->out_done)
        snprintf(text, bytes, "%llu of %llu bytes went to rank %u, which consumes none since %.1f s",
                 (unsigned long long)op->sent, total, op->out, quiet_s);
    else
        snprintf(text, bytes, "%u frames of %llu bytes wait for the network since %.1f s",
                 atomic_load(&op->lent), total, quiet_s);
    (void)t;
}

/* Exact: with its sockets ZeroMQ's context ends too, and returns what was lent. */
bool weft_zmq_abort(weft_transport_t *t)
{
    t->failed = true;
    weft_zmq_shut(t);
    bool buffers_free = true;
    while (t->ops) {
        buffers_free = buffers_free && !atomic_load(&t->ops->lent);
        if (atomic_load(&t->ops->lent))
            t->ops = t->ops->next; /* its release may still come */
        else
            free_op(t, t->ops);
        if (t->ops)
            t->ops->previous = NULL;
    }
    return buffers_free;
}
