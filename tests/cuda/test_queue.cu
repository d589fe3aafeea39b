/* The queue of a GPU: the cases of every queue, which the host's passes too; then what only a GPU has. Work
 * is held up where that matters by a kernel on the engine's stream that waits for the host. Exit status 77:
 * there is no GPU.
 */
#include <unistd.h>

#include <thread>

#include "queue_cases.cuh"

/* ---- Kernels of the tests ---- */

static __device__ uint64_t device_ns(void)
{
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

/* Wait until the host lets go; for ten seconds at most, so that a failed test ends. */
static __global__ void hold(const volatile int *open)
{
    for (uint64_t begin = device_ns(); !*open && device_ns() - begin < 10000000000ull;)
        __nanosleep(1000);
}

static __global__ void fill_bytes(uint8_t *to, size_t bytes, uint8_t value)
{
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < bytes; i += gridDim.x * blockDim.x)
        to[i] = value;
}

static __global__ void copy_bytes(uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < bytes; i += gridDim.x * blockDim.x)
        to[i] = from[i];
}

/* ---- An engine that can be held ---- */

typedef struct engine {
    cudaStream_t stream;
    int *open; /* pinned */
} engine_t;

/* The kernels run once here: loading one later may wait for the one that holds. */
static engine_t engine_create(void)
{
    engine_t e;
    uint8_t *memory;
    CUDA(cudaStreamCreateWithFlags(&e.stream, cudaStreamNonBlocking));
    CUDA(cudaMallocHost((void **)&e.open, sizeof *e.open));
    CUDA(cudaMalloc((void **)&memory, 512));
    *e.open = 1;
    hold<<<1, 1, 0, e.stream>>>(e.open);
    fill_bytes<<<1, 32, 0, e.stream>>>(memory, 256, 0);
    copy_bytes<<<1, 32, 0, e.stream>>>(memory + 256, memory, 256);
    CUDA(cudaGetLastError());
    CUDA(cudaStreamSynchronize(e.stream));
    CUDA(cudaFree(memory));
    return e;
}

static void engine_destroy(engine_t *e)
{
    CUDA(cudaStreamSynchronize(e->stream));
    CUDA(cudaStreamDestroy(e->stream));
    CUDA(cudaFreeHost(e->open));
}

static void engine_hold(const engine_t *e)
{
    *(volatile int *)e->open = 0;
    hold<<<1, 1, 0, e->stream>>>(e->open);
    CUDA(cudaGetLastError());
}

static void engine_release(const engine_t *e)
{
    *(volatile int *)e->open = 1;
}

/* ---- Tickets and copies that must wait ---- */

static uint64_t polled(weft_queue_t *q)
{
    uint64_t done;
    WEFT(q->ops->poll(q, &done));
    return done;
}

/* Behind a held copy nothing of the queue ends; more marks are in flight than the first ring has. */
static void test_held_tickets(weft_queue_t *q, const engine_t *e)
{
    const int count = 300;
    uint8_t *memory = (uint8_t *)place_poison(q, 8192);
    finish_work(q);
    uint64_t before = polled(q), ticket = 0;
    engine_hold(e);
    WEFT(q->ops->engine_copy(q, e->stream, memory, memory + 4096, 256));
    for (int i = 0; i < count; i++) {
        if (i % 10 == 0)
            WEFT(q->ops->clear(q, memory, 4096));
        WEFT(q->ops->mark(q, &ticket));
        CHECK(ticket == before + (uint64_t)i + 1, "ticket %llu", (unsigned long long)ticket);
    }
    for (int i = 0; i < 20; i++, usleep(1000))
        CHECK(polled(q) == before, "ticket %llu is done before its work is", (unsigned long long)polled(q));
    engine_release(e);
    while (polled(q) < ticket)
        ;
    CHECK(polled(q) == ticket, "no more than were given");
    bytes_t got = fetch(q, memory, 8192), expected(8192, POISON);
    std::fill(expected.begin(), expected.begin() + 4096, 0);
    CHECK(got == expected, "cleared behind the copy");
    q->ops->free(q, memory);
    printf("ok  cuda: no ticket before its work, 300 in flight\n");
}

