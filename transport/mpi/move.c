/* Starting operations, moving them forward, giving them up. */
#include <stdlib.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/mpi/backend.h"

#define ABORT_GRACE_US 200000u

static weft_op_t *new_op(weft_transport_t *transport, size_t bytes, bool receives)
{
    weft_op_t *op = calloc(1, sizeof *op);
    if (!op)
        return NULL;
    op->bytes = bytes;
    op->receives = receives;
    op->next = transport->ops;
    if (op->next)
        op->next->previous = op;
    transport->ops = op;
    return op;
}

static void free_op(weft_transport_t *transport, weft_op_t *op)
{
    *(op->previous ? &op->previous->next : &transport->ops) = op->next;
    if (op->next)
        op->next->previous = op->previous;
    free(op);
}

/* Hand out the operation that MPI accepted, or forget the one that it did not. */
static weft_status_t started(weft_transport_t *transport, weft_op_t *made, int code, weft_op_t **op)
{
    if (code != MPI_SUCCESS) {
        free_op(transport, made);
        return WEFT_ERR_TRANSPORT;
    }
    *op = made;
    return WEFT_OK;
}

static weft_status_t check_start(const weft_transport_t *transport, uint32_t rank, uint32_t num_ranks,
                                 size_t bytes)
{
    if (transport->failed)
        return WEFT_ERR_CLOSED;
    return rank < num_ranks && bytes <= WEFT_MAX_MESSAGE_BYTES ? WEFT_OK : WEFT_ERR_ARGUMENT;
}

weft_status_t weft_mpi_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                       void *data, size_t bytes, weft_op_t **op)
{
    WEFT_TRY(check_start(transport, root, group->count, bytes));
    weft_op_t *made = new_op(transport, bytes, false);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    int code = MPI_Ibcast(data, (int)bytes, MPI_BYTE, (int)root, group->comm, &made->request);
    return started(transport, made, code, op);
}

weft_status_t weft_mpi_send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                  weft_op_t **op)
{
    WEFT_TRY(check_start(transport, peer, transport->base.num_ranks, bytes));
    weft_op_t *made = new_op(transport, bytes, false);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    int code = MPI_Isend(data, (int)bytes, MPI_BYTE, (int)peer, MPI_BACKEND_DATA_TAG, transport->world,
                         &made->request);
    return started(transport, made, code, op);
}

weft_status_t weft_mpi_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                  weft_op_t **op)
{
    WEFT_TRY(check_start(transport, peer, transport->base.num_ranks, bytes));
    weft_op_t *made = new_op(transport, bytes, true);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    int code = MPI_Irecv(data, (int)bytes, MPI_BYTE, (int)peer, MPI_BACKEND_DATA_TAG, transport->world,
                         &made->request);
    return started(transport, made, code, op);
}

/* What MPI says of an ended operation. A message that was too long is an error of MPI's, one too short is
 * not. */
static weft_status_t judge(const weft_transport_t *transport, const weft_op_t *op, int code,
                           const MPI_Status *result, weft_error_t *error)
{
    if (code != MPI_SUCCESS) {
        int class;
        MPI_Error_class(code, &class);
        if (class == MPI_ERR_TRUNCATE)
            return weft_fail(error, WEFT_ERR_TRANSPORT, "rank %u: more bytes came than the %zu expected",
                             transport->base.rank, op->bytes);
        return weft_mpi_fail(transport, code, "MPI_Test", error);
    }
    int count = (int)op->bytes;
    if (op->receives)
        MPI_Get_count(result, MPI_BYTE, &count);
    if ((size_t)count != op->bytes)
        return weft_fail(error, WEFT_ERR_TRANSPORT, "rank %u: rank %d sent %d bytes where %zu were expected",
                         transport->base.rank, result->MPI_SOURCE, count, op->bytes);
    return WEFT_OK;
}

weft_status_t weft_mpi_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error)
{
    int ended = 0;
    MPI_Status result;
    int code = MPI_Test(&op->request, &ended, &result);
    *done = ended || code != MPI_SUCCESS;
    if (!*done)
        return WEFT_OK;
    weft_status_t status = judge(transport, op, code, &result, error);
    free_op(transport, op);
    return status;
}

/* Drop the operations that have ended. */
static void reap(weft_transport_t *transport)
{
    for (weft_op_t *op = transport->ops, *next; op; op = next) {
        next = op->next;
        int ended = 0;
        if (MPI_Test(&op->request, &ended, MPI_STATUS_IGNORE) != MPI_SUCCESS || ended)
            free_op(transport, op);
    }
}

/* A receive that has not met its send can be cancelled; a broadcast or a send cannot, and neither can a
 * receive whose bytes are on their way. Those get a moment to end. What still pends is left to MPI, which may
 * read or write its buffer whenever some thread makes an MPI call: so the answer is false, and the caller
 * gives the memory up. */
bool weft_mpi_abort(weft_transport_t *transport)
{
    transport->failed = true;
    for (weft_op_t *op = transport->ops; op; op = op->next)
        if (op->receives)
            MPI_Cancel(&op->request);
    uint64_t deadline_us = weft_now_us() + ABORT_GRACE_US;
    for (reap(transport); transport->ops && weft_now_us() < deadline_us; reap(transport))
        weft_sleep_us(100);
    bool buffers_free = !transport->ops;
    while (transport->ops)
        free_op(transport, transport->ops);
    return buffers_free;
}
