/* Starting operations, handing them to NCCL, judging them, giving them up.
 *
 * In: operations in the order started. Out: each over, with the communicator healthy when its event was seen.
 * Invariant: no call on a communicator while the one before goes on.
 *
 * Why nothing waits for ever. A kernel of NCCL waits on its stream until all its ranks have come. What comes
 * between may stop a rank's calls for as long as any kernel runs on its GPU: the first launch of a kernel
 * that CUDA loads lazily takes the context's lock and waits until the GPU is idle, and the engine may do that
 * at any moment. So the rule is: all ranks start their operations, broadcasts and messages alike, in one
 * global order (the plan's), and hand them to NCCL in the order started. Consider the first operation of that
 * order that is not over. Whatever runs on one of its ranks is then this operation itself or an earlier one,
 * which ends by itself; so each of its ranks comes to hand it over, and it ends too.
 *
 * - Streams: each communicator has its own, so operations of different groups go on together.
 * - Hardware queues: streams share them, and one waits for the other where they do. Kernels stand in them in
 * the same order on every rank.
 * - Connections: the first message between two ranks connects them, and until the peer comes too the
 * communicator is "in progress", so that nothing else on it can be judged or called. Hence it is called only
 * when all messages before it are over, and by the order above the peer comes. Groups are connected by
 * group_create.
 * - Groups: operations are never put between ncclGroupStart and ncclGroupEnd. NCCL would launch the
 * communicators of a group in the order of a hash, each only when all are connected, and fuse broadcasts of
 * one communicator into a kernel that only ranks with the same group can meet. Which operations are queued
 * together differs from rank to rank. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/nccl/backend.h"

#define ABORT_GRACE_US 2000000u

/* ---- Lines ---- */

static void append(weft_op_line_t *line, weft_op_t *op)
{
    op->line = line;
    op->next = NULL;
    op->previous = line->last;
    *(line->last ? &line->last->next : &line->first) = op;
    line->last = op;
}

static void leave_line(weft_op_t *op)
{
    *(op->previous ? &op->previous->next : &op->line->first) = op->next;
    *(op->next ? &op->next->previous : &op->line->last) = op->previous;
}

static void move_to(weft_op_line_t *line, weft_op_t *op)
{
    leave_line(op);
    append(line, op);
}

/* ---- Events ---- */

/* CUDA keeps "not ready" for cudaGetLastError, where this thread's kernel launches would find it. */
static cudaError_t without_trace(cudaError_t code)
{
    if (code == cudaErrorNotReady)
        (void)cudaGetLastError();
    return code;
}

static cudaError_t take_event(weft_transport_t *transport, cudaEvent_t *event)
{
    if (!transport->events.count)
        return cudaEventCreateWithFlags(event, cudaEventDisableTiming);
    *event = transport->events.items[--transport->events.count];
    return cudaSuccess;
}

static void give_event(weft_transport_t *transport, weft_op_t *op)
{
    if (op->event && !WEFT_ARRAY_PUSH(&transport->events, op->event))
        (void)cudaEventDestroy(op->event);
    op->event = NULL;
}

/* ---- Ends ---- */

static void end(weft_transport_t *transport, weft_op_t *op, weft_status_t status)
{
    op->state = NCCL_OP_OVER;
    op->status = status;
    give_event(transport, op);
    move_to(&transport->over, op);
}

static void end_those_of(weft_transport_t *transport, weft_op_line_t *line, const weft_nccl_comm_t *comm)
{
    for (weft_op_t *op = line->first, *next; op; op = next) {
        next = op->next;
        if (op->comm == comm)
            end(transport, op, comm->status);
    }
}

static void fail(weft_transport_t *transport, weft_nccl_comm_t *comm, weft_status_t status,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));

/* All that is in flight on the communicator fails with it. */
static void fail(weft_transport_t *transport, weft_nccl_comm_t *comm, weft_status_t status,
                 const char *format, ...)
{
    int used = snprintf(comm->why, sizeof comm->why, "rank %u: %s: ", transport->base.rank, comm->name);
    va_list args;
    va_start(args, format);
    vsnprintf(comm->why + used, sizeof comm->why - (size_t)used, format, args);
    va_end(args);
    comm->status = status;
    end_those_of(transport, &transport->queue, comm);
    end_those_of(transport, &comm->launched, comm);
}

