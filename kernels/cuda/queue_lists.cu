/* The lists of a queue: those of cuda_kernels.h, each with the queue whose stream it runs on.
 *
 * Jobs are laid out alike here and there, so most go through as they are; a pack job has one flag more there.
 */
#include <stddef.h>

#include "kernels/cuda/queue.cuh"

#define SAME_PLACE(A, B, member) (offsetof(A, member) == offsetof(B, member))

static_assert(sizeof(weft_unit_job_t) == sizeof(weft_cuda_unit_t) &&
                  SAME_PLACE(weft_unit_job_t, weft_cuda_unit_t, kernel) &&
                  SAME_PLACE(weft_unit_job_t, weft_cuda_unit_t, unit) &&
                  SAME_PLACE(weft_unit_job_t, weft_cuda_unit_t, tensor),
              "units are passed on as they are");
static_assert(sizeof(weft_run_t) == sizeof(weft_cuda_tensor_t) &&
                  SAME_PLACE(weft_run_t, weft_cuda_tensor_t, data) &&
                  SAME_PLACE(weft_run_t, weft_cuda_tensor_t, bytes),
              "runs are passed on as they are");
static_assert(sizeof(weft_amax_job_t) == sizeof(weft_cuda_amax_job_t) &&
                  SAME_PLACE(weft_amax_job_t, weft_cuda_amax_job_t, data) &&
                  SAME_PLACE(weft_amax_job_t, weft_cuda_amax_job_t, ld_elems) &&
                  SAME_PLACE(weft_amax_job_t, weft_cuda_amax_job_t, rows) &&
                  SAME_PLACE(weft_amax_job_t, weft_cuda_amax_job_t, cols) &&
                  SAME_PLACE(weft_amax_job_t, weft_cuda_amax_job_t, dtype) &&
                  SAME_PLACE(weft_amax_job_t, weft_cuda_amax_job_t, by_column) &&
                  SAME_PLACE(weft_amax_job_t, weft_cuda_amax_job_t, amax),
              "amax jobs are passed on as they are");
static_assert(WEFT_RUN_NONE == WEFT_CUDA_NONE, "no tensor is called the same");

struct weft_quantize_list {
    weft_cuda_queue_t *queue;
    weft_cuda_quantize_t *cuda;
};

struct weft_pack_list {
    weft_cuda_queue_t *queue;
    weft_cuda_pack_t *cuda;
};

struct weft_amax_list {
    weft_cuda_queue_t *queue;
    weft_cuda_amax_t *cuda;
};

struct weft_digest_list {
    weft_cuda_queue_t *queue;
    weft_cuda_digest_t *cuda;
};

/* ---- Create and destroy, for every kind of list ---- */

/* Uploads go through the legacy stream, and may still be under way when the call that made them returns: the
 * queue's stream, which does not wait for that one, must not run ahead of them. */
static weft_status_t await_uploads(void)
{
    return weft_cuda_settle(cudaStreamSynchronize(cudaStreamLegacy));
}

/* Make a list; `create` makes what is inside. */
template <typename LIST, typename CREATE, typename DESTROY>
static weft_status_t list_create(weft_queue_t *queue, CREATE create, DESTROY destroy, LIST **list)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_scope_t scope(q);
    WEFT_TRY(scope.status);
    LIST *made = (LIST *)calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->queue = q;
    weft_status_t status = create(&made->cuda);
    (void)cudaGetLastError(); /* of a create that failed: the next launch would take it for its own */
    if (status == WEFT_OK)
        status = await_uploads();
    if (status != WEFT_OK) {
        destroy(made->cuda);
        free(made);
        return status;
    }
    *list = made;
    return WEFT_OK;
}

template <typename LIST, typename DESTROY> static void list_destroy(LIST *list, DESTROY destroy)
{
    if (!list)
        return;
    weft_cuda_scope_t scope(list->queue);
    destroy(list->cuda);
    (void)cudaGetLastError();
    free(list);
}

/* ---- Quantize ---- */

weft_status_t weft_cuda_list_quantize_create(weft_queue_t *queue, const weft_unit_job_t *units,
                                             uint32_t num_units, const weft_run_t *tensors,
                                             uint32_t num_tensors, weft_quantize_list_t **list)
{
    auto create = [=](weft_cuda_quantize_t **made) {
        return weft_cuda_quantize_create((const weft_cuda_unit_t *)units, num_units,
                                         (const weft_cuda_tensor_t *)tensors, num_tensors, made);
    };
    return list_create(queue, create, weft_cuda_quantize_destroy, list);
}

void weft_cuda_list_quantize_destroy(weft_quantize_list_t *list)
{
    if (list && list->queue->running == list)
        list->queue->running = NULL;
    list_destroy(list, weft_cuda_quantize_destroy);
}

weft_status_t weft_cuda_list_quantize_begin(weft_quantize_list_t *list)
{
    return weft_cuda_quantize_begin(list->cuda, weft_cuda_issue(list->queue));
}

