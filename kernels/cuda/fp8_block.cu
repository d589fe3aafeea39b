/* fp8-block: one scale for 128 x 128 elements.
 *
 *     tile 128 x 128, in the registers of a block      scale
 *     +--------------------------------+               +-+
 *     | thread 0 | 1 | ...        | 15 |  ==========>  |s|     a thread: 8 columns,
 *     | 16       | ...                 |               +-+     in 4 rows, 32 apart
 *     +--------------------------------+
 *
 * In the order of Marlin a warp has 16 columns eight times, of eight rows 8 apart (marlin_bytes.cuh), and every row its scale.
 *
 * 2 (4) bytes read, 1 written, an element; 4 more for the scale, 16 for the digest and 32 of its record, a
 * tile.
 */
#include "kernels/cuda/marlin_bytes.cuh"

constexpr uint32_t WARPS = THREADS / WARP;
constexpr uint32_t ROW_GROUPS = BLOCK / GROUP;
constexpr uint32_t STEP = THREADS / ROW_GROUPS; /* rows between the groups of a thread */

/* The scale of a tile and what x is multiplied by; for vllm-pow2 also the second scale, and what a first code
 * is multiplied by for the second. */
typedef struct scales {
    float scale, factor;
    float pow2, ratio;
} scales_t;

/* 1 / scale, which is a power of two. */
static __device__ __forceinline__ float inverse_pow2(float scale)
{
    return weft_f32(0x7F000000u - weft_f32_bits(scale));
}

static __device__ __forceinline__ scales_t scales_of(uint32_t profile, float amax, bool has_inf)
{
    scales_t s = {};
    switch (profile) {
    case WEFT_PROFILE_VLLM:
    case WEFT_PROFILE_VLLM_POW2:
        s.scale = weft_block_scale_vllm(amax);
        break;
    case WEFT_PROFILE_POW2:
        s.scale = weft_block_scale_pow2(amax);
        break;
    default:
        s.scale = weft_block_scale_ieee(amax);
    }
    s.factor = weft_block_factor(s.scale);
    if (profile == WEFT_PROFILE_VLLM_POW2) {
        /* Rounding is monotone: the largest code is that of the amax, or of an Inf. */
        uint32_t max_code = has_inf ? WEFT_E4M3_MAX : e4m3_pair(weft_mul(amax, s.factor), 0.0f) & 0xFF;
        s.pow2 = weft_block_scale_pow2(weft_mul(e4m3_values(max_code).x, s.scale));
        s.ratio = weft_mul(s.scale, inverse_pow2(s.pow2));
    }
    return s;
}

/* What two codes stand for under `scale`, rounded again. The ratio is exact and about 1/2 .. 1, and nothing
 * here is subnormal: code x scale rounded and then divided by a power of two is the same. */
static __device__ __forceinline__ uint32_t recode_pair(uint32_t codes, const scales_t *s)
{
    float2 x = e4m3_values(codes);
    return e4m3_pair(weft_mul(x.x, s->ratio), weft_mul(x.y, s->ratio));
}

/* TWICE: for vllm-pow2. */
template <weft_dtype_t D, bool TWICE>
static __device__ __forceinline__ uint32_t encode_pair(uint32_t word, const scales_t *s)
{
    float2 x = unpack<D>(word);
    uint32_t codes = e4m3_pair(weft_mul(x.x, s->factor), weft_mul(x.y, s->factor));
    return TWICE ? recode_pair(codes, s) : codes;
}

template <weft_dtype_t D, bool TWICE>
static __device__ __forceinline__ uint2 encode_group(uint4 v, const scales_t *s)
{
    return make_uint2(encode_pair<D, TWICE>(v.x, s) | encode_pair<D, TWICE>(v.y, s) << 16,
                      encode_pair<D, TWICE>(v.z, s) | encode_pair<D, TWICE>(v.w, s) << 16);
}

typedef struct shared {
    unit_t unit;
    uint32_t warp_max[WARPS];
    uint64_t warp_sums[WARPS][2];
    uint32_t finite_max;
    listing_t listing;
} shared_t;