static void fail_nccl(weft_transport_t *transport, weft_nccl_comm_t *comm, ncclResult_t result,
                      const char *what)
{
    fail(transport, comm, weft_nccl_status(result), "%s: %s; %s", what, ncclGetErrorString(result),
         ncclGetLastError(comm->handle));
}

static void fail_cuda(weft_transport_t *transport, weft_nccl_comm_t *comm, cudaError_t code, const char *what)
{
    fail(transport, comm, WEFT_ERR_TRANSPORT, "%s: %s", what, cudaGetErrorString(code));
}

/* ---- Judging ---- */

static void mark_met(weft_transport_t *transport, const weft_op_t *op)
{
    if (op->kind == NCCL_OP_SEND)
        transport->met_sending[op->peer] = true;
    if (op->kind == NCCL_OP_RECEIVE)
        transport->met_receiving[op->peer] = true;
}

/* An event alone proves nothing: after a failure the stream goes on over torn data. So the communicator is
 * asked after the event, and a call in progress, which hides its failures, puts the verdict off. */
static void judge(weft_transport_t *transport, weft_nccl_comm_t *comm)
{
    while (comm->launched.first) {
        weft_op_t *op = comm->launched.first;
        cudaError_t reached = without_trace(cudaEventQuery(op->event));
        ncclResult_t state = weft_nccl_state(comm);
        if (state == ncclInProgress)
            return;
        if (state != ncclSuccess) {
            fail_nccl(transport, comm, state, "moving data");
            return;
        }
        if (reached == cudaErrorNotReady)
            return;
        if (reached != cudaSuccess) {
            fail_cuda(transport, comm, reached, "moving data");
            return;
        }
        mark_met(transport, op);
        end(transport, op, WEFT_OK);
    }
}

/* ---- Handing over ---- */

static bool may_call(const weft_transport_t *transport, const weft_op_t *op)
{
    if (op->kind == NCCL_OP_BROADCAST || !op->comm->launched.first)
        return true;
    return (op->kind == NCCL_OP_SEND ? transport->met_sending : transport->met_receiving)[op->peer];
}

static ncclResult_t call_nccl(const weft_op_t *op)
{
    const weft_nccl_comm_t *comm = op->comm;
    switch (op->kind) {
    case NCCL_OP_BROADCAST:
        return ncclBroadcast(op->data, op->data, op->bytes, ncclUint8, (int)op->peer, comm->handle,
                             comm->stream);
    case NCCL_OP_SEND:
        return ncclSend(op->data, op->bytes, ncclUint8, (int)op->peer, comm->handle, comm->stream);
    case NCCL_OP_RECEIVE:
        return ncclRecv(op->data, op->bytes, ncclUint8, (int)op->peer, comm->handle, comm->stream);
    }
    return ncclInvalidArgument;
}

static void call(weft_transport_t *transport, weft_op_t *op)
{
    static const char *const names[] = {
        [NCCL_OP_BROADCAST] = "ncclBroadcast", [NCCL_OP_SEND] = "ncclSend", [NCCL_OP_RECEIVE] = "ncclRecv"};
    if (op->comm->status != WEFT_OK) {
        end(transport, op, op->comm->status);
        return;
    }
    cudaError_t code = take_event(transport, &op->event);
    if (code != cudaSuccess) {
        op->event = NULL;
        fail_cuda(transport, op->comm, code, "creating an event");
        return;
    }
    op->state = NCCL_OP_CALLED;
    ncclResult_t result = call_nccl(op);
    if (result != ncclSuccess && result != ncclInProgress)
        fail_nccl(transport, op->comm, result, names[op->kind]);
}

/* The kernel is on the stream only when the call has ended: an event recorded before would say nothing of it.
 */
