/* fp8-channel: one scale for each output row.
 *
 *     a tile: whole rows, at most 16384 elements, that share the threads evenly
 *     +--------------------------------+
 *     | row 0        4096 columns      |   128 threads       as in fp8-block: twice over the stage
 *     | ...                            |
 *     | row 3                          |   128 threads
 *     +--------------------------------+
 *
 * Longer rows have kernels of 1024 threads that gather always; what does not fit their registers is read twice. Where
 * columns are split over ranks the row's amax has come ahead.
 *
 * x / s must be what one true division gives, rounded, and then rounded to e4m3. With r = fl(1/s) and
 *
 *     q = fl(x r)     e = fma(q, s, -x)     q' = fma(-e, r, q)
 *
 * q' gives the same code for every finite bf16 or fp16 x of a row whose amax is at least |x|, signs of zero included:
 * few enough that tests/cuda tries them all. Other rows (a NaN or Inf in them, an amax that does not cover them) divide.
 *
 * 2 (4) bytes read, 1 written, an element; 4 more for the scale, a row, and 16 for the digest, a tile.
 */
#include "kernels/cuda/fp8_channel.cuh"
#include "kernels/cuda/pipeline.cuh"

template <weft_dtype_t D> static __device__ __forceinline__ uint32_t encode_pair(uint32_t word, float s, float r)
{
    float2 x = unpack<D>(word);
    return e4m3_pair(weft_cuda_quotient(x.x, s, r), weft_cuda_quotient(x.y, s, r));
}

template <weft_dtype_t D> static __device__ __forceinline__ uint2 encode_group(uint4 v, float s, float r)
{
    return make_uint2(encode_pair<D>(v.x, s, r) | encode_pair<D>(v.y, s, r) << 16,
                      encode_pair<D>(v.z, s, r) | encode_pair<D>(v.w, s, r) << 16);
}

/* With true divisions. */
template <weft_dtype_t D> static __device__ __forceinline__ uint32_t divide_pair(uint32_t word, float s)
{
    float2 x = unpack<D>(word);
    return e4m3_pair(weft_div(x.x, s), weft_div(x.y, s));
}

template <weft_dtype_t D> static __device__ __forceinline__ uint2 divide_group(uint4 v, float s)
{
    return make_uint2(divide_pair<D>(v.x, s) | divide_pair<D>(v.y, s) << 16,
                      divide_pair<D>(v.z, s) | divide_pair<D>(v.w, s) << 16);
}

template <uint32_t SIZE> struct shared_t {
    ring_t ring; /* used where SIZE is THREADS */
    alignas(16) uint32_t warp_max[2][SIZE / WARP];
    uint64_t warp_sums[2][SIZE / WARP][2];
    listing_t listing;
};

/* Where a thread works: a row of the unit, and in it the groups at col, col + step, ... */
typedef struct place {
    uint32_t row, col, step;
    uint32_t row_warps; /* warps that share the row */
    bool real;          /* the unit has this row */
} place_t;

template <uint32_t SIZE> static __device__ __forceinline__ place_t place_of(const unit_t *unit, uint32_t tile)
{
    const uint32_t log = unit->log_row_threads, row = tile * (SIZE >> log) + (threadIdx.x >> log);
    return place_t{
        .row = row,
        .col = (threadIdx.x & ((1u << log) - 1)) * GROUP,
        .step = GROUP << log,
        .row_warps = (1u << log) / WARP,
        .real = row < unit->rows,
    };
}

/* The maximum over the warps of a row. All SIZE threads. */
template <uint32_t SIZE>
static __device__ __forceinline__ uint32_t row_max(uint32_t warp_value, const place_t *at, uint32_t *warp_max)
{
    const uint32_t warp = threadIdx.x / WARP, first = warp & ~(at->row_warps - 1);
    if (threadIdx.x % WARP == 0)
        warp_max[warp] = warp_value;
    weft_sync<SIZE>();
    uint32_t max = warp_value;
    for (uint32_t i = 0; i < at->row_warps; i++)
        max = ::max(max, warp_max[first + i]);
    return max;
}

