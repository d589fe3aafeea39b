/* Weight-only casts between bf16 and fp16 (fp32 that becomes bf16 too), and copies where source and output are of one type.
 *
 *     tile 128 x 128 as in fp8_block.cu; a group of 8 becomes 16 bytes, two words of the digest
 *
 * 2 (4) bytes read, 2 written, an element; 16 for the digest and 32 of its record, a tile.
 */
#include "kernels/cuda/direct.cuh"

constexpr uint32_t ROW_GROUPS = BLOCK / GROUP;
constexpr uint32_t STEP = THREADS / ROW_GROUPS; /* rows between the groups of a thread */

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

static __device__ __forceinline__ void store_values(const unit_t *unit, size_t offset, uint32_t count,
                                                    uint4 v)
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
    uint64_t warp_sums[THREADS / WARP][2];
    listing_t listing;
} shared_t;

/* ---- NaN and Inf: what comes out as such ---- */

/* Whether a value overflows that is finite: only bf16 does. */
template <weft_dtype_t D> static __device__ __forceinline__ bool may_overflow(bool to_f16)
{
    return D == WEFT_DTYPE_BF16 && to_f16;
}

/* A group, whose values become NaN or Inf from a magnitude on: a constant, which is in no register. */
template <weft_dtype_t D>
static __device__ __forceinline__ void note_group(const work_t *work, uint32_t index, const unit_t *unit, uint32_t row,
                                                  uint32_t col, uint4 v, bool to_f16)
{
    if (may_overflow<D>(to_f16))
        note_from(work, index, unit, row, col, v, WEFT_BF16_OVERFLOW);
    else
        note_from(work, index, unit, row, col, v, inf_bits<D>());
}

/* Those of a thread's groups are noted; their codes stay. */
template <weft_dtype_t D>
static __device__ __forceinline__ void note_groups(const work_t *work, uint32_t index, const groups_t *g,
                                                   const uint4 (&v)[GROUPS], bool to_f16)
{
    uint32_t max = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        max = group_magnitude(max, v[i]);
    if (larger_half(max) < (may_overflow<D>(to_f16) ? WEFT_BF16_OVERFLOW : inf_bits<D>()))
        return;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        note_group<D>(work, index, &work->units[index], g->row + i * STEP, g->left + g->col, v[i], to_f16);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __forceinline__ void direct_tile(const work_t *work, const unit_tile_t *tile,
                                                   shared_t *shared)
{
    const groups_t g = {.top = 0,
                        .left = tile->place * BLOCK,
                        .row = threadIdx.x / ROW_GROUPS,
                        .col = threadIdx.x % ROW_GROUPS * GROUP,
                        .down = STEP,
                        .right = 0};
    uint4 v[GROUPS];
    const uint32_t real = load_tile<D>(work, tile, &g, v);
    const unit_t unit = work->units[tile->unit];
    const bool to_f16 = unit.out_dtype == WEFT_DTYPE_F16;
    const uint32_t col = g.left + g.col;
    weft_digest_t sums = {{0, 0}};
    if (FINITE)
        note_groups<D>(work, tile->unit, &g, v, to_f16);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        const uint32_t row = g.row + i * STEP;
        const uint4 values = cast_group<D>(v[i], to_f16);
        if (!(real >> i & 1))
            continue;
        weft_store16(unit.out + ((size_t)row * unit.cols + col) * sizeof(uint16_t), values);
        if (DIGEST)
            digest_values(&unit, row, col, values, &sums);
    }
    if (DIGEST && unit.flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums, &work->partials[unit.partial + tile->place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __device__ __noinline__ void gathered_tile(const work_t *work, shared_t *shared)
{
    const uint32_t index = work->tiles[blockIdx.x].unit, place = work->tiles[blockIdx.x].place;
    const unit_t unit_here = work->units[index], *unit = &unit_here;
    const bool to_f16 = unit->out_dtype == WEFT_DTYPE_F16;
    const sources_t sources =
        list_sources<THREADS>(work, unit, 0, unit->rows, place * BLOCK, BLOCK, &shared->listing);
    weft_digest_t sums = {{0, 0}};
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < BLOCK * ROW_GROUPS; i += THREADS) {
        const uint32_t row = i / ROW_GROUPS, col = place * BLOCK + i % ROW_GROUPS * GROUP;
        if (row >= unit->rows || col >= unit->cols)
            continue;
        const uint32_t count = min(unit->cols - col, GROUP);
        const uint4 v = gather_group<D>(sources, row, col, count), values = cast_group<D>(v, to_f16);
        if (FINITE)
            note_group<D>(work, index, unit, row, col, v, to_f16);
        store_values(unit, (size_t)row * unit->cols + col, count, values);
        if (DIGEST)
            digest_values(unit, row, col, values, &sums);
    }
    if (DIGEST && unit->flags & UNIT_RIDES)
        weft_block_partial<THREADS>(&sums, shared->warp_sums, &work->partials[unit->partial + place]);
}

template <weft_dtype_t D, bool DIGEST, bool FINITE>
static __global__ void __launch_bounds__(THREADS, resident_threads<D> / THREADS)
    cast(const __grid_constant__ work_t work)
{
    __shared__ shared_t shared;
    let_follower_launch(&work);
    const unit_tile_t tile = read_tile(&work);
    if (tile.num_segments) {
        direct_tile<D, DIGEST, FINITE>(&work, &tile, &shared);
    } else {
        wait_before(&work);
        gathered_tile<D, DIGEST, FINITE>(&work, &shared);
    }
    wait_after(&work);
}

weft_status_t weft_cuda_launch_cast(const work_t *work, weft_dtype_t dtype, unsigned extras,
                                    cudaStream_t stream)
{
    return launch_tiles(WEFT_CUDA_PICK(cast, dtype, extras), work, THREADS, stream);
}
