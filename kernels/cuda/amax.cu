/* Row maxima of rectangles, or column maxima: what a trainer sends ahead where a scale spans shards.
 *
 *     a tile: TILE_ROWS rows of one job, a warp each      lane l: groups l, l + 32, ... ; GROUPS of them in
 * flight by column: THREADS columns, a thread each, over COLUMN_ROWS rows
 *
 * 2 (4) bytes read an element; 2 read and written a row, or a column of each tile.
 */
#include "kernels/cuda/tile.cuh"

constexpr uint32_t TILE_ROWS = THREADS / WARP;
constexpr uint32_t COLUMN_ROWS = 128;

typedef struct job {
    const uint8_t *data;
    uint16_t *amax;
    uint64_t ld_elems;
    uint32_t rows, cols;
    uint32_t aligned;
} job_t;

typedef struct job_class {
    uint32_t count;
    uint32_t *jobs;       /* [count], rising */
    uint32_t *first_tile; /* [count + 1] */
} job_class_t;

constexpr uint32_t NUM_DTYPES = 3;
constexpr uint32_t NUM_CLASSES = 2 * NUM_DTYPES; /* by row, then by column */

static const weft_dtype_t dtypes[NUM_DTYPES] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};

struct weft_cuda_amax {
    uint32_t num_jobs;
    job_class_t classes[NUM_CLASSES];
    job_t *d_jobs;
    tile_t *d_tiles; /* unit: the job; place: which TILE_ROWS rows of it; by column which tile, row by row */
};

/* ---- Kernel ---- */

/* There is no 16-bit atomic maximum; a row is rarely shared, so this loop is rarely more than one turn. */
static __device__ void fold(uint16_t *amax, uint32_t value)
{
    unsigned short seen = *(volatile unsigned short *)amax;
    while (value > seen) {
        unsigned short before = atomicCAS((unsigned short *)amax, seen, (unsigned short)value);
        if (before == seen)
            return;
        seen = before;
    }
}

template <weft_dtype_t D>
static __device__ __noinline__ uint4 load_elements(const uint8_t *from, uint32_t count)
{
    uint32_t value[GROUP];
#pragma unroll
    for (uint32_t i = 0; i < GROUP; i++)
        value[i] = i < count ? load_value<D>(from + i * elem_bytes<D>()) : 0;
    return make_uint4(value[0] | value[1] << 16, value[2] | value[3] << 16, value[4] | value[5] << 16,
                      value[6] | value[7] << 16);
}

/* The first element of a group that is not finite goes to its job's key. */
template <weft_dtype_t D>
static __device__ __forceinline__ void note(unsigned long long *key, uint32_t row, uint32_t col, uint4 v)
{
    uint32_t place = first_from(v, inf_bits<D>());
    if (place < GROUP)
        atomicMin(key, (unsigned long long)row << 32 | (col + place));
}

template <weft_dtype_t D>
static __global__ void __launch_bounds__(THREADS)
    row_maxima(const job_t *jobs, const tile_t *tiles, unsigned long long *nonfinite)
{
    const tile_t tile = tiles[blockIdx.x];
    const job_t job = jobs[tile.unit];
    const uint32_t row = tile.place * TILE_ROWS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= job.rows)
        return;
    const uint8_t *from = job.data + row * job.ld_elems * elem_bytes<D>();
    uint32_t max = 0;
    for (uint32_t begin = lane * GROUP; begin < job.cols; begin += WARP * GROUP * GROUPS) {
        uint4 v[GROUPS];
        uint32_t here = 0;
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++) {
            uint32_t col = begin + i * WARP * GROUP,
                     count = col < job.cols ? ::min(job.cols - col, GROUP) : 0;
            const uint8_t *at = from + (size_t)col * elem_bytes<D>();
            v[i] = make_uint4(0, 0, 0, 0);
            if (job.aligned && count == GROUP)
                v[i] = load_group<D>(at);
            else if (count)
                v[i] = load_elements<D>(at, count);
        }
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
            here = group_magnitude(here, v[i]);
        if (larger_half(here) >= inf_bits<D>()) {
            here = 0;
#pragma unroll
            for (uint32_t i = 0; i < GROUPS; i++) {
                here = finite_magnitude<D>(here, v[i]);
                if (nonfinite)
                    note<D>(&nonfinite[tile.unit], row, begin + i * WARP * GROUP, v[i]);
            }
        }
        max = __vmaxu2(max, here);
    }
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    if (lane == 0)
        fold(&job.amax[row], max);
}