static bool call_ended(weft_transport_t *transport, weft_op_t *op)
{
    weft_nccl_comm_t *comm = op->comm;
    ncclResult_t state = weft_nccl_state(comm);
    if (state == ncclInProgress)
        return false;
    if (state != ncclSuccess) {
        fail_nccl(transport, comm, state, "starting an operation");
        return true;
    }
    cudaError_t code = cudaEventRecord(op->event, comm->stream);
    if (code != cudaSuccess) {
        fail_cuda(transport, comm, code, "recording an event");
        return true;
    }
    op->state = NCCL_OP_LAUNCHED;
    move_to(&comm->launched, op);
    judge(transport, comm); /* now: with many queued, it is in progress again at every test */
    return true;
}

/* Hand over what can be: each when the call before it has ended. */
static void pump(weft_transport_t *transport)
{
    while (transport->queue.first) {
        weft_op_t *op = transport->queue.first;
        if (op->state == NCCL_OP_QUEUED) {
            if (!may_call(transport, op))
                return;
            call(transport, op);
        }
        if (op->state == NCCL_OP_CALLED && !call_ended(transport, op))
            return;
    }
}

/* ---- Messages to oneself: a copy, once both sides are there ---- */

static cudaError_t copy(weft_transport_t *transport, weft_op_t *send, weft_op_t *receive)
{
    cudaStream_t stream = transport->self.stream;
    cudaError_t code = take_event(transport, &send->event);
    if (code == cudaSuccess)
        code = take_event(transport, &receive->event);
    if (code == cudaSuccess)
        code = cudaMemcpyAsync(receive->data, send->data, send->bytes, cudaMemcpyDeviceToDevice, stream);
    if (code == cudaSuccess)
        code = cudaEventRecord(send->event, stream);
    if (code == cudaSuccess)
        code = cudaEventRecord(receive->event, stream);
    return code;
}

static void match(weft_transport_t *transport)
{
    weft_op_t *first = transport->unmatched.first, *last = transport->unmatched.last;
    if (!first || first->kind == last->kind)
        return;
    weft_op_t *send = first->kind == NCCL_OP_SEND ? first : last, *receive = first == send ? last : first;
    weft_op_line_t *launched = &transport->self.launched;
    send->state = receive->state = NCCL_OP_LAUNCHED;
    move_to(launched, send);
    move_to(launched, receive);
    if (send->bytes != receive->bytes) {
        fail(transport, &transport->self, WEFT_ERR_TRANSPORT, "sent %zu bytes where %zu were expected",
             send->bytes, receive->bytes);
        return;
    }
    cudaError_t code = copy(transport, send, receive);
    if (code != cudaSuccess)
        fail_cuda(transport, &transport->self, code, "copying");
}

/* ---- The table's entries ---- */

static weft_status_t enlist(weft_transport_t *transport, const weft_op_t *form, weft_op_line_t *queue,
                            weft_op_t **op)
{
    weft_op_t *made = malloc(sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    *made = *form;
    /* Nothing to move: over, on all ranks alike, and NCCL never hears of it. */
    bool empty = !form->comm || form->bytes == 0;
    made->state = empty ? NCCL_OP_OVER : NCCL_OP_QUEUED;
    append(empty ? &transport->over : queue, made);
    *op = made;
    int previous;
    if (!empty && weft_nccl_enter(transport, &previous) == WEFT_OK) {
        match(transport);
        pump(transport);
        weft_nccl_leave(transport, previous);
    }
    return WEFT_OK;
}

static weft_status_t check_start(const weft_transport_t *transport, uint32_t rank, uint32_t num_ranks,
                                 size_t bytes)
{
    if (transport->failed)
        return WEFT_ERR_CLOSED;
    return rank < num_ranks && bytes <= WEFT_MAX_MESSAGE_BYTES ? WEFT_OK : WEFT_ERR_ARGUMENT;
}

weft_status_t weft_nccl_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                        void *data, size_t bytes, weft_op_t **op)
{
    WEFT_TRY(check_start(transport, root, group->count, bytes));
    weft_op_t form = {.kind = NCCL_OP_BROADCAST,
                      .comm = group->count > 1 ? &group->comm : NULL,
                      .peer = root,
                      .data = data,
                      .bytes = bytes};
    return enlist(transport, &form, &transport->queue, op);
}

