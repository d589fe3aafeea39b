/* A queue: all work on the bytes of one rank, started in order, on the host's cores or on a GPU.
 *
 * The data path above it is written once: it allocates from the queue, prepares lists of work once a session, starts
 * ranges of them, and learns by tickets what has ended. On the host a piece of work is done when its start returns; on a
 * GPU it is on a stream, and a ticket is an event.
 *
 *     weft_queue_open("cuda", -1, &queue, &error);
 *     queue->ops->quantize_create(queue, units, n, tensors, m, &list);           once a session
 *     queue->ops->quantize_begin(list);                                          once a version
 *     queue->ops->quantize_run(list, first, count);                              a layer
 *     queue->ops->mark(queue, &ticket);
 *     ... queue->ops->poll(queue, &done) until done >= ticket ...                nothing here blocks
 *
 *     start ---> [digest bucket 7][quantize units 12..40][mark 3][quantize ..][mark 4]  --->  in order
 *                                                           ^ poll: 3
 *
 * Bytes are the same on every queue: kernels/ref defines them. A queue is a row of the table in queue.c; its entries are
 * in the folder of its name (`host/`, `cuda/`).
 *
 * **Threads** one thread at a time. Calls marked *(creation)* may block and allocate; no other does.
 * **Ownership** memory that a list names must outlive the list's use; lists must be destroyed before their queue.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (a job the kernels do not take, a range outside of the list);
 * WEFT_ERR_NO_MEMORY; WEFT_ERR_UNSUPPORTED (not in this build, no device); WEFT_ERR_SYSTEM (the device failed: the
 * process cannot go on usefully).
 */
#ifndef WEFT_KERNELS_QUEUE_H
#define WEFT_KERNELS_QUEUE_H

#include "kernels/kernels.h"

typedef struct weft_queue weft_queue_t;

/* A run of memory. */
typedef struct weft_run {
    const void *data;
    uint64_t bytes;
} weft_run_t;

#define WEFT_RUN_NONE     UINT32_MAX
#define WEFT_BUS_ID_BYTES 32

/* One unit to quantize; `tensor` says which output it is part of (WEFT_RUN_NONE: not digested). Copied by create. */
typedef struct weft_unit_job {
    weft_kernel_id_t kernel;
    weft_quantize_unit_t unit; /* data, row_amax, out, scale: memory of the queue; `segments` itself is host memory */
    uint32_t tensor;
} weft_unit_job_t;

/* A rectangle that becomes one run, or a run of zeros. */
typedef struct weft_pack_job {
    const void *data; /* NULL: zeros */
    size_t ld_bytes;
    uint32_t rows;
    size_t row_bytes;
    void *out;
} weft_pack_job_t;

/* Row maxima of a rectangle, folded into `amax` [rows]; or column maxima, into `amax` [cols]. */
typedef struct weft_amax_job {
    const void *data;
    size_t ld_elems;
    uint32_t rows, cols;
    weft_dtype_t dtype;
    uint16_t *amax;
    bool by_column;
} weft_amax_job_t;

typedef struct weft_quantize_list weft_quantize_list_t;
typedef struct weft_pack_list weft_pack_list_t;
typedef struct weft_amax_list weft_amax_list_t;
typedef struct weft_digest_list weft_digest_list_t;

/* Live weights and stage: two ranges of the same size whose contents can be exchanged. Addresses never change. */
typedef struct weft_pair {
    uint8_t *live, *stage;
    size_t bytes;   /* of each, whole pages */
    void *contents; /* the queue's own */
} weft_pair_t;

/* What a pointer points to. */
typedef enum weft_memory_kind {
    WEFT_MEMORY_HOST,        /* pageable or mapped: only the host reads it */
    WEFT_MEMORY_HOST_PINNED, /* known to CUDA: both read it */
    WEFT_MEMORY_DEVICE,      /* cudaMalloc */
    WEFT_MEMORY_DEVICE_VMM,  /* cuMemCreate and cuMemMap, or a pool */
    WEFT_MEMORY_MANAGED,     /* cudaMallocManaged */
    WEFT_MEMORY_OTHER_DEVICE,/* of another GPU than the queue's */
} weft_memory_kind_t;

