/* Weight-only casts, and copies where source and output are of one type.
 *
 *     tile 128 x 128, threads as in fp8_block.cu; a group of 8 becomes 16 bytes, two words of the digest
 *
 * 2 (4) bytes read, 2 written, an element; 16 for the digest, a tile.
 */
#include "kernels/cuda/tile.cuh"

constexpr uint32_t ROW_GROUPS = BLOCK / GROUP;
constexpr uint32_t STEP = THREADS / ROW_GROUPS;

template <weft_dtype_t D> static __device__ __forceinline__ uint32_t cast_pair(uint32_t word, bool to_f16)
{
    if ((D == WEFT_DTYPE_F16) == to_f16)
        return word;
    float2 x = unpack<D>(word);
    if (!to_f16)
        return bf16_pair(x.x, x.y);
    uint32_t halves;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(x.y), "f"(x.x));
    return halves;
}

template <weft_dtype_t D> static __device__ __forceinline__ uint4 cast_group(uint4 v, bool to_f16)
{
    return make_uint4(cast_pair<D>(v.x, to_f16), cast_pair<D>(v.y, to_f16), cast_pair<D>(v.z, to_f16),
                      cast_pair<D>(v.w, to_f16));
}

template <bool DIRECT>
static __device__ __forceinline__ void store_values(const unit_t *unit, size_t offset, uint32_t count, uint4 v)
{
    uint16_t *out = (uint16_t *)unit->out + offset;
    if (DIRECT || unit->flags & UNIT_ALIGNED) {
        weft_store16(out, v);
    } else {
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (uint32_t i = 0; i < GROUP; i++) {
            if (i < count)
                out[i] = (uint16_t)(words[i / 2] >> (i % 2 * 16));
        }
    }
}

static __device__ __forceinline__ void digest_values(const unit_t *unit, uint32_t row, uint32_t col, uint4 v,
                                                     weft_digest_t *sums)
{
    uint32_t index = unit->word + (row * (unit->cols / GROUP) + col / GROUP) * 2;
    weft_digest_add(v.x | (uint64_t)v.y << 32, index, sums);
    weft_digest_add(v.z | (uint64_t)v.w << 32, index + 1, sums);
}

typedef struct shared {
    uint64_t warp_sums[THREADS / WARP][2];
    listing_t listing;
} shared_t;

/* Cast one tile; false, before anything is written, when DIRECT and it holds a NaN or Inf. */
template <weft_dtype_t D, bool DIGEST, bool FINITE, bool DIRECT>
static __device__ __forceinline__ bool cast_tile(const work_t *work, tile_t tile, shared_t *shared)
{
    const unit_t unit_here = work->units[tile.unit], *unit = &unit_here;
    const uint32_t rows = unit->rows, cols = unit->cols;
    const uint32_t row = threadIdx.x / ROW_GROUPS, col = tile.place * BLOCK + threadIdx.x % ROW_GROUPS * GROUP;
    const uint32_t count = DIRECT ? GROUP : col < cols ? min(cols - col, GROUP) : 0;
    sources_t sources = {};
    if (!DIRECT)
        sources = list_sources(work, unit, 0, rows, tile.place * BLOCK, BLOCK, &shared->listing);

    uint4 v[GROUPS];
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t here = row + i * STEP;
        v[i] = make_uint4(0, 0, 0, 0);
        if (here >= rows || count == 0)
            continue;
        if (DIRECT)
            v[i] = load_group<D>(unit->src + ((size_t)here * unit->ld_elems + col) * elem_bytes<D>());
        else
            v[i] = gather_group<D>(sources, here, col, count);
    }

    if (FINITE) {
        uint32_t max = 0;
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
            max = group_magnitude(max, v[i]);
        if (DIRECT && __syncthreads_or(larger_half(max) >= inf_bits<D>()))
            return false;
        if (!DIRECT && larger_half(max) >= inf_bits<D>()) {
#pragma unroll
            for (uint32_t i = 0; i < GROUPS; i++)
                note_nonfinite<D>(work, tile.unit, unit, row + i * STEP, col, v[i]);
        }
    }

    const bool to_f16 = unit->out_dtype == WEFT_DTYPE_F16;
    weft_digest_t sums = {{0, 0}};
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        uint32_t here = row + i * STEP;
        if (here >= rows || count == 0)
            continue;
        uint4 values = cast_group<D>(v[i], to_f16);
        store_values<DIRECT>(unit, (size_t)here * cols + col, count, values);
        if (DIGEST)
            digest_values(unit, here, col, values, &sums);
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial(&sums, shared->warp_sums, &work->partials[unit->partial + tile.place]);
    return true;
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __noinline__ void gathered_tile(const work_t *work, tile_t tile, shared_t *shared)
{
    cast_tile<D, DIGEST, FINITE, false>(work, tile, shared);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) cast(const __grid_constant__ work_t work)
{
    __shared__ shared_t shared;
    const tile_t tile = work.tiles[blockIdx.x];
    const bool direct = work.units[tile.unit].src && (tile.place + 1) * BLOCK <= work.units[tile.unit].cols;
    if (!direct || !cast_tile<D, DIGEST, FINITE, true>(&work, tile, &shared))
        gathered_tile<D, DIGEST, FINITE>(&work, tile, &shared);
}

weft_status_t weft_cuda_launch_cast(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream)
{
    void (*kernel)(const work_t) = WEFT_CUDA_PICK(cast, dtype, extras);
    kernel<<<work->num_tiles, THREADS, 0, stream>>>(*work);
    return weft_cuda_status(cudaGetLastError());
}
