/* Schemes whose scale is for a few elements of a row, or for the whole tensor: mxfp8, mxfp4, int4-group, nvfp4 and
 * fp8-tensor.
 *
 *     tile 128 x 128, in the registers of a block
 *     +--------------------------------+
 *     | lane 0 | 1 | 2 | ...      | 15 |   a lane: 8 columns, in 4 rows, 32 apart
 *     +--------------------------------+
 *      '--- 32 ---'                        lanes side by side share a scale: 2, 4, 8 or 16
 *
 * 2 (4) bytes read, 1 or 1/2 written, an element, and its part of a scale. The digest rides where codes are
 * bytes.
 */
#include "kernels/cuda/direct.cuh"

extern "C" {
#include "kernels/arith_fp4.h"
#include "kernels/arith_int.h"
}

constexpr uint32_t ROW_GROUPS = BLOCK / GROUP;
constexpr uint32_t STEP = THREADS / ROW_GROUPS; /* rows between the groups of a thread */

typedef struct shared {
    unit_t unit;
    uint64_t warp_sums[THREADS / WARP][2];
    listing_t listing;
} shared_t;

/* Lanes that share a scale; 1 where it is the whole tensor's. */
static __device__ __forceinline__ uint32_t lanes_of(uint32_t kernel)
{
    switch (kernel) {
    case WEFT_KERNEL_NVFP4:
        return 16 / GROUP;
    case WEFT_KERNEL_INT4_GROUP_64:
        return 64 / GROUP;
    case WEFT_KERNEL_INT4_GROUP_128:
        return 128 / GROUP;
    case WEFT_KERNEL_FP8_TENSOR:
        return 1;
    default:
        return 32 / GROUP;
    }
}

/* ---- Codes of 8 elements, each of `code` an operation on one ---- */

template <weft_dtype_t D, typename CODE>
static __device__ __forceinline__ uint32_t four_bits(uint4 v, CODE code)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    uint32_t codes = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const float2 x = unpack<D>(words[i]);
        codes |= (uint32_t)code(x.x) << 8 * i | (uint32_t)code(x.y) << (8 * i + 4);
    }
    return codes;
}

template <weft_dtype_t D> static __device__ __forceinline__ uint2 e4m3_times(uint4 v, float factor)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    uint32_t pairs[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const float2 x = unpack<D>(words[i]);
        pairs[i] = e4m3_pair(weft_mul(x.x, factor), weft_mul(x.y, factor));
    }
    return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

/* What a group of elements becomes, and the scale that it shares. */
typedef struct encoded {
    uint2 codes; /* 4-bit ones in x */
    uint32_t scale;
} encoded_t;

template <weft_dtype_t D>
static __device__ __forceinline__ encoded_t encode_int4(uint4 v, weft_profile_t profile, float amax)
{
    const float scale = weft_int4_scale(profile, amax);
    const uint32_t codes = four_bits<D>(v, [=](float x) { return weft_int4_code(profile, x, scale); });
    return encoded_t{make_uint2(codes, 0), weft_bf16_from_f32(scale)};
}

template <weft_dtype_t D> static __device__ __forceinline__ encoded_t encode_mxfp4(uint4 v, float amax)
{
    const uint8_t exponent = weft_mxfp4_exponent(amax);
    const float factor = weft_mx_factor(exponent);
    const uint32_t codes = four_bits<D>(v, [=](float x) { return weft_e2m1_from_f32(weft_mul(x, factor)); });
    return encoded_t{make_uint2(codes, 0), exponent};
}

template <weft_dtype_t D>
static __device__ __forceinline__ encoded_t encode_nvfp4(uint4 v, const weft_nvfp4_t *domain, float amax)
{
    const weft_nvfp4_t d = *domain;
    const uint8_t scale = weft_nvfp4_scale(&d, amax);
    const float factor = weft_nvfp4_factor(&d, scale);
    const uint32_t codes = four_bits<D>(v, [=](float x) { return weft_nvfp4_code(&d, x, factor); });
    return encoded_t{make_uint2(codes, 0), scale};
}

template <weft_dtype_t D>
static __device__ __forceinline__ encoded_t encode(const unit_t *unit, uint4 v, float amax, float tensor_scale,
                                                   const weft_nvfp4_t *domain)
{
    switch (unit->kernel) {
    case WEFT_KERNEL_FP8_TENSOR:
        return encoded_t{e4m3_times<D>(v, weft_block_factor(tensor_scale)), 0};
    case WEFT_KERNEL_MXFP8: {
        const uint8_t exponent = weft_mxfp8_exponent(amax);
        return encoded_t{e4m3_times<D>(v, weft_mx_factor(exponent)), exponent};
    }
    case WEFT_KERNEL_MXFP4:
        return encode_mxfp4<D>(v, amax);
    case WEFT_KERNEL_NVFP4:
        return encode_nvfp4<D>(v, domain, amax);
    default:
        return encode_int4<D>(v, (weft_profile_t)unit->profile, amax);
    }
}

/* ---- A tile ---- */