/* The amax of the tile over its finite elements, and whether there is an Inf. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t finite_amax(const uint4 (&v)[GROUPS], shared_t *shared,
                                                       bool *any_inf)
{
    uint32_t max = 0;
    bool inf = false;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        max = finite_magnitude<D>(max, v[i]);
        inf |= has_inf<D>(v[i]);
    }
    if (threadIdx.x == 0)
        shared->finite_max = 0;
    *any_inf = weft_sync_or<THREADS>(inf);
    atomicMax(&shared->finite_max, larger_half(max));
    weft_sync<THREADS>();
    return shared->finite_max;
}

/* Of a block; of deepgemm and marlin for each of its rows. All threads. */
template <bool MARLIN>
static __device__ __forceinline__ void store_scale(const unit_t *unit, uint32_t block, float scale)
{
    if (MARLIN) {
        if (threadIdx.x < unit->rows)
            marlin_store_scale(unit, threadIdx.x, block, unit->matrix_cols / BLOCK, scale);
    } else if (unit->arrange != WEFT_ARRANGE_DEEPGEMM) {
        if (threadIdx.x == 0)
            unit->scale[block] = scale;
    } else if (threadIdx.x < unit->rows) {
        const uint64_t index = weft_arrange_index(WEFT_ARRANGE_DEEPGEMM, unit->matrix_row + threadIdx.x, block,
                                                  unit->matrix_rows, 0);
        ((uint8_t *)unit->scale)[index] = (uint8_t)(weft_f32_bits(scale) >> 23);
    }
}

template <bool MARLIN> static __device__ __forceinline__ groups_t groups_of(uint32_t place)
{
    const uint32_t warp = threadIdx.x / WARP;
    groups_t g = {.top = 0,
                  .left = place * BLOCK,
                  .row = threadIdx.x / ROW_GROUPS,
                  .col = threadIdx.x % ROW_GROUPS * GROUP,
                  .down = STEP,
                  .right = 0};
    if (MARLIN) {
        g.row = warp / MARLIN_EACH * WEFT_MARLIN_ROWS + warp % MARLIN_EACH + marlin_row();
        g.col = marlin_col() % BLOCK;
        g.down = MARLIN_STEP;
    }
    return g;
}

/* The larger of a thread's packed maxima over all threads. */
static __device__ __forceinline__ uint32_t tile_max(uint32_t max, uint32_t *warp_max)
{
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    if (threadIdx.x % WARP == 0)
        warp_max[threadIdx.x / WARP] = max;
    weft_sync<THREADS>();
    return __reduce_max_sync(ALL_LANES, warp_max[threadIdx.x % WARPS]);
}

/* Codes of a thread in the order of Marlin; those of rows that the unit has not are 0. All lanes of a warp. */
template <bool DIGEST>
static __device__ __forceinline__ void store_marlin(const unit_t *unit, const groups_t *g,
                                                    const uint2 (&codes)[GROUPS], weft_digest_t *sums)
{
    const uint32_t first = g->row - marlin_row();
    uint4 words[2];
    marlin_trade(codes, words);
    if (first < unit->rows && g->left + g->col < unit->cols)
        marlin_store<DIGEST>(unit, first, g->left + g->col / WEFT_MARLIN_COLS * WEFT_MARLIN_COLS, words, sums);
}

/* ---- Direct ---- */

/* Codes of a tile in registers, with their digest. */
template <weft_dtype_t D, bool DIGEST, bool TWICE, bool MARLIN>
static __device__ __forceinline__ weft_digest_t encode_tile(const unit_t *unit, const groups_t *g,
                                                            uint32_t real, const scales_t *scales,
                                                            const uint4 (&v)[GROUPS])
{
    uint8_t *to = unit->out + (size_t)g->row * unit->cols + g->left + g->col;
    const size_t step = (size_t)STEP * unit->cols;
    const uint32_t row_words = unit->cols / GROUP;
    const uint32_t word = unit->word + g->row * row_words + (g->left + g->col) / GROUP;
    weft_digest_t sums = {{0, 0}};
    uint2 codes[GROUPS];
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        codes[i] = encode_group<D, TWICE>(v[i], scales);
        if (MARLIN || !(real >> i & 1))
            continue;
        weft_store8(to + i * step, codes[i]);
        if (DIGEST)
            weft_digest_add(codes[i].x | (uint64_t)codes[i].y << 32, word + i * STEP * row_words, &sums);
    }
    if (MARLIN)
        store_marlin<DIGEST>(unit, g, codes, &sums);
    return sums;
}

