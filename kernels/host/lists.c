/* Lists on the host: copies of the jobs, and loops over the kernels of one backend. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "kernels/host/host.h"

#define DIGEST_PIECE (1u << 20) /* bytes, whole words of the digest */

/* ---- quantize ---- */

struct weft_quantize_list {
    weft_host_queue_t *queue;
    const weft_kernels_t *kernels;
    weft_unit_job_t *units;
    uint32_t num_units;
    weft_segment_t *segments; /* of all units, one after another */
    weft_run_t *tensors;
    uint32_t num_tensors;
    bool *rides; /* [tensors] its digest is summed unit by unit, while a cache still has what was written */
    weft_digest_t *sums, *digests; /* [tensors] so far; as finish left them */
    pthread_mutex_t mutex;         /* of sums, refused and result, which workers share */
    uint32_t refused;              /* the first unit with NaN or Inf; WEFT_RUN_NONE: none */
    weft_quantize_result_t result;
};

static const weft_kernels_t *kernels_of(const weft_queue_t *queue)
{
    return ((const weft_host_queue_t *)queue)->kernels;
}

static bool in_range(uint32_t first, uint32_t count, uint32_t total)
{
    return first <= total && count <= total - first;
}

static size_t count_segments(const weft_unit_job_t *units, uint32_t num_units)
{
    size_t count = 0;
    for (uint32_t i = 0; i < num_units; i++)
        count += units[i].unit.num_segments;
    return count;
}

static void copy_units(weft_quantize_list_t *list, const weft_unit_job_t *units)
{
    weft_segment_t *next = list->segments;
    for (uint32_t i = 0; i < list->num_units; i++) {
        weft_quantize_unit_t *unit = &list->units[i].unit;
        list->units[i] = units[i];
        if (unit->num_segments)
            memcpy(next, unit->segments, unit->num_segments * sizeof *next);
        unit->segments = next;
        next += unit->num_segments;
    }
}

static uint64_t out_bytes(const weft_unit_job_t *job)
{
    const weft_format_t *format = weft_kernel_format(job->kernel);
    return (uint64_t)job->unit.rows * weft_format_row_bytes(format, job->unit.out_dtype, job->unit.cols);
}

static uint64_t out_offset(const weft_quantize_list_t *list, const weft_unit_job_t *job)
{
    return (uint64_t)((const char *)job->unit.out - (const char *)list->tensors[job->tensor].data);
}

/* Where the units of a tensor cover it whole, in whole words of the digest. */
static void find_rides(weft_quantize_list_t *list)
{
    for (uint32_t i = 0; i < list->num_units; i++) {
        const weft_unit_job_t *job = &list->units[i];
        if (job->tensor == WEFT_RUN_NONE)
            continue;
        bool whole_words = out_offset(list, job) % 8 == 0 && out_bytes(job) % 8 == 0 &&
                           !weft_arrange_moves_codes(job->unit.arrange);
        list->sums[job->tensor].word[0] += out_bytes(job);
        list->sums[job->tensor].word[1] += !whole_words;
    }
    for (uint32_t i = 0; i < list->num_tensors; i++)
        list->rides[i] = list->tensors[i].bytes > 0 && list->sums[i].word[0] == list->tensors[i].bytes &&
                         list->sums[i].word[1] == 0;
}

static bool kernels_known(const weft_kernels_t *kernels, const weft_unit_job_t *units, uint32_t num_units)
{
    for (uint32_t i = 0; i < num_units; i++)
        if ((unsigned)units[i].kernel >= WEFT_KERNEL_COUNT || !kernels->quantize[units[i].kernel])
            return false;
    return true;
}