/* All slots in flight do not block, and are not written again before they are free. */
static void test_held_puts(weft_queue_t *q, const engine_t *e)
{
    const size_t slots = 64, stride = 4096;
    uint8_t *memory = (uint8_t *)place_poison(q, 2 * slots * stride);
    bytes_t data = random_bytes(2 * slots * stride);
    finish_work(q);
    engine_hold(e);
    WEFT(q->ops->engine_copy(q, e->stream, memory, memory + stride, 256));
    for (size_t i = 0; i < slots; i++)
        WEFT(q->ops->put(q, memory + i * stride, data.data() + i * stride, stride));
    std::thread later([=] {
        usleep(20000);
        engine_release(e);
    });
    for (size_t i = slots; i < 2 * slots; i++)
        WEFT(q->ops->put(q, memory + i * stride, data.data() + i * stride, stride));
    later.join();
    CHECK(fetch(q, memory, data.size()) == data, "what was put");
    CHECK(q->ops->put(q, memory, data.data(), stride + 1) == WEFT_ERR_ARGUMENT, "more than a slot holds");
    q->ops->free(q, memory);
    printf("ok  cuda: puts wait for their slots\n");
}

/* engine: hold, new bytes, copy to live; queue: pack live. The pack must see the new bytes. */
static void test_copy_order(weft_queue_t *q, const engine_t *e)
{
    const size_t bytes = 8 << 20;
    uint8_t *stage = (uint8_t *)place_poison(q, bytes), *live = (uint8_t *)place_poison(q, bytes);
    uint8_t *seen = (uint8_t *)place_poison(q, bytes);
    weft_pack_job_t job = {live, bytes, 1, bytes, seen};
    weft_pack_list_t *list;
    WEFT(q->ops->pack_create(q, &job, 1, &list));
    finish_work(q);
    uint64_t before = polled(q), ticket;
    engine_hold(e);
    fill_bytes<<<256, 256, 0, e->stream>>>(stage, bytes, 0x5C);
    CUDA(cudaGetLastError());
    WEFT(q->ops->engine_copy(q, e->stream, live, stage, bytes));
    WEFT(q->ops->pack_run(list, 0, 1));
    WEFT(q->ops->mark(q, &ticket));
    usleep(20000);
    CHECK(polled(q) == before, "the pack waits for the copy");
    engine_release(e);
    while (polled(q) < ticket)
        ;
    CHECK(fetch(q, seen, bytes) == bytes_t(bytes, 0x5C), "the pack saw the new bytes");
    CHECK(fetch(q, live, bytes) == bytes_t(bytes, 0x5C), "so do all");
    q->ops->pack_destroy(list);
    for (uint8_t *memory : {stage, live, seen})
        q->ops->free(q, memory);
    printf("ok  cuda: copies of the engine come before later work\n");
}

/* ---- The engine's stream ---- */

static double pause_us(weft_queue_t *q)
{
    double us = q->ops->engine_pause_us(q);
    for (int i = 0; us < 0 && i < 50000; i++, usleep(100))
        us = q->ops->engine_pause_us(q);
    CHECK(us >= 0, "the pause is not known after five seconds");
    return us;
}

