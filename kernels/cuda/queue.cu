/* The queue of a GPU: a stream, its memory, and tickets that are events.
 *
 *     stream    [clear][quantize 0..40][event 5][quantize 41..80][event 6][put]...
 *     tickets   done = 4 < [event 5][event 6] <= last = 6
 *     put       host bytes --> slot n % 64, pinned --> device
 *
 * The events of tickets are a ring, twice as large whenever all of it is in flight. A put waits, by polling,
 * for its slot: when 64 are in flight.
 */
#include <sched.h>
#include <stddef.h>
#include <string.h>

#include "kernels/cuda/queue.cuh"

constexpr uint64_t FIRST_MARKS = 256;
constexpr size_t LEAST_BYTES = 256; /* of an allocation, so that an empty one has an address too */

/* ---- Threads ---- */

weft_cuda_scope::weft_cuda_scope(const weft_cuda_queue_t *of)
    : queue(of), status(WEFT_OK), device(of->device), mode(cudaStreamCaptureModeThreadLocal)
{
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaSetDevice(queue->device);
    if (error == cudaSuccess)
        error = cudaThreadExchangeStreamCaptureMode(&mode);
    status = weft_cuda_settle(error);
}

/* A thread that never chose a device has number 0; going back there would make a context on it for nothing.
 * Going back does not fail where coming did not. */
weft_cuda_scope::~weft_cuda_scope()
{
    unsigned flags;
    int active = 0;
    if (status == WEFT_OK)
        (void)cudaThreadExchangeStreamCaptureMode(&mode);
    if (device != queue->device && queue->driver.context_state(device, &flags, &active) == CUDA_SUCCESS &&
        active)
        (void)cudaSetDevice(device);
}

/* Where this fails every call that follows does, and says so. */
static void cuda_thread_begin(weft_queue_t *queue)
{
    cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
    weft_kernels_thread_begin();
    (void)weft_cuda_settle(cudaSetDevice(weft_cuda_queue_of(queue)->device));
    (void)weft_cuda_settle(cudaThreadExchangeStreamCaptureMode(&mode));
}

static bool cuda_find(int device, int *number, char bus_id[WEFT_BUS_ID_BYTES])
{
    if (device < 0 && weft_cuda_settle(cudaGetDevice(&device)) != WEFT_OK)
        return false;
    *number = device;
    return weft_cuda_settle(cudaDeviceGetPCIBusId(bus_id, WEFT_BUS_ID_BYTES, device)) == WEFT_OK;
}

/* ---- Memory ---- */

static weft_status_t cuda_alloc(weft_queue_t *queue, size_t bytes, void **memory)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_scope_t scope(q);
    void *made;
    WEFT_TRY(scope.status);
    WEFT_TRY_SETTLE(cudaMalloc(&made, bytes > LEAST_BYTES ? bytes : LEAST_BYTES));
    cudaError_t error = cudaMemsetAsync(made, 0, bytes, q->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(q->stream);
    if (error != cudaSuccess) {
        (void)cudaFree(made);
        return weft_cuda_settle(error);
    }
    *memory = made;
    return WEFT_OK;
}

static void cuda_free(weft_queue_t *queue, void *memory)
{
    weft_cuda_scope_t scope(weft_cuda_queue_of(queue));
    (void)weft_cuda_settle(cudaFree(memory));
}

/* What cudaMalloc made can be shared by the legacy IPC calls; memory of a pool or of cuMemCreate cannot. */
static weft_memory_kind_t device_kind(const weft_cuda_queue_t *q, const void *pointer)
{
    int legacy = 0;
    CUresult result = q->driver.pointer_attribute(&legacy, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
                                                  (CUdeviceptr)(uintptr_t)pointer);
    return result == CUDA_SUCCESS && legacy ? WEFT_MEMORY_DEVICE : WEFT_MEMORY_DEVICE_VMM;
}

static weft_memory_kind_t cuda_memory_kind(weft_queue_t *queue, const void *pointer)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_scope_t scope(q);
    cudaPointerAttributes found;
    if (weft_cuda_settle(cudaPointerGetAttributes(&found, pointer)) != WEFT_OK)
        return WEFT_MEMORY_HOST;
    switch (found.type) {
    case cudaMemoryTypeHost: /* registered memory may have another address on the device */
        return found.devicePointer == pointer ? WEFT_MEMORY_HOST_PINNED : WEFT_MEMORY_HOST;
    case cudaMemoryTypeManaged:
        return WEFT_MEMORY_MANAGED;
    case cudaMemoryTypeDevice:
        return found.device == q->device ? device_kind(q, pointer) : WEFT_MEMORY_OTHER_DEVICE;
    default:
        return WEFT_MEMORY_HOST;
    }
}

