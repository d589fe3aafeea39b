/* How a matrix lies in memory: row-major as docs/formats.md shapes it, or as an engine's kernels want it.
 *
 *     plain      scales [rows, cols] and codes, row-major
 *     padded     fp8-block: the same, cols rounded up to a multiple of 4 (cuBLASLt)
 *     deepgemm   fp8-block in powers of two: the exponent byte of a block for each of its rows, four blocks along K in an
 *                int32, those of one row apart: [ceil(blocks / 4), rows rounded up to 4] (DeepGEMM on SM100)
 *     128x4      mxfp8, mxfp4, nvfp4: pieces of 128 rows x 4 scales, 512 bytes each, in which 32 rows interleave
 *                (cuBLASLt and CUTLASS on SM100)
 *     marlin     int4-group, int8-channel, fp8-block, fp8-channel, fp8-tensor: codes and scales in tiles of 16 columns x
 *                64 rows, in the order in which tensor cores take them (Marlin)
 *
 *     128x4, a piece:   row 0: 0 1 2 3 | row 32: 0 1 2 3 | row 64 | row 96 | row 1: 0 1 2 3 | row 33 | ...
 *
 *     marlin, a tile: of 4-bit codes 128 words, word 16 r + 4 p + w of these eight elements, the first lowest
 *     (n = 16 w + r)
 *
 *         row n    row n    row n+8  row n+8  row n      row n      row n+8    row n+8
 *         col 2p   col 2p+8 col 2p   col 2p+8 col 2p+1   col 2p+9   col 2p+1   col 2p+9
 *
 *     of 8-bit codes 256 words, word 32 r + 8 p + e of these four (row n = 8 e + r)
 *
 *         col 2p   col 2p+8 col 2p+1 col 2p+9
 *
 *     tiles of the same columns lie side by side. Scales are bf16, transposed, one for every row: 64 rows at a time (of a
 *     matrix with one scale a row, 32) in the order in which a thread has them. Integers of 8 bits are stored as the
 *     value and 128; scales of fp8 are times 2^120
 *
 * Padding is zero. It is written once; units write no padding, or zeros (marlin, in a tile that they end in).
 */
#ifndef WEFT_KERNELS_ARRANGE_H
#define WEFT_KERNELS_ARRANGE_H

#include "kernels/arith.h"
#include "kernels/format.h"

/* Rows and columns of a tile of marlin. */
#define WEFT_MARLIN_ROWS 64u
#define WEFT_MARLIN_COLS 16u

#define WEFT_MARLIN_BIAS 0x80 /* of an integer of 8 bits: what turns it into the value and 128 */
#define WEFT_MARLIN_FP8  0x1p120f

/* Where marlin has the code of an element of a matrix of `rows` rows: four bits of a word. */
typedef struct weft_marlin_place {
    uint64_t word;
    uint32_t shift;
} weft_marlin_place_t;

WEFT_HD weft_marlin_place_t weft_marlin_code(uint32_t row, uint32_t col, uint32_t rows)
{
    const uint64_t tile = (uint64_t)(col / WEFT_MARLIN_COLS) * (rows / WEFT_MARLIN_ROWS) + row / WEFT_MARLIN_ROWS;
    const uint32_t warp = row % 64 / 16, eight = row % 16 / 8, pair = col % 8 / 2;
    const weft_marlin_place_t place = {tile * 128 + row % 8 * 16 + pair * 4 + warp,
                                       4 * (col % 2 * 4 + eight * 2 + col % 16 / 8)};
    return place;
}

/* The same of codes of 8 bits: a byte. */
WEFT_HD uint64_t weft_marlin_byte(uint32_t row, uint32_t col, uint32_t rows)
{
    const uint64_t tile = (uint64_t)(col / WEFT_MARLIN_COLS) * (rows / WEFT_MARLIN_ROWS) + row / WEFT_MARLIN_ROWS;
    return tile * 1024 + row % 8 * 128 + col % 8 / 2 * 32 + row % 64 / 8 * 4 + col % 2 * 2 + col % 16 / 8;
}

/* What marlin stores for the fp32 scale of codes of 8 bits. Its kernels take the exponent of an e4m3 code for one of bf16,
 * and leave it to the scale to make up for that: 2^(127 - 7). Exact, but for Inf where `rounded` is 256 or more. */
WEFT_HD uint16_t weft_marlin_scale(weft_dtype_t codes, float scale)
{
    const uint16_t rounded = weft_bf16_from_f32(scale);
    if (codes == WEFT_DTYPE_I8)
        return rounded;
    return weft_bf16_from_f32(weft_mul(weft_f32_from_bf16(rounded), WEFT_MARLIN_FP8));
}

/* A scale's index among those of its matrix, for arrangements other than plain ones. Of 128x4 and marlin `row` and
 * `cols` are of scales; of deepgemm `row` and `rows` of elements, and the index is of a byte. */
WEFT_HD uint64_t weft_arrange_index(weft_arrange_t arrange, uint32_t row, uint32_t col, uint32_t rows, uint32_t cols)
{
    if (arrange == WEFT_ARRANGE_DEEPGEMM)
        return ((uint64_t)(col / 4) * ((rows + 3) / 4 * 4) + row) * 4 + col % 4;
    if (arrange == WEFT_ARRANGE_MARLIN) {
        const uint32_t by_64 = row / 64 * 64 + row % 8 * 8 + row % 64 / 8;
        const uint32_t by_32 = row / 32 * 32 + row % 8 / 2 * 8 + row % 32 / 8 * 2 + row % 2;
        return (uint64_t)col * rows + (cols > 1 ? by_64 : by_32);
    }
    const uint64_t piece = (uint64_t)(row / 128) * ((cols + 3) / 4) + col / 4;
    return piece * 512 + row % 32 * 16 + row % 128 / 32 * 4 + col % 4;
}

/* "plain", "padded", "deepgemm", "128x4", "marlin". */
const char *weft_arrange_name(weft_arrange_t arrange);

/* Whether matrices of a kernel and a profile can lie so. */
bool weft_arrange_takes(weft_arrange_t arrange, weft_kernel_id_t kernel, weft_profile_t profile);

/* Whether this unit can: of marlin it begins with a tile, of a matrix of whole ones. */
bool weft_arrange_takes_unit(weft_kernel_id_t kernel, const weft_quantize_unit_t *unit);

/* Rows and columns of a matrix with its padding, where its codes have some: of marlin at least 64 of each, and 128 of one,
 * whichever makes fewer elements. */
void weft_arrange_extent(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols,
                         uint64_t extent[2]);

/* Rows, columns and type of the scales of a rows x cols matrix. */
weft_dtype_t weft_arrange_scales(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols,
                                 uint64_t extent[2]);

/* Whether that is one for the whole matrix, which one unit writes. */
bool weft_arrange_one_scale(weft_arrange_t arrange, const weft_format_t *format);

/* Whether there is padding among its scales, and among its codes. */
bool weft_arrange_pads_scales(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols);
bool weft_arrange_pads_codes(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols);

/* Whether the codes, too, lie in an order of their own: a unit's are then not one run. */
bool weft_arrange_moves_codes(weft_arrange_t arrange);

/* Rows, columns and type of the items that hold the codes of a rows x cols matrix, which a kernel stores as `dtype`. */
weft_dtype_t weft_arrange_codes(weft_arrange_t arrange, weft_kernel_id_t kernel, weft_dtype_t dtype, uint64_t rows,
                                uint64_t cols, uint64_t extent[2]);

#endif