/* On a queue of its own, whose engine has not run yet. */
static void test_engine(const engine_t *e)
{
    weft_queue_t *q;
    weft_error_t error;
    WEFT(weft_cuda_queue_ops.open(-1, &q, &error));
    CHECK(q->ops->engine_idle(q), "idle before the first step");
    WEFT(q->ops->engine_begin(q, e->stream));
    CUDA(cudaStreamSynchronize(e->stream));
    CHECK(q->ops->engine_pause_us(q) < 0, "no step has ended");
    engine_hold(e);
    WEFT(q->ops->engine_end(q, e->stream));
    usleep(10000);
    CHECK(!q->ops->engine_idle(q), "a step is running");
    engine_release(e);
    CUDA(cudaStreamSynchronize(e->stream));
    CHECK(q->ops->engine_idle(q), "it has ended");
    usleep(5000);
    WEFT(q->ops->engine_begin(q, e->stream));
    double us = pause_us(q);
    CHECK(us >= 5000 && us < 1e6, "%.1f us", us);
    for (int i = 0; i < 3; i++) {
        fill_bytes<<<1, 1, 0, e->stream>>>(NULL, 0, 0);
        CUDA(cudaGetLastError());
        WEFT(q->ops->engine_end(q, e->stream));
        CHECK(q->ops->engine_pause_us(q) == us, "later steps change nothing");
    }
    WEFT(q->ops->engine_begin(q, e->stream)); /* enqueued behind the step that ends: hardly a pause */
    double next = pause_us(q);
    CHECK(next >= 0 && next < 5000, "%.1f us", next);
    engine_hold(e);
    WEFT(q->ops->engine_end(q, e->stream));
    WEFT(q->ops->engine_begin(q, e->stream));
    CHECK(q->ops->engine_pause_us(q) < 0, "not known while the step runs");
    engine_release(e);
    CHECK(pause_us(q) < 5000, "known afterwards");
    WEFT(q->ops->engine_end(q, NULL));
    CUDA(cudaDeviceSynchronize());
    CHECK(q->ops->engine_idle(q), "the legacy stream is a stream too");
    q->ops->close(q);
    printf("ok  cuda: ends, beginnings and pauses of the engine (%.1f us, %.1f us)\n", us, next);
}

/* Another thread captures a graph, in the mode that is jealous of all threads; the queue goes on. */
static void test_foreign_capture(weft_queue_t *q, const engine_t *e)
{
    uint8_t *memory = (uint8_t *)place_poison(q, 4096), bytes[16] = {7};
    weft_run_t run = {memory, 4096};
    weft_digest_list_t *list;
    WEFT(q->ops->digest_create(q, &run, 1, &list));
    cudaGraph_t graph;
    CUDA(cudaStreamBeginCapture(e->stream, cudaStreamCaptureModeGlobal));
    std::thread progress([=] {
        q->ops->thread_begin(q);
        WEFT(q->ops->clear(q, memory, 4096));
        WEFT(q->ops->put(q, memory, bytes, sizeof bytes));
        WEFT(q->ops->digest_run(list, 0, 1));
        finish_work(q);
        CHECK(q->ops->engine_idle(q), "no step has begun");
    });
    progress.join();
    fill_bytes<<<1, 32, 0, e->stream>>>(memory, 0, 0);
    CUDA(cudaStreamEndCapture(e->stream, &graph));
    CUDA(cudaGraphDestroy(graph));
    bytes_t expected(4096, 0);
    expected[0] = 7;
    CHECK(same_digest(q->ops->digest_results(list)[0], ref_digest(expected.data(), 4096)), "what was put");
    q->ops->digest_destroy(list);
    q->ops->free(q, memory);
    printf("ok  cuda: works while another thread captures a graph\n");
}

/* ---- Memory kinds ---- */

static void check_kind(weft_queue_t *q, const void *pointer, weft_memory_kind_t kind, bool reads,
                       const char *what)
{
    weft_memory_kind_t found = q->ops->memory_kind(q, pointer);
    CHECK(found == kind, "%s: found %d, expected %d", what, (int)found, (int)kind);
    CHECK(q->ops->reads(q, found) == reads, "%s", what);
    CHECK(cudaPeekAtLastError() == cudaSuccess, "%s leaves an error behind", what);
}

