/* The kernels on an NVIDIA GPU, as plain C: lists of work that live on the device, and their launches.
 *
 * What is to be done never changes while a session lasts: units, shards, slots and places in the stage are fixed by
 * the plan. So a list is made once, uploaded, and run many times; one launch covers any range of it (a layer, a
 * run of small layers, a bucket), and a launch allocates nothing, copies nothing and waits for nothing.
 *
 *     weft_cuda_quantize_create(units, n, tensors, m, &q);            once a session
 *     weft_cuda_quantize_begin(q, stream);                            once a version
 *     weft_cuda_quantize_run(q, first, count, EXTRAS, stream);        for each complete layer
 *     weft_cuda_quantize_finish(q, 0, m, stream);                     when digests are wanted: once a version
 *     ... an event recorded here has completed ...
 *     weft_cuda_quantize_digests(q)[i];  weft_cuda_quantize_refused(q, &unit, &result);
 *
 *     tiles (32 B)         units (64 B)            segments (32 B)          partials (16 B a tile)
 *     +--------------+     +----------------+      +-------------------+    +-----------------+
 *     | unit, place  | ==> | out, scale, .. | ==>  | pointer, ld, rect | .. | sums of a tile  | ==> digest of a tensor
 *     +--------------+     +----------------+      +-------------------+    +-----------------+
 *
 * Bytes equal those of kernels/ref in every case. A segment may lie in any memory that the device can read: slots,
 * strided shards, another process's memory.
 *
 * **Blocks** only create and destroy. **Threads** a list is used by one thread at a time. Lists belong to the device
 * that was current when they were made. **Ownership** device memory that a list names must outlive its use.
 * **Returns** everywhere: WEFT_OK; WEFT_ERR_ARGUMENT (what the host kernel refuses; a null or misaligned pointer; a
 * range outside of the list); WEFT_ERR_NO_MEMORY; WEFT_ERR_UNSUPPORTED (no device, or one that this build has no code
 * for); WEFT_ERR_SYSTEM (any other CUDA error).
 */
#ifndef WEFT_KERNELS_CUDA_H
#define WEFT_KERNELS_CUDA_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *weft_cuda_stream_t; /* what cudaStream_t is, without its header */

/* What may ride along in a pass: production runs all; without them a pass is bare, for measuring. And how it is
 * launched. */
enum {
    WEFT_CUDA_DIGEST = 1, /* sums of the output's words */
    WEFT_CUDA_FINITE = 2, /* NaN and Inf are looked for; without it an input that has them gives arbitrary codes */
    WEFT_CUDA_ALL = 3,
    WEFT_CUDA_FOLLOWS = 4, /* see weft_cuda_quantize_run */
};

/* A run of device memory with a digest of its own: an output tensor, or a fragment as sent. */
typedef struct weft_cuda_tensor {
    const void *data;
    uint64_t bytes;
} weft_cuda_tensor_t;

#define WEFT_CUDA_NONE UINT32_MAX

/* Return WEFT_OK where the current device can run these kernels. */
weft_status_t weft_cuda_probe(void);

/* ---- Quantize ---- */

typedef struct weft_cuda_unit {
    weft_kernel_id_t kernel;
    weft_quantize_unit_t unit; /* as for the host, but data, row_amax, out and scale are device memory; `segments`
                                  itself is host memory, read by create only */
    uint32_t tensor;           /* the tensor that `out` is part of; WEFT_CUDA_NONE: not digested */
} weft_cuda_unit_t;

typedef struct weft_cuda_quantize weft_cuda_quantize_t;

/* Make a list of units. `tensors` [num_tensors] are what finish digests: the outputs that units name, and scales.
 * Where the units of a tensor cover it whole and its rows are whole words (row bytes a multiple of 8), the digest rides
 * in the quantize pass; all others, scales among them, are read again by finish. */
weft_status_t weft_cuda_quantize_create(const weft_cuda_unit_t *units, uint32_t num_units,
                                        const weft_cuda_tensor_t *tensors, uint32_t num_tensors,
                                        weft_cuda_quantize_t **quantize);
void weft_cuda_quantize_destroy(weft_cuda_quantize_t *quantize);

/* Forget what earlier runs found. **Stream** one memset, before the first run of a version. */
weft_status_t weft_cuda_quantize_begin(weft_cuda_quantize_t *quantize, weft_cuda_stream_t stream);

/* Quantize units [first, first + count). `extras`: WEFT_CUDA_DIGEST | WEFT_CUDA_FINITE; and WEFT_CUDA_FOLLOWS when only
 * runs of this list (and events) were put on the stream since a run of it without that: the launch then overlaps theirs.
 * **Stream** one launch for each pair of kernel and source dtype in the range: for a layer, one. */