typedef struct weft_queue_ops {
    const char *name;

    /* Its memory is the host's: the caller may read and write it, with nothing in flight. */
    bool on_host;

    /* Where `device` is (-1: the thread's current one): its number, and its PCI bus id such as "0000:1b:00.0". False
     * for the host, which is everywhere, and where there is no such device. */
    bool (*find)(int device, int *number, char bus_id[WEFT_BUS_ID_BYTES]);

    /* (creation) Open on device number `device`; -1: the thread's current one, or the only one. */
    weft_status_t (*open)(int device, weft_queue_t **queue, weft_error_t *error);
    void (*close)(weft_queue_t *queue);

    /* (creation) Let `count` more threads do the work, so that starts return at once; 0: none, as after open. NULL where
     * there are none to have. */
    weft_status_t (*set_workers)(weft_queue_t *queue, uint32_t count, weft_error_t *error);

    /* Make the calling thread one that may use the queue: its arithmetic, its current device. */
    void (*thread_begin)(weft_queue_t *queue);

    /* ---- memory ---- */

    /* (creation) Memory of the queue, zeroed, aligned to 256 bytes; and its end, with nothing in flight. NULL is
     * accepted. */
    weft_status_t (*alloc)(weft_queue_t *queue, size_t bytes, void **memory);
    void (*free)(weft_queue_t *queue, void *memory);

    /* (creation) What `pointer` points to, and whether this queue's kernels can read it where it is. */
    weft_memory_kind_t (*memory_kind)(weft_queue_t *queue, const void *pointer);
    bool (*reads)(weft_queue_t *queue, weft_memory_kind_t kind);

    /* Bytes of the device's memory that are in use, by anyone; 0 for the host. */
    uint64_t (*used_bytes)(weft_queue_t *queue);

    /* Set to zero. */
    weft_status_t (*clear)(weft_queue_t *queue, void *memory, size_t bytes);
    /* Copy a small run in from host memory that may change when the call returns (at most 4096 bytes). */
    weft_status_t (*put)(weft_queue_t *queue, void *memory, const void *host, size_t bytes);
    /* (creation) Copy out to, or in from, host memory, behind all work started before. Blocks until it is done. */
    weft_status_t (*read)(weft_queue_t *queue, const void *memory, void *host, size_t bytes);
    weft_status_t (*write)(weft_queue_t *queue, void *memory, const void *host, size_t bytes);

    /* ---- progress ---- */

    /* Give the work started so far a ticket; tickets rise by one from 1 on. */
    weft_status_t (*mark)(weft_queue_t *queue, uint64_t *ticket);
    /* The highest ticket whose work has ended. */
    weft_status_t (*poll)(weft_queue_t *queue, uint64_t *done);

    /* ---- quantize ---- */

    /* (creation) Make a list of units. `tensors` [num_tensors] are what finish digests. */
    weft_status_t (*quantize_create)(weft_queue_t *queue, const weft_unit_job_t *units, uint32_t num_units,
                                     const weft_run_t *tensors, uint32_t num_tensors, weft_quantize_list_t **list);
    void (*quantize_destroy)(weft_quantize_list_t *list);
    /* Forget what earlier runs found and summed: once before a version, of which each unit is run once. */
    weft_status_t (*quantize_begin)(weft_quantize_list_t *list);
    /* Quantize units [first, first + count). */
    weft_status_t (*quantize_run)(weft_quantize_list_t *list, uint32_t first, uint32_t count);
    /* Digest tensors [first, first + count), whose units have all been run. */
    weft_status_t (*quantize_finish)(weft_quantize_list_t *list, uint32_t first, uint32_t count);
    /* Digests [num_tensors], of those finished, once the ticket behind finish is done. */
    const weft_digest_t *(*quantize_digests)(const weft_quantize_list_t *list);
    /* Whether a unit met NaN or Inf since begin, once the ticket behind a finish is done: the first such unit of the
     * list and its first such element. (creation) */
    weft_status_t (*quantize_refused)(weft_quantize_list_t *list, bool *refused, uint32_t *unit,
                                      weft_quantize_result_t *result);

    /* ---- pack, amax, digest ---- */

    weft_status_t (*pack_create)(weft_queue_t *queue, const weft_pack_job_t *jobs, uint32_t num_jobs,
                                 weft_pack_list_t **list);
    void (*pack_destroy)(weft_pack_list_t *list);
    weft_status_t (*pack_run)(weft_pack_list_t *list, uint32_t first, uint32_t count);

    weft_status_t (*amax_create)(weft_queue_t *queue, const weft_amax_job_t *jobs, uint32_t num_jobs,
                                 weft_amax_list_t **list);
    void (*amax_destroy)(weft_amax_list_t *list);
    weft_status_t (*amax_run)(weft_amax_list_t *list, uint32_t first, uint32_t count);

    weft_status_t (*digest_create)(weft_queue_t *queue, const weft_run_t *runs, uint32_t num_runs,
                                   weft_digest_list_t **list);
    void (*digest_destroy)(weft_digest_list_t *list);
    weft_status_t (*digest_run)(weft_digest_list_t *list, uint32_t first, uint32_t count);
    /* Digests [num_runs], of those run, once the ticket behind the run is done. */
    const weft_digest_t *(*digest_results)(const weft_digest_list_t *list);

    /* ---- live weights ---- */

    /* (creation) Two zeroed ranges of `bytes`; `remap`: for exchange. Errors leave a sentence in `error`. */
    weft_status_t (*pair_create)(weft_queue_t *queue, size_t bytes, bool remap, weft_pair_t *pair, weft_error_t *error);
    void (*pair_destroy)(weft_queue_t *queue, weft_pair_t *pair);
    /* Let the live range show what the stage holds; nobody may read or write either meanwhile. Until pair_settle the
     * stage shows the same memory, and nobody may write it. Any thread, one at a time.
     * Returns WEFT_ERR_ARGUMENT (made without remap, not settled), WEFT_ERR_NO_MEMORY (refused: the live range is as it
     * was), WEFT_ERR_SYSTEM (the device failed: the ranges may show nothing). */
    weft_status_t (*pair_exchange)(weft_queue_t *queue, weft_pair_t *pair);
    /* The other half, which no step waits for: let the stage show what was live before. Nothing to do when settled. The
     * live range may be read meanwhile. Any thread, one at a time. */
    weft_status_t (*pair_settle)(weft_queue_t *queue, weft_pair_t *pair);

    /* ---- the engine's stream: where decode steps run (a cudaStream_t; the host ignores it). Any one thread ---- */

    /* Whether nothing that was enqueued on `stream` is still to be done. Costs the device nothing. */
    bool (*stream_idle)(weft_queue_t *queue, void *stream);
    /* A step's work has been enqueued on `stream`: remember its end. */
    weft_status_t (*engine_end)(weft_queue_t *queue, void *stream);
    /* Whether the work remembered last has ended. */
    bool (*engine_idle)(weft_queue_t *queue);
    /* Enqueue a copy behind the steps on `stream`; work started on the queue later waits for it. */
    weft_status_t (*engine_copy)(weft_queue_t *queue, void *stream, void *to, const void *from, size_t bytes);
    /* The first step on new weights is about to be enqueued on `stream`: remember its beginning. */
    weft_status_t (*engine_begin)(weft_queue_t *queue, void *stream);
    /* Microseconds of device time from the end remembered before the last engine_begin to that beginning; negative
     * while it is not known, and always on the host, whose clock says it. */
    double (*engine_pause_us)(weft_queue_t *queue);
} weft_queue_ops_t;

