/* fp8-channel and int8-channel: one scale for each output row.
 *
 *     a tile: whole rows in the registers of a block, that share its threads evenly
 *     +--------------------------------+
 *     | row 0        4096 columns      |   threads 0 .. 127: groups t, t + 128, t + 256, t + 384
 *     | row 1                          |   threads 128 .. 255
 *     +--------------------------------+
 *
 * Blocks of 256 threads for rows of at most 8192 elements; from there on a row has a block to itself, of 384
 * threads up to 12288 elements, which gives each four groups at just that length, and of 512 up to 16384.
 * Longer rows have kernels of 1024 that gather always; what does not fit their registers is read twice. Where
 * columns are split over ranks the row's amax has come ahead.
 *
 * What a code is, CODE says (channel_codes.cuh). Rows for which `encode` is not allowed (a NaN or Inf in
 * them, an amax that does not cover them) divide.
 *
 * 2 (4) bytes read, 1 written, an element; 4 more for the scale, a row; 16 for the digest and 32 of its
 * record, a tile.
 */
#ifndef WEFT_KERNELS_CUDA_CHANNEL_CUH
#define WEFT_KERNELS_CUDA_CHANNEL_CUH

#include "kernels/cuda/channel_codes.cuh"
#include "kernels/cuda/direct.cuh"

template <uint32_t SIZE> struct shared_t {
    unit_t unit;
    uint32_t warp_max[SIZE / WARP];
    uint64_t warp_sums[SIZE / WARP][2];
    listing_t listing;
};

/* What a thread has of a tile: a row, and in it the groups at col, col + step, ... */
typedef struct share {
    uint32_t row, col, step;
    uint32_t rows; /* of a whole tile */
} share_t;

/* Only the smallest blocks hold several rows: `log` says how many threads each has. In the others 2^log is at
 * least SIZE; what comes of it there is known, 0 and threadIdx.x, but with constants in these places the
 * loads spill. */
template <uint32_t SIZE> static __device__ __forceinline__ share_t share_of(uint32_t log)
{
    return share_t{.row = threadIdx.x >> log,
                   .col = (threadIdx.x & ((1u << log) - 1)) * GROUP,
                   .step = SIZE > CHANNEL_THREADS ? SIZE * GROUP : GROUP << log,
                   .rows = SIZE > CHANNEL_THREADS ? 1 : SIZE >> log};
}

/* Warps that share a row. */
template <uint32_t SIZE> static __device__ __forceinline__ uint32_t row_warps_of(uint32_t log)
{
    return SIZE > CHANNEL_THREADS ? SIZE / WARP : (1u << log) / WARP;
}

/* The first of those that share this warp's row. */
template <uint32_t SIZE> static __device__ __forceinline__ uint32_t first_warp(uint32_t row_warps)
{
    return SIZE > CHANNEL_THREADS ? 0 : threadIdx.x / WARP & ~(row_warps - 1);
}

/* ---- Direct ---- */

/* The maximum that each warp found, and the amax that its row was given if it was. */
typedef struct warp_row {
    uint32_t max, given;
} warp_row_t;

/* Lane l looks at warp l. */
template <uint32_t SIZE>
static __device__ __forceinline__ warp_row_t look_at_warp(const unit_t *unit, const unit_tile_t *tile,
                                                          const uint32_t *warp_max)
{
    const uint32_t warp = threadIdx.x % WARP % (SIZE / WARP);
    const uint32_t row = SIZE > CHANNEL_THREADS ? 0 : warp * WARP >> tile->log_row_threads;
    warp_row_t w = {warp_max[warp], 0};
    if (unit->row_amax && row < tile->rows)
        w.given = unit->row_amax[tile->place * share_of<SIZE>(tile->log_row_threads).rows + row];
    return w;
}

/* The amax of this thread's row: found, or given. False where any row of the tile holds a NaN or Inf, or more
 * than the amax it was given: the same answer in all threads. */
template <weft_dtype_t D, bool FINITE, uint32_t SIZE>
static __device__ __forceinline__ bool agree_on_amax(const unit_t *unit, const unit_tile_t *tile,
                                                     const uint32_t *warp_max, uint32_t *amax)
{
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const uint32_t row_warps = row_warps_of<SIZE>(tile->log_row_threads);
    const uint32_t other = SIZE > CHANNEL_THREADS ? lane % (SIZE / WARP) : lane & (row_warps - 1);
    const warp_row_t w = look_at_warp<SIZE>(unit, tile, warp_max);
    if (unit->row_amax)
        *amax = __shfl_sync(ALL_LANES, w.given, warp);
    else
        *amax = __reduce_max_sync(ALL_LANES, warp_max[first_warp<SIZE>(row_warps) + other]);
    return !FINITE || __all_sync(ALL_LANES, w.max < inf_bits<D>() && (!unit->row_amax || w.max <= w.given));
}

