/* The queue of a GPU, as its files share it: one stream of the lowest priority, so that rollouts keep the
 * multiprocessors; tickets that are events; what the driver is asked for beyond the runtime.
 *
 *     queue.cu           open and close, memory, tickets
 *     queue_lists.cu     quantize, pack, amax, digest: over cuda_kernels.h
 *     queue_load.cu      every kernel run once at open, because loading one later may wait for those that run
 *     queue_engine.cu    ends and beginnings of decode steps on the engine's stream, and copies between them
 *     pair.cu            live weights and stage
 */
#ifndef WEFT_KERNELS_CUDA_QUEUE_CUH
#define WEFT_KERNELS_CUDA_QUEUE_CUH

#include <cudaTypedefs.h>
#include <pthread.h>

#include "kernels/cuda/common.cuh"

extern "C" {
#include "kernels/queue.h"
#include "src/base/error.h"
}

/* Nothing links libcuda: these are found at open. */
typedef struct weft_cuda_driver {
    PFN_cuGetErrorString_v6000 error_string;
    PFN_cuDevicePrimaryCtxGetState_v7000 context_state;
    PFN_cuPointerGetAttribute_v4000 pointer_attribute;
    PFN_cuMemGetAllocationGranularity_v10020 granularity;
    PFN_cuMemCreate_v10020 create;
    PFN_cuMemRelease_v10020 release;
    PFN_cuMemAddressReserve_v10020 reserve;
    PFN_cuMemAddressFree_v10020 unreserve;
    PFN_cuMemMap_v10020 map;
    PFN_cuMemUnmap_v10020 unmap;
    PFN_cuMemSetAccess_v10020 set_access;
} weft_cuda_driver_t;

/* Tickets (done, last] are in flight; ticket t is events[t % capacity]. */
typedef struct weft_cuda_marks {
    cudaEvent_t *events;
    uint64_t capacity, done, last;
} weft_cuda_marks_t;

#define WEFT_CUDA_PUT_SLOTS 64
#define WEFT_CUDA_PUT_BYTES 4096

/* Pinned memory that small runs pass through. A slot may be written when its event has completed. */
typedef struct weft_cuda_puts {
    uint8_t *slots;
    cudaEvent_t events[WEFT_CUDA_PUT_SLOTS];
    uint64_t count; /* put so far */
} weft_cuda_puts_t;

/* Events on the engine's stream. Two of ends: the one before the last begin is kept while later steps end. */
typedef struct weft_cuda_engine {
    pthread_mutex_t lock; /* the step thread and the progress thread meet here */
    cudaEvent_t ends[2], begin, copied;
    int last;   /* which of `ends` was recorded last; -1: none */
    int before; /* which was when `begin` was recorded; -1: none */
} weft_cuda_engine_t;

typedef struct weft_cuda_queue {
    weft_queue_t base;
    int device;
    cudaStream_t stream;
    const void
        *running; /* the list whose quantize runs alone, and events, are last on the stream; NULL: none */
    weft_cuda_driver_t driver;
    weft_cuda_marks_t marks;
    weft_cuda_puts_t puts;
    weft_cuda_engine_t engine;
} weft_cuda_queue_t;

static inline weft_cuda_queue_t *weft_cuda_queue_of(weft_queue_t *queue)
{
    return (weft_cuda_queue_t *)queue;
}

/* The stream, for something that is no quantize run: the next of these waits for it. Progress thread. */
static inline cudaStream_t weft_cuda_issue(weft_cuda_queue_t *queue)
{
    queue->running = NULL;
    return queue->stream;
}

/* An error as a status. It is not left behind for the next launch to find. */
static inline weft_status_t weft_cuda_settle(cudaError_t error)
{
    if (error != cudaSuccess)
        (void)cudaGetLastError();
    return weft_cuda_status(error);
}

#define WEFT_TRY_SETTLE(call) WEFT_TRY(weft_cuda_settle(call))

/* Makes the queue's device current while it lives, in calls that come from any thread, and lets them through
 * while another thread captures a graph. Threads that called thread_begin are so for good. */
