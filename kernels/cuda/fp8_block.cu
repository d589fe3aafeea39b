/* fp8-block: one scale for 128 x 128 elements.
 *
 *     tile 128 x 128 in a stage of shared memory       scale
 *     +--------------------------------+               +-+     twice over the tile: for the amax 8 elements a thread at a
 *     | 128 columns, no padding        |  ==========>  |s|     time, for the codes 16, which are 16 bytes to store and two
 *     | ...                            |               +-+     words of the digest
 *     +--------------------------------+
 *
 * 2 (4) bytes read, 1 written, an element; 4 more for the scale and 16 for the digest, a tile.
 */
#include "kernels/cuda/pipeline.cuh"

constexpr uint32_t ROW_GROUPS = BLOCK / GROUP;
constexpr uint32_t STEP = THREADS / ROW_GROUPS; /* gathered: rows between the groups of a thread */
constexpr uint32_t ROW_SPANS = BLOCK / (SPAN * GROUP);

/* Both scales of a tile and what x is multiplied by; `pow2` holds for vllm-pow2 only. */
typedef struct scales {
    float scale, factor;
    float pow2, pow2_factor;
} scales_t;

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
        s.pow2_factor = weft_block_factor(s.pow2);
    }
    return s;
}

/* What two codes stand for under `scale`, rounded again. */
static __device__ __forceinline__ uint32_t recode_pair(uint32_t codes, const scales_t *s)
{
    float2 x = e4m3_values(codes);
    return e4m3_pair(weft_mul(weft_mul(x.x, s->scale), s->pow2_factor),
                     weft_mul(weft_mul(x.y, s->scale), s->pow2_factor));
}

template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t encode_pair(uint32_t word, const scales_t *s, bool twice)
{
    float2 x = unpack<D>(word);
    uint32_t codes = e4m3_pair(weft_mul(x.x, s->factor), weft_mul(x.y, s->factor));
    return twice ? recode_pair(codes, s) : codes;
}

template <weft_dtype_t D>
static __device__ __forceinline__ uint2 encode_group(uint4 v, const scales_t *s, bool twice)
{
    return make_uint2(encode_pair<D>(v.x, s, twice) | encode_pair<D>(v.y, s, twice) << 16,
                      encode_pair<D>(v.z, s, twice) | encode_pair<D>(v.w, s, twice) << 16);
}

typedef struct shared {
    ring_t ring;
    uint32_t warp_max[2][WARPS];
    uint64_t warp_sums[2][WARPS][2];
    uint32_t finite_max;
    listing_t listing;
} shared_t;

/* The amax of the tile over its finite elements, and whether there is an Inf. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t finite_amax(const uint4 (&v)[GROUPS], shared_t *shared, bool *any_inf)
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

/* The larger of a thread's packed maxima over all threads. */
static __device__ __forceinline__ uint32_t tile_max(uint32_t max, uint32_t *warp_max)
{
    max = __reduce_max_sync(ALL_LANES, larger_half(max));
    if (threadIdx.x % WARP == 0)
        warp_max[threadIdx.x / WARP] = max;
    weft_sync<THREADS>();
    return __reduce_max_sync(ALL_LANES, warp_max[threadIdx.x % WARPS]);
}