/* A value that no amax reaches: of a row that must be done again. */
constexpr uint32_t REFUSED = 0xFFFF;

/* From the packed maximum of this thread the amax that holds for its row, in *amax; false where any row of the tile holds
 * a NaN or Inf, or more than the amax it was given. */
template <weft_dtype_t D, bool FINITE>
static __device__ __forceinline__ bool agree_on_amax(const unit_t *unit, const place_t *at, uint32_t max,
                                                     uint32_t *warp_max, uint32_t *amax)
{
    const bool given = unit->row_amax != NULL;
    *amax = given && at->real ? unit->row_amax[at->row] : 0;
    if (!FINITE && given)
        return true;
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    if (FINITE && (max >= inf_bits<D>() || (given && max > *amax)))
        max = REFUSED;
    max = row_max<THREADS>(max, at, warp_max);
    if (!given)
        *amax = max;
    return !FINITE || __all_sync(ALL_LANES, warp_max[threadIdx.x % WARPS] != REFUSED);
}

/* The packed maximum of this thread's part of a row in its stage. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t stage_max(const uint8_t *stage, uint32_t first, const place_t *at,
                                                     uint32_t cols)
{
    uint32_t max = 0;
#pragma unroll 4
    for (uint32_t col = at->col; col < cols; col += at->step)
        max = group_magnitude(max, stage_group<D>(stage, first + col));
    return max;
}

/* A tile that has come through the ring; false, before anything is written, if some row of it must divide. */
template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __forceinline__ bool direct_tile(const work_t *work, const unit_t *unit, tile_t tile,
                                                   const uint8_t *stage, uint32_t index, uint32_t turn,
                                                   shared_t<THREADS> *shared)
{
    const place_t at = place_of<THREADS>(unit, tile.place);
    const uint32_t cols = unit->cols, real_cols = at.real ? cols : 0;
    const uint32_t first = (threadIdx.x >> unit->log_row_threads) * cols;
    uint32_t amax;
    if (!agree_on_amax<D, FINITE>(unit, &at, stage_max<D>(stage, first, &at, real_cols), shared->warp_max[turn],
                                  &amax)) {
        release_stage(&shared->ring, index);
        return false;
    }
    const float s = weft_channel_scale(value_f32<D>(amax)), r = weft_div(1.0f, s);
    if (at.real && at.col == 0)
        unit->scale[at.row] = s;
    weft_digest_t sums = {{0, 0}};
#pragma unroll 1
    for (uint32_t col = at.col * SPAN; col < real_cols; col += at.step * SPAN) {
        bool real[SPAN];
        uint2 codes[SPAN];
#pragma unroll
        for (uint32_t j = 0; j < SPAN; j++) {
            const uint32_t here = col + j * GROUP;
            real[j] = here < cols;
            codes[j] = encode_group<D>(stage_group<D>(stage, real[j] ? first + here : 0), s, r);
            if (DIGEST && real[j])
                digest_codes(unit, at.row, here, codes[j], &sums);
        }
        store_span(unit, (size_t)at.row * cols + col, real, codes);
    }
    release_stage(&shared->ring, index);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums[turn], &work->partials[unit->partial + tile.place]);
    return true;
}

template <weft_dtype_t D>
static __device__ __forceinline__ void gather_row(const unit_t *unit, sources_t sources, const place_t *at,
                                                  uint32_t begin, uint4 (&v)[GROUPS])
{
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t col = begin + at->col + i * at->step;
        v[i] = at->real && col < unit->cols ? gather_group<D>(sources, at->row, col, min(unit->cols - col, GROUP))
                                            : make_uint4(0, 0, 0, 0);
    }
}