static void test_memory_kinds(weft_queue_t *q, const engine_t *e)
{
    uint8_t *host = (uint8_t *)aligned_alloc(4096, 8192);
    uint8_t *pinned, *plain, *pool, on_stack = 0;
    weft_pair_t pair;
    weft_error_t error;
    CUDA(cudaMallocHost((void **)&pinned, 8192));
    CUDA(cudaMalloc((void **)&plain, 8192));
    CUDA(cudaMallocAsync((void **)&pool, 8192, e->stream));
    CUDA(cudaStreamSynchronize(e->stream));
    WEFT(q->ops->pair_create(q, 8192, true, &pair, &error));
    check_kind(q, host, WEFT_MEMORY_HOST, false, "malloc");
    check_kind(q, &on_stack, WEFT_MEMORY_HOST, false, "the stack");
    check_kind(q, pinned + 100, WEFT_MEMORY_HOST_PINNED, true, "cudaMallocHost");
    check_kind(q, plain, WEFT_MEMORY_DEVICE, true, "cudaMalloc");
    check_kind(q, plain + 4097, WEFT_MEMORY_DEVICE, true, "the middle of cudaMalloc");
    check_kind(q, pool, WEFT_MEMORY_DEVICE_VMM, true, "cudaMallocAsync");
    check_kind(q, pair.live, WEFT_MEMORY_DEVICE_VMM, true, "cuMemMap");
    check_kind(q, pair.stage + 5000, WEFT_MEMORY_DEVICE_VMM, true, "the middle of cuMemMap");
    CUDA(cudaHostRegister(host, 8192, cudaHostRegisterDefault));
    check_kind(q, host + 1, WEFT_MEMORY_HOST_PINNED, true, "cudaHostRegister");
    CUDA(cudaHostUnregister(host));
    check_kind(q, host, WEFT_MEMORY_HOST, false, "cudaHostUnregister");
    q->ops->pair_destroy(q, &pair);
    CUDA(cudaFreeAsync(pool, e->stream));
    CUDA(cudaStreamSynchronize(e->stream));
    CUDA(cudaFree(plain));
    CUDA(cudaFreeHost(pinned));
    free(host);
    printf("ok  cuda: kinds of memory\n");
}

/* ---- Pair ---- */

/* A graph captured once, that copies live to `seen`. */
static cudaGraphExec_t capture_reader(const engine_t *e, const weft_pair_t *pair, uint8_t *seen)
{
    cudaGraph_t graph;
    cudaGraphExec_t reader;
    CUDA(cudaStreamBeginCapture(e->stream, cudaStreamCaptureModeThreadLocal));
    copy_bytes<<<256, 256, 0, e->stream>>>(seen, pair->live, pair->bytes);
    CUDA(cudaGetLastError());
    CUDA(cudaStreamEndCapture(e->stream, &graph));
    CUDA(cudaGraphInstantiate(&reader, graph, 0));
    CUDA(cudaGraphDestroy(graph));
    return reader;
}

/* As the swap does it: steps on the engine's stream, idleness proven, the exchange in a thread that never
 * chose a device. */
static void test_pair_under_graph(weft_queue_t *q, const engine_t *e)
{
    weft_pair_t pair;
    weft_error_t error;
    WEFT(q->ops->pair_create(q, 33 << 20, true, &pair, &error));
    uint8_t *seen = (uint8_t *)place_poison(q, pair.bytes);
    cudaGraphExec_t reader = capture_reader(e, &pair, seen);
    for (int version = 1; version <= 20; version++) {
        bytes_t next(pair.bytes, (uint8_t)version);
        next[0] = 0xFE, next[pair.bytes - 1] = 0xFF;
        WEFT(q->ops->write(q, pair.stage, next.data(), pair.bytes));
        CUDA(cudaGraphLaunch(reader, e->stream));
        WEFT(q->ops->engine_end(q, e->stream));
        while (!q->ops->engine_idle(q))
            ;
        std::thread swap([&] { WEFT(q->ops->pair_exchange(q, &pair)); });
        swap.join();
        WEFT(q->ops->engine_begin(q, e->stream));
        CUDA(cudaGraphLaunch(reader, e->stream));
        WEFT(q->ops->engine_end(q, e->stream));
        WEFT(q->ops->pair_settle(q, &pair)); /* while the step runs */
        CUDA(cudaStreamSynchronize(e->stream));
        CHECK(fetch(q, seen, pair.bytes) == next, "the graph reads version %d", version);
        double us = pause_us(q);
        CHECK(us > 0 && us < 1e6, "pause of %.1f us", us);
    }
    CUDA(cudaGraphExecDestroy(reader));
    q->ops->free(q, seen);
    q->ops->pair_destroy(q, &pair);
    printf("ok  cuda: a graph reads new bytes after 20 exchanges\n");
}