/* False, before anything is written, if the tile holds a NaN or Inf. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, bool MARLIN>
static __device__ __forceinline__ bool direct_tile(const work_t *work, const unit_tile_t *tile,
                                                   shared_t *shared)
{
    const groups_t g = groups_of<MARLIN>(tile->place);
    uint4 v[GROUPS];
    const uint32_t real = load_tile<D>(work, tile, &g, v);
    uint32_t max = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        max = group_magnitude(max, v[i]);
    unit_brought();
    const uint32_t amax = tile_max(max, shared->warp_max);
    if (FINITE && amax >= inf_bits<D>())
        return false;
    const unit_t *unit = &shared->unit;
    const scales_t scales = scales_of(unit->profile, value_f32<D>(amax), false);
    const bool twice = unit->profile == WEFT_PROFILE_VLLM_POW2;
    store_scale<MARLIN>(unit, tile->place, twice ? scales.pow2 : scales.scale);
    const weft_digest_t sums = twice ? encode_tile<D, DIGEST, true, MARLIN>(unit, &g, real, &scales, v)
                                     : encode_tile<D, DIGEST, false, MARLIN>(unit, &g, real, &scales, v);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums, &work->partials[unit->partial + tile->place]);
    return true;
}

/* ---- Gathered ---- */

template <weft_dtype_t D>
static __device__ __forceinline__ uint2 encode_either(uint4 v, const scales_t *s, bool twice)
{
    return twice ? encode_group<D, true>(v, s) : encode_group<D, false>(v, s);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE, bool MARLIN>
static __device__ __noinline__ void gathered_tile(const work_t *work, shared_t *shared)
{
    const uint32_t index = work->tiles[blockIdx.x].unit, place = work->tiles[blockIdx.x].place;
    const unit_t unit_here = work->units[index], *unit = &unit_here;
    const uint32_t rows = unit->rows, cols = unit->cols;
    const groups_t g = groups_of<MARLIN>(place);
    const uint32_t row = g.row, col = g.left + g.col, step = g.down;
    const uint32_t count = col < cols ? min(cols - col, GROUP) : 0;
    const sources_t sources =
        list_sources<THREADS>(work, unit, 0, rows, place * BLOCK, BLOCK, &shared->listing);
    uint4 v[GROUPS];
    uint32_t max = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        v[i] = row + i * step < rows && count ? gather_group<D>(sources, row + i * step, col, count)
                                              : make_uint4(0, 0, 0, 0);
        max = group_magnitude(max, v[i]);
    }
    uint32_t amax = tile_max(max, shared->warp_max);
    bool any_inf = false;
    if (FINITE && amax >= inf_bits<D>()) {
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
            note_nonfinite<D>(work, index, unit, row + i * step, col, v[i]);
        amax = finite_amax<D>(v, shared, &any_inf);
    }
    const scales_t scales = scales_of(unit->profile, value_f32<D>(amax), any_inf);
    const bool twice = unit->profile == WEFT_PROFILE_VLLM_POW2;
    store_scale<MARLIN>(unit, place, twice ? scales.pow2 : scales.scale);
    weft_digest_t sums = {{0, 0}};
    uint2 codes[GROUPS];
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        codes[i] = encode_either<D>(v[i], &scales, twice);
        if (MARLIN || row + i * step >= rows || count == 0)
            continue;
        store_codes(unit, (size_t)(row + i * step) * cols + col, count, codes[i]);
        if (DIGEST)
            digest_codes(unit, row + i * step, col, codes[i], &sums);
    }
    if (MARLIN)
        store_marlin<DIGEST>(unit, &g, codes, &sums);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums, &work->partials[unit->partial + place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE, bool MARLIN>
static __global__ void __launch_bounds__(THREADS, resident_threads<D> / THREADS)
    fp8_block(const __grid_constant__ work_t work)
{
    __shared__ shared_t shared;
    let_follower_launch(&work);
    const unit_tile_t tile = read_tile(&work);
    bring_unit(&work, &tile, &shared.unit);
    if (!tile.num_segments || !direct_tile<D, DIGEST, FINITE, MARLIN>(&work, &tile, &shared)) {
        unit_brought();
        wait_before(&work);
        gathered_tile<D, DIGEST, FINITE, MARLIN>(&work, &shared);
    }
    wait_after(&work);
}

weft_status_t weft_cuda_launch_fp8_block(const work_t *work, weft_dtype_t dtype, bool marlin, unsigned extras,
                                         cudaStream_t stream)
{
    void (*kernel)(const work_t) = marlin ? WEFT_CUDA_PICK(fp8_block, dtype, extras, true)
                                          : WEFT_CUDA_PICK(fp8_block, dtype, extras, false);
    return launch_tiles(kernel, work, THREADS, stream);
}
