/* fp8-channel: one scale for each output row.
 *
 *     256 threads hold 16384 elements:     rows of up to 2048: 8 rows, a warp each      e.g. 4096: 4 rows, 64 threads each
 *                                                      16384: 1 row, all of them
 *     1024 threads hold 65536: 1 row; a longer one is read twice, a chunk of 65536 at a time
 *
 * As in fp8-block the groups of a thread stay in registers between amax and codes. Where columns are split over ranks
 * the row's amax has come ahead, and nothing waits for anything.
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
#include "kernels/cuda/tile.cuh"

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
    uint32_t warp_max[SIZE / WARP];
    uint64_t warp_sums[SIZE / WARP][2];
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

template <weft_dtype_t D, bool DIRECT>
static __device__ __forceinline__ void load_row(const unit_t *unit, sources_t sources, const place_t *at, uint32_t begin,
                                                uint4 (&v)[GROUPS])
{
    const uint8_t *from = unit->src + ((size_t)at->row * unit->ld_elems + at->col) * elem_bytes<D>();
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t col = begin + at->col + i * at->step;
        v[i] = make_uint4(0, 0, 0, 0);
        if (!at->real || col >= unit->cols)
            continue;
        if (DIRECT)
            v[i] = load_group<D>(from + (size_t)(i * at->step) * elem_bytes<D>());
        else
            v[i] = gather_group<D>(sources, at->row, col, min(unit->cols - col, GROUP));
    }
}

/* The maximum over the warps of a row; the threads of all rows wait for each other where rows have several. */
static __device__ __forceinline__ uint32_t row_max(uint32_t warp_value, const place_t *at, uint32_t *warp_max)
{
    if (at->row_warps == 1)
        return warp_value;
    const uint32_t warp = threadIdx.x / WARP, first = warp & ~(at->row_warps - 1);
    if (threadIdx.x % WARP == 0)
        warp_max[warp] = warp_value;
    __syncthreads();
    uint32_t max = warp_value;
    for (uint32_t i = 0; i < at->row_warps; i++)
        max = ::max(max, warp_max[first + i]);
    return max;
}

template <weft_dtype_t D, bool DIGEST, bool DIRECT>
static __device__ __forceinline__ void encode_row(const unit_t *unit, const place_t *at, uint32_t begin, bool divide,
                                                  float s, float r, const uint4 (&v)[GROUPS], weft_digest_t *sums)
{
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t col = begin + at->col + i * at->step;
        if (!at->real || col >= unit->cols)
            continue;
        uint2 codes = !DIRECT && divide ? divide_group<D>(v[i], s) : encode_group<D>(v[i], s, r);
        store_codes<DIRECT>(unit, (size_t)at->row * unit->cols + col, min(unit->cols - col, GROUP), codes);
        if (DIGEST)
            digest_codes(unit, at->row, col, codes, sums);
    }
}

/* Quantize rows that the registers hold; false, before anything is written, if one holds a NaN or Inf or more than the
 * amax that was given. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, uint32_t SIZE>
static __device__ __forceinline__ bool direct_tile(const work_t *work, tile_t tile, shared_t<SIZE> *shared)
{
    const unit_t unit_here = work->units[tile.unit], *unit = &unit_here;
    const place_t at = place_of<SIZE>(unit, tile.place);
    const bool given = unit->row_amax != NULL;
    uint32_t amax = given && at.real ? unit->row_amax[at.row] : 0;
    uint4 v[GROUPS];
    load_row<D, true>(unit, sources_t{}, &at, 0, v);
    if (FINITE || !given) {
        uint32_t max = 0;
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
            max = group_magnitude(max, v[i]);
        max = __reduce_max_sync(ALL_LANES, larger_half(max));
        amax = given ? amax : row_max(max, &at, shared->warp_max);
        if (FINITE && __syncthreads_or(max > amax || amax >= inf_bits<D>()))
            return false;
    }
    const float s = weft_channel_scale(value_f32<D>(amax)), r = weft_div(1.0f, s);
    if (at.real && at.col == 0)
        unit->scale[at.row] = s;
    weft_digest_t sums = {{0, 0}};
    encode_row<D, DIGEST, true>(unit, &at, 0, false, s, r, v, &sums);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial(&sums, shared->warp_sums, &work->partials[unit->partial + tile.place]);
    return true;
}

/* The same for rows of any length from anywhere. A row that the registers do not hold is read again. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, uint32_t SIZE>
static __device__ __noinline__ void gathered_tile(const work_t *work, tile_t tile, shared_t<SIZE> *shared)
{
    const unit_t unit_here = work->units[tile.unit], *unit = &unit_here;
    const place_t at = place_of<SIZE>(unit, tile.place);
    const uint32_t tile_rows = SIZE >> unit->log_row_threads, chunk = at.step * GROUPS, cols = unit->cols;
    __syncthreads(); /* a direct attempt may still be reading `shared` */
    const sources_t sources =
        list_sources(work, unit, tile.place * tile_rows, tile_rows, 0, cols, &shared->listing);
    uint4 v[GROUPS];
    uint32_t max = 0, finite = 0;
    for (uint32_t begin = 0; begin < cols; begin += chunk) {
        load_row<D, false>(unit, sources, &at, begin, v);
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++) {
            max = group_magnitude(max, v[i]);
            finite = finite_magnitude<D>(finite, v[i]);
            if (FINITE)
                note_nonfinite<D>(work, tile.unit, unit, at.row, begin + at.col + i * at.step, v[i]);
        }
    }
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    uint32_t amax = row_max(__reduce_max_sync(ALL_LANES, larger_half(finite)), &at, shared->warp_max);
    if (unit->row_amax)
        amax = at.real ? unit->row_amax[at.row] : 0;
    const float s = weft_channel_scale(value_f32<D>(amax)), r = weft_div(1.0f, s);
    if (at.real && at.col == 0)
        unit->scale[at.row] = s;
    weft_digest_t sums = {{0, 0}};
    for (uint32_t begin = 0; begin < cols; begin += chunk) {
        if (cols > chunk)
            load_row<D, false>(unit, sources, &at, begin, v);
        encode_row<D, DIGEST, false>(unit, &at, begin, max > amax, s, r, v, &sums);
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial(&sums, shared->warp_sums, &work->partials[unit->partial + tile.place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE, uint32_t SIZE>
static __global__ void __launch_bounds__(SIZE, SIZE == THREADS ? MIN_BLOCKS : 1) fp8_channel(const __grid_constant__ work_t work)
{
    __shared__ shared_t<SIZE> shared;
    const tile_t tile = work.tiles[blockIdx.x];
    const bool direct = work.units[tile.unit].src && work.units[tile.unit].cols <= SIZE * GROUPS * GROUP;
    if (!direct || !direct_tile<D, DIGEST, FINITE, SIZE>(&work, tile, &shared))
        gathered_tile<D, DIGEST, FINITE, SIZE>(&work, tile, &shared);
}

weft_status_t weft_cuda_launch_fp8_channel(const work_t *work, weft_dtype_t dtype, bool wide, unsigned extras,
                                           cudaStream_t stream)
{
    void (*kernel)(const work_t) = wide ? WEFT_CUDA_PICK(fp8_channel, dtype, extras, MAX_THREADS)
                                        : WEFT_CUDA_PICK(fp8_channel, dtype, extras, THREADS);
    kernel<<<work->num_tiles, wide ? MAX_THREADS : THREADS, 0, stream>>>(*work);
    return weft_cuda_status(cudaGetLastError());
}