/* Neighbouring threads read neighbouring elements; what is not finite counts as 0. */
template <weft_dtype_t D>
static __global__ void __launch_bounds__(THREADS)
    column_maxima(const job_t *jobs, const tile_t *tiles, unsigned long long *)
{
    const tile_t tile = tiles[blockIdx.x];
    const job_t job = jobs[tile.unit];
    const uint32_t across = (job.cols + THREADS - 1) / THREADS;
    const uint32_t col = tile.place % across * THREADS + threadIdx.x,
                   first = tile.place / across * COLUMN_ROWS;
    if (col >= job.cols)
        return;
    const uint32_t end = ::min(job.rows, first + COLUMN_ROWS);
    uint32_t max = 0;
#pragma unroll 8
    for (uint32_t row = first; row < end; row++) {
        const uint8_t *at = job.data + (row * job.ld_elems + col) * elem_bytes<D>();
        const uint32_t magnitude = load_value<D>(at) & 0x7FFFu;
        max = magnitude < inf_bits<D>() && magnitude > max ? magnitude : max;
    }
    fold(&job.amax[col], max);
}

/* ---- List ---- */

static uint32_t tiles_of(const weft_cuda_amax_job_t *job)
{
    if (job->by_column)
        return (uint32_t)(((uint64_t)job->rows + COLUMN_ROWS - 1) / COLUMN_ROWS *
                          (((uint64_t)job->cols + THREADS - 1) / THREADS));
    return job->cols ? (uint32_t)(((uint64_t)job->rows + TILE_ROWS - 1) / TILE_ROWS) : 0;
}

/* NUM_CLASSES: none. */
static uint32_t class_of(const weft_cuda_amax_job_t *job)
{
    for (uint32_t c = 0; c < NUM_DTYPES; c++)
        if (dtypes[c] == job->dtype)
            return job->by_column ? NUM_DTYPES + c : c;
    return NUM_CLASSES;
}

static bool accepts(const weft_cuda_amax_job_t *job)
{
    if (class_of(job) == NUM_CLASSES || job->cols > INT32_MAX)
        return false;
    size_t elem = job->dtype == WEFT_DTYPE_F32 ? 4 : 2;
    bool empty = job->rows == 0 || job->cols == 0;
    return empty ||
           (job->data && job->amax && (uintptr_t)job->data % elem == 0 && (uintptr_t)job->amax % 2 == 0);
}

static job_t job_record(const weft_cuda_amax_job_t *job)
{
    size_t elem = job->dtype == WEFT_DTYPE_F32 ? 4 : 2;
    return job_t{
        .data = (const uint8_t *)job->data,
        .amax = job->amax,
        .ld_elems = job->ld_elems,
        .rows = job->rows,
        .cols = job->cols,
        .aligned = (uintptr_t)job->data % 16 == 0 && (job->rows == 1 || job->ld_elems * elem % 16 == 0),
    };
}

static weft_status_t list_jobs(weft_cuda_amax_t *amax, const weft_cuda_amax_job_t *jobs, tile_t *tiles)
{
    uint32_t at = 0;
    for (uint32_t c = 0; c < NUM_CLASSES; c++) {
        job_class_t *k = &amax->classes[c];
        k->jobs = (uint32_t *)calloc(amax->num_jobs + 1, sizeof *k->jobs);
        k->first_tile = (uint32_t *)calloc(amax->num_jobs + 1, sizeof *k->first_tile);
        if (!k->jobs || !k->first_tile)
            return WEFT_ERR_NO_MEMORY;
        for (uint32_t i = 0; i < amax->num_jobs; i++) {
            if (class_of(&jobs[i]) != c)
                continue;
            k->jobs[k->count] = i;
            k->first_tile[k->count++] = at;
            for (uint32_t place = 0; place < tiles_of(&jobs[i]); place++)
                tiles[at++] = tile_t{i, place};
        }
        k->first_tile[k->count] = at;
    }
    return WEFT_OK;
}