static __device__ __forceinline__ void store_scale(const unit_t *unit, uint32_t row, uint32_t col, uint32_t lanes,
                                                   uint32_t scale)
{
    const size_t index = (size_t)row * (unit->cols / (lanes * GROUP)) + col / (lanes * GROUP);
    if (unit->kernel >= WEFT_KERNEL_INT4_GROUP_32 && unit->kernel <= WEFT_KERNEL_INT4_GROUP_128)
        ((uint16_t *)unit->scale)[index] = (uint16_t)scale;
    else
        ((uint8_t *)unit->scale)[index] = (uint8_t)scale;
}

static __device__ __forceinline__ bool packs(const unit_t *unit)
{
    return unit->kernel != WEFT_KERNEL_FP8_TENSOR && unit->kernel != WEFT_KERNEL_MXFP8;
}

/* Zeros where the unit ends: their lanes take part in the maxima. */
template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t gather_tile(const work_t *work, const unit_t *unit, uint32_t place,
                                                       listing_t *listing, uint4 (&v)[GROUPS])
{
    const uint32_t row = threadIdx.x / ROW_GROUPS, col = place * BLOCK + threadIdx.x % ROW_GROUPS * GROUP;
    const uint32_t count = col < unit->cols ? min(unit->cols - col, GROUP) : 0;
    const sources_t sources =
        list_sources<THREADS>(work, unit, 0, unit->rows, place * BLOCK, BLOCK, listing);
    uint32_t real = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const bool mine = row + i * STEP < unit->rows && count;
        v[i] = mine ? gather_group<D>(sources, row + i * STEP, col, count) : make_uint4(0, 0, 0, 0);
        real |= (uint32_t)mine << i;
    }
    return real;
}

/* The scale of the whole tensor, which every tile of one unit writes alike. */
template <weft_dtype_t D>
static __device__ __forceinline__ float begin_tensor(const unit_t *unit, weft_nvfp4_t *domain)
{
    if (unit->kernel != WEFT_KERNEL_FP8_TENSOR && unit->kernel != WEFT_KERNEL_NVFP4)
        return 1.0f;
    const float amax = value_f32<D>(*unit->row_amax);
    if (unit->kernel == WEFT_KERNEL_FP8_TENSOR) {
        const float scale = weft_tensor_scale(amax);
        if (threadIdx.x == 0 && unit->scale)
            *unit->scale = scale;
        return scale;
    }
    *domain = weft_nvfp4_domain((weft_profile_t)unit->profile, amax);
    if (threadIdx.x == 0 && unit->global)
        *unit->global = domain->global;
    return 1.0f;
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __forceinline__ void encode_tile(const work_t *work, const unit_t *unit, uint32_t index,
                                                   uint32_t place, uint32_t real, const uint4 (&v)[GROUPS],
                                                   shared_t *shared)
{
    const uint32_t row = threadIdx.x / ROW_GROUPS, col = place * BLOCK + threadIdx.x % ROW_GROUPS * GROUP;
    const uint32_t lanes = lanes_of(unit->kernel), cols = unit->cols;
    weft_nvfp4_t domain = {};
    const float tensor_scale = begin_tensor<D>(unit, &domain);
    weft_digest_t sums = {{0, 0}};
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t amax = larger_half(finite_magnitude<D>(0, v[i]));
        for (uint32_t away = 1; away < lanes; away *= 2)
            amax = max(amax, __shfl_xor_sync(ALL_LANES, amax, away));
        const uint32_t at = row + i * STEP;
        if (!(real >> i & 1))
            continue;
        if (FINITE)
            note_nonfinite<D>(work, index, unit, at, col, v[i]);
        const encoded_t e = encode<D>(unit, v[i], value_f32<D>(amax), tensor_scale, &domain);
        if (lanes > 1 && threadIdx.x % lanes == 0)
            store_scale(unit, at, col, lanes, e.scale);
        const size_t offset = (size_t)at * cols + col;
        if (packs(unit)) {
            *(uint32_t *)(unit->out + offset / 2) = e.codes.x;
            continue;
        }
        store_codes(unit, offset, min(cols - col, GROUP), e.codes);
        if (DIGEST)
            digest_codes(unit, at, col, e.codes, &sums);
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums, &work->partials[unit->partial + place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(THREADS) groups(const __grid_constant__ work_t work)
{
    __shared__ shared_t shared;
    let_follower_launch(&work);
    const unit_tile_t tile = read_tile(&work);
    bring_unit(&work, &tile, &shared.unit);
    uint4 v[GROUPS];
    uint32_t real = 0;
    if (tile.num_segments) {
        const groups_t g = {.top = 0,
                            .left = tile.place * BLOCK,
                            .row = threadIdx.x / ROW_GROUPS,
                            .col = threadIdx.x % ROW_GROUPS * GROUP,
                            .down = STEP,
                            .right = 0};
        real = load_tile<D>(&work, &tile, &g, v);
    }
    unit_brought();
    weft_sync<THREADS>();
    if (!tile.num_segments) {
        wait_before(&work);
        real = gather_tile<D>(&work, &shared.unit, tile.place, &shared.listing, v);
    }
    encode_tile<D, DIGEST, FINITE>(&work, &shared.unit, tile.unit, tile.place, real, v, &shared);
    wait_after(&work);
}

weft_status_t weft_cuda_launch_groups(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream)
{
    return launch_tiles(WEFT_CUDA_PICK(groups, dtype, extras), work, THREADS, stream);
}