weft_status_t weft_cuda_quantize_run(weft_cuda_quantize_t *quantize, uint32_t first, uint32_t count, unsigned extras,
                                     weft_cuda_stream_t stream);

/* Combine the sums of tensors [first, first + count), whose units have all been run with WEFT_CUDA_DIGEST, and bring
 * home the digests and what was refused, into pinned memory. **Stream** two small launches. */
weft_status_t weft_cuda_quantize_finish(weft_cuda_quantize_t *quantize, uint32_t first, uint32_t count,
                                        weft_cuda_stream_t stream);

/* The digests [num_tensors] of the last finish; valid once its work on the stream is done, until the next one. */
const weft_digest_t *weft_cuda_quantize_digests(const weft_cuda_quantize_t *quantize);

/* Whether a unit without `allow_nonfinite` met NaN or Inf since begin, as of the last finish: if so the first such
 * unit of the list. Does not block. */
bool weft_cuda_quantize_refused(const weft_cuda_quantize_t *quantize, uint32_t *unit);

/* What the pass over one unit found, allowed or not. **Blocks** for a small copy on `stream`. */
weft_status_t weft_cuda_quantize_result(weft_cuda_quantize_t *quantize, uint32_t unit, weft_cuda_stream_t stream,
                                        weft_quantize_result_t *result);

/* ---- Pack ---- */

/* A rectangle that becomes one run. */
typedef struct weft_cuda_pack_job {
    const void *data; /* NULL: zeros */
    size_t ld_bytes;
    uint32_t rows;
    size_t row_bytes;
    void *out;
    bool digest; /* digest the run at `out`, as what travels is digested */
} weft_cuda_pack_job_t;

typedef struct weft_cuda_pack weft_cuda_pack_t;

weft_status_t weft_cuda_pack_create(const weft_cuda_pack_job_t *jobs, uint32_t num_jobs, weft_cuda_pack_t **pack);
void weft_cuda_pack_destroy(weft_cuda_pack_t *pack);

/* Pack jobs [first, first + count): a bucket. **Stream** one launch. */
weft_status_t weft_cuda_pack_run(weft_cuda_pack_t *pack, uint32_t first, uint32_t count, unsigned extras,
                                 weft_cuda_stream_t stream);

/* As for quantize; digests [num_jobs], of jobs with `digest` only. */
weft_status_t weft_cuda_pack_finish(weft_cuda_pack_t *pack, uint32_t first, uint32_t count, weft_cuda_stream_t stream);
const weft_digest_t *weft_cuda_pack_digests(const weft_cuda_pack_t *pack);

/* ---- Amax ---- */

/* The row maxima of a rectangle, folded into `amax` [rows]; the caller sets it to 0 first. Jobs may share rows of it.
 * By column: the maxima of columns, folded into `amax` [cols], of a matrix that lies transposed. */
typedef struct weft_cuda_amax_job {
    const void *data;
    size_t ld_elems;
    uint32_t rows, cols;
    weft_dtype_t dtype;
    uint16_t *amax;
    bool by_column;
} weft_cuda_amax_job_t;

typedef struct weft_cuda_amax weft_cuda_amax_t;

weft_status_t weft_cuda_amax_create(const weft_cuda_amax_job_t *jobs, uint32_t num_jobs, weft_cuda_amax_t **amax);
void weft_cuda_amax_destroy(weft_cuda_amax_t *amax);

/* Find the maxima of jobs [first, first + count). `nonfinite`, device memory [all jobs] or NULL: row << 32 | col of a
 * job's first NaN or Inf (not of one by column) is min-folded into its entry; the caller sets entries to UINT64_MAX first.
 * **Stream** one launch for each source dtype in the range. */
weft_status_t weft_cuda_amax_run(weft_cuda_amax_t *amax, uint32_t first, uint32_t count, uint64_t *nonfinite,
                                 weft_cuda_stream_t stream);

/* ---- Digest ---- */

typedef struct weft_cuda_digest weft_cuda_digest_t;

/* A list of runs to digest, each by itself: what has arrived, tensors in place. */
weft_status_t weft_cuda_digest_create(const weft_cuda_tensor_t *tensors, uint32_t num_tensors,
                                      weft_cuda_digest_t **digest);
void weft_cuda_digest_destroy(weft_cuda_digest_t *digest);

/* Digest runs [first, first + count). **Stream** two launches. */
weft_status_t weft_cuda_digest_run(weft_cuda_digest_t *digest, uint32_t first, uint32_t count,
                                   weft_cuda_stream_t stream);
const weft_digest_t *weft_cuda_digest_results(const weft_cuda_digest_t *digest);

#ifdef __cplusplus
}
#endif
#endif