static weft_status_t fill(weft_cuda_amax_t *amax, const weft_cuda_amax_job_t *jobs)
{
    uint64_t num_tiles = 0;
    for (uint32_t i = 0; i < amax->num_jobs; i++) {
        if (!accepts(&jobs[i]))
            return WEFT_ERR_ARGUMENT;
        num_tiles += tiles_of(&jobs[i]);
    }
    if (num_tiles > INT32_MAX)
        return WEFT_ERR_ARGUMENT;
    tile_t *tiles = (tile_t *)calloc(num_tiles + 1, sizeof *tiles);
    job_t *records = (job_t *)calloc(amax->num_jobs + 1, sizeof *records);
    weft_status_t status = tiles && records ? list_jobs(amax, jobs, tiles) : WEFT_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < amax->num_jobs && status == WEFT_OK; i++)
        records[i] = job_record(&jobs[i]);
    if (status == WEFT_OK)
        status = weft_cuda_upload(records, amax->num_jobs, &amax->d_jobs);
    if (status == WEFT_OK)
        status = weft_cuda_upload(tiles, num_tiles, &amax->d_tiles);
    free(tiles);
    free(records);
    return status;
}

extern "C" weft_status_t weft_cuda_amax_create(const weft_cuda_amax_job_t *jobs, uint32_t num_jobs,
                                               weft_cuda_amax_t **amax)
{
    weft_cuda_amax_t *made = (weft_cuda_amax_t *)calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->num_jobs = num_jobs;
    weft_status_t status = fill(made, jobs);
    if (status != WEFT_OK) {
        weft_cuda_amax_destroy(made);
        return status;
    }
    *amax = made;
    return WEFT_OK;
}

extern "C" void weft_cuda_amax_destroy(weft_cuda_amax_t *amax)
{
    if (!amax)
        return;
    for (uint32_t c = 0; c < NUM_CLASSES; c++) {
        free(amax->classes[c].jobs);
        free(amax->classes[c].first_tile);
    }
    cudaFree(amax->d_jobs);
    cudaFree(amax->d_tiles);
    free(amax);
}

/* The first place in a class of a job at or after `job`. */
static uint32_t lower_bound(const job_class_t *k, uint32_t job)
{
    uint32_t low = 0, high = k->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (k->jobs[middle] < job)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

extern "C" weft_status_t weft_cuda_amax_run(weft_cuda_amax_t *amax, uint32_t first, uint32_t count,
                                            uint64_t *nonfinite, weft_cuda_stream_t stream)
{
    if (!weft_cuda_in_range(first, count, amax->num_jobs))
        return WEFT_ERR_ARGUMENT;
    void (*const kernels[NUM_CLASSES])(const job_t *, const tile_t *, unsigned long long *) = {
        row_maxima<WEFT_DTYPE_BF16>,    row_maxima<WEFT_DTYPE_F16>,    row_maxima<WEFT_DTYPE_F32>,
        column_maxima<WEFT_DTYPE_BF16>, column_maxima<WEFT_DTYPE_F16>, column_maxima<WEFT_DTYPE_F32>};
    for (uint32_t c = 0; c < NUM_CLASSES; c++) {
        const job_class_t *k = &amax->classes[c];
        uint32_t begin = k->first_tile[lower_bound(k, first)],
                 end = k->first_tile[lower_bound(k, first + count)];
        if (begin == end)
            continue;
        kernels[c]<<<end - begin, THREADS, 0, stream>>>(amax->d_jobs, amax->d_tiles + begin,
                                                        (unsigned long long *)nonfinite);
        WEFT_TRY_CUDA(cudaGetLastError());
    }
    return WEFT_OK;
}