weft_status_t weft_cuda_list_quantize_run(weft_quantize_list_t *list, uint32_t first, uint32_t count)
{
    if (count == 0)
        return WEFT_OK;
    unsigned follows = list->queue->running == list ? WEFT_CUDA_FOLLOWS : 0;
    WEFT_TRY(weft_cuda_quantize_run(list->cuda, first, count, WEFT_CUDA_ALL | follows, list->queue->stream));
    list->queue->running = list;
    return WEFT_OK;
}

weft_status_t weft_cuda_list_quantize_finish(weft_quantize_list_t *list, uint32_t first, uint32_t count)
{
    return weft_cuda_quantize_finish(list->cuda, first, count, weft_cuda_issue(list->queue));
}

const weft_digest_t *weft_cuda_list_quantize_digests(const weft_quantize_list_t *list)
{
    return weft_cuda_quantize_digests(list->cuda);
}

weft_status_t weft_cuda_list_quantize_refused(weft_quantize_list_t *list, bool *refused, uint32_t *unit,
                                              weft_quantize_result_t *result)
{
    uint32_t found;
    if (!weft_cuda_quantize_refused(list->cuda, &found)) {
        *refused = false;
        return WEFT_OK;
    }
    weft_cuda_scope_t scope(list->queue);
    WEFT_TRY(scope.status);
    WEFT_TRY(weft_cuda_quantize_result(list->cuda, found, list->queue->stream, result));
    *refused = true;
    *unit = found;
    return WEFT_OK;
}

/* ---- Pack ---- */

/* No digest rides along: what travels is digested by lists of their own, on either side alike. */
static weft_cuda_pack_job_t *convert(const weft_pack_job_t *jobs, uint32_t num_jobs)
{
    weft_cuda_pack_job_t *converted = (weft_cuda_pack_job_t *)calloc((size_t)num_jobs + 1, sizeof *converted);
    for (uint32_t i = 0; converted && i < num_jobs; i++)
        converted[i] = weft_cuda_pack_job_t{
            .data = jobs[i].data,
            .ld_bytes = jobs[i].ld_bytes,
            .rows = jobs[i].rows,
            .row_bytes = jobs[i].row_bytes,
            .out = jobs[i].out,
            .digest = false,
        };
    return converted;
}

weft_status_t weft_cuda_list_pack_create(weft_queue_t *queue, const weft_pack_job_t *jobs, uint32_t num_jobs,
                                         weft_pack_list_t **list)
{
    weft_cuda_pack_job_t *converted = convert(jobs, num_jobs);
    if (!converted)
        return WEFT_ERR_NO_MEMORY;
    auto create = [=](weft_cuda_pack_t **made) { return weft_cuda_pack_create(converted, num_jobs, made); };
    weft_status_t status = list_create(queue, create, weft_cuda_pack_destroy, list);
    free(converted);
    return status;
}

void weft_cuda_list_pack_destroy(weft_pack_list_t *list)
{
    list_destroy(list, weft_cuda_pack_destroy);
}

weft_status_t weft_cuda_list_pack_run(weft_pack_list_t *list, uint32_t first, uint32_t count)
{
    return weft_cuda_pack_run(list->cuda, first, count, 0, weft_cuda_issue(list->queue));
}

/* ---- Amax ---- */

weft_status_t weft_cuda_list_amax_create(weft_queue_t *queue, const weft_amax_job_t *jobs, uint32_t num_jobs,
                                         weft_amax_list_t **list)
{
    auto create = [=](weft_cuda_amax_t **made) {
        return weft_cuda_amax_create((const weft_cuda_amax_job_t *)jobs, num_jobs, made);
    };
    return list_create(queue, create, weft_cuda_amax_destroy, list);
}

void weft_cuda_list_amax_destroy(weft_amax_list_t *list)
{
    list_destroy(list, weft_cuda_amax_destroy);
}

/* What is not finite is refused where it is quantized; here only the finite elements count. */
weft_status_t weft_cuda_list_amax_run(weft_amax_list_t *list, uint32_t first, uint32_t count)
{
    return weft_cuda_amax_run(list->cuda, first, count, NULL, weft_cuda_issue(list->queue));
}

/* ---- Digest ---- */

weft_status_t weft_cuda_list_digest_create(weft_queue_t *queue, const weft_run_t *runs, uint32_t num_runs,
                                           weft_digest_list_t **list)
{
    auto create = [=](weft_cuda_digest_t **made) {
        return weft_cuda_digest_create((const weft_cuda_tensor_t *)runs, num_runs, made);
    };
    return list_create(queue, create, weft_cuda_digest_destroy, list);
}

void weft_cuda_list_digest_destroy(weft_digest_list_t *list)
{
    list_destroy(list, weft_cuda_digest_destroy);
}

weft_status_t weft_cuda_list_digest_run(weft_digest_list_t *list, uint32_t first, uint32_t count)
{
    return weft_cuda_digest_run(list->cuda, first, count, weft_cuda_issue(list->queue));
}

const weft_digest_t *weft_cuda_list_digest_results(const weft_digest_list_t *list)
{
    return weft_cuda_digest_results(list->cuda);
}
