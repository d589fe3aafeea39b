/* Joining the world and leaving it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/mpi/backend.h"

weft_status_t weft_mpi_fail(const weft_transport_t *transport, int code, const char *what,
                            weft_error_t *error)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(code, text, &length);
    return weft_fail(error, WEFT_ERR_TRANSPORT, "rank %u: %s: %s", transport->base.rank, what, text);
}

weft_status_t weft_mpi_wait(const weft_transport_t *transport, MPI_Request *requests, int count,
                            uint64_t deadline_us, const char *what, weft_error_t *error)
{
    for (unsigned round = 0;; round++) {
        int done;
        int code = MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
        if (code != MPI_SUCCESS)
            return weft_mpi_fail(transport, code, what, error);
        if (done)
            return WEFT_OK;
        if (weft_now_us() >= deadline_us)
            return weft_fail(error, WEFT_ERR_TIMEOUT, "rank %u: %s: not all ranks came within %.1f s",
                             transport->base.rank, what, (double)transport->timeout_us * 1e-6);
        if (round >= 100)
            weft_sleep_us(50);
    }
}

static weft_status_t check_mpi(const weft_transport_config_t *config, weft_error_t *error)
{
    int initialized, finalized, level, between;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (!initialized || finalized)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "mpi: MPI is %s; open after MPI_Init_thread(..., MPI_THREAD_MULTIPLE, ...), close before "
            "MPI_Finalize",
            initialized ? "finalized" : "not initialized");
    MPI_Query_thread(&level);
    if (level < MPI_THREAD_MULTIPLE)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "mpi: MPI provides thread level %d, weft's progress thread needs MPI_THREAD_MULTIPLE (%d): "
            "start MPI with MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided)",
            level, MPI_THREAD_MULTIPLE);
    const MPI_Comm *comm = config->mpi_comm;
    if (!comm || *comm == MPI_COMM_NULL)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "mpi: config.mpi_comm must point to a communicator");
    MPI_Comm_test_inter(*comm, &between);
    if (between)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "mpi: config.mpi_comm is an intercommunicator");
    return WEFT_OK;
}

/* Duplicate without blocking, so that a missing rank meets the deadline. Until it is met MPI owns the place
 * where the new communicator goes, hence the place on the heap, which a timeout gives up. */
static weft_status_t duplicate(weft_transport_t *transport, MPI_Comm comm, weft_error_t *error)
{
    MPI_Comm *place = malloc(sizeof *place);
    if (!place)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: mpi: out of memory", transport->base.rank);
    MPI_Request request;
    int code = MPI_Comm_idup(comm, place, &request);
    if (code != MPI_SUCCESS) {
        free(place);
        return weft_mpi_fail(transport, code, "MPI_Comm_idup", error);
    }
    WEFT_TRY(
        weft_mpi_wait(transport, &request, 1, weft_now_us() + transport->timeout_us, "opening mpi", error));
    transport->world = *place;
    free(place);
    MPI_Comm_set_errhandler(transport->world, MPI_ERRORS_RETURN);
    return WEFT_OK;
}

static weft_status_t weft_mpi_open(const weft_transport_config_t *config, weft_transport_t **transport,
                                   weft_error_t *error)
{
    WEFT_TRY(check_mpi(config, error));
    weft_transport_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "mpi: out of memory");
    MPI_Comm comm = *(const MPI_Comm *)config->mpi_comm;
    int rank, num_ranks;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &num_ranks);
    made->base = (weft_transport_base_t){&weft_mpi_ops, (uint32_t)rank, (uint32_t)num_ranks, "host", -1};
    made->timeout_us = weft_transport_timeout_us(config);
    weft_status_t status = duplicate(made, comm, error);
    if (status != WEFT_OK) {
        free(made);
        return status;
    }
    *transport = made;
    return WEFT_OK;
}

/* After a failure the communicators stay with MPI until the process ends: freeing one is collective, and
 * peers may not come. */
static void weft_mpi_close(weft_transport_t *transport)
{
    int finalized;
    MPI_Finalized(&finalized);
    if (!finalized && transport->ops)
        weft_mpi_abort(transport);
    bool collective = !finalized && !transport->failed;
    for (weft_group_t *group = transport->groups, *next; group; group = next) {
        next = group->next;
        if (collective)
            MPI_Comm_free(&group->comm);
        free(group);
    }
    if (collective)
        MPI_Comm_free(&transport->world);
    free(transport);
}

static void about(char *text, size_t bytes)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(version, &length);
    snprintf(text, bytes, "%.*s", (int)strcspn(version, ",\n"), version);
}

const weft_transport_ops_t weft_mpi_ops = {
    .name = "mpi",
    .open = weft_mpi_open,
    .allgather = weft_mpi_allgather,
    .group_create = weft_mpi_group_create,
    .group_destroy = weft_mpi_group_destroy,
    .broadcast_start = weft_mpi_broadcast_start,
    .send_start = weft_mpi_send_start,
    .recv_start = weft_mpi_recv_start,
    .test = weft_mpi_test,
    .abort = weft_mpi_abort,
    .close = weft_mpi_close,
    .about = about,
};