static weft_status_t start_message(weft_transport_t *transport, weft_nccl_op_kind_t kind, uint32_t peer,
                                   void *data, size_t bytes, weft_op_t **op)
{
    WEFT_TRY(check_start(transport, peer, transport->base.num_ranks, bytes));
    weft_op_t form = {.kind = kind, .peer = peer, .data = data, .bytes = bytes};
    bool own = peer == transport->base.rank;
    form.comm = own ? &transport->self : &transport->world;
    return enlist(transport, &form, own ? &transport->unmatched : &transport->queue, op);
}

weft_status_t weft_nccl_send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                   weft_op_t **op)
{
    return start_message(transport, NCCL_OP_SEND, peer, (void *)(uintptr_t)data, bytes, op);
}

weft_status_t weft_nccl_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                   weft_op_t **op)
{
    return start_message(transport, NCCL_OP_RECEIVE, peer, data, bytes, op);
}

weft_status_t weft_nccl_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error)
{
    int previous;
    if (op->state != NCCL_OP_OVER && weft_nccl_enter(transport, &previous) == WEFT_OK) {
        pump(transport);
        judge(transport, op->comm);
        weft_nccl_leave(transport, previous);
    }
    *done = op->state == NCCL_OP_OVER;
    if (!*done)
        return WEFT_OK;
    weft_status_t status = op->status;
    if (status != WEFT_OK)
        weft_fail(error, status, "%s", op->comm->why);
    leave_line(op);
    free(op);
    return status;
}

/* ---- Giving up ---- */

static void drop(weft_transport_t *transport, weft_op_line_t *line)
{
    while (line->first) {
        weft_op_t *op = line->first;
        give_event(transport, op);
        leave_line(op);
        free(op);
    }
}

void weft_nccl_drop_all(weft_transport_t *transport)
{
    weft_op_line_t *lines[] = {&transport->queue, &transport->unmatched, &transport->over};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        drop(transport, lines[i]);
    for (weft_nccl_comm_t *comm = transport->comms; comm; comm = comm->next)
        drop(transport, &comm->launched);
}

bool weft_nccl_busy(const weft_transport_t *transport)
{
    for (const weft_nccl_comm_t *comm = transport->comms; comm; comm = comm->next)
        if (comm->launched.first || comm->status != WEFT_OK)
            return true;
    return transport->queue.first || transport->unmatched.first;
}

/* In one group: aborting a communicator waits for its kernels, which may wait for a place that another's
 * hold. */
static bool abort_comms(weft_transport_t *transport)
{
    bool ok = ncclGroupStart() == ncclSuccess;
    for (weft_nccl_comm_t *comm = transport->comms; comm; comm = comm->next) {
        if (comm->handle)
            ok = ncclCommAbort(comm->handle) == ncclSuccess && ok;
        comm->handle = NULL;
    }
    return ncclGroupEnd() == ncclSuccess && ok;
}

static bool streams_idle(const weft_transport_t *transport)
{
    for (const weft_nccl_comm_t *comm = transport->comms; comm; comm = comm->next)
        if (comm->stream && without_trace(cudaStreamQuery(comm->stream)) != cudaSuccess)
            return false;
    return true;
}

/* Once every kernel has left, nothing touches the buffers: none is registered with NCCL, so peers and network
 * cards reach only NCCL's own. */
bool weft_nccl_abort(weft_transport_t *transport)
{
    int previous;
    if (transport->failed)
        return !transport->stuck;
    transport->failed = true;
    transport->stuck = weft_nccl_enter(transport, &previous) != WEFT_OK;
    if (!transport->stuck) {
        bool aborted = abort_comms(transport);
        uint64_t deadline_us = weft_now_us() + ABORT_GRACE_US;
        while (!streams_idle(transport) && weft_now_us() < deadline_us)
            weft_sleep_us(100);
        transport->stuck = !aborted || !streams_idle(transport);
        weft_nccl_leave(transport, previous);
    }
    weft_nccl_drop_all(transport);
    return !transport->stuck;
}