/* Codes of a thread's part of a row, with their digest. */
template <weft_dtype_t D, bool DIGEST, typename CODE>
static __device__ __forceinline__ weft_digest_t encode_row(const unit_t *unit, const groups_t *g,
                                                           uint32_t real, weft_inverse_t inverse,
                                                           const uint4 (&v)[GROUPS])
{
    const uint32_t row = g->top + g->row;
    uint8_t *to = unit->out + (size_t)row * unit->cols + g->col;
    const uint32_t word = unit->word + row * (unit->cols / GROUP) + g->col / GROUP;
    weft_digest_t sums = {{0, 0}};
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const uint2 codes = encode_group<D, CODE>(v[i], inverse, (weft_profile_t)unit->profile);
        if (!(real >> i & 1))
            continue;
        weft_store8(to + i * g->right, codes);
        if (DIGEST)
            weft_digest_add(codes.x | (uint64_t)codes.y << 32, word + i * (g->right / GROUP), &sums);
    }
    return sums;
}

/* False, before anything is written, if some row of the tile must divide. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, uint32_t SIZE, typename CODE>
static __device__ __forceinline__ bool direct_tile(const work_t *work, const unit_tile_t *tile,
                                                   shared_t<SIZE> *shared)
{
    const share_t share = share_of<SIZE>(tile->log_row_threads);
    const groups_t g = {.top = tile->place * share.rows,
                        .left = 0,
                        .row = share.row,
                        .col = share.col,
                        .down = 0,
                        .right = share.step};
    uint4 v[GROUPS];
    const uint32_t real = load_tile<D>(work, tile, &g, v);
    uint32_t max = 0, amax;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        max = group_magnitude(max, v[i]);
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    if (threadIdx.x % WARP == 0)
        shared->warp_max[threadIdx.x / WARP] = max;
    unit_brought();
    weft_sync<SIZE>();
    const unit_t *unit = &shared->unit;
    if (!agree_on_amax<D, FINITE, SIZE>(unit, tile, shared->warp_max, &amax))
        return false;
    const weft_profile_t profile = (weft_profile_t)unit->profile;
    const float s = CODE::scale(profile, value_f32<D>(amax));
    if (!CODE::QUICK_ALWAYS && weft_sync_or<SIZE>(!CODE::quick(s)))
        return false;
    if (g.row < tile->rows && g.col == 0)
        unit->scale[g.top + g.row] = s;
    const weft_digest_t sums = encode_row<D, DIGEST, CODE>(unit, &g, real, weft_inverse_of(s), v);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums, &work->partials[unit->partial + tile->place]);
    return true;
}

/* ---- Gathered ---- */

/* Where a thread works: a row of the unit, and in it the groups at col, col + step, ... */
typedef struct place {
    uint32_t row, col, step;
    uint32_t row_warps; /* warps that share the row */
    bool real;          /* the unit has this row */
} place_t;

template <uint32_t SIZE> static __device__ __forceinline__ place_t place_of(const unit_t *unit, uint32_t tile)
{
    const share_t share = share_of<SIZE>(unit->log_row_threads);
    const uint32_t row = tile * share.rows + share.row;
    return place_t{
        .row = row,
        .col = share.col,
        .step = share.step,
        .row_warps = row_warps_of<SIZE>(unit->log_row_threads),
        .real = row < unit->rows,
    };
}

/* The maximum over the warps of a row. All SIZE threads. */
template <uint32_t SIZE>
static __device__ __forceinline__ uint32_t row_max(uint32_t warp_value, const place_t *at, uint32_t *warp_max)
{
    const uint32_t lane = threadIdx.x % WARP;
    const uint32_t other = SIZE > CHANNEL_THREADS ? lane % (SIZE / WARP) : lane & (at->row_warps - 1);
    if (lane == 0)
        warp_max[threadIdx.x / WARP] = warp_value;
    weft_sync<SIZE>();
    return __reduce_max_sync(ALL_LANES, warp_max[first_warp<SIZE>(at->row_warps) + other]);
}

template <weft_dtype_t D>
static __device__ __forceinline__ void gather_row(const unit_t *unit, sources_t sources, const place_t *at,
                                                  uint32_t begin, uint4 (&v)[GROUPS])
{
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t col = begin + at->col + i * at->step;
        v[i] = at->real && col < unit->cols
                   ? gather_group<D>(sources, at->row, col, min(unit->cols - col, GROUP))
                   : make_uint4(0, 0, 0, 0);
    }
}