static bool cuda_reads(weft_queue_t *queue, weft_memory_kind_t kind)
{
    (void)queue;
    return kind != WEFT_MEMORY_HOST && kind != WEFT_MEMORY_OTHER_DEVICE;
}

static uint64_t cuda_used_bytes(weft_queue_t *queue)
{
    weft_cuda_scope_t scope(weft_cuda_queue_of(queue));
    size_t free_bytes = 0, total_bytes = 0;
    if (weft_cuda_settle(cudaMemGetInfo(&free_bytes, &total_bytes)) != WEFT_OK)
        return 0;
    return total_bytes - free_bytes;
}

static weft_status_t cuda_clear(weft_queue_t *queue, void *memory, size_t bytes)
{
    return weft_cuda_settle(cudaMemsetAsync(memory, 0, bytes, weft_cuda_issue(weft_cuda_queue_of(queue))));
}

/* By polling, like all waits of a progress thread: no call stays inside of the driver. */
static weft_status_t await_event(cudaEvent_t event)
{
    cudaError_t error;
    while ((error = cudaEventQuery(event)) == cudaErrorNotReady) {
        (void)cudaGetLastError();
        sched_yield();
    }
    return weft_cuda_settle(error);
}

static weft_status_t cuda_put(weft_queue_t *queue, void *memory, const void *host, size_t bytes)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    if (bytes > WEFT_CUDA_PUT_BYTES)
        return WEFT_ERR_ARGUMENT;
    uint64_t slot = q->puts.count % WEFT_CUDA_PUT_SLOTS;
    uint8_t *pinned = q->puts.slots + slot * WEFT_CUDA_PUT_BYTES;
    WEFT_TRY(await_event(q->puts.events[slot]));
    memcpy(pinned, host, bytes);
    WEFT_TRY_SETTLE(cudaMemcpyAsync(memory, pinned, bytes, cudaMemcpyHostToDevice, weft_cuda_issue(q)));
    WEFT_TRY_SETTLE(cudaEventRecord(q->puts.events[slot], q->stream));
    q->puts.count++;
    return WEFT_OK;
}

static weft_status_t copy_and_wait(weft_cuda_queue_t *q, void *to, const void *from, size_t bytes,
                                   cudaMemcpyKind direction)
{
    weft_cuda_scope_t scope(q);
    WEFT_TRY(scope.status);
    WEFT_TRY_SETTLE(cudaMemcpyAsync(to, from, bytes, direction, weft_cuda_issue(q)));
    return weft_cuda_settle(cudaStreamSynchronize(q->stream));
}

static weft_status_t cuda_read(weft_queue_t *queue, const void *memory, void *host, size_t bytes)
{
    return copy_and_wait(weft_cuda_queue_of(queue), host, memory, bytes, cudaMemcpyDeviceToHost);
}

static weft_status_t cuda_write(weft_queue_t *queue, void *memory, const void *host, size_t bytes)
{
    return copy_and_wait(weft_cuda_queue_of(queue), memory, host, bytes, cudaMemcpyHostToDevice);
}

/* ---- Tickets ---- */

/* Free places get new events, those in flight move to where the larger ring expects them. */
static weft_status_t marks_grow(weft_cuda_marks_t *m)
{
    uint64_t capacity = m->capacity ? 2 * m->capacity : FIRST_MARKS, made = m->last + 1;
    cudaEvent_t *events = (cudaEvent_t *)calloc(capacity, sizeof *events);
    cudaError_t error = events ? cudaSuccess : cudaErrorMemoryAllocation;
    for (; error == cudaSuccess && made <= m->done + capacity; made++)
        error = cudaEventCreateWithFlags(&events[made % capacity], cudaEventDisableTiming);
    if (error != cudaSuccess) {
        for (uint64_t i = 0; events && i < capacity; i++)
            if (events[i])
                (void)cudaEventDestroy(events[i]);
        free(events);
        return weft_cuda_settle(error);
    }
    for (uint64_t ticket = m->done + 1; ticket <= m->last; ticket++)
        events[ticket % capacity] = m->events[ticket % m->capacity];
    free(m->events);
    m->events = events;
    m->capacity = capacity;
    return WEFT_OK;
}

/* Events of one stream complete in order: the first that has not ends the walk. */
static weft_status_t marks_advance(weft_cuda_marks_t *m)
{
    while (m->done < m->last) {
        cudaError_t error = cudaEventQuery(m->events[(m->done + 1) % m->capacity]);
        if (error == cudaErrorNotReady) {
            (void)cudaGetLastError(); /* or the next launch would take it for its own */
            break;
        }
        WEFT_TRY_SETTLE(error);
        m->done++;
    }
    return WEFT_OK;
}

