/* The suite on NCCL; started by mpirun, over an mpi bootstrap, all ranks on one GPU. `conformance_nccl suite`
 * runs it, twice; `abort` gives operations up that will never end and opens anew; `deadline` waits for a rank
 * that stays away; `refuse` and `same` meet what open refuses. WEFT_SEED repeats a run, WEFT_CASE names the
 * only case to run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>
#include <mpi.h>

#include "src/base/clock.h"
#include "tests/conformance/suite.h"

/* ---- Messages in device memory, on a stream of their own: nothing here waits for what NCCL runs ---- */

static cudaStream_t side;

static void *allocate_device(size_t bytes)
{
    void *data = NULL;
    return cudaMallocAsync(&data, bytes, side) == cudaSuccess ? data : NULL;
}

static void release_device(void *data)
{
    if (data && cudaFreeAsync(data, side) != cudaSuccess)
        fprintf(stderr, "cudaFreeAsync failed\n");
}

static bool write_device(void *to, const void *from, size_t bytes)
{
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, side) == cudaSuccess &&
           cudaStreamSynchronize(side) == cudaSuccess;
}

static bool read_device(void *to, const void *from, size_t bytes)
{
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, side) == cudaSuccess &&
           cudaStreamSynchronize(side) == cudaSuccess;
}

static const suite_memory_t device_memory = {
    .allocate = allocate_device, .release = release_device, .write = write_device, .read = read_device};

/* ---- Opening ---- */

static MPI_Comm world = MPI_COMM_WORLD;

static weft_transport_t *open_bootstrap(void)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.mpi_comm = &world;
    weft_transport_t *transport = NULL;
    weft_error_t error;
    if (weft_transport_open("mpi", &config, &transport, &error) != WEFT_OK)
        fprintf(stderr, "%s\n", error.message);
    return transport;
}

static weft_status_t open_nccl(weft_transport_t *bootstrap, bool shared_gpu, uint64_t timeout_us,
                               weft_transport_t **transport, weft_error_t *error)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.bootstrap = bootstrap;
    config.shared_gpu = shared_gpu;
    config.timeout_us = timeout_us;
    weft_status_t status = weft_transport_open("nccl", &config, transport, error);
    if (status != WEFT_OK)
        fprintf(stderr, "%s\n", error->message);
    return status;
}

/* ---- suite ---- */

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

static bool run_once(weft_transport_t *bootstrap, uint64_t seed)
{
    const suite_options_t options = {
        .meet = meet, .memory = &device_memory, .equal_sizes = true, .costly_group = true};
    weft_transport_t *transport = NULL;
    weft_error_t error;
    if (open_nccl(bootstrap, true, 0, &transport, &error) != WEFT_OK)
        return false;
    suite_t suite;
    bool passed = suite_run(&suite, transport, &options, seed, getenv("WEFT_CASE"));
    if (!passed)
        fprintf(stderr, "%s\n", suite.note);
    weft_transport_close(transport);
    return passed;
}

static bool run_suite(weft_transport_t *bootstrap)
{
    uint64_t seed = agree_on_seed();
    return run_once(bootstrap, seed) && run_once(bootstrap, seed + 1);
}

/* ---- abort ---- */

static bool wait_for(weft_transport_t *transport, weft_op_t *op)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    uint64_t deadline_us = weft_now_us() + 20000000;
    for (bool done = false; weft_now_us() < deadline_us; weft_sleep_us(50)) {
        weft_error_t error;
        weft_status_t status = ops->test(transport, op, &done, &error);
        if (status != WEFT_OK)
            fprintf(stderr, "%s\n", error.message);
        if (done)
            return status == WEFT_OK;
    }
    return false;
}

/* A broadcast of rank 0's bytes to all. */
static bool works(weft_transport_t *transport)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    const uint32_t ranks[] = {0, 1};
    bool root = weft_transport_rank(transport) == 0;
    char text[8] = "........", *data = allocate_device(sizeof text);
    weft_group_t *group;
    weft_op_t *op;
    weft_error_t error;
    if (!data || !write_device(data, root ? "all well" : text, sizeof text))
        return false;
    if (ops->group_create(transport, 1, ranks, 2, &group, &error) != WEFT_OK) {
        fprintf(stderr, "%s\n", error.message);
        return false;
    }
    if (ops->broadcast_start(transport, group, 0, data, sizeof text, &op) != WEFT_OK ||
        !wait_for(transport, op))
        return false;
    bool equal = read_device(text, data, sizeof text) && !memcmp(text, "all well", sizeof text);
    release_device(data);
    return equal;
}

