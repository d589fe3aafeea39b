/* Codes of a byte in the order of Marlin (kernels/arrange.h): how four lanes make them of what they have.
 *
 *     16 columns of eight rows, 8 apart (row e is 8 e below the first)        Marlin has 32 words of them: word 8 p + e
 *     lane 0   rows 0 2 4 6, columns 0 .. 7                                   columns 2p, 2p + 8, 2p + 1, 2p + 9
 *     lane 1                 columns 8 .. 15
 *     lane 2   rows 1 3 5 7, columns 0 .. 7                                   lane l stores words 4 l .. 4 l + 3, and
 *     lane 3                 columns 8 .. 15                                  those 16 further on: 16 bytes each
 *
 * The lanes beside trade rows, and mix their columns; the lanes two apart then trade pairs.
 *
 *     lane 0: rows 0 2, pairs 0 .. 3    ==>    rows 0 1 2 3, pairs 0 and 2
 *     lane 1: rows 4 6                         rows 4 5 6 7, pairs 0 and 2
 *     lane 2: rows 1 3                         rows 0 1 2 3, pairs 1 and 3
 *     lane 3: rows 5 7                         rows 4 5 6 7, pairs 1 and 3
 */
#ifndef WEFT_KERNELS_CUDA_MARLIN_BYTES_CUH
#define WEFT_KERNELS_CUDA_MARLIN_BYTES_CUH

extern "C" {
#include "kernels/arrange.h"
}
#include "kernels/cuda/direct.cuh"

constexpr uint32_t MARLIN_EACH = 8;                    /* rows of a tile of Marlin's that such lanes have */
constexpr uint32_t MARLIN_STEP = 2 * MARLIN_EACH;      /* rows between the groups of a thread */
static_assert(MARLIN_STEP * GROUPS == WEFT_MARLIN_ROWS, "one of Marlin's tiles high");

/* Where a thread's first group is, from the first of its quad's rows and from the first column of the tile. */
static __device__ __forceinline__ uint32_t marlin_row(void)
{
    return threadIdx.x / 2 % 2 * MARLIN_EACH;
}

static __device__ __forceinline__ uint32_t marlin_col(void)
{
    return threadIdx.x / 4 * WEFT_MARLIN_COLS + threadIdx.x % 2 * GROUP;
}

/* All lanes of a warp. */
static __device__ __forceinline__ void marlin_trade(const uint2 (&codes)[GROUPS], uint4 (&words)[2])
{
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    const uint32_t even_pair = odd ? 0x1504 : 0x5140, odd_pair = odd ? 0x3726 : 0x7362;
    uint32_t mine[2][GROUPS]; /* of pairs 0 and 1, of 2 and 3: those of rows 0 and 1, 2 and 3 of those this lane stores */
#pragma unroll
    for (uint32_t i = 0; i < GROUPS / 2; i++) {
        const uint2 kept = odd ? codes[i + 2] : codes[i], sent = odd ? codes[i] : codes[i + 2];
        const uint32_t have[2] = {kept.x, kept.y};
        const uint32_t got[2] = {__shfl_xor_sync(ALL_LANES, sent.x, 1), __shfl_xor_sync(ALL_LANES, sent.y, 1)};
#pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            const uint32_t even = __byte_perm(have[s], got[s], even_pair), other = __byte_perm(have[s], got[s], odd_pair);
            const uint32_t keep = upper ? other : even;
            const uint32_t came = __shfl_xor_sync(ALL_LANES, upper ? even : other, 2);
            mine[s][2 * i] = upper ? came : keep;
            mine[s][2 * i + 1] = upper ? keep : came;
        }
    }
#pragma unroll
    for (uint32_t s = 0; s < 2; s++)
        words[s] = make_uint4(mine[s][0], mine[s][1], mine[s][2], mine[s][3]);
}

/* Store what a lane has after that. `row` and `col`: of the unit, the first of its quad. */
template <bool DIGEST>
static __device__ __forceinline__ void marlin_store(const unit_t *unit, uint32_t row, uint32_t col,
                                                    const uint4 (&words)[2], weft_digest_t *sums)
{
    const uint64_t begin = weft_marlin_byte(unit->matrix_row + row, col, unit->matrix_rows) + threadIdx.x % 4 * 16;
#pragma unroll
    for (uint32_t s = 0; s < 2; s++) {
        const uint64_t at = begin + 64 * s;
        uint32_t *to = (uint32_t *)(unit->out + at);
        const uint4 w = words[s];
        if (unit->flags & UNIT_ALIGNED)
            weft_store16(to, w);
        else
            to[0] = w.x, to[1] = w.y, to[2] = w.z, to[3] = w.w;
        if (DIGEST) {
            const uint32_t index = unit->word + (uint32_t)(at / WEFT_DIGEST_WORD_BYTES);
            weft_digest_add(w.x | (uint64_t)w.y << 32, index, sums);
            weft_digest_add(w.z | (uint64_t)w.w << 32, index + 1, sums);
        }
    }
}

/* A scale of the unit, for one of its rows, of `groups` in a row. */
static __device__ __forceinline__ void marlin_store_scale(const unit_t *unit, uint32_t row, uint32_t group,
                                                          uint32_t groups, float scale)
{
    const uint64_t index =
        weft_arrange_index(WEFT_ARRANGE_MARLIN, unit->matrix_row + row, group, unit->matrix_rows, groups);
    ((uint16_t *)unit->scale)[index] = weft_marlin_scale((weft_dtype_t)unit->out_dtype, scale);
}

#endif