/* Allocates only when every event is in flight: 256 marks, then 512, ... */
static weft_status_t cuda_mark(weft_queue_t *queue, uint64_t *ticket)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_marks_t *m = &q->marks;
    if (m->last - m->done == m->capacity)
        WEFT_TRY(marks_advance(m));
    if (m->last - m->done == m->capacity)
        WEFT_TRY(marks_grow(m));
    WEFT_TRY_SETTLE(cudaEventRecord(m->events[(m->last + 1) % m->capacity], q->stream));
    *ticket = ++m->last;
    return WEFT_OK;
}

static weft_status_t cuda_poll(weft_queue_t *queue, uint64_t *done)
{
    weft_cuda_marks_t *m = &weft_cuda_queue_of(queue)->marks;
    WEFT_TRY(marks_advance(m));
    *done = m->done;
    return WEFT_OK;
}

/* ---- Open and close ---- */

static const struct {
    const char *name;
    unsigned version; /* of the prototype: what its type in queue.cuh ends with */
    size_t offset;
} entries[] = {
    {"cuGetErrorString", 6000, offsetof(weft_cuda_driver_t, error_string)},
    {"cuDevicePrimaryCtxGetState", 7000, offsetof(weft_cuda_driver_t, context_state)},
    {"cuPointerGetAttribute", 4000, offsetof(weft_cuda_driver_t, pointer_attribute)},
    {"cuMemGetAllocationGranularity", 10020, offsetof(weft_cuda_driver_t, granularity)},
    {"cuMemCreate", 10020, offsetof(weft_cuda_driver_t, create)},
    {"cuMemRelease", 10020, offsetof(weft_cuda_driver_t, release)},
    {"cuMemAddressReserve", 10020, offsetof(weft_cuda_driver_t, reserve)},
    {"cuMemAddressFree", 10020, offsetof(weft_cuda_driver_t, unreserve)},
    {"cuMemMap", 10020, offsetof(weft_cuda_driver_t, map)},
    {"cuMemUnmap", 10020, offsetof(weft_cuda_driver_t, unmap)},
    {"cuMemSetAccess", 10020, offsetof(weft_cuda_driver_t, set_access)},
};

static weft_status_t find_driver(weft_cuda_driver_t *driver, weft_error_t *error)
{
    for (const auto &entry : entries) {
        cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
        void *found = NULL;
        cudaError_t failed =
            cudaGetDriverEntryPointByVersion(entry.name, &found, entry.version, cudaEnableDefault, &result);
        if (weft_cuda_settle(failed) != WEFT_OK || result != cudaDriverEntryPointSuccess || !found)
            return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                             "the CUDA driver has no %s: install the driver that belongs to CUDA %d",
                             entry.name, CUDART_VERSION / 1000);
        memcpy((uint8_t *)driver + entry.offset, &found, sizeof found);
    }
    return WEFT_OK;
}

/* Which device -1 means, and whether the one asked for is there. */
static weft_status_t choose_device(int *device, weft_error_t *error)
{
    int count = 0;
    cudaError_t failed = cudaGetDeviceCount(&count);
    if (failed == cudaSuccess && count > 0 && *device < 0)
        failed = cudaGetDevice(device);
    if (failed != cudaSuccess || count == 0) {
        (void)weft_cuda_settle(failed);
        return weft_fail(error, WEFT_ERR_UNSUPPORTED, "no CUDA device: %s",
                         failed != cudaSuccess ? cudaGetErrorString(failed) : "none is visible");
    }
    if (*device >= count)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "CUDA device %d was asked for, the highest that this process sees is %d: choose another "
            "or change CUDA_VISIBLE_DEVICES",
            *device, count - 1);
    return WEFT_OK;
}