/* Rows of any length from anywhere. A row that the registers do not hold is read again. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, uint32_t SIZE>
static __device__ __noinline__ void gathered_tile(const work_t *work, tile_t tile, shared_t<SIZE> *shared)
{
    const unit_t unit_here = work->units[tile.unit], *unit = &unit_here;
    const place_t at = place_of<SIZE>(unit, tile.place);
    const uint32_t tile_rows = SIZE >> unit->log_row_threads, chunk = at.step * GROUPS, cols = unit->cols;
    const sources_t sources =
        list_sources<SIZE>(work, unit, tile.place * tile_rows, tile_rows, 0, cols, &shared->listing);
    uint4 v[GROUPS];
    uint32_t max = 0, finite = 0;
    for (uint32_t begin = 0; begin < cols; begin += chunk) {
        gather_row<D>(unit, sources, &at, begin, v);
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++) {
            max = group_magnitude(max, v[i]);
            finite = finite_magnitude<D>(finite, v[i]);
            if (FINITE)
                note_nonfinite<D>(work, tile.unit, unit, at.row, begin + at.col + i * at.step, v[i]);
        }
    }
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    uint32_t amax =
        row_max<SIZE>(__reduce_max_sync(ALL_LANES, larger_half(finite)), &at, shared->warp_max[0]);
    if (unit->row_amax)
        amax = at.real ? unit->row_amax[at.row] : 0;
    const float s = weft_channel_scale(value_f32<D>(amax)), r = weft_div(1.0f, s);
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
            uint2 codes = max > amax ? divide_group<D>(v[i], s) : encode_group<D>(v[i], s, r);
            store_codes(unit, (size_t)at.row * cols + col, min(cols - col, GROUP), codes);
            if (DIGEST)
                digest_codes(unit, at.row, col, codes, &sums);
        }
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared->warp_sums[0], &work->partials[unit->partial + tile.place]);
    weft_sync<SIZE>(); /* shared memory is as a direct tile expects it: not in use */
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(PIPELINE_THREADS, blocks_of<D>)
    fp8_channel(const __grid_constant__ work_t work)
{
    extern __shared__ uint8_t dynamic[];
    __shared__ shared_t<THREADS> shared;
    uint8_t *stages = align_stages(dynamic);
    ring_init(&shared.ring);
    if (threadIdx.x >= THREADS) {
        fill_ring<D>(&work, &shared.ring, stages, [](const unit_t *unit, uint32_t place) {
            const uint32_t tile_rows = THREADS >> unit->log_row_threads, row = place * tile_rows;
            return frame_t{row, 0, min(unit->rows - row, tile_rows), unit->cols, unit->cols};
        });
        return;
    }
    drain_ring<D>(
        &work, &shared.ring, stages,
        [&](const unit_t *unit, tile_t tile, const uint8_t *stage, uint32_t index, uint32_t turn) {
            return direct_tile<D, DIGEST, FINITE>(&work, unit, tile, stage, index, turn, &shared);
        },
        [&](tile_t tile) { gathered_tile<D, DIGEST, FINITE, THREADS>(&work, tile, &shared); });
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(MAX_THREADS, 1) fp8_channel_wide(const __grid_constant__ work_t work)
{
    __shared__ shared_t<MAX_THREADS> shared;
    gathered_tile<D, DIGEST, FINITE, MAX_THREADS>(&work, work.tiles[blockIdx.x], &shared);
}

weft_status_t weft_cuda_prepare_fp8_channel(weft_dtype_t dtype)
{
    for (unsigned extras = 0; extras <= WEFT_CUDA_ALL; extras++)
        WEFT_TRY(pipeline_prepare(WEFT_CUDA_PICK(fp8_channel, dtype, extras), pipeline_bytes(dtype)));
    return WEFT_OK;
}

weft_status_t weft_cuda_launch_fp8_channel(const work_t *work, weft_dtype_t dtype, bool wide, unsigned extras,
                                           cudaStream_t stream)
{
    if (!wide)
        return pipeline_launch(WEFT_CUDA_PICK(fp8_channel, dtype, extras), work, pipeline_blocks(dtype),
                               pipeline_bytes(dtype), stream);
    void (*kernel)(const work_t) = WEFT_CUDA_PICK(fp8_channel_wide, dtype, extras);
    kernel<<<work->num_tiles, MAX_THREADS, 0, stream>>>(*work);
    return weft_cuda_status(cudaGetLastError());
}