/* What every queue's struct begins with. */
struct weft_queue {
    const weft_queue_ops_t *ops;

    /* Work is done when its start returns: then it is best given in small pieces, between which arrivals are looked at, and
     * finish called as soon as tensors are whole, while they are warm. Elsewhere large ranges, and finish once at the
     * end: on a GPU a call is a launch and most digests ride in the pass; workers share a range. */
    bool synchronous;
};

/* Open a queue by name, "host" or "cuda"; `device` as for ops->open.
 * **Returns** WEFT_OK, WEFT_ERR_UNKNOWN_NAME (the message lists what this build has), WEFT_ERR_UNSUPPORTED (no GPU, and
 * why), WEFT_ERR_NO_MEMORY. **Ownership** close with weft_queue_close. */
weft_status_t weft_queue_open(const char *name, int device, weft_queue_t **queue, weft_error_t *error);
void weft_queue_close(weft_queue_t *queue); /* NULL is accepted */

/* Whether a queue of that name could be opened here. */
bool weft_queue_available(const char *name);

/* ops->find of a queue that is not open. */
bool weft_queue_find(const char *name, int device, int *number, char bus_id[WEFT_BUS_ID_BYTES]);

/* "pageable host memory", "device memory (cudaMalloc)" ...; never NULL. */
const char *weft_memory_kind_name(weft_memory_kind_t kind);

/* Block until `ticket` is done, yielding between polls. For creation, tests and benchmarks. */
weft_status_t weft_queue_wait(weft_queue_t *queue, uint64_t ticket);

extern const weft_queue_ops_t weft_host_queue_ops;
extern const weft_queue_ops_t weft_cuda_queue_ops; /* in builds with CUDA */

#endif
