/* How long a swap keeps decode steps waiting: flip (mappings exchanged) and copy, by the queue's own entries.
 *
 *     bench_swap [--swaps N] [GIB ...]          default: 20 swaps of 1, 8 and 60 GiB
 *
 *     engine  [step][step]..[step][end]  idle? exchange, or copy  [begin][step][step]..
 *                                  |<------------ pause ----------->|
 *
 * Pause is device time from the end of the last step on the old version to the beginning of the first on the
 * new, drain included. A step is the replay of one graph, captured once a row, which reads a million words
 * all over the live range and checks that they are of the version it should serve. The stage is filled anew
 * before every swap; a version's words are random and unlike any other's. After the steps all of the live
 * range is checked.
 *
 *     host us    what the call of exchange (flip) or of the copy takes on the host
 *     copy us    a bare device copy of the same bytes, one after each swap (copy only)
 *     ratio      P50 of the pause over that of the bare copy
 *     #wrong     words that a step or the check after it found to be of another version
 */
#include <math.h>
#include <time.h>

#include <algorithm>

#include "fixture.cuh"
extern "C" {
#include "kernels/queue.h"
}

constexpr uint64_t SAMPLES = 1 << 20; /* words that a step reads */
constexpr int WARM = 2, STEPS = 8;    /* swaps that are not measured; steps before and after one */
constexpr size_t GIB = (size_t)1 << 30, SPARE = GIB / 2;

/* ---- Kernels ---- */

static __device__ uint64_t word_of(uint64_t index, uint64_t version)
{
    uint64_t z = (index + 1) * 0x9E3779B97F4A7C15u + version * 0xD1B54A32D192ED03u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    return z ^ (z >> 27);
}

static __global__ void fill(uint64_t *to, uint64_t words, uint64_t version)
{
    uint64_t threads = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += threads)
        to[i] = word_of(i, version);
}

static __global__ void check(const uint64_t *from, uint64_t words, uint64_t stride, const uint64_t *version,
                             unsigned long long *wrong)
{
    uint64_t threads = (uint64_t)gridDim.x * blockDim.x, expected = *version, found = 0;
    for (uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * stride; i < words;
         i += threads * stride)
        found += from[i] != word_of(i, expected);
    if (found)
        atomicAdd(wrong, found);
}

/* ---- One row ---- */

typedef struct row {
    weft_queue_t *queue;
    bool flip;
    weft_pair_t pair;
    uint64_t words;
    cudaStream_t stream; /* the engine's */
    cudaGraphExec_t step;
    cudaEvent_t begin, end;
    uint64_t *version, *versions;          /* on the device; pinned: 0, 1, 2, ... */
    unsigned long long *wrong;             /* on the device */
    std::vector<double> pause, host, copy; /* us */
} row_t;

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void capture_step(row_t *r)
{
    cudaGraph_t graph;
    uint64_t stride = std::max<uint64_t>(1, r->words / SAMPLES);
    CUDA(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
    check<<<1024, 256, 0, r->stream>>>((const uint64_t *)(void *)r->pair.live, r->words, stride, r->version,
                                       r->wrong);
    CUDA(cudaGetLastError());
    CUDA(cudaStreamEndCapture(r->stream, &graph));
    CUDA(cudaGraphInstantiate(&r->step, graph, 0));
    CUDA(cudaGraphDestroy(graph));
}

static void fill_range(const row_t *r, uint8_t *range, uint64_t version)
{
    fill<<<4096, 256, 0, r->stream>>>((uint64_t *)(void *)range, r->words, version);
    CUDA(cudaGetLastError());
}

/* Kernels run once before one is captured: loading them is not for a capture. */
static void row_begin(row_t *r, int swaps)
{
    CUDA(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&r->begin));
    CUDA(cudaEventCreate(&r->end));
    CUDA(cudaMalloc((void **)&r->version, sizeof *r->version));
    CUDA(cudaMalloc((void **)&r->wrong, sizeof *r->wrong));
    CUDA(cudaMallocHost((void **)&r->versions, (size_t)(WARM + swaps + 1) * sizeof *r->versions));
    for (int i = 0; i <= WARM + swaps; i++)
        r->versions[i] = (uint64_t)i;
    r->words = r->pair.bytes / sizeof(uint64_t);
    CUDA(cudaMemsetAsync(r->version, 0, sizeof *r->version, r->stream));
    CUDA(cudaMemsetAsync(r->wrong, 0, sizeof *r->wrong, r->stream));
    fill_range(r, r->pair.live, 0);
    check<<<1, 32, 0, r->stream>>>((const uint64_t *)(void *)r->pair.live, r->words, SAMPLES, r->version,
                                   r->wrong);
    CUDA(cudaGetLastError());
    capture_step(r);
    CUDA(cudaStreamSynchronize(r->stream));
}