typedef struct weft_cuda_scope {
    explicit weft_cuda_scope(const weft_cuda_queue_t *of);
    ~weft_cuda_scope();
    const weft_cuda_queue_t *queue;
    weft_status_t status; /* whether the device is current */
    int device;           /* that was current before */
    cudaStreamCaptureMode mode;
} weft_cuda_scope_t;

/* queue_lists.cu */
weft_status_t weft_cuda_list_quantize_create(weft_queue_t *queue, const weft_unit_job_t *units,
                                             uint32_t num_units, const weft_run_t *tensors,
                                             uint32_t num_tensors, weft_quantize_list_t **list);
void weft_cuda_list_quantize_destroy(weft_quantize_list_t *list);
weft_status_t weft_cuda_list_quantize_begin(weft_quantize_list_t *list);
weft_status_t weft_cuda_list_quantize_run(weft_quantize_list_t *list, uint32_t first, uint32_t count);
weft_status_t weft_cuda_list_quantize_finish(weft_quantize_list_t *list, uint32_t first, uint32_t count);
const weft_digest_t *weft_cuda_list_quantize_digests(const weft_quantize_list_t *list);
weft_status_t weft_cuda_list_quantize_refused(weft_quantize_list_t *list, bool *refused, uint32_t *unit,
                                              weft_quantize_result_t *result);
weft_status_t weft_cuda_list_pack_create(weft_queue_t *queue, const weft_pack_job_t *jobs, uint32_t num_jobs,
                                         weft_pack_list_t **list);
void weft_cuda_list_pack_destroy(weft_pack_list_t *list);
weft_status_t weft_cuda_list_pack_run(weft_pack_list_t *list, uint32_t first, uint32_t count);
weft_status_t weft_cuda_list_amax_create(weft_queue_t *queue, const weft_amax_job_t *jobs, uint32_t num_jobs,
                                         weft_amax_list_t **list);
void weft_cuda_list_amax_destroy(weft_amax_list_t *list);
weft_status_t weft_cuda_list_amax_run(weft_amax_list_t *list, uint32_t first, uint32_t count);
weft_status_t weft_cuda_list_digest_create(weft_queue_t *queue, const weft_run_t *runs, uint32_t num_runs,
                                           weft_digest_list_t **list);
void weft_cuda_list_digest_destroy(weft_digest_list_t *list);
weft_status_t weft_cuda_list_digest_run(weft_digest_list_t *list, uint32_t first, uint32_t count);
const weft_digest_t *weft_cuda_list_digest_results(const weft_digest_list_t *list);

/* queue_load.cu: run every kernel once on memory of its own. Blocks. */
weft_status_t weft_cuda_queue_load(weft_cuda_queue_t *queue);

/* queue_engine.cu */
weft_status_t weft_cuda_engine_create(weft_cuda_engine_t *engine);
void weft_cuda_engine_destroy(weft_cuda_engine_t *engine); /* of one that is zeroed or half made, too */
bool weft_cuda_stream_idle(weft_queue_t *queue, void *stream);
weft_status_t weft_cuda_engine_end(weft_queue_t *queue, void *stream);
bool weft_cuda_engine_idle(weft_queue_t *queue);
weft_status_t weft_cuda_engine_copy(weft_queue_t *queue, void *stream, void *to, const void *from,
                                    size_t bytes);
weft_status_t weft_cuda_engine_begin(weft_queue_t *queue, void *stream);
double weft_cuda_engine_pause_us(weft_queue_t *queue);

/* pair.cu */
weft_status_t weft_cuda_pair_create(weft_queue_t *queue, size_t bytes, bool remap, weft_pair_t *pair,
                                    weft_error_t *error);
void weft_cuda_pair_destroy(weft_queue_t *queue, weft_pair_t *pair);
weft_status_t weft_cuda_pair_exchange(weft_queue_t *queue, weft_pair_t *pair);
weft_status_t weft_cuda_pair_settle(weft_queue_t *queue, weft_pair_t *pair);

#endif
