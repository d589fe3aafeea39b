#include "kernels/arrange.h"

static const char *const names[WEFT_ARRANGE_COUNT] = {
    [WEFT_ARRANGE_PLAIN] = "plain",   [WEFT_ARRANGE_PADDED] = "padded", [WEFT_ARRANGE_DEEPGEMM] = "deepgemm",
    [WEFT_ARRANGE_SWIZZLE] = "128x4", [WEFT_ARRANGE_MARLIN] = "marlin",
};

const char *weft_arrange_name(weft_arrange_t arrange)
{
    return names[arrange];
}

bool weft_arrange_takes(weft_arrange_t arrange, weft_kernel_id_t kernel, weft_profile_t profile)
{
    switch (arrange) {
    case WEFT_ARRANGE_PLAIN:
        return true;
    case WEFT_ARRANGE_PADDED:
        return kernel == WEFT_KERNEL_FP8_BLOCK;
    case WEFT_ARRANGE_DEEPGEMM:
        return kernel == WEFT_KERNEL_FP8_BLOCK &&
               (profile == WEFT_PROFILE_POW2 || profile == WEFT_PROFILE_VLLM_POW2);
    case WEFT_ARRANGE_SWIZZLE:
        return kernel == WEFT_KERNEL_MXFP8 || kernel == WEFT_KERNEL_MXFP4 || kernel == WEFT_KERNEL_NVFP4;
    case WEFT_ARRANGE_MARLIN:
        return (kernel >= WEFT_KERNEL_INT4_GROUP_32 && kernel <= WEFT_KERNEL_INT4_GROUP_128) ||
               kernel == WEFT_KERNEL_INT8_CHANNEL || kernel == WEFT_KERNEL_FP8_BLOCK ||
               kernel == WEFT_KERNEL_FP8_CHANNEL || kernel == WEFT_KERNEL_FP8_TENSOR;
    default:
        return false;
    }
}

bool weft_arrange_takes_unit(weft_kernel_id_t kernel, const weft_quantize_unit_t *unit)
{
    if (!weft_arrange_takes(unit->arrange, kernel, unit->profile))
        return false;
    if (unit->arrange != WEFT_ARRANGE_MARLIN)
        return true;
    return (uint64_t)unit->matrix_row + unit->rows <= unit->matrix_rows &&
           unit->matrix_row % WEFT_MARLIN_ROWS == 0 && unit->matrix_rows % WEFT_MARLIN_ROWS == 0 &&
           unit->cols % WEFT_MARLIN_COLS == 0;
}

static uint64_t round_up(uint64_t extent, uint64_t multiple)
{
    return (extent + multiple - 1) / multiple * multiple;
}

/* Columns of a scale, so far as there are several in a row. */
static uint32_t group_of(weft_kernel_id_t kernel)
{
    const uint32_t cols = weft_kernel_format(kernel)->scale_cols;
    return cols == WEFT_WHOLE ? 1 : cols;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void weft_arrange_extent(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols,
                         uint64_t extent[2])
{
    extent[0] = rows, extent[1] = cols;
    if (arrange != WEFT_ARRANGE_MARLIN)
        return;
    const uint64_t tile = WEFT_MARLIN_ROWS, group = group_of(kernel); /* one of 1, 32, 64, 128 */
    const uint64_t wide[2] = {round_up(rows, tile), round_up(cols, larger(2 * tile, group))};
    const uint64_t high[2] = {round_up(rows, 2 * tile), round_up(cols, larger(tile, group))};
    const uint64_t area = wide[0] * wide[1], other = high[0] * high[1];
    const bool is_high = other < area || (other == area && high[0] + high[1] < wide[0] + wide[1]);
    extent[0] = is_high ? high[0] : wide[0];
    extent[1] = is_high ? high[1] : wide[1];
}

weft_dtype_t weft_arrange_scales(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows,
                                 uint64_t cols, uint64_t extent[2])
{
    const weft_format_t *format = weft_kernel_format(kernel);
    weft_format_scales(format, rows, cols, extent);
    switch (arrange) {
    case WEFT_ARRANGE_PADDED:
        extent[1] = round_up(extent[1], 4);
        return format->scale_dtype;
    case WEFT_ARRANGE_DEEPGEMM:
        extent[0] = round_up(extent[1], 4) / 4;
        extent[1] = round_up(rows, 4);
        return WEFT_DTYPE_I32;
    case WEFT_ARRANGE_SWIZZLE:
        extent[0] = round_up(extent[0], 128);
        extent[1] = round_up(extent[1], 4);
        return format->scale_dtype;
    case WEFT_ARRANGE_MARLIN: {
        uint64_t whole[2], scales[2];
        weft_arrange_extent(arrange, kernel, rows, cols, whole);
        weft_format_scales(format, whole[0], whole[1], scales);
        extent[0] = scales[1];
        extent[1] = whole[0];
        return WEFT_DTYPE_BF16;
    }
    default:
        return format->scale_dtype;
    }
}

bool weft_arrange_one_scale(weft_arrange_t arrange, const weft_format_t *format)
{
    return format->scale_rows == WEFT_WHOLE && arrange != WEFT_ARRANGE_MARLIN;
}

bool weft_arrange_pads_codes(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols)
{
    uint64_t extent[2];
    weft_arrange_extent(arrange, kernel, rows, cols, extent);
    return extent[0] != rows || extent[1] != cols;
}

bool weft_arrange_pads_scales(weft_arrange_t arrange, weft_kernel_id_t kernel, uint64_t rows, uint64_t cols)
{
    if (arrange == WEFT_ARRANGE_MARLIN)
        return weft_arrange_pads_codes(arrange, kernel, rows, cols);
    return arrange != WEFT_ARRANGE_PLAIN;
}

bool weft_arrange_moves_codes(weft_arrange_t arrange)
{
    return arrange == WEFT_ARRANGE_MARLIN;
}

weft_dtype_t weft_arrange_codes(weft_arrange_t arrange, weft_kernel_id_t kernel, weft_dtype_t dtype,
                                uint64_t rows, uint64_t cols, uint64_t extent[2])
{
    const uint32_t codes = weft_kernel_format(kernel)->codes;
    extent[0] = rows;
    extent[1] = cols / codes;
    if (arrange != WEFT_ARRANGE_MARLIN)
        return dtype;
    uint64_t whole[2];
    weft_arrange_extent(arrange, kernel, rows, cols, whole);
    extent[0] = whole[1] / WEFT_MARLIN_COLS;
    extent[1] = whole[0] * WEFT_MARLIN_COLS / (codes > 1 ? codes : 4);
    return WEFT_DTYPE_I32;
}
