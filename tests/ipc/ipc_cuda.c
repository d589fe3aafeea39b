/* The IPC transport with device memory, ranks as forked processes on one GPU. Exit status 77: there is no
 * GPU.
 *
 *     ipc_cuda shared     cudaMalloc, cuMemCreate in pieces, alloc_lendable: read by two ranks, rewritten,
 * replaced ipc_cuda refused    memory that cannot be lent is refused by name ipc_cuda killed     the source
 * is killed while its memory is read
 *
 * No process may use CUDA before it forks, so each of these is a run of its own.
 */
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "src/base/clock.h"
#include "tests/ipc/world.h"

#define MIB ((size_t)1 << 20)

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                  \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

#define TRY(expression)                                                                                      \
    do {                                                                                                     \
        if (expression)                                                                                      \
            return 1;                                                                                        \
    } while (0)

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        cudaError_t code_ = (call);                                                                          \
        CHECK(code_ == cudaSuccess, "%s", cudaGetErrorString(code_));                                        \
    } while (0)

#define DRIVER(call)                                                                                         \
    do {                                                                                                     \
        CUresult code_ = (call);                                                                             \
        CHECK(code_ == CUDA_SUCCESS, "driver error %d", (int)code_);                                         \
    } while (0)

#define OK(call) CHECK((call) == WEFT_OK, "%s", error.message)

/* ---- The driver ---- */

static PFN_cuMemCreate_v10020 mem_create;
static PFN_cuMemRelease_v10020 mem_release;
static PFN_cuMemAddressReserve_v10020 mem_reserve;
static PFN_cuMemMap_v10020 mem_map;
static PFN_cuMemUnmap_v10020 mem_unmap;
static PFN_cuMemSetAccess_v10020 mem_access;

static int load(const char *name, void *function)
{
    enum cudaDriverEntryPointQueryResult found;
    void *address = NULL;
    CUDA(cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &found));
    CHECK(found == cudaDriverEntryPointSuccess && address, "%s", name);
    memcpy(function, &address, sizeof address);
    return 0;
}

static int load_all(void)
{
    TRY(load("cuMemCreate", &mem_create));
    TRY(load("cuMemRelease", &mem_release));
    TRY(load("cuMemAddressReserve", &mem_reserve));
    TRY(load("cuMemMap", &mem_map));
    TRY(load("cuMemUnmap", &mem_unmap));
    return load("cuMemSetAccess", &mem_access);
}

/* Fill a piece of a reserved range with memory of its own. */
static int map_piece(CUdeviceptr address, size_t bytes, bool shareable)
{
    CUmemAllocationProp form = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
    CUmemAccessDesc access = {.location = form.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;
    form.requestedHandleTypes =
        shareable ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : CU_MEM_HANDLE_TYPE_NONE;
    DRIVER(mem_create(&handle, bytes, &form, 0));
    DRIVER(mem_map(address, bytes, 0, handle, 0));
    DRIVER(mem_release(handle));
    DRIVER(mem_access(address, bytes, &access, 1));
    return 0;
}

/* ---- Bytes ---- */

static uint32_t word(uint32_t salt, size_t i)
{
    return (uint32_t)i * 2654435761u + salt;
}

static int fill(void *device, size_t bytes, uint32_t salt)
{
    uint32_t *words = malloc(bytes);
    CHECK(words, "out of memory");
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        words[i] = word(salt, i);
    CUDA(cudaMemcpy(device, words, bytes, cudaMemcpyHostToDevice));
    free(words);
    return 0;
}

/* Through a copy on the device, as a kernel would read it. `skip`: bytes of the pattern before `device`. */
static int compare(const void *device, size_t bytes, size_t skip, uint32_t salt)
{
    void *copy;
    uint32_t *words = malloc(bytes);
    CHECK(words, "out of memory");
    CUDA(cudaMalloc(&copy, bytes));
    CUDA(cudaMemcpy(copy, device, bytes, cudaMemcpyDeviceToDevice));
    CUDA(cudaMemcpy(words, copy, bytes, cudaMemcpyDeviceToHost));
    CUDA(cudaFree(copy));
    size_t wrong = 0;
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        wrong += words[i] != word(salt, i + skip / sizeof *words);
    free(words);
    CHECK(wrong == 0, "%zu of %zu words", wrong, bytes / sizeof *words);
    return 0;
}

/* ---- Opening ---- */

static bool no_gpu(void)
{
    int count = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0)
        return false;
    fprintf(stderr, "skipped: no GPU (%s)\n", cudaGetErrorString(code));
    return true;
}