static weft_status_t make_stream(weft_cuda_queue_t *q)
{
    int lowest, highest;
    WEFT_TRY_SETTLE(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    return weft_cuda_settle(cudaStreamCreateWithPriority(&q->stream, cudaStreamNonBlocking, lowest));
}

static weft_status_t make_slots(weft_cuda_puts_t *puts)
{
    WEFT_TRY_SETTLE(cudaMallocHost((void **)&puts->slots, WEFT_CUDA_PUT_SLOTS * WEFT_CUDA_PUT_BYTES));
    for (cudaEvent_t &event : puts->events)
        WEFT_TRY_SETTLE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return WEFT_OK;
}

static weft_status_t make_parts(weft_cuda_queue_t *q)
{
    WEFT_TRY(make_stream(q));
    WEFT_TRY(make_slots(&q->puts));
    WEFT_TRY(marks_grow(&q->marks));
    WEFT_TRY(weft_cuda_engine_create(&q->engine));
    return weft_cuda_queue_load(q);
}

static weft_status_t fill(weft_cuda_queue_t *q, weft_error_t *error)
{
    weft_cuda_scope_t scope(q);
    if (scope.status != WEFT_OK)
        return weft_fail(error, scope.status, "CUDA device %d cannot be made current", q->device);
    weft_status_t status = weft_cuda_probe();
    if (status != WEFT_OK)
        return weft_fail(error, status, "CUDA device %d cannot run the kernels of this build: %s", q->device,
                         cudaGetErrorString(cudaGetLastError()));
    status = make_parts(q);
    if (status != WEFT_OK)
        weft_fail(error, status, "CUDA device %d: no stream, events and pinned memory for a queue (%s)",
                  q->device, weft_status_text(status));
    return status;
}

static void close_parts(weft_cuda_queue_t *q)
{
    weft_cuda_scope_t scope(q);
    if (q->stream)
        (void)weft_cuda_settle(cudaStreamSynchronize(q->stream));
    weft_cuda_engine_destroy(&q->engine);
    for (uint64_t i = 0; i < q->marks.capacity; i++)
        (void)cudaEventDestroy(q->marks.events[i]);
    free(q->marks.events);
    for (cudaEvent_t event : q->puts.events)
        if (event)
            (void)cudaEventDestroy(event);
    (void)cudaFreeHost(q->puts.slots);
    if (q->stream)
        (void)cudaStreamDestroy(q->stream);
}

static void cuda_close(weft_queue_t *queue)
{
    close_parts(weft_cuda_queue_of(queue));
    free(queue);
}

static weft_status_t cuda_open(int device, weft_queue_t **queue, weft_error_t *error)
{
    weft_cuda_driver_t driver;
    WEFT_TRY(choose_device(&device, error));
    WEFT_TRY(find_driver(&driver, error));
    weft_cuda_queue_t *q = (weft_cuda_queue_t *)calloc(1, sizeof *q);
    if (!q)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a queue");
    q->base.ops = &weft_cuda_queue_ops;
    q->device = device;
    q->driver = driver;
    weft_status_t status = fill(q, error);
    if (status != WEFT_OK) {
        cuda_close(&q->base);
        return status;
    }
    *queue = &q->base;
    return WEFT_OK;
}

const weft_queue_ops_t weft_cuda_queue_ops = {
    .name = "cuda",
    .on_host = false,
    .find = cuda_find,
    .open = cuda_open,
    .close = cuda_close,
    .set_workers = nullptr,
    .thread_begin = cuda_thread_begin,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .memory_kind = cuda_memory_kind,
    .reads = cuda_reads,
    .used_bytes = cuda_used_bytes,
    .clear = cuda_clear,
    .put = cuda_put,
    .read = cuda_read,
    .write = cuda_write,
    .mark = cuda_mark,
    .poll = cuda_poll,
    .quantize_create = weft_cuda_list_quantize_create,
    .quantize_destroy = weft_cuda_list_quantize_destroy,
    .quantize_begin = weft_cuda_list_quantize_begin,
    .quantize_run = weft_cuda_list_quantize_run,
    .quantize_finish = weft_cuda_list_quantize_finish,
    .quantize_digests = weft_cuda_list_quantize_digests,
    .quantize_refused = weft_cuda_list_quantize_refused,
    .pack_create = weft_cuda_list_pack_create,
    .pack_destroy = weft_cuda_list_pack_destroy,
    .pack_run = weft_cuda_list_pack_run,
    .amax_create = weft_cuda_list_amax_create,
    .amax_destroy = weft_cuda_list_amax_destroy,
    .amax_run = weft_cuda_list_amax_run,
    .digest_create = weft_cuda_list_digest_create,
    .digest_destroy = weft_cuda_list_digest_destroy,
    .digest_run = weft_cuda_list_digest_run,
    .digest_results = weft_cuda_list_digest_results,
    .pair_create = weft_cuda_pair_create,
    .pair_destroy = weft_cuda_pair_destroy,
    .pair_exchange = weft_cuda_pair_exchange,
    .pair_settle = weft_cuda_pair_settle,
    .stream_idle = weft_cuda_stream_idle,
    .engine_end = weft_cuda_engine_end,
    .engine_idle = weft_cuda_engine_idle,
    .engine_copy = weft_cuda_engine_copy,
    .engine_begin = weft_cuda_engine_begin,
    .engine_pause_us = weft_cuda_engine_pause_us,
};
