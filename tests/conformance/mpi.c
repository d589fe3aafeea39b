/* The suite on MPI; started by mpirun. `conformance_mpi suite` runs it, twice on the same communicator;
 * `refuse` asks MPI for too low a thread level; `abort` gives operations up that will never end. WEFT_SEED
 * repeats a run, WEFT_CASE names the only case to run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mpi.h>

#include "src/base/clock.h"
#include "tests/conformance/suite.h"

static weft_transport_t *open_on(const MPI_Comm *comm)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.mpi_comm = comm;
    weft_transport_t *transport = NULL;
    weft_error_t error;
    if (weft_transport_open("mpi", &config, &transport, &error) != WEFT_OK)
        fprintf(stderr, "%s\n", error.message);
    return transport;
}

/* Rank 0's seed, for all. */
static uint64_t agree_on_seed(void)
{
    const char *given = getenv("WEFT_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : weft_now_ns();
    MPI_Bcast(&seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    return seed;
}

static void meet(void *user)
{
    (void)user;
    MPI_Barrier(MPI_COMM_WORLD);
}

static bool run_suite(void)
{
    const suite_options_t options = {.meet = meet};
    uint64_t seed = agree_on_seed();
    for (int round = 0; round < 2; round++) {
        MPI_Comm comm = MPI_COMM_WORLD;
        weft_transport_t *transport = open_on(&comm);
        if (!transport)
            return false;
        suite_t suite;
        bool passed = suite_run(&suite, transport, &options, seed + (uint64_t)round, getenv("WEFT_CASE"));
        if (!passed)
            fprintf(stderr, "%s\n", suite.note);
        weft_transport_close(transport);
        if (!passed)
            return false;
    }
    return true;
}

static bool refuses_thread_level(void)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    MPI_Comm comm = MPI_COMM_WORLD;
    config.mpi_comm = &comm;
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_transport_open("mpi", &config, &transport, &error);
    return status == WEFT_ERR_UNSUPPORTED && !transport && strstr(error.message, "MPI_Init_thread");
}

/* Nobody sends: a receive is taken back, a broadcast is not, and both within the grace period. */
static bool gives_up(weft_transport_t *transport, bool broadcast, bool expected)
{
    static unsigned char data[2][4096]; /* stays, as abort may demand */
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    const uint32_t ranks[] = {0, 1};
    weft_group_t *group;
    weft_op_t *receive, *late;
    weft_error_t error;
    if (ops->group_create(transport, 1, ranks, 2, &group, &error) != WEFT_OK)
        return false;
    if (weft_transport_rank(transport) == 1) {
        ops->recv_start(transport, 0, data[0], sizeof data[0], &receive);
        if (broadcast)
            ops->broadcast_start(transport, group, 0, data[1], sizeof data[1], &late);
        uint64_t start_us = weft_now_us();
        if (ops->abort(transport) != expected || weft_now_us() - start_us > 5000000)
            return false;
        if (ops->recv_start(transport, 0, data[0], 1, &receive) != WEFT_ERR_CLOSED)
            return false;
        return ops->allgather(transport, data[0], 1, data[1], &error) == WEFT_ERR_CLOSED;
    }
    return ops->abort(transport);
}

static bool run_abort(void)
{
    MPI_Comm comm = MPI_COMM_WORLD;
    bool passed = true;
    for (int broadcast = 0; broadcast < 2; broadcast++) {
        weft_transport_t *transport = open_on(&comm);
        passed = transport && gives_up(transport, broadcast, !broadcast) && passed;
        weft_transport_close(transport);
    }
    return passed;
}

/* Rank 1 stays away; rank 0 meets the deadline. */
static bool run_deadline(void)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    MPI_Comm comm = MPI_COMM_WORLD;
    config.mpi_comm = &comm;
    config.timeout_us = 300000;
    bool passed = true;
    for (int group_call = 0; group_call < 2; group_call++) {
        weft_transport_t *transport;
        weft_error_t error = {0};
        if (weft_transport_open("mpi", &config, &transport, &error) != WEFT_OK)
            return false;
        const weft_transport_ops_t *ops = weft_transport_table(transport);
        const uint32_t ranks[] = {0, 1};
        weft_group_t *group;
        unsigned char mine = 1, all[2];
        weft_status_t status = WEFT_ERR_TIMEOUT;
        if (weft_transport_rank(transport) == 0)
            status = group_call ? ops->group_create(transport, 2, ranks, 2, &group, &error)
                                : ops->allgather(transport, &mine, 1, all, &error);
        else
            ops->abort(transport);
        passed = passed && status == WEFT_ERR_TIMEOUT;
        weft_transport_close(transport);
        MPI_Barrier(comm);
    }
    return passed;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "suite";
    bool refuse = !strcmp(what, "refuse");
    int wanted = refuse ? MPI_THREAD_SINGLE : MPI_THREAD_MULTIPLE, provided, rank;
    MPI_Init_thread(&argc, &argv, wanted, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (!refuse && provided < MPI_THREAD_MULTIPLE) {
        if (rank == 0)
            printf("skipped: this MPI has no MPI_THREAD_MULTIPLE\n");
        MPI_Finalize();
        return 77;
    }
    bool passed = refuse                      ? refuses_thread_level()
                  : !strcmp(what, "abort")    ? run_abort()
                  : !strcmp(what, "deadline") ? run_deadline()
                                              : run_suite();
    printf("rank %d: %s %s\n", rank, what, passed ? "passed" : "failed");
    fflush(stdout);
    if (!passed) /* the others may wait for this rank */
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    return 0;
}