static weft_transport_t *open_ipc(world_t *world)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    config.bootstrap = (weft_transport_t *)world; /* config.memory: "cuda" is the default with a GPU */
    if (weft_transport_open("ipc", &config, &transport, &error) != WEFT_OK) {
        fprintf(stderr, "%s\n", error.message);
        return NULL;
    }
    const weft_transport_base_t *base = weft_transport_base(transport);
    if (strcmp(base->queue, "cuda") || base->device != 0) {
        fprintf(stderr, "queue %s, device %d\n", base->queue, base->device);
        return NULL;
    }
    return transport;
}

static int meet(weft_transport_t *transport)
{
    unsigned char mine = 1, all[WORLD_MAX];
    weft_error_t error = {0};
    OK(weft_transport_table(transport)->allgather(transport, &mine, 1, all, &error));
    return 0;
}

/* ---- Shared ---- */

enum { NUM_RUNS = 6, PIECES = 3 };
#define PIECE_BYTES (4 * MIB)

/* What the source has, and the runs made of it. */
typedef struct source {
    void *large, *small[2], *lendable;
    CUdeviceptr pieces;
    weft_lent_run_t runs[NUM_RUNS];
} source_t;

static const size_t run_bytes[NUM_RUNS] = {64 * MIB, 4096, 8192, 0, PIECES *PIECE_BYTES - 1024, 3 * MIB};
static const size_t run_skip[NUM_RUNS] = {0, 0, 0, 0, 1024, 0};

static void list_runs(source_t *s)
{
    const void *data[NUM_RUNS] = {
        s->large, s->small[0], s->small[1], NULL, (char *)(uintptr_t)s->pieces + 1024, s->lendable};
    for (uint32_t i = 0; i < NUM_RUNS; i++)
        s->runs[i] = (weft_lent_run_t){data[i], run_bytes[i], i};
}

static int fill_all(source_t *s, uint32_t salt)
{
    for (uint32_t i = 0; i < NUM_RUNS; i++)
        if (s->runs[i].data)
            TRY(fill((char *)(uintptr_t)s->runs[i].data - run_skip[i], run_bytes[i] + run_skip[i], salt + i));
    return 0;
}

static int make_source(source_t *s, weft_transport_t *transport)
{
    weft_error_t error = {0};
    CUDA(cudaMalloc(&s->large, 64 * MIB));
    for (int i = 0; i < 2; i++) /* which the driver takes from one block */
        CUDA(cudaMalloc(&s->small[i], run_bytes[i + 1]));
    TRY(load_all());
    DRIVER(mem_reserve(&s->pieces, PIECES * PIECE_BYTES, 0, 0, 0));
    for (size_t i = 0; i < PIECES; i++)
        TRY(map_piece(s->pieces + i * PIECE_BYTES, PIECE_BYTES, true));
    OK(weft_transport_table(transport)->alloc_lendable(transport, 3 * MIB, &s->lendable, &error));
    list_runs(s);
    return 0;
}

static int lend(source_t *s, weft_transport_t *transport, uint64_t version)
{
    weft_error_t error = {0};
    uint64_t start_us = weft_now_us();
    OK(weft_transport_table(transport)->lend(transport, version, s->runs, NUM_RUNS, &error));
    printf("# lend of version %llu: %llu us\n", (unsigned long long)version,
           (unsigned long long)(weft_now_us() - start_us));
    return 0;
}

/* The receivers' side of one version. */
static int read_all(weft_transport_t *transport, uint64_t version, uint64_t generation, uint32_t salt)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    weft_error_t error = {0};
    uint64_t seen, of, start_us = weft_now_us();
    CHECK(ops->lent(transport, 0, &seen, &of) == WEFT_OK && seen == version && of == generation,
          "version %llu, generation %llu", (unsigned long long)seen, (unsigned long long)of);
    for (uint32_t i = 0; i < NUM_RUNS; i++) {
        weft_lent_run_t run;
        OK(ops->borrow(transport, 0, i, &run, &error));
        if (i == 0)
            printf("# borrow of version %llu: %llu us\n", (unsigned long long)version,
                   (unsigned long long)(weft_now_us() - start_us));
        CHECK(run.bytes == run_bytes[i] && run.ld_elems == i && !run.data == !run.bytes, "run %u", i);
        if (run.data)
            TRY(compare(run.data, run.bytes, run_skip[i], salt + i));
    }
    CHECK(ops->lent(transport, 0, &seen, &of) == WEFT_OK && seen == version, "the version has gone");
    return 0;
}

/* Version 1; version 2 in the same memory; version 3 where one piece of cuMemCreate is another behind the
 * same address; version 4 where a cudaMalloc was freed and made again. */
