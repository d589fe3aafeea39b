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
    return unit->rows % WEFT_MARLIN_ROWS == 0 && unit->matrix_row % WEFT_MARLIN_ROWS == 0 &&
           unit->matrix_rows % WEFT_MARLIN_ROWS == 0 && unit->cols % WEFT_MARLIN_COLS == 0;
}

static uint64_t round_up(uint64_t extent, uint64_t multiple)
{
    return (extent + multiple - 1) / multiple * multiple;
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
    case WEFT_ARRANGE_MARLIN:
        extent[0] = extent[1];
        extent[1] = rows;
        return WEFT_DTYPE_BF16;
    default:
        return format->scale_dtype;
    }
}

bool weft_arrange_one_scale(weft_arrange_t arrange, const weft_format_t *format)
{
    return format->scale_rows == WEFT_WHOLE && arrange != WEFT_ARRANGE_MARLIN;
}

bool weft_arrange_pads(weft_arrange_t arrange)
{
    return arrange != WEFT_ARRANGE_PLAIN && arrange != WEFT_ARRANGE_MARLIN;
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
    extent[0] = cols / WEFT_MARLIN_COLS;
    extent[1] = rows * WEFT_MARLIN_COLS / (codes > 1 ? codes : 4);
    return WEFT_DTYPE_I32;
}
