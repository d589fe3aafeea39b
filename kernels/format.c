#include "kernels/format.h"

static const weft_format_t formats[WEFT_KERNEL_COUNT] = {
    [WEFT_KERNEL_CAST] = {.codes = 1},
    [WEFT_KERNEL_FP8_BLOCK] = {1, WEFT_DTYPE_F32, 128, 128, false},
    [WEFT_KERNEL_FP8_CHANNEL] = {1, WEFT_DTYPE_F32, 1, WEFT_WHOLE, false},
    [WEFT_KERNEL_INT8_CHANNEL] = {1, WEFT_DTYPE_F32, 1, WEFT_WHOLE, false},
    [WEFT_KERNEL_MXFP8] = {1, WEFT_DTYPE_U8, 1, 32, true},
    [WEFT_KERNEL_MXFP4] = {2, WEFT_DTYPE_U8, 1, 32, true},
    [WEFT_KERNEL_INT4_GROUP_32] = {8, WEFT_DTYPE_BF16, 1, 32, true},
    [WEFT_KERNEL_INT4_GROUP_64] = {8, WEFT_DTYPE_BF16, 1, 64, true},
    [WEFT_KERNEL_INT4_GROUP_128] = {8, WEFT_DTYPE_BF16, 1, 128, true},
    [WEFT_KERNEL_FP8_TENSOR] = {1, WEFT_DTYPE_F32, WEFT_WHOLE, WEFT_WHOLE, false},
    [WEFT_KERNEL_NVFP4] = {2, WEFT_DTYPE_F8_E4M3, 1, 16, true},
};

const weft_format_t *weft_kernel_format(weft_kernel_id_t kernel)
{
    return &formats[kernel];
}

size_t weft_format_row_bytes(const weft_format_t *format, weft_dtype_t dtype, uint64_t cols)
{
    return (size_t)(cols / format->codes) * weft_dtype_bytes(dtype);
}

static uint64_t count(uint64_t extent, uint32_t each)
{
    return each == WEFT_WHOLE ? 1 : (extent + each - 1) / each;
}

void weft_format_scales(const weft_format_t *format, uint64_t rows, uint64_t cols, uint64_t extent[2])
{
    bool none = format->scale_rows == 0;
    extent[0] = none ? 0 : count(rows, format->scale_rows);
    extent[1] = none ? 0 : count(cols, format->scale_cols);
}

size_t weft_format_scale_offset(const weft_format_t *format, uint64_t row, uint64_t cols)
{
    if (format->scale_rows == 0 || format->scale_rows == WEFT_WHOLE)
        return 0;
    return (size_t)(row / format->scale_rows * count(cols, format->scale_cols)) *
           weft_dtype_bytes(format->scale_dtype);
}