/* The largest magnitude of a tile in its stage, finite or not. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t stage_max(const uint8_t *stage, uint32_t rows, uint32_t cols)
{
    uint32_t max = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const uint32_t group = i * THREADS + threadIdx.x;
        if (group / ROW_GROUPS < rows && group % ROW_GROUPS * GROUP < cols)
            max = group_magnitude(max, stage_group<D>(stage, group * GROUP));
    }
    return max;
}

/* A tile that has come through the ring; false, before anything is written, if it holds a NaN or Inf. */
template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __forceinline__ bool direct_tile(const work_t *work, const unit_t *unit, tile_t tile,
                                                   const uint8_t *stage, uint32_t index, uint32_t turn,
                                                   shared_t *shared)
{
    const uint32_t rows = unit->rows, cols = min(unit->cols - tile.place * BLOCK, BLOCK);
    const uint32_t amax = tile_max(stage_max<D>(stage, rows, cols), shared->warp_max[turn]);
    if (FINITE && amax >= inf_bits<D>()) {
        release_stage(&shared->ring, index);
        return false;
    }
    const scales_t scales = scales_of(unit->profile, value_f32<D>(amax), false);
    const bool twice = unit->profile == WEFT_PROFILE_VLLM_POW2;
    if (threadIdx.x == 0)
        unit->scale[tile.place] = twice ? scales.pow2 : scales.scale;
    weft_digest_t sums = {{0, 0}};
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < BLOCK * ROW_SPANS; i += THREADS) {
        const uint32_t row = i / ROW_SPANS, col = i % ROW_SPANS * SPAN * GROUP;
        bool real[SPAN];
        uint2 codes[SPAN];
#pragma unroll
        for (uint32_t j = 0; j < SPAN; j++) {
            real[j] = row < rows && col + j * GROUP < cols;
            codes[j] = encode_group<D>(stage_group<D>(stage, row * BLOCK + col + j * GROUP), &scales, twice);
            if (DIGEST && real[j])
                digest_codes(unit, row, tile.place * BLOCK + col + j * GROUP, codes[j], &sums);
        }
        store_span(unit, (size_t)row * unit->cols + tile.place * BLOCK + col, real, codes);
    }
    release_stage(&shared->ring, index);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums[turn], &work->partials[unit->partial + tile.place]);
    return true;
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __noinline__ void gathered_tile(const work_t *work, tile_t tile, shared_t *shared)
{
    const unit_t unit_here = work->units[tile.unit], *unit = &unit_here;
    const uint32_t rows = unit->rows, cols = unit->cols;
    const uint32_t row = threadIdx.x / ROW_GROUPS, col = tile.place * BLOCK + threadIdx.x % ROW_GROUPS * GROUP;
    const uint32_t count = col < cols ? min(cols - col, GROUP) : 0;
    const sources_t sources =
        list_sources<THREADS>(work, unit, 0, rows, tile.place * BLOCK, BLOCK, &shared->listing);
    uint4 v[GROUPS];
    uint32_t max = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        v[i] = row + i * STEP < rows && count ? gather_group<D>(sources, row + i * STEP, col, count)
                                              : make_uint4(0, 0, 0, 0);
        max = group_magnitude(max, v[i]);
    }
    uint32_t amax = tile_max(max, shared->warp_max[0]);
    bool any_inf = false;
    if (FINITE && amax >= inf_bits<D>()) {
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
            note_nonfinite<D>(work, tile.unit, unit, row + i * STEP, col, v[i]);
        amax = finite_amax<D>(v, shared, &any_inf);
    }
    const scales_t scales = scales_of(unit->profile, value_f32<D>(amax), any_inf);
    const bool twice = unit->profile == WEFT_PROFILE_VLLM_POW2;
    if (threadIdx.x == 0)
        unit->scale[tile.place] = twice ? scales.pow2 : scales.scale;
    weft_digest_t sums = {{0, 0}};
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        if (row + i * STEP >= rows || count == 0)
            continue;
        uint2 codes = encode_group<D>(v[i], &scales, twice);
        store_codes(unit, (size_t)(row + i * STEP) * cols + col, count, codes);
        if (DIGEST)
            digest_codes(unit, row + i * STEP, col, codes, &sums);
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums[0], &work->partials[unit->partial + tile.place]);
    weft_sync<THREADS>(); /* shared memory is as a direct tile expects it: not in use */
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(PIPELINE_THREADS, blocks_of<D>)
    fp8_block(const __grid_constant__ work_t work)
{
    extern __shared__ uint8_t dynamic[];
    __shared__ shared_t shared;
    uint8_t *stages = align_stages(dynamic);
    ring_init(&shared.ring);
    if (threadIdx.x >= THREADS) {
        fill_ring<D>(&work, &shared.ring, stages, [](const unit_t *unit, uint32_t place) {
            return frame_t{0, place * BLOCK, unit->rows, min(unit->cols - place * BLOCK, BLOCK), BLOCK};
        });
        return;
    }
    drain_ring<D>(
        &work, &shared.ring, stages,
        [&](const unit_t *unit, tile_t tile, const uint8_t *stage, uint32_t index, uint32_t turn) {
            return direct_tile<D, DIGEST, FINITE>(&work, unit, tile, stage, index, turn, &shared);
        },
        [&](tile_t tile) { gathered_tile<D, DIGEST, FINITE>(&work, tile, &shared); });
}

weft_status_t weft_cuda_prepare_fp8_block(weft_dtype_t dtype)
{
    for (unsigned extras = 0; extras <= WEFT_CUDA_ALL; extras++)
        WEFT_TRY(pipeline_prepare(WEFT_CUDA_PICK(fp8_block, dtype, extras), pipeline_bytes(dtype)));
    return WEFT_OK;
}

weft_status_t weft_cuda_launch_fp8_block(const work_t *work, weft_dtype_t dtype, unsigned extras,
                                         cudaStream_t stream)
{
    return pipeline_launch(WEFT_CUDA_PICK(fp8_block, dtype, extras), work, pipeline_blocks(dtype),
                           pipeline_bytes(dtype), stream);
}
