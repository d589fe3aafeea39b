/* Casts to fp32, and from it to fp16, which is rounded once and not by way of bf16. Element by element: what an engine keeps
 * in fp32 (a router's bias) is small, and whole models in fp32 are rare.
 *
 *     tile 128 x 128; fp32 as it is, fp16 and bf16 exactly
 *
 * What a unit inverts becomes 1/x, divided with rounding to nearest.
 *
 * 2 (4) bytes read, 4 (2) written, an element. The digest is of a pass of its own.
 */
#include "kernels/cuda/direct.cuh"

template <weft_dtype_t D> static __device__ __forceinline__ uint32_t widened(const uint8_t *from)
{
    if (D == WEFT_DTYPE_F32)
        return *(const uint32_t *)from;
    const uint16_t value = *(const uint16_t *)from;
    return D == WEFT_DTYPE_F16 ? __float_as_uint(weft_f32_from_f16(value)) : (uint32_t)value << 16;
}

template <weft_dtype_t D>
static __device__ __forceinline__ uint32_t widened_element(sources_t sources, uint32_t row, uint32_t col)
{
    const segment_t *s = find_segment(sources, row, col);
    if (!s || !s->data)
        return 0;
    const size_t down = row - s->row, right = col - s->col;
    const size_t at = s->transposed ? right * s->ld_elems + down : down * s->ld_elems + right;
    return widened<D>(s->data + at * elem_bytes<D>());
}

/* Store what an element becomes; returns whether that, and what it is inverted from, is finite. */
static __device__ __forceinline__ bool store_element(const unit_t *unit, size_t at, uint32_t bits)
{
    if (unit->out_dtype == WEFT_DTYPE_F16) {
        const uint16_t half = weft_f16_from_f32(__uint_as_float(bits));
        ((uint16_t *)unit->out)[at] = half;
        return (half & 0x7FFFu) < WEFT_F16_INF;
    }
    const uint32_t out = unit->flags & UNIT_INVERTS ? weft_inverted(bits) : bits;
    ((uint32_t *)unit->out)[at] = out;
    return max(bits & WEFT_F32_MAGNITUDE, out & WEFT_F32_MAGNITUDE) < WEFT_F32_INF;
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(THREADS) widen(const __grid_constant__ work_t work)
{
    __shared__ listing_t listing;
    let_follower_launch(&work);
    wait_before(&work);
    const uint32_t index = work.tiles[blockIdx.x].unit, first = work.tiles[blockIdx.x].place * BLOCK;
    const unit_t unit = work.units[index];
    const sources_t sources = list_sources<THREADS>(&work, &unit, 0, unit.rows, first, BLOCK, &listing);
    for (uint32_t i = threadIdx.x; i < unit.rows * BLOCK; i += THREADS) {
        const uint32_t row = i / BLOCK, col = first + i % BLOCK;
        if (col >= unit.cols)
            continue;
        const uint32_t bits = widened_element<D>(sources, row, col);
        const bool finite = store_element(&unit, (size_t)row * unit.cols + col, bits);
        if (FINITE && !finite) {
            atomicMin(&work.keys[index], (unsigned long long)row << 32 | col);
            if (!(unit.flags & UNIT_ALLOWS))
                atomicMin(work.refused, index);
        }
    }
    wait_after(&work);
}

weft_status_t weft_cuda_launch_widen(const work_t *work, weft_dtype_t dtype, unsigned extras,
                                     cudaStream_t stream)
{
    return launch_tiles(WEFT_CUDA_PICK(widen, dtype, extras), work, THREADS, stream);
}
