/* The calls that block: communicators, groups, and gathering from all ranks, which is the bootstrap's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/nccl/backend.h"

/* What the first rank of a new group tells the others. */
typedef struct invitation {
    ncclUniqueId id;
    uint32_t group;
    uint32_t failed; /* there is no id: nobody goes on */
} invitation_t;

/* ---- Communicators ---- */

ncclResult_t weft_nccl_state(const weft_nccl_comm_t *comm)
{
    ncclResult_t state = ncclSuccess;
    if (!comm->handle)
        return ncclSuccess;
    ncclResult_t result = ncclCommGetAsyncError(comm->handle, &state);
    return result == ncclSuccess ? state : result;
}

weft_status_t weft_nccl_status(ncclResult_t result)
{
    return result == ncclRemoteError ? WEFT_ERR_PEER_LOST : WEFT_ERR_TRANSPORT;
}

/* Poll until the call that returned `result` has ended. */
static weft_status_t wait_call(const weft_transport_t *transport, const weft_nccl_comm_t *comm,
                               ncclResult_t result, const char *what, weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    if (result == ncclSuccess)
        result = weft_nccl_state(comm);
    for (unsigned round = 0; result == ncclInProgress; round++) {
        if (weft_now_us() >= deadline_us)
            return weft_fail(error, WEFT_ERR_TIMEOUT, "rank %u: %s: %s: not all ranks came within %.1f s",
                             transport->base.rank, comm->name, what, (double)transport->timeout_us * 1e-6);
        if (round >= 100)
            weft_sleep_us(50);
        result = weft_nccl_state(comm);
    }
    if (result == ncclSuccess)
        return WEFT_OK;
    return weft_fail(error, weft_nccl_status(result), "rank %u: %s: %s: %s; %s", transport->base.rank,
                     comm->name, what, ncclGetErrorString(result), ncclGetLastError(comm->handle));
}

weft_status_t weft_nccl_comm_prepare(weft_transport_t *transport, weft_nccl_comm_t *comm, weft_error_t *error)
{
    cudaError_t code =
        cudaStreamCreateWithPriority(&comm->stream, cudaStreamNonBlocking, transport->priority);
    WEFT_TRY(weft_nccl_check_cuda(transport, code, "creating a stream", error));
    comm->next = transport->comms;
    transport->comms = comm;
    return WEFT_OK;
}

weft_status_t weft_nccl_comm_open(weft_transport_t *transport, weft_nccl_comm_t *comm, const ncclUniqueId *id,
                                  uint32_t count, uint32_t position, weft_error_t *error)
{
    WEFT_TRY(weft_nccl_comm_prepare(transport, comm, error));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = transport->max_ctas;
    config.commName = "weft";
    ncclResult_t result = ncclCommInitRankConfig(&comm->handle, (int)count, *id, (int)position, &config);
    return wait_call(transport, comm, result, "ncclCommInitRankConfig", error);
}

static void unlink_comm(weft_transport_t *transport, const weft_nccl_comm_t *comm)
{
    weft_nccl_comm_t **link = &transport->comms;
    while (*link && *link != comm)
        link = &(*link)->next;
    if (*link)
        *link = comm->next;
}

static bool leave_comm(const weft_transport_t *transport, weft_nccl_comm_t *comm)
{
    ncclResult_t result = ncclCommFinalize(comm->handle);
    if (wait_call(transport, comm, result, "ncclCommFinalize", NULL) != WEFT_OK)
        return false;
    result = ncclCommDestroy(comm->handle);
    comm->handle = NULL; /* freed, or in a state that must not be touched again */
    return result == ncclSuccess;
}

void weft_nccl_comm_close(weft_transport_t *transport, weft_nccl_comm_t *comm)
{
    if (comm->handle && !transport->failed && !leave_comm(transport, comm))
        weft_nccl_abort(transport);
    unlink_comm(transport, comm);
    if (comm->stream && !transport->stuck)
        (void)cudaStreamDestroy(comm->stream);
    comm->stream = NULL;
}

/* ---- Over the bootstrap ---- */

static weft_status_t refuse_failed(const weft_transport_t *transport, const char *what, weft_error_t *error)
{
    if (transport->failed)
        return weft_fail(error, WEFT_ERR_CLOSED, "rank %u: %s after a failure; close and open anew",
                         transport->base.rank, what);
    return WEFT_OK;
}

weft_status_t weft_nccl_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                  weft_error_t *error)
{
    WEFT_TRY(refuse_failed(transport, "allgather", error));
    return weft_transport_table(transport->bootstrap)
        ->allgather(transport->bootstrap, mine, bytes, all, error);
}

/* Test the bootstrap's operations until none is left; those that ended are NULL. */
static weft_status_t drive(weft_transport_t *transport, weft_op_t **ops, uint32_t count, weft_error_t *error)
{
    const weft_transport_ops_t *table = weft_transport_table(transport->bootstrap);
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    for (unsigned round = 0;; round++) {
        uint32_t pending = 0;
        for (uint32_t i = 0; i < count; i++) {
            bool done = true;
            weft_status_t status = WEFT_OK;
            if (ops[i])
                status = table->test(transport->bootstrap, ops[i], &done, error);
            if (done)
                ops[i] = NULL;
            WEFT_TRY(status);
            pending += !done;
        }
        if (!pending)
            return WEFT_OK;
        if (weft_now_us() >= deadline_us)
            return weft_fail(error, WEFT_ERR_TIMEOUT, "rank %u: %u of %u ranks did not come within %.1f s",
                             transport->base.rank, pending, count, (double)transport->timeout_us * 1e-6);
        if (round >= 100)
            weft_sleep_us(50);
    }
}

