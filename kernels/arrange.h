/* How a matrix lies in memory: row-major as docs/formats.md shapes it, or as an engine's kernels want it.
 *
 *     plain      scales [rows, cols] and codes, row-major
 *     padded     fp8-block: the same, cols rounded up to a multiple of 4 (cuBLASLt)
 *     deepgemm   fp8-block in powers of two: the exponent byte of a block for each of its rows, four blocks along K in an
 *                int32, those of one row apart: [ceil(blocks / 4), rows rounded up to 4] (DeepGEMM on SM100)
 *     128x4      mxfp8, mxfp4, nvfp4: pieces of 128 rows x 4 scales, 512 bytes each, in which 32 rows interleave
 *                (cuBLASLt and CUTLASS on SM100)
 *     marlin     int4-group: codes and scales in tiles of 16 columns x 64 rows, in the order in which tensor cores take
 *                them (Marlin)
 *
 *     128x4, a piece:   row 0: 0 1 2 3 | row 32: 0 1 2 3 | row 64 | row 96 | row 1: 0 1 2 3 | row 33 | ...
 *
 *     marlin, a tile: 128 words, word 16 r + 4 p + w of these eight elements, the first lowest (n = 16 w + r)
 *
 *         row n    row n    row n+8  row n+8  row n      row n      row n+8    row n+8
 *         col 2p   col 2p+8 col 2p   col 2p+8 col 2p+1   col 2p+9   col 2p+1   col 2p+9
 *
 *     tiles of the same columns lie side by side; scales are transposed, 64 rows of them at a time (of a matrix with one
 *     scale a row, 32) in the order in which a thread has them
 *
 * Padding is zero, and written once: no unit writes it.
 */
#ifndef WEFT_KERNELS_ARRANGE_H
#define WEFT_KERNELS_ARRANGE_H

#include "kernels/arith.h"
#include "kernels/format.h"

/* Rows and columns of a tile of marlin. */
#define WEFT_MARLIN_ROWS 64u
#define WEFT_MARLIN_COLS 16u

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

/* Whether this unit can: of marlin it is whole tiles. */
bool weft_arrange_takes_unit(weft_kernel_id_t kernel, const weft_quantize_unit_t *unit);

/* Rows, columns and type of the scales of a rows x cols matrix. */
weft_dtype_t weft_arrange_scales(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols,
                                 uint64_t extent[2]);

/* Whether there is padding among them. */
bool weft_arrange_pads(weft_arrange_t arrange);

/* Whether the codes, too, lie in an order of their own: a unit's are then not one run. */
bool weft_arrange_moves_codes(weft_arrange_t arrange);

/* Rows and columns of the codes of a rows x cols matrix, in items of the format's dtype. */
void weft_arrange_codes(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols,
                        uint64_t extent[2]);

#endif
