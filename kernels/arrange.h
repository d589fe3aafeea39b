/* How scales lie in memory: row-major as docs/formats.md shapes them, or as an engine's kernels want them.
 *
 *     plain      scales [rows, cols], row-major
 *     padded     fp8-block: the same, cols rounded up to a multiple of 4 (cuBLASLt)
 *     deepgemm   fp8-block in powers of two: the exponent byte of a block for each of its rows, four blocks along K in an
 *                int32, those of one row apart: [ceil(blocks / 4), rows rounded up to 4] (DeepGEMM on SM100)
 *     128x4      mxfp8, mxfp4, nvfp4: pieces of 128 rows x 4 scales, 512 bytes each, in which 32 rows interleave
 *                (cuBLASLt and CUTLASS on SM100)
 *
 *     128x4, a piece:   row 0: 0 1 2 3 | row 32: 0 1 2 3 | row 64 | row 96 | row 1: 0 1 2 3 | row 33 | ...
 *
 * Padding is zero, and written once: no unit writes it.
 */
#ifndef WEFT_KERNELS_ARRANGE_H
#define WEFT_KERNELS_ARRANGE_H

#include "kernels/arith.h"
#include "kernels/format.h"

/* A scale's index among those of its matrix, for arrangements other than plain ones. Of 128x4 `row` and `cols` are of
 * scales; of deepgemm `row` and `rows` of elements, and the index is of a byte. */
WEFT_HD uint64_t weft_arrange_index(weft_arrange_t arrange, uint32_t row, uint32_t col, uint32_t rows, uint32_t cols)
{
    if (arrange == WEFT_ARRANGE_DEEPGEMM)
        return ((uint64_t)(col / 4) * ((rows + 3) / 4 * 4) + row) * 4 + col % 4;
    const uint64_t piece = (uint64_t)(row / 128) * ((cols + 3) / 4) + col / 4;
    return piece * 512 + row % 32 * 16 + row % 128 / 32 * 4 + col % 4;
}

/* "plain", "padded", "deepgemm", "128x4". */
const char *weft_arrange_name(weft_arrange_t arrange);

/* Whether scales of a kernel and a profile can lie so. */
bool weft_arrange_takes(weft_arrange_t arrange, weft_kernel_id_t kernel, weft_profile_t profile);

/* Rows, columns and type of the scales of a rows x cols matrix. */
weft_dtype_t weft_arrange_scales(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols,
                                 uint64_t extent[2]);

/* Whether there is padding among them. */
bool weft_arrange_pads(weft_arrange_t arrange);

#endif
