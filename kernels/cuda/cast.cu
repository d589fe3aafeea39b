/* Weight-only casts, and copies where source and output are of one type.
 *
 *     tile 128 x 128 as in fp8_block.cu, once over; a group of 8 becomes 16 bytes, two words of the digest
 *
 * 2 (4) bytes read, 2 written, an element; 16 for the digest, a tile.
 */
#include "kernels/cuda/pipeline.cuh"

constexpr uint32_t ROW_GROUPS = BLOCK / GROUP;

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

static __device__ __forceinline__ void store_values(const unit_t *unit, size_t offset, uint32_t count, uint4 v)
{
    uint16_t *out = (uint16_t *)unit->out + offset;
    if (unit->flags & UNIT_ALIGNED) {
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
    ring_t ring;
    uint64_t warp_sums[2][WARPS][2];
    listing_t listing;
} shared_t;

/* A tile that has come through the ring. */
template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __forceinline__ void direct_tile(const work_t *work, const unit_t *unit, tile_t tile,
                                                   const uint8_t *stage, uint32_t index, uint32_t turn,
                                                   shared_t *shared)
{
    const uint32_t rows = unit->rows, cols = min(unit->cols - tile.place * BLOCK, BLOCK);
    const bool to_f16 = unit->out_dtype == WEFT_DTYPE_F16;
    weft_digest_t sums = {{0, 0}};
#pragma unroll 2
    for (uint32_t i = threadIdx.x; i < BLOCK * ROW_GROUPS; i += THREADS) {
        const uint32_t row = i / ROW_GROUPS, col = i % ROW_GROUPS * GROUP, at = tile.place * BLOCK + col;
        if (row >= rows || col >= cols)
            continue;
        const uint4 v = stage_group<D>(stage, i * GROUP), values = cast_group<D>(v, to_f16);
        if (FINITE && larger_half(group_magnitude(0, v)) >= inf_bits<D>())
            note_nonfinite<D>(work, tile.unit, unit, row, at, v); /* and keep it */
        store_values(unit, (size_t)row * unit->cols + at, GROUP, values);
        if (DIGEST)
            digest_values(unit, row, at, values, &sums);
    }
    release_stage(&shared->ring, index);
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums[turn], &work->partials[unit->partial + tile.place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __noinline__ void gathered_tile(const work_t *work, tile_t tile, shared_t *shared)
{
    const unit_t unit_here = work->units[tile.unit], *unit = &unit_here;
    const bool to_f16 = unit->out_dtype == WEFT_DTYPE_F16;
    const sources_t sources =
        list_sources<THREADS>(work, unit, 0, unit->rows, tile.place * BLOCK, BLOCK, &shared->listing);
    weft_digest_t sums = {{0, 0}};
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < BLOCK * ROW_GROUPS; i += THREADS) {
        const uint32_t row = i / ROW_GROUPS, col = tile.place * BLOCK + i % ROW_GROUPS * GROUP;
        if (row >= unit->rows || col >= unit->cols)
            continue;
        const uint32_t count = min(unit->cols - col, GROUP);
        const uint4 v = gather_group<D>(sources, row, col, count), values = cast_group<D>(v, to_f16);
        if (FINITE)
            note_nonfinite<D>(work, tile.unit, unit, row, col, v);
        store_values(unit, (size_t)row * unit->cols + col, count, values);
        if (DIGEST)
            digest_values(unit, row, col, values, &sums);
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums[0], &work->partials[unit->partial + tile.place]);
    weft_sync<THREADS>(); /* shared memory is as a direct tile expects it: not in use */
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(PIPELINE_THREADS, blocks_of<D>) cast(const __grid_constant__ work_t work)
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
            direct_tile<D, DIGEST, FINITE>(&work, unit, tile, stage, index, turn, &shared);
            return true;
        },
        [&](tile_t tile) { gathered_tile<D, DIGEST, FINITE>(&work, tile, &shared); });
}

weft_status_t weft_cuda_prepare_cast(weft_dtype_t dtype)
{
    for (unsigned extras = 0; extras <= WEFT_CUDA_ALL; extras++)
        WEFT_TRY(pipeline_prepare(WEFT_CUDA_PICK(cast, dtype, extras), pipeline_bytes(dtype)));
    return WEFT_OK;
}

weft_status_t weft_cuda_launch_cast(const work_t *work, weft_dtype_t dtype, unsigned extras, cudaStream_t stream)
{
    return pipeline_launch(WEFT_CUDA_PICK(cast, dtype, extras), work, pipeline_blocks(dtype), pipeline_bytes(dtype),
                           stream);
}
