/* int8-channel: a block a row, which it reads twice; the second time from a cache.
 *
 *     tile: one row      amax, by all threads      scale      codes
 *
 * 2 (4) bytes read, 1 written, an element, and 4 bytes a row.
 */
#include "kernels/cuda/direct.cuh"

extern "C" {
#include "kernels/arith_int.h"
}

constexpr uint32_t SIZE = INT8_THREADS;

typedef struct shared {
    uint32_t max;
    uint64_t warp_sums[SIZE / WARP][2];
    listing_t listing;
} shared_t;

template <weft_dtype_t D> static __device__ __forceinline__ uint2 encode_group(uint4 v, weft_profile_t profile, float scale)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    uint32_t pairs[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const float2 x = unpack<D>(words[i]);
        pairs[i] = (uint8_t)weft_int8_code(profile, x.x, scale) | (uint32_t)(uint8_t)weft_int8_code(profile, x.y, scale) << 8;
    }
    return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

/* The amax of the row over its finite elements. All threads. */
template <weft_dtype_t D, bool FINITE>
static __device__ __forceinline__ uint32_t find_amax(const work_t *work, uint32_t index, const unit_t *unit, uint32_t row,
                                                     sources_t sources, shared_t *shared)
{
    uint32_t finite = 0;
    for (uint32_t col = threadIdx.x * GROUP; col < unit->cols; col += SIZE * GROUP) {
        const uint4 v = gather_group<D>(sources, row, col, min(unit->cols - col, GROUP));
        finite = finite_magnitude<D>(finite, v);
        if (FINITE)
            note_nonfinite<D>(work, index, unit, row, col, v);
    }
    if (threadIdx.x == 0)
        shared->max = 0;
    weft_sync<SIZE>();
    const uint32_t most = __reduce_max_sync(ALL_LANES, larger_half(finite));
    if (threadIdx.x % WARP == 0)
        atomicMax(&shared->max, most);
    weft_sync<SIZE>();
    return shared->max;
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(SIZE) int8_channel(const __grid_constant__ work_t work)
{
    __shared__ shared_t shared;
    let_follower_launch(&work);
    wait_before(&work);
    const uint32_t index = work.tiles[blockIdx.x].unit, row = work.tiles[blockIdx.x].place;
    const unit_t unit = work.units[index];
    const weft_profile_t profile = (weft_profile_t)unit.profile;
    const sources_t sources = list_sources<SIZE>(&work, &unit, row, 1, 0, unit.cols, &shared.listing);
    const uint32_t found = find_amax<D, FINITE>(&work, index, &unit, row, sources, &shared);
    const float scale = weft_int8_scale(profile, value_f32<D>(unit.row_amax ? unit.row_amax[row] : found));
    if (threadIdx.x == 0)
        unit.scale[row] = scale;
    weft_digest_t sums = {{0, 0}};
    for (uint32_t col = threadIdx.x * GROUP; col < unit.cols; col += SIZE * GROUP) {
        const uint32_t count = min(unit.cols - col, GROUP);
        const uint2 codes = encode_group<D>(gather_group<D>(sources, row, col, count), profile, scale);
        store_codes(&unit, (size_t)row * unit.cols + col, count, codes);
        if (DIGEST)
            digest_codes(&unit, row, col, codes, &sums);
    }
    if (DIGEST && unit.flags & UNIT_RIDES)
        weft_block_partial<SIZE>(&sums, shared.warp_sums, &work.partials[unit.partial + row]);
    wait_after(&work);
}

weft_status_t weft_cuda_launch_int8_channel(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream)
{
    return launch_tiles(WEFT_CUDA_PICK(int8_channel, dtype, extras), work, SIZE, stream);
}