static int change(source_t *s, uint64_t version)
{
    if (version == 3) {
        DRIVER(mem_unmap(s->pieces + PIECE_BYTES, PIECE_BYTES));
        TRY(map_piece(s->pieces + PIECE_BYTES, PIECE_BYTES, true));
    }
    if (version == 4) {
        void *before = s->large;
        CUDA(cudaFree(s->large));
        CUDA(cudaMalloc(&s->large, 64 * MIB));
        printf("# allocated again at %s address\n", s->large == before ? "the same" : "another");
        list_runs(s);
    }
    return fill_all(s, (uint32_t)version * 100);
}

/* One version: rank 0 has it and lends it, the others read it. */
static int run_version(source_t *source, weft_transport_t *transport, uint64_t version, uint64_t generation)
{
    bool lends = weft_transport_rank(transport) == 0;
    if (lends && (change(source, version) || lend(source, transport, version)))
        return 1;
    TRY(meet(transport));
    TRY(!lends && read_all(transport, version, generation, (uint32_t)version * 100));
    TRY(meet(transport));
    if (lends)
        weft_transport_table(transport)->unlend(transport);
    return 0;
}

static int run_versions(world_t *world, const uint64_t (*versions)[2], size_t count)
{
    source_t source;
    if (no_gpu())
        return 77;
    weft_transport_t *transport = open_ipc(world);
    CHECK(transport, "no transport");
    if (world->base.rank == 0)
        TRY(make_source(&source, transport));
    for (size_t i = 0; i < count; i++)
        TRY(run_version(&source, transport, versions[i][0], versions[i][1]));
    weft_transport_close(transport);
    CUDA(cudaDeviceSynchronize());
    return 0;
}

static int shared_rank(world_t *world)
{
    static const uint64_t versions[3][2] = {{1, 1}, {2, 1}, {3, 2}};
    return run_versions(world, versions, 3);
}

static int replaced_rank(world_t *world)
{
    static const uint64_t versions[2][2] = {{1, 1}, {4, 2}};
    return run_versions(world, versions, 2);
}

/* ---- Refused ---- */

static int refuses(weft_transport_t *transport, const void *data, size_t bytes, const char *text)
{
    weft_error_t error = {0};
    weft_lent_run_t run = {data, bytes, 0};
    weft_status_t status = weft_transport_table(transport)->lend(transport, 1, &run, 1, &error);
    CHECK(status == WEFT_ERR_ARGUMENT && strstr(error.message, text), "%s: %s", weft_status_name(status),
          error.message);
    printf("# %s\n", error.message);
    return 0;
}

static int refused_rank(world_t *world)
{
    if (no_gpu())
        return 77;
    weft_transport_t *transport = open_ipc(world);
    CHECK(transport, "no transport");
    void *pageable = malloc(4096), *pinned, *pooled, *device;
    CUdeviceptr private;
    TRY(load_all());
    CUDA(cudaMallocHost(&pinned, 4096));
    CUDA(cudaMallocAsync(&pooled, 4096, NULL));
    CUDA(cudaMalloc(&device, 4096));
    DRIVER(mem_reserve(&private, 2 * MIB, 0, 0, 0));
    TRY(map_piece(private, 2 * MIB, false));
    TRY(refuses(transport, pageable, 4096, "pageable host memory"));
    TRY(refuses(transport, pinned, 4096, "pinned host memory"));
    TRY(refuses(transport, pooled, 4096, "memory of a pool (cudaMallocAsync)"));
    TRY(refuses(transport, (void *)(uintptr_t) private, 4096, "made without a handle type"));
    TRY(refuses(transport, device, 64 * MIB, "bytes behind its allocation"));
    CHECK(cudaGetLastError() == cudaSuccess, "an error is left for the application");
    weft_transport_close(transport);
    CUDA(cudaFree(device));
    free(pageable);
    return 0;
}

/* ---- Killed ---- */

#define DOOMED_BYTES (256 * MIB)

static int doomed(weft_transport_t *transport, weft_group_t *group)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    weft_error_t error = {0};
    void *plain;
    CUdeviceptr piece;
    weft_op_t *op;
    TRY(load_all());
    CUDA(cudaMalloc(&plain, DOOMED_BYTES));
    DRIVER(mem_reserve(&piece, DOOMED_BYTES, 0, 0, 0));
    TRY(map_piece(piece, DOOMED_BYTES, true));
    TRY(fill(plain, DOOMED_BYTES, 1));
    TRY(fill((void *)(uintptr_t)piece, DOOMED_BYTES, 2));
    weft_lent_run_t runs[2] = {{plain, DOOMED_BYTES, 0}, {(void *)(uintptr_t)piece, DOOMED_BYTES, 0}};
    OK(ops->lend(transport, 5, runs, 2, &error));
    CHECK(ops->broadcast_start(transport, group, 0, NULL, 1, &op) == WEFT_OK, "broadcast_start");
    for (;;)
        pause();
}