static bool gives_up(weft_transport_t *transport)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    const uint32_t ranks[] = {0, 1};
    weft_group_t *group;
    weft_op_t *op;
    weft_error_t error;
    unsigned char *data = allocate_device(8192), byte = 0, all[2];
    if (!data || ops->group_create(transport, 2, ranks, 2, &group, &error) != WEFT_OK)
        return false;
    if (weft_transport_rank(transport) == 0) { /* leaves last: rank 1 is to meet silence, not an error */
        MPI_Barrier(world);
        return ops->abort(transport);
    }
    /* A kernel that spins, one behind it, and a message whose connection never comes about. */
    for (int i = 0; i < 2; i++)
        if (ops->broadcast_start(transport, group, 0, data, 4096, &op) != WEFT_OK)
            return false;
    if (ops->recv_start(transport, 0, data + 4096, 4096, &op) != WEFT_OK)
        return false;
    for (int i = 0; i < 100; i++) {
        bool done;
        if (ops->test(transport, op, &done, &error) != WEFT_OK || done)
            return false;
        weft_sleep_us(1000);
    }
    uint64_t start_us = weft_now_us();
    bool buffers_free = ops->abort(transport);
    uint64_t took_us = weft_now_us() - start_us;
    MPI_Barrier(world);
    printf("abort took %.3f s\n", (double)took_us * 1e-6);
    return buffers_free && took_us < 5000000 &&
           ops->recv_start(transport, 0, data, 1, &op) == WEFT_ERR_CLOSED &&
           ops->broadcast_start(transport, group, 0, data, 1, &op) == WEFT_ERR_CLOSED &&
           ops->allgather(transport, &byte, 1, all, &error) == WEFT_ERR_CLOSED;
}

static bool run_abort(weft_transport_t *bootstrap)
{
    for (int round = 0; round < 2; round++) {
        weft_transport_t *transport;
        weft_error_t error;
        if (open_nccl(bootstrap, true, 0, &transport, &error) != WEFT_OK)
            return false;
        bool passed = round ? works(transport) : gives_up(transport);
        weft_transport_close(transport);
        if (!passed)
            return false;
    }
    return true;
}

/* ---- deadline: rank 1 does not come to create a group ---- */

static bool run_deadline(weft_transport_t *bootstrap)
{
    const uint32_t ranks[] = {0, 1};
    weft_transport_t *transport;
    weft_group_t *group;
    weft_error_t error = {.message = ""};
    if (open_nccl(bootstrap, true, 10000000, &transport, &error) != WEFT_OK)
        return false;
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    bool passed = true;
    if (weft_transport_rank(transport) == 0) {
        passed = ops->group_create(transport, 1, ranks, 2, &group, &error) == WEFT_ERR_TIMEOUT;
        printf("%s\n", error.message);
    } else {
        ops->abort(transport);
    }
    weft_transport_close(transport);
    MPI_Barrier(MPI_COMM_WORLD);

    /* The bootstrap holds a message that nobody took: it is opened anew with the rest. */
    weft_transport_t *fresh = open_bootstrap();
    if (!fresh || open_nccl(fresh, true, 0, &transport, &error) != WEFT_OK)
        return false;
    passed = works(transport) && passed;
    weft_transport_close(transport);
    weft_transport_close(fresh);
    return passed;
}

/* ---- What open refuses ---- */

static bool run_refuse(weft_transport_t *bootstrap)
{
    weft_transport_t *transport = NULL;
    weft_error_t error = {.message = ""};
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1", 1);
    bool one_queue = open_nccl(bootstrap, true, 0, &transport, &error) == WEFT_ERR_UNSUPPORTED &&
                     !transport && strstr(error.message, "CUDA_DEVICE_MAX_CONNECTIONS");
    unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");
    return one_queue && open_nccl(NULL, true, 0, &transport, &error) == WEFT_ERR_ARGUMENT &&
           strstr(error.message, "bootstrap");
}

static bool run_same(weft_transport_t *bootstrap)
{
    weft_transport_t *transport = NULL;
    weft_error_t error = {.message = ""};
    return open_nccl(bootstrap, false, 0, &transport, &error) == WEFT_ERR_UNSUPPORTED && !transport &&
           strstr(error.message, "ranks 0 and 1") && strstr(error.message, "--shared-gpu");
}

/* ---- */

static bool run(const char *what, weft_transport_t *bootstrap)
{
    static const struct {
        const char *name;
        bool (*run)(weft_transport_t *bootstrap);
    } modes[] = {{"suite", run_suite},
                 {"abort", run_abort},
                 {"deadline", run_deadline},
                 {"refuse", run_refuse},
                 {"same", run_same}};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (!strcmp(modes[i].name, what))
            return modes[i].run(bootstrap);
    fprintf(stderr, "there is no \"%s\"\n", what);
    return false;
}

/* `refuse` needs no GPU: open looks at the environment first. */
static bool has_gpu(const char *what)
{
    int count = 0;
    if (!strcmp(what, "refuse"))
        return true;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 && cudaSetDevice(0) == cudaSuccess &&
           cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking) == cudaSuccess;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "suite";
    int provided, rank;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    bool gpu = has_gpu(what);
    if (!gpu || provided < MPI_THREAD_MULTIPLE) {
        if (rank == 0)
            fprintf(stderr, "skipped: %s\n", gpu ? "this MPI has no MPI_THREAD_MULTIPLE" : "there is no GPU");
        MPI_Finalize();
        return 77;
    }
    weft_transport_t *bootstrap = open_bootstrap();
    bool passed = bootstrap && run(what, bootstrap);
    printf("rank %d: %s %s\n", rank, what, passed ? "passed" : "failed");
    fflush(stdout);
    if (!passed) /* the others may wait for this rank */
        MPI_Abort(MPI_COMM_WORLD, 1);
    weft_transport_close(bootstrap);
    MPI_Finalize();
    return 0;
}