weft_status_t weft_host_quantize_create(weft_queue_t *queue, const weft_unit_job_t *units, uint32_t num_units,
                                        const weft_run_t *tensors, uint32_t num_tensors,
                                        weft_quantize_list_t **list)
{
    if (!kernels_known(kernels_of(queue), units, num_units))
        return WEFT_ERR_ARGUMENT;
    weft_quantize_list_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    *made = (weft_quantize_list_t){.queue = (weft_host_queue_t *)queue,
                                   .kernels = kernels_of(queue),
                                   .num_units = num_units,
                                   .num_tensors = num_tensors,
                                   .refused = WEFT_RUN_NONE};
    pthread_mutex_init(&made->mutex, NULL);
    made->units = calloc((size_t)num_units + 1, sizeof *made->units);
    made->segments = calloc(count_segments(units, num_units) + 1, sizeof *made->segments);
    made->tensors = calloc((size_t)num_tensors + 1, sizeof *made->tensors);
    made->rides = calloc((size_t)num_tensors + 1, sizeof *made->rides);
    made->sums = calloc((size_t)num_tensors + 1, sizeof *made->sums);
    made->digests = calloc((size_t)num_tensors + 1, sizeof *made->digests);
    if (!made->units || !made->segments || !made->tensors || !made->rides || !made->sums || !made->digests) {
        weft_host_quantize_destroy(made);
        return WEFT_ERR_NO_MEMORY;
    }
    copy_units(made, units);
    if (num_tensors)
        memcpy(made->tensors, tensors, num_tensors * sizeof *tensors);
    find_rides(made);
    memset(made->sums, 0, num_tensors * sizeof *made->sums);
    *list = made;
    return WEFT_OK;
}

void weft_host_quantize_destroy(weft_quantize_list_t *list)
{
    if (!list)
        return;
    weft_host_drain(list->queue);
    pthread_mutex_destroy(&list->mutex);
    free(list->units);
    free(list->segments);
    free(list->tensors);
    free(list->rides);
    free(list->sums);
    free(list->digests);
    free(list);
}

static weft_status_t forget(void *user, uint32_t item)
{
    weft_quantize_list_t *list = user;
    (void)item;
    list->refused = WEFT_RUN_NONE;
    memset(list->sums, 0, list->num_tensors * sizeof *list->sums);
    return WEFT_OK;
}

weft_status_t weft_host_quantize_begin(weft_quantize_list_t *list)
{
    return weft_host_start(list->queue, forget, list, 0, 1, false);
}

static void note_unit(weft_quantize_list_t *list, uint32_t unit, const weft_digest_t *sums,
                      const weft_quantize_result_t *result)
{
    const weft_unit_job_t *job = &list->units[unit];
    pthread_mutex_lock(&list->mutex);
    if (sums) {
        list->sums[job->tensor].word[0] += sums->word[0];
        list->sums[job->tensor].word[1] += sums->word[1];
    }
    if (result->nonfinite && !job->unit.allow_nonfinite && unit < list->refused) {
        list->refused = unit;
        list->result = *result;
    }
    pthread_mutex_unlock(&list->mutex);
}

static weft_status_t quantize_unit(void *user, uint32_t unit)
{
    weft_quantize_list_t *list = user;
    const weft_unit_job_t *job = &list->units[unit];
    weft_quantize_result_t result = {0};
    weft_digest_t sums = {{0, 0}};
    weft_status_t status = list->kernels->quantize[job->kernel](&job->unit, &result);
    if (status != WEFT_OK)
        return status;
    bool rides = job->tensor != WEFT_RUN_NONE && list->rides[job->tensor];
    if (rides)
        list->kernels->digest(job->unit.out, out_offset(list, job), (size_t)out_bytes(job), &sums);
    note_unit(list, unit, rides ? &sums : NULL, &result);
    return WEFT_OK;
}

weft_status_t weft_host_quantize_run(weft_quantize_list_t *list, uint32_t first, uint32_t count)
{
    if (!in_range(first, count, list->num_units))
        return WEFT_ERR_ARGUMENT;
    return weft_host_start(list->queue, quantize_unit, list, first, count, true);
}

static weft_status_t finish_tensor(void *user, uint32_t i)
{
    weft_quantize_list_t *list = user;
    const weft_run_t *tensor = &list->tensors[i];
    list->digests[i] = list->sums[i];
    if (list->rides[i])
        weft_digest_finish(tensor->bytes, &list->digests[i]);
    else
        list->digests[i] = weft_digest_run(list->kernels, tensor->data, (size_t)tensor->bytes);
    return WEFT_OK;
}

weft_status_t weft_host_quantize_finish(weft_quantize_list_t *list, uint32_t first, uint32_t count)
{
    if (!in_range(first, count, list->num_tensors))
        return WEFT_ERR_ARGUMENT;
    return weft_host_start(list->queue, finish_tensor, list, first, count, false);
}