/* Test until the operation has ended, at most 20 s. */
static weft_status_t wait_for(weft_transport_t *transport, weft_op_t *op, weft_error_t *error)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    uint64_t deadline_us = weft_now_us() + 20000000;
    while (weft_now_us() < deadline_us) {
        bool done;
        weft_status_t status = ops->test(transport, op, &done, error);
        if (done)
            return status;
    }
    return WEFT_ERR_TIMEOUT;
}

/* Copies in flight all the time, the death among them; each has right bytes. */
static int read_through_death(world_t *world, const weft_lent_run_t *runs)
{
    enum { rounds = 400 };
    void *copy;
    uint32_t sample[256];
    CUDA(cudaMalloc(&copy, DOOMED_BYTES));
    for (size_t round = 0; round < rounds; round++) {
        uint32_t which = round % 2;
        size_t at = round * 7919 * 1024 % (DOOMED_BYTES - sizeof sample) / 4 * 4;
        CUDA(cudaMemsetAsync(copy, 0, DOOMED_BYTES, NULL));
        CUDA(cudaMemcpyAsync(copy, runs[which].data, DOOMED_BYTES, cudaMemcpyDeviceToDevice, NULL));
        if (round == rounds / 4)
            kill(world->processes[1], SIGKILL);
        CUDA(cudaMemcpyAsync(sample, (char *)copy + at, sizeof sample, cudaMemcpyDeviceToHost, NULL));
        CUDA(cudaStreamSynchronize(NULL));
        for (size_t i = 0; i < 256; i++)
            CHECK(sample[i] == word(which + 1, at / 4 + i), "round %zu, word %zu", round, at / 4 + i);
    }
    CUDA(cudaFree(copy));
    TRY(compare(runs[0].data, DOOMED_BYTES, 0, 1));
    return compare(runs[1].data, DOOMED_BYTES, 0, 2);
}

static int survivor(world_t *world, weft_transport_t *transport, weft_group_t *group)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    weft_error_t error = {0};
    weft_op_t *first, *second;
    weft_lent_run_t runs[2];
    uint64_t version, generation;
    CHECK(ops->broadcast_start(transport, group, 0, NULL, 1, &first) == WEFT_OK, "broadcast_start");
    CHECK(ops->broadcast_start(transport, group, 0, NULL, 1, &second) == WEFT_OK, "broadcast_start");
    OK(wait_for(transport, first, &error));
    CHECK(ops->lent(transport, 1, &version, &generation) == WEFT_OK && version == 5, "lent");
    for (uint32_t i = 0; i < 2; i++)
        OK(ops->borrow(transport, 1, i, &runs[i], &error));
    TRY(read_through_death(world, runs));
    weft_status_t status = wait_for(transport, second, &error);
    CHECK(status == WEFT_ERR_PEER_LOST && strstr(error.message, "rank 1 has died"), "%s: %s",
          weft_status_name(status), error.message);
    CHECK(ops->lent(transport, 1, &version, &generation) == WEFT_ERR_PEER_LOST, "lent after the death");
    return 0;
}

/* The context is as good as before, with the mappings and without. */
static int check_context(void)
{
    void *memory;
    CUDA(cudaMalloc(&memory, 16 * MIB));
    TRY(fill(memory, 16 * MIB, 3));
    TRY(compare(memory, 16 * MIB, 0, 3));
    CUDA(cudaFree(memory));
    CUDA(cudaDeviceSynchronize());
    return 0;
}

static int killed_rank(world_t *world)
{
    const uint32_t ranks[] = {1, 0};
    weft_error_t error = {0};
    weft_group_t *group;
    if (no_gpu())
        return 77;
    weft_transport_t *transport = open_ipc(world);
    CHECK(transport, "no transport");
    OK(weft_transport_table(transport)->group_create(transport, 0, ranks, 2, &group, &error));
    if (world->base.rank == 1)
        return doomed(transport, group);
    world->expendable[1] = true;
    TRY(survivor(world, transport, group));
    TRY(check_context());
    weft_transport_close(transport);
    return check_context();
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "shared";
    int failed = !strcmp(what, "shared")     ? world_run(3, shared_rank)
                 : !strcmp(what, "replaced") ? world_run(2, replaced_rank)
                 : !strcmp(what, "refused")  ? world_run(1, refused_rank)
                 : !strcmp(what, "killed")   ? world_run(2, killed_rank)
                                             : 2;
    printf("%s %s\n", what, failed == 0 ? "passed" : failed == 77 ? "skipped" : "failed");
    return failed;
}