/* Rows of any length from anywhere. A row that the registers do not hold is read again. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, uint32_t SIZE, typename CODE>
static __device__ __noinline__ void gathered_tile(const work_t *work, shared_t<SIZE> *shared)
{
    const uint32_t index = work->tiles[blockIdx.x].unit, place = work->tiles[blockIdx.x].place;
    const unit_t unit_here = work->units[index], *unit = &unit_here;
    const place_t at = place_of<SIZE>(unit, place);
    const uint32_t tile_rows = share_of<SIZE>(unit->log_row_threads).rows, chunk = at.step * GROUPS;
    const uint32_t cols = unit->cols;
    const sources_t sources =
        list_sources<SIZE>(work, unit, place * tile_rows, tile_rows, 0, cols, &shared->listing);
    uint4 v[GROUPS];
    uint32_t max = 0, finite = 0;
    for (uint32_t begin = 0; begin < cols; begin += chunk) {
        gather_row<D>(unit, sources, &at, begin, v);
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++) {
            max = group_magnitude(max, v[i]);
            finite = finite_magnitude<D>(finite, v[i]);
            if (FINITE)
                note_nonfinite<D>(work, index, unit, at.row, begin + at.col + i * at.step, v[i]);
        }
    }
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    uint32_t amax = row_max<SIZE>(__reduce_max_sync(ALL_LANES, larger_half(finite)), &at, shared->warp_max);
    if (unit->row_amax)
        amax = at.real ? unit->row_amax[at.row] : 0;
    const weft_profile_t profile = (weft_profile_t)unit->profile;
    const float s = CODE::scale(profile, value_f32<D>(amax));
    const weft_inverse_t inverse = weft_inverse_of(s);
    if (at.real && at.col == 0)
        unit->scale[at.row] = s;
    weft_digest_t sums = {{0, 0}};
    for (uint32_t begin = 0; begin < cols; begin += chunk) {
        if (cols > chunk)
            gather_row<D>(unit, sources, &at, begin, v);
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++) {
            const uint32_t col = begin + at.col + i * at.step;
            if (!at.real || col >= cols)
                continue;
            uint2 codes = max > amax || !CODE::quick(s) ? divide_group<D, CODE>(v[i], s, profile)
                                                        : encode_group<D, CODE>(v[i], inverse, profile);
            store_codes(unit, (size_t)at.row * cols + col, min(cols - col, GROUP), codes);
            if (DIGEST)
                digest_codes(unit, at.row, col, codes, &sums);
        }
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums, &work->partials[unit->partial + place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE, uint32_t SIZE, typename CODE>
static __global__ void __launch_bounds__(SIZE, resident_threads<D> / SIZE)
    channel(const __grid_constant__ work_t work)
{
    __shared__ shared_t<SIZE> shared;
    let_follower_launch(&work);
    const unit_tile_t tile = read_tile(&work);
    bring_unit(&work, &tile, &shared.unit);
    if (!tile.num_segments || !direct_tile<D, DIGEST, FINITE, SIZE, CODE>(&work, &tile, &shared)) {
        unit_brought();
        wait_before(&work);
        gathered_tile<D, DIGEST, FINITE, SIZE, CODE>(&work, &shared);
    }
    wait_after(&work);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE, typename CODE>
static __global__ void __launch_bounds__(WIDE_THREADS, 1) channel_wide(const __grid_constant__ work_t work)
{
    __shared__ shared_t<WIDE_THREADS> shared;
    let_follower_launch(&work);
    wait_before(&work);
    gathered_tile<D, DIGEST, FINITE, WIDE_THREADS, CODE>(&work, &shared);
    wait_after(&work);
}

template <typename CODE>
static weft_status_t launch_channel(const work_t *work, weft_dtype_t dtype, uint32_t threads, unsigned extras,
                                    cudaStream_t stream)
{
    void (*kernel)(const work_t) =
        threads == CHANNEL_THREADS  ? WEFT_CUDA_PICK(channel, dtype, extras, CHANNEL_THREADS, CODE)
        : threads == MIDDLE_THREADS ? WEFT_CUDA_PICK(channel, dtype, extras, MIDDLE_THREADS, CODE)
        : threads == LONG_THREADS   ? WEFT_CUDA_PICK(channel, dtype, extras, LONG_THREADS, CODE)
                                    : WEFT_CUDA_PICK(channel_wide, dtype, extras, CODE);
    return launch_tiles(kernel, work, threads, stream);
}

#endif
