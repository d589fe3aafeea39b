/* The calls that block: gathering from all ranks, and forming groups. */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/mpi/backend.h"

static weft_status_t refuse_failed(const weft_transport_t *transport, const char *what, weft_error_t *error)
{
    if (transport->failed)
        return weft_fail(error, WEFT_ERR_CLOSED, "rank %u: %s after a failure; close and open anew",
                         transport->base.rank, what);
    return WEFT_OK;
}

static weft_status_t gather_into(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error)
{
    MPI_Request request;
    int code =
        MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, transport->world, &request);
    if (code != MPI_SUCCESS)
        return weft_mpi_fail(transport, code, "MPI_Iallgather", error);
    return weft_mpi_wait(transport, &request, 1, weft_now_us() + transport->timeout_us, "allgather", error);
}

/* MPI cannot take a collective back, so it works on memory of ours; when the deadline passes that memory is
 * given up. */
weft_status_t weft_mpi_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error)
{
    WEFT_TRY(refuse_failed(transport, "allgather", error));
    if (bytes > WEFT_MAX_MESSAGE_BYTES)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: allgather of %zu bytes", transport->base.rank,
                         bytes);
    size_t all_bytes = bytes * transport->base.num_ranks;
    unsigned char *scratch = malloc(all_bytes + bytes + 1);
    if (!scratch)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: allgather: out of memory",
                         transport->base.rank);
    if (bytes)
        memcpy(scratch + all_bytes, mine, bytes);
    weft_status_t status = gather_into(transport, scratch + all_bytes, bytes, scratch, error);
    if (status != WEFT_OK) {
        transport->failed = true;
        return status;
    }
    if (all_bytes)
        memcpy(all, scratch, all_bytes);
    free(scratch);
    return WEFT_OK;
}

/* Empty messages; what does not finish is dropped, there is no buffer that could be written. */
static weft_status_t exchange(weft_transport_t *transport, MPI_Request *requests, int count,
                              uint64_t deadline_us, weft_error_t *error)
{
    weft_status_t status = weft_mpi_wait(transport, requests, count, deadline_us, "creating a group", error);
    for (int i = 0; i < count; i++)
        if (requests[i] != MPI_REQUEST_NULL) {
            MPI_Cancel(&requests[i]);
            MPI_Request_free(&requests[i]);
        }
    return status;
}

/* The first rank hears from all others, then tells them all. */
static weft_status_t meet(weft_transport_t *transport, uint32_t id, const uint32_t *ranks, uint32_t count,
                          MPI_Request *requests, weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    int tag = (int)id, others = (int)count - 1;
    MPI_Comm world = transport->world;
    if (ranks[0] != transport->base.rank) {
        MPI_Isend(NULL, 0, MPI_BYTE, (int)ranks[0], tag, world, &requests[0]);
        MPI_Irecv(NULL, 0, MPI_BYTE, (int)ranks[0], tag, world, &requests[1]);
        return exchange(transport, requests, 2, deadline_us, error);
    }
    for (int i = 0; i < others; i++)
        MPI_Irecv(NULL, 0, MPI_BYTE, (int)ranks[i + 1], tag, world, &requests[i]);
    WEFT_TRY(exchange(transport, requests, others, deadline_us, error));
    for (int i = 0; i < others; i++)
        MPI_Isend(NULL, 0, MPI_BYTE, (int)ranks[i + 1], tag, world, &requests[i]);
    return exchange(transport, requests, others, deadline_us, error);
}

/* MPI_Comm_create_group has no deadline, so its ranks meet first, under one: then it returns at once unless a
 * rank dies within that moment. */
static weft_status_t meet_all(weft_transport_t *transport, uint32_t id, const uint32_t *ranks, uint32_t count,
                              weft_error_t *error)
{
    MPI_Request *requests = malloc((count + 1) * sizeof(MPI_Request));
    if (!requests)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: creating group %u: out of memory",
                         transport->base.rank, id);
    for (uint32_t i = 0; i < count + 1; i++)
        requests[i] = MPI_REQUEST_NULL;
    weft_status_t status = meet(transport, id, ranks, count, requests, error);
    free(requests);
    if (status != WEFT_OK)
        transport->failed = true;
    return status;
}

static weft_status_t create_comm(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                 uint32_t count, MPI_Comm *comm, weft_error_t *error)
{
    MPI_Group all, some;
    MPI_Comm_group(transport->world, &all);
    int code = MPI_Group_incl(all, (int)count, (const int *)ranks, &some);
    MPI_Group_free(&all);
    if (code != MPI_SUCCESS)
        return weft_mpi_fail(transport, code, "MPI_Group_incl", error);
    code = MPI_Comm_create_group(transport->world, some, (int)id, comm);
    MPI_Group_free(&some);
    if (code != MPI_SUCCESS)
        return weft_mpi_fail(transport, code, "MPI_Comm_create_group", error);
    MPI_Comm_set_errhandler(*comm, MPI_ERRORS_RETURN);
    return WEFT_OK;
}

static void append(weft_transport_t *transport, weft_group_t *group)
{
    group->previous = transport->last_group;
    if (group->previous)
        group->previous->next = group;
    else
        transport->groups = group;
    transport->last_group = group;
}

weft_status_t weft_mpi_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                    uint32_t count, weft_group_t **group, weft_error_t *error)
{
    uint32_t position;
    WEFT_TRY(refuse_failed(transport, "group_create", error));
    WEFT_TRY(weft_transport_check_group(&transport->base, id, ranks, count, &position, error));
    weft_group_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: creating group %u: out of memory",
                         transport->base.rank, id);
    made->count = count;
    weft_status_t status = meet_all(transport, id, ranks, count, error);
    if (status == WEFT_OK)
        status = create_comm(transport, id, ranks, count, &made->comm, error);
    if (status != WEFT_OK) {
        free(made);
        weft_error_prefix(error, "group %u", id);
        return status;
    }
    append(transport, made);
    *group = made;
    return WEFT_OK;
}

void weft_mpi_group_destroy(weft_transport_t *transport, weft_group_t *group)
{
    if (!group)
        return;
    *(group->previous ? &group->previous->next : &transport->groups) = group->next;
    *(group->next ? &group->next->previous : &transport->last_group) = group->previous;
    if (!transport->failed)
        MPI_Comm_free(&group->comm);
    free(group);
}