static void row_end(row_t *r)
{
    CUDA(cudaStreamSynchronize(r->stream));
    CUDA(cudaGraphExecDestroy(r->step));
    CUDA(cudaEventDestroy(r->begin));
    CUDA(cudaEventDestroy(r->end));
    CUDA(cudaStreamDestroy(r->stream));
    CUDA(cudaFree(r->version));
    CUDA(cudaFree(r->wrong));
    CUDA(cudaFreeHost(r->versions));
}

static void run_steps(const row_t *r)
{
    for (int i = 0; i < STEPS; i++) {
        CUDA(cudaGraphLaunch(r->step, r->stream));
        WEFT(r->queue->ops->engine_end(r->queue, r->stream));
    }
}

/* What a rank does between two steps. A flip must see the last step's end first; a copy is enqueued behind
 * it. */
static double swap_weights(row_t *r)
{
    const weft_queue_ops_t *ops = r->queue->ops;
    while (r->flip && !ops->engine_idle(r->queue))
        ;
    double begin = now_us();
    if (r->flip)
        WEFT(ops->pair_exchange(r->queue, &r->pair));
    else
        WEFT(ops->engine_copy(r->queue, r->stream, r->pair.live, r->pair.stage, r->pair.bytes));
    double end = now_us();
    WEFT(ops->engine_begin(r->queue, r->stream));
    return end - begin;
}

static double bare_copy_us(const row_t *r)
{
    float ms;
    CUDA(cudaEventRecord(r->begin, r->stream));
    CUDA(cudaMemcpyAsync(r->pair.live, r->pair.stage, r->pair.bytes, cudaMemcpyDeviceToDevice, r->stream));
    CUDA(cudaEventRecord(r->end, r->stream));
    CUDA(cudaEventSynchronize(r->end));
    CUDA(cudaEventElapsedTime(&ms, r->begin, r->end));
    return 1e3 * (double)ms;
}

/* From version - 1 to version. */
static void swap_once(row_t *r, int version)
{
    fill_range(r, r->pair.stage, (uint64_t)version);
    CUDA(cudaStreamSynchronize(r->stream));
    run_steps(r);
    double host = swap_weights(r);
    CUDA(cudaMemcpyAsync(r->version, r->versions + version, sizeof *r->version, cudaMemcpyHostToDevice,
                         r->stream));
    run_steps(r);
    if (r->flip) /* while steps on the new weights run */
        WEFT(r->queue->ops->pair_settle(r->queue, &r->pair));
    check<<<4096, 256, 0, r->stream>>>((const uint64_t *)(void *)r->pair.live, r->words, 1, r->version,
                                       r->wrong);
    CUDA(cudaGetLastError());
    CUDA(cudaStreamSynchronize(r->stream));
    double pause = r->queue->ops->engine_pause_us(r->queue);
    CHECK(pause >= 0, "the pause of version %d is not known", version);
    double copy = r->flip ? 0 : bare_copy_us(r);
    if (version <= WARM)
        return;
    r->pause.push_back(pause);
    r->host.push_back(host);
    r->copy.push_back(copy);
}

/* ---- The table ---- */

static double percentile(std::vector<double> v, double p)
{
    std::sort(v.begin(), v.end());
    size_t rank = (size_t)ceil(p * (double)v.size());
    return v[rank > 0 ? rank - 1 : 0];
}

