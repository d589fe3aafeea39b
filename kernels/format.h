/* How a kernel stores what it makes: how many codes share an item of the output, and what a scale is for.
 *
 *     mxfp4, out U8:     [k1|k0] [k3|k2] ...        codes 2
 *     int4,  out I32:    [k7|k6|k5|k4|k3|k2|k1|k0]  codes 8
 *
 *     scale_rows x scale_cols      fp8-block 128 x 128    mxfp4 1 x 32    fp8-channel 1 x WHOLE
 */
#ifndef WEFT_KERNELS_FORMAT_H
#define WEFT_KERNELS_FORMAT_H

#include "kernels/kernels.h"

#define WEFT_WHOLE UINT32_MAX /* all rows, or all columns, of the whole tensor */

typedef struct weft_format {
    uint32_t codes; /* side by side in a row, that one item of the output's dtype holds */
    weft_dtype_t scale_dtype;
    uint32_t scale_rows, scale_cols; /* elements that one scale is for; 0: there are no scales */
    bool whole_groups;               /* columns must be a multiple of scale_cols */
} weft_format_t;

/* The format of a kernel. */
const weft_format_t *weft_kernel_format(weft_kernel_id_t kernel);

/* Bytes of `cols` codes of one row, in items of `dtype`. */
size_t weft_format_row_bytes(const weft_format_t *format, weft_dtype_t dtype, uint64_t cols);

/* Rows and columns of the scales of a rows x cols matrix. */
void weft_format_scales(const weft_format_t *format, uint64_t rows, uint64_t cols, uint64_t extent[2]);

/* Bytes from the first scale of a matrix of `cols` columns to that of its row `row`, which starts one. */
size_t weft_format_scale_offset(const weft_format_t *format, uint64_t row, uint64_t cols);

#endif