static weft_status_t start_letters(weft_transport_t *transport, invitation_t *letter, const uint32_t *ranks,
                                   uint32_t count, weft_op_t **ops)
{
    weft_transport_t *bootstrap = transport->bootstrap;
    const weft_transport_ops_t *table = weft_transport_table(bootstrap);
    if (ranks[0] != transport->base.rank)
        return table->recv_start(bootstrap, ranks[0], letter, sizeof *letter, &ops[0]);
    for (uint32_t i = 1; i < count; i++)
        WEFT_TRY(table->send_start(bootstrap, ranks[i], letter, sizeof *letter, &ops[i - 1]));
    return WEFT_OK;
}

/* The first rank writes the letter and sends it to the others. When that does not end in time the bootstrap
 * still holds letter and list: both are given up. */
static weft_status_t exchange(weft_transport_t *transport, invitation_t *letter, const uint32_t *ranks,
                              uint32_t count, weft_error_t *error)
{
    weft_op_t **ops = calloc(count, sizeof *ops);
    if (!ops)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: out of memory", transport->base.rank);
    weft_status_t status = start_letters(transport, letter, ranks, count, ops);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rank %u: the bootstrap cannot start a message: %s",
                         transport->base.rank, weft_status_text(status));
    status = drive(transport, ops, count, error);
    if (status == WEFT_OK)
        free(ops);
    return status;
}

static weft_status_t invite(weft_transport_t *transport, uint32_t id, const uint32_t *ranks, uint32_t count,
                            ncclUniqueId *unique, weft_error_t *error)
{
    invitation_t *letter = calloc(1, sizeof *letter);
    if (!letter)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: out of memory", transport->base.rank);
    letter->group = id;
    if (ranks[0] == transport->base.rank)
        letter->failed = ncclGetUniqueId(&letter->id) != ncclSuccess;
    WEFT_TRY(exchange(transport, letter, ranks, count, error));
    invitation_t got = *letter;
    free(letter);
    if (got.failed)
        return weft_fail(error, WEFT_ERR_TRANSPORT,
                         "rank %u: ncclGetUniqueId failed on rank %u; NCCL_DEBUG=WARN says why",
                         transport->base.rank, ranks[0]);
    if (got.group != id)
        return weft_fail(error, WEFT_ERR_TRANSPORT,
                         "rank %u: rank %u creates group %u; all ranks create their groups in one order",
                         transport->base.rank, ranks[0], got.group);
    *unique = got.id;
    return WEFT_OK;
}

/* ---- Groups ---- */

/* The first broadcast connects the ranks, which takes long and waits for all of them: here it may. */
static weft_status_t connect(weft_transport_t *transport, weft_group_t *group, weft_error_t *error)
{
    weft_op_t *op;
    WEFT_TRY(weft_nccl_broadcast_start(transport, group, 0, transport->scratch, 1, &op));
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    for (unsigned round = 0;; round++) {
        bool done;
        weft_status_t status = weft_nccl_test(transport, op, &done, error);
        if (done)
            return status;
        if (weft_now_us() >= deadline_us)
            return weft_fail(error, WEFT_ERR_TIMEOUT, "rank %u: connecting: not all ranks came within %.1f s",
                             transport->base.rank, (double)transport->timeout_us * 1e-6);
        if (round >= 100)
            weft_sleep_us(50);
    }
}

static weft_status_t open_group(weft_transport_t *transport, weft_group_t *group, const uint32_t *ranks,
                                uint32_t position, weft_error_t *error)
{
    ncclUniqueId unique;
    if (group->count == 1)
        return WEFT_OK;
    WEFT_TRY(invite(transport, group->id, ranks, group->count, &unique, error));
    WEFT_TRY(weft_nccl_comm_open(transport, &group->comm, &unique, group->count, position, error));
    return connect(transport, group, error);
}

static void add(weft_transport_t *transport, weft_group_t *group)
{
    group->previous = transport->last_group;
    *(group->previous ? &group->previous->next : &transport->groups) = group;
    transport->last_group = group;
}

weft_status_t weft_nccl_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                     uint32_t count, weft_group_t **group, weft_error_t *error)
{
    uint32_t position;
    int previous;
    WEFT_TRY(refuse_failed(transport, "group_create", error));
    WEFT_TRY(weft_transport_check_group(&transport->base, id, ranks, count, &position, error));
    weft_group_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: creating group %u: out of memory",
                         transport->base.rank, id);
    made->id = id;
    made->count = count;
    snprintf(made->comm.name, sizeof made->comm.name, "group %u", id);
    add(transport, made);
    weft_status_t status = weft_nccl_enter(transport, &previous);
    if (status != WEFT_OK)
        weft_fail(error, status, "rank %u: CUDA device %d cannot be used", transport->base.rank,
                  transport->device);
    else
        status = open_group(transport, made, ranks, position, error);
    if (status != WEFT_OK) {
        weft_error_prefix(error, "creating group %u", id);
        weft_nccl_abort(transport);
        weft_nccl_group_destroy(transport, made);
    }
    weft_nccl_leave(transport, previous);
    if (status == WEFT_OK)
        *group = made;
    return status;
}

void weft_nccl_group_destroy(weft_transport_t *transport, weft_group_t *group)
{
    int previous;
    if (!group)
        return;
    *(group->previous ? &group->previous->next : &transport->groups) = group->next;
    *(group->next ? &group->next->previous : &transport->last_group) = group->previous;
    (void)weft_nccl_enter(transport, &previous); /* freeing streams works without */
    weft_nccl_comm_close(transport, &group->comm);
    weft_nccl_leave(transport, previous);
    free(group);
}
