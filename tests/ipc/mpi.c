/* The same cases with host memory, where mpirun has started the ranks and MPI is the bootstrap. */
#include <stdio.h>

#include <mpi.h>

#include "tests/ipc/cases.h"

static bool run(void)
{
    MPI_Comm comm = MPI_COMM_WORLD;
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *mpi, *transport;
    weft_error_t error;
    config.mpi_comm = &comm;
    if (weft_transport_open("mpi", &config, &mpi, &error) != WEFT_OK) {
        fprintf(stderr, "%s\n", error.message);
        return false;
    }
    config.bootstrap = mpi;
    config.memory = "host";
    bool opened = weft_transport_open("ipc", &config, &transport, &error) == WEFT_OK;
    cases_t cases = {0};
    bool passed = opened && cases_run(&cases, transport);
    if (!passed)
        fprintf(stderr, "%s\n", opened ? cases.note : error.message);
    if (opened)
        weft_transport_close(transport);
    if (passed)
        weft_transport_close(mpi);
    return passed;
}

int main(int argc, char **argv)
{
    int provided, rank;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (provided < MPI_THREAD_MULTIPLE) {
        if (rank == 0)
            fprintf(stderr, "skipped: this MPI has no MPI_THREAD_MULTIPLE\n");
        MPI_Finalize();
        return 77;
    }
    bool passed = run();
    printf("rank %d: %s\n", rank, passed ? "passed" : "failed");
    fflush(stdout);
    if (!passed) /* the others may wait for this rank */
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    return 0;
}