const weft_digest_t *weft_host_quantize_digests(const weft_quantize_list_t *list)
{
    return list->digests;
}

weft_status_t weft_host_quantize_refused(weft_quantize_list_t *list, bool *refused, uint32_t *unit,
                                         weft_quantize_result_t *result)
{
    *refused = list->refused != WEFT_RUN_NONE;
    if (*refused) {
        *unit = list->refused;
        *result = list->result;
    }
    return WEFT_OK;
}

/* ---- pack, amax, digest: arrays of jobs ---- */

struct weft_pack_list {
    weft_host_queue_t *queue;
    const weft_kernels_t *kernels;
    uint32_t count;
    weft_pack_job_t jobs[];
};

struct weft_amax_list {
    weft_host_queue_t *queue;
    const weft_kernels_t *kernels;
    uint32_t count;
    weft_amax_job_t jobs[];
};

/* A run is digested in pieces, [first_piece[run], first_piece[run + 1]) of the list. */
struct weft_digest_list {
    weft_host_queue_t *queue;
    const weft_kernels_t *kernels;
    uint32_t count;
    uint32_t *first_piece;         /* [count + 1] */
    uint32_t *left;                /* [count] pieces of it that are not summed */
    weft_digest_t *sums, *results; /* [count] */
    pthread_mutex_t mutex;         /* of left and sums */
    weft_run_t runs[];
};

weft_status_t weft_host_pack_create(weft_queue_t *queue, const weft_pack_job_t *jobs, uint32_t num_jobs,
                                    weft_pack_list_t **list)
{
    weft_pack_list_t *made = malloc(sizeof *made + num_jobs * sizeof *jobs);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    *made = (weft_pack_list_t){(weft_host_queue_t *)queue, kernels_of(queue), num_jobs};
    if (num_jobs)
        memcpy(made->jobs, jobs, num_jobs * sizeof *jobs);
    *list = made;
    return WEFT_OK;
}

void weft_host_pack_destroy(weft_pack_list_t *list)
{
    if (list)
        weft_host_drain(list->queue);
    free(list);
}

static weft_status_t pack_job(void *user, uint32_t i)
{
    const weft_pack_list_t *list = user;
    const weft_pack_job_t *job = &list->jobs[i];
    if (job->data)
        list->kernels->pack(job->data, job->ld_bytes, job->rows, job->row_bytes, job->out);
    else
        memset(job->out, 0, job->rows * job->row_bytes);
    return WEFT_OK;
}

weft_status_t weft_host_pack_run(weft_pack_list_t *list, uint32_t first, uint32_t count)
{
    if (!in_range(first, count, list->count))
        return WEFT_ERR_ARGUMENT;
    return weft_host_start(list->queue, pack_job, list, first, count, false);
}

weft_status_t weft_host_amax_create(weft_queue_t *queue, const weft_amax_job_t *jobs, uint32_t num_jobs,
                                    weft_amax_list_t **list)
{
    weft_amax_list_t *made = malloc(sizeof *made + num_jobs * sizeof *jobs);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    *made = (weft_amax_list_t){(weft_host_queue_t *)queue, kernels_of(queue), num_jobs};
    if (num_jobs)
        memcpy(made->jobs, jobs, num_jobs * sizeof *jobs);
    *list = made;
    return WEFT_OK;
}

void weft_host_amax_destroy(weft_amax_list_t *list)
{
    if (list)
        weft_host_drain(list->queue);
    free(list);
}

/* What is not finite is refused where it is quantized; here only the finite elements count. */
static weft_status_t amax_job(void *user, uint32_t i)
{
    const weft_amax_list_t *list = user;
    const weft_amax_job_t *job = &list->jobs[i];
    uint32_t row, col;
    if (job->by_column)
        weft_amax_columns(job->data, job->ld_elems, job->rows, job->cols, job->dtype, job->amax);
    else
        list->kernels->amax(job->data, job->ld_elems, job->rows, job->cols, job->dtype, job->amax, &row,
                            &col);
    return WEFT_OK;
}