static unsigned long long print_row(const row_t *r, double gib)
{
    unsigned long long wrong;
    CUDA(cudaMemcpy(&wrong, r->wrong, sizeof wrong, cudaMemcpyDeviceToHost));
    double p50 = percentile(r->pause, 0.5), p99 = percentile(r->pause, 0.99), host = percentile(r->host, 0.5);
    printf("  %-6s %8.2f %7zu %10.1f %10.1f %10.1f ", r->flip ? "flip" : "copy", gib, r->pause.size(), p50,
           p99, host);
    if (r->flip)
        printf("%10s %7s", "-", "-");
    else
        printf("%10.1f %7.3f", percentile(r->copy, 0.5), p50 / percentile(r->copy, 0.5));
    printf(" %8llu\n", wrong);
    return wrong;
}

static unsigned long long bench_row(weft_queue_t *queue, bool flip, double gib, int swaps)
{
    size_t bytes = (size_t)(gib * (double)GIB), free_bytes, total;
    row_t r = {};
    weft_error_t error;
    CUDA(cudaMemGetInfo(&free_bytes, &total));
    if (2 * bytes + SPARE > free_bytes) {
        printf("  %-6s %8.2f skipped: needs %.1f GiB, %.1f GiB are free\n", flip ? "flip" : "copy", gib,
               (double)(2 * bytes + SPARE) / (double)GIB, (double)free_bytes / (double)GIB);
        return 0;
    }
    weft_status_t status = queue->ops->pair_create(queue, bytes, flip, &r.pair, &error);
    CHECK(status == WEFT_OK, "%s", error.message);
    r.queue = queue;
    r.flip = flip;
    row_begin(&r, swaps);
    for (int version = 1; version <= WARM + swaps; version++)
        swap_once(&r, version);
    unsigned long long wrong = print_row(&r, gib);
    row_end(&r);
    queue->ops->pair_destroy(queue, &r.pair);
    return wrong;
}

static void print_head(int swaps)
{
    cudaDeviceProp device;
    int number, driver, runtime;
    CUDA(cudaGetDevice(&number));
    CUDA(cudaGetDeviceProperties(&device, number));
    CUDA(cudaDriverGetVersion(&driver));
    CUDA(cudaRuntimeGetVersion(&runtime));
    printf("# %s, %d SMs, CUDA runtime %d, driver %d; %d swaps a row after %d unmeasured; P99 of 20 is the "
           "largest\n",
           device.name, device.multiProcessorCount, runtime, driver, swaps, WARM);
    printf("# %-6s %8s %7s %10s %10s %10s %10s %7s %8s\n", "mode", "GiB", "swaps", "P50 us", "P99 us",
           "host us", "copy us", "ratio", "#wrong");
}

int main(int argc, char **argv)
{
    int swaps = 20;
    std::vector<double> sizes;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--swaps") == 0 && i + 1 < argc)
            swaps = std::max(1, atoi(argv[++i]));
        else if (atof(argv[i]) > 0)
            sizes.push_back(atof(argv[i]));
        else
            return printf("usage: bench_swap [--swaps N] [GIB ...]\n"), 2;
    }
    if (sizes.empty())
        sizes = {1, 8, 60};
    setvbuf(stdout, NULL, _IOLBF, 0);
    weft_queue_t *queue;
    weft_error_t error;
    weft_status_t status = weft_cuda_queue_ops.open(-1, &queue, &error);
    if (status == WEFT_ERR_UNSUPPORTED)
        return fprintf(stderr, "skipped: %s\n", error.message), SKIPPED;
    CHECK(status == WEFT_OK, "%s", error.message);
    queue->ops->thread_begin(queue);
    print_head(swaps);
    unsigned long long wrong = 0;
    for (double gib : sizes)
        for (bool flip : {true, false})
            wrong += bench_row(queue, flip, gib, swaps);
    queue->ops->close(queue);
    printf("# %llu wrong\n", wrong);
    return wrong != 0;
}