/* Whether a pair is refused, and memory is as free as before: others may take some meanwhile, but not every time. */
static bool refuses_cleanly(weft_queue_t *q, bool remap)
{
    size_t before, after, total;
    weft_pair_t pair = {};
    weft_error_t error = {};
    CUDA(cudaMemGetInfo(&before, &total));
    weft_status_t status = q->ops->pair_create(q, total + (1 << 30), remap, &pair, &error);
    CHECK(status != WEFT_OK && error.status == status && !pair.contents, "status %d", (int)status);
    CHECK(strstr(error.message, "out of memory"), "%s", error.message);
    CHECK(cudaPeekAtLastError() == cudaSuccess, "no error is left behind");
    CUDA(cudaMemGetInfo(&after, &total));
    return after + (64 << 20) > before;
}

/* What cannot be made says why and leaves nothing behind. */
static void test_pair_refusals(weft_queue_t *q)
{
    weft_pair_t pair = {};
    weft_error_t error = {};
    for (bool remap : {false, true}) {
        int tries = 0;
        while (!refuses_cleanly(q, remap) && tries < 50)
            tries++;
        CHECK(tries < 50, "each of %d refused pairs left memory in use", tries);
    }
    WEFT(q->ops->pair_create(q, 100, false, &pair, &error));
    CHECK(q->ops->pair_exchange(q, &pair) == WEFT_ERR_ARGUMENT, "made without remap");
    q->ops->pair_destroy(q, &pair);
    q->ops->pair_destroy(q, &pair);
    printf("ok  cuda: pairs that cannot be\n");
}

/* ---- Refusals ---- */

static void test_refusals(weft_queue_t *q)
{
    weft_queue_t *other = NULL;
    weft_error_t error;
    CHECK(weft_cuda_queue_ops.open(9999, &other, &error) == WEFT_ERR_UNSUPPORTED && !other, "device 9999");
    printf("    %s\n", error.message);
    weft_unit_job_t unit = {};
    unit.kernel = WEFT_KERNEL_COUNT;
    weft_quantize_list_t *list = NULL;
    CHECK(q->ops->quantize_create(q, &unit, 1, NULL, 0, &list) == WEFT_ERR_ARGUMENT && !list,
          "an unknown kernel");
    weft_run_t run = {NULL, 8};
    weft_digest_list_t *digest = NULL;
    CHECK(q->ops->digest_create(q, &run, 1, &digest) == WEFT_ERR_ARGUMENT && !digest, "a run of nothing");
    size_t free_bytes, total;
    void *memory = NULL;
    CUDA(cudaMemGetInfo(&free_bytes, &total));
    CHECK(q->ops->alloc(q, total + 1, &memory) == WEFT_ERR_NO_MEMORY && !memory, "too much memory");
    CHECK(cudaPeekAtLastError() == cudaSuccess, "no error is left behind");
    printf("ok  cuda: refusals\n");
}

int main(void)
{
    weft_queue_t *q;
    weft_error_t error;
    setvbuf(stdout, NULL, _IOLBF, 0);
    random_begin();
    WEFT(weft_host_queue_ops.open(-1, &q, &error));
    test_cases(q);
    q->ops->close(q);
    weft_status_t status = weft_cuda_queue_ops.open(-1, &q, &error);
    if (status == WEFT_ERR_UNSUPPORTED) {
        fprintf(stderr, "skipped: %s\n", error.message);
        return SKIPPED;
    }
    CHECK(status == WEFT_OK, "%s", error.message);
    test_cases(q);
    engine_t engine = engine_create();
    test_held_tickets(q, &engine);
    test_held_puts(q, &engine);
    test_copy_order(q, &engine);
    test_engine(&engine);
    test_memory_kinds(q, &engine);
    test_pair_under_graph(q, &engine);
    test_refusals(q);
    test_pair_refusals(q);
    test_foreign_capture(q, &engine);
    engine_destroy(&engine);
    q->ops->close(q);
    CUDA(cudaDeviceSynchronize());
    printf("all passed\n");
    return 0;
}