/* Jobs may fold into the same maxima: one after the other. */
weft_status_t weft_host_amax_run(weft_amax_list_t *list, uint32_t first, uint32_t count)
{
    weft_status_t status = in_range(first, count, list->count) ? WEFT_OK : WEFT_ERR_ARGUMENT;
    for (uint32_t i = first; i < first + count && status == WEFT_OK; i++)
        status = weft_host_start(list->queue, amax_job, list, i, 1, false);
    return status;
}

static uint32_t pieces_of(uint64_t bytes)
{
    return bytes ? (uint32_t)((bytes + DIGEST_PIECE - 1) / DIGEST_PIECE) : 1;
}

static void count_pieces(weft_digest_list_t *list)
{
    for (uint32_t i = 0; i < list->count; i++) {
        list->left[i] = pieces_of(list->runs[i].bytes);
        list->first_piece[i + 1] = list->first_piece[i] + list->left[i];
    }
}

weft_status_t weft_host_digest_create(weft_queue_t *queue, const weft_run_t *runs, uint32_t num_runs,
                                      weft_digest_list_t **list)
{
    weft_digest_list_t *made = calloc(1, sizeof *made + num_runs * sizeof *runs);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->queue = (weft_host_queue_t *)queue;
    made->kernels = kernels_of(queue);
    made->count = num_runs;
    made->first_piece = calloc((size_t)num_runs + 1, sizeof *made->first_piece);
    made->left = calloc((size_t)num_runs + 1, sizeof *made->left);
    made->sums = calloc((size_t)num_runs + 1, sizeof *made->sums);
    made->results = calloc((size_t)num_runs + 1, sizeof *made->results);
    pthread_mutex_init(&made->mutex, NULL);
    if (!made->first_piece || !made->left || !made->sums || !made->results) {
        weft_host_digest_destroy(made);
        return WEFT_ERR_NO_MEMORY;
    }
    if (num_runs)
        memcpy(made->runs, runs, num_runs * sizeof *runs);
    count_pieces(made);
    *list = made;
    return WEFT_OK;
}

void weft_host_digest_destroy(weft_digest_list_t *list)
{
    if (!list)
        return;
    weft_host_drain(list->queue);
    pthread_mutex_destroy(&list->mutex);
    free(list->first_piece);
    free(list->left);
    free(list->sums);
    free(list->results);
    free(list);
}

/* The run that piece `piece` is of. */
static uint32_t run_of(const weft_digest_list_t *list, uint32_t piece)
{
    uint32_t low = 0, high = list->count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        *(list->first_piece[middle] <= piece ? &low : &high) = middle;
    }
    return low;
}

/* The last piece of a run ends it, and leaves it as it was for the next time. */
static void note_piece(weft_digest_list_t *list, uint32_t run, const weft_digest_t *sums)
{
    weft_digest_t *of = &list->sums[run];
    pthread_mutex_lock(&list->mutex);
    of->word[0] += sums->word[0];
    of->word[1] += sums->word[1];
    if (--list->left[run] == 0) {
        weft_digest_finish(list->runs[run].bytes, of);
        list->results[run] = *of;
        *of = (weft_digest_t){{0, 0}};
        list->left[run] = pieces_of(list->runs[run].bytes);
    }
    pthread_mutex_unlock(&list->mutex);
}

static weft_status_t digest_piece(void *user, uint32_t piece)
{
    weft_digest_list_t *list = user;
    uint32_t run = run_of(list, piece);
    uint64_t begin = (uint64_t)(piece - list->first_piece[run]) * DIGEST_PIECE,
             rest = list->runs[run].bytes - begin;
    weft_digest_t sums = {{0, 0}};
    list->kernels->digest((const char *)list->runs[run].data + begin, begin,
                          (size_t)(rest < DIGEST_PIECE ? rest : DIGEST_PIECE), &sums);
    note_piece(list, run, &sums);
    return WEFT_OK;
}

weft_status_t weft_host_digest_run(weft_digest_list_t *list, uint32_t first, uint32_t count)
{
    if (!in_range(first, count, list->count))
        return WEFT_ERR_ARGUMENT;
    return weft_host_start(list->queue, digest_piece, list, list->first_piece[first],
                           list->first_piece[first + count] - list->first_piece[first], true);
}

const weft_digest_t *weft_host_digest_results(const weft_digest_list_t *list)
{
    return list->results;
}
