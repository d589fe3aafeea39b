/* How weights lie in kernel format, one row a scheme, and what an element of them is worth.
 *
 *     value = code * scale                          scale = what is stored for the element's block
 *                                                   (nvfp4: times the global scale of the tensor)
 *
 *     fp8-block                                     int4-group-32, eight codes an item, the first lowest
 *     data  [rows, cols] E4M3                       data  [rows, cols/8] I32
 *     scale [ceil(rows/128), ceil(cols/128)] F32    scale [rows, cols/32] BF16
 *
 * To add a format: a row below, from which both backends take all there is to know; and if its codes or
 * scales are stored as nothing else is, a case in decoder_code or decoder_scale, and a word in
 * cuda/matrix.cuh.
 */
#ifndef WEFT_LAUNCH_DECODER_MATRIX_H
#define WEFT_LAUNCH_DECODER_MATRIX_H

#include <stdbool.h>
#include <stddef.h>

#include <weft/types.h>

#include "launch/decoder/codes.h"

#define DECODER_BLOCK 128 /* rows and columns that share a scale in fp8-block */
#define DECODER_WHOLE 0   /* all rows, or all columns */

/* X(id, scheme, what the weight's name adds, its dtype, bits of a code, what the scale's name adds, its
 * dtype, rows and columns that share one, what the global scale's name adds) */
#define DECODER_FORMATS(X)                                                                                   \
    X(BF16, "bf16", "", BF16, 16, NULL, F32, DECODER_WHOLE, DECODER_WHOLE, NULL)                             \
    X(F16, "fp16", "", F16, 16, NULL, F32, DECODER_WHOLE, DECODER_WHOLE, NULL)                               \
    X(F32, "fp32", "", F32, 32, NULL, F32, DECODER_WHOLE, DECODER_WHOLE, NULL)                               \
    X(FP8_BLOCK, "fp8-block", "", F8_E4M3, 8, "_scale_inv", F32, DECODER_BLOCK, DECODER_BLOCK, NULL)         \
    X(FP8_TENSOR, "fp8-tensor", "", F8_E4M3, 8, "_scale", F32, DECODER_WHOLE, DECODER_WHOLE, NULL)           \
    X(FP8_CHANNEL, "fp8-channel", "", F8_E4M3, 8, "_scale", F32, 1, DECODER_WHOLE, NULL)                     \
    X(INT8_CHANNEL, "int8-channel", "", I8, 8, "_scale", F32, 1, DECODER_WHOLE, NULL)                        \
    X(MXFP8, "mxfp8", "", F8_E4M3, 8, "_scale", U8, 1, 32, NULL)                                             \
    X(MXFP4, "mxfp4", "_packed", U8, 4, "_scale", U8, 1, 32, NULL)                                           \
    X(NVFP4, "nvfp4", "", U8, 4, "_scale", F8_E4M3, 1, 16, "_scale_2")                                       \
    X(INT4_GROUP_32, "int4-group-32", "_packed", I32, 4, "_scale", BF16, 1, 32, NULL)                        \
    X(INT4_GROUP_64, "int4-group-64", "_packed", I32, 4, "_scale", BF16, 1, 64, NULL)                        \
    X(INT4_GROUP_128, "int4-group-128", "_packed", I32, 4, "_scale", BF16, 1, 128, NULL)

typedef enum decoder_format_id {
#define X(id, ...) DECODER_FORMAT_##id,
    DECODER_FORMATS(X)
#undef X
        DECODER_FORMAT_COUNT
} decoder_format_id_t;

/* How scales are stored and what shares one. */
typedef struct decoder_scaling {
    bool scaled, global;
    weft_dtype_t dtype;
    uint32_t rows, cols; /* DECODER_WHOLE, or of a block */
} decoder_scaling_t;

#define DECODER_SCALING(scale_suffix, scale_dtype, rows, cols, global_suffix)                                \
    {                                                                                                        \
        (scale_suffix) != NULL, (global_suffix) != NULL, WEFT_DTYPE_##scale_dtype, rows, cols                \
    }

typedef struct decoder_format {
    const char *scheme;
    const char *suffix; /* of the weight's name */
    weft_dtype_t dtype;
    uint32_t bits;                            /* of a code; an item of `dtype` may hold several */
    const char *scale_suffix, *global_suffix; /* NULL without */
    decoder_scaling_t scaling;
} decoder_format_t;

#ifdef __cplusplus
constexpr
#endif
    static const decoder_format_t decoder_formats[DECODER_FORMAT_COUNT] = {
#define X(id, scheme, suffix, dtype, bits, scale_suffix, scale_dtype, rows, cols, global_suffix)             \
    {scheme,                                                                                                 \
     suffix,                                                                                                 \
     WEFT_DTYPE_##dtype,                                                                                     \
     bits,                                                                                                   \
     scale_suffix,                                                                                           \
     global_suffix,                                                                                          \
     DECODER_SCALING(scale_suffix, scale_dtype, rows, cols, global_suffix)},
        DECODER_FORMATS(X)
#undef X
};

/* A matrix [rows, cols], or a stack of experts with one such matrix each. A vector is a matrix of one row. */
typedef struct decoder_matrix {
    const void *data, *scale; /* scale: NULL where codes are values */
    const float *global;      /* NULL without */
    decoder_format_id_t format;
    uint32_t rows, cols;
    size_t bytes, scale_bytes; /* of one matrix of the stack */
} decoder_matrix_t;

/* Rows and columns of the scales of one matrix. */
void decoder_scale_extent(const decoder_scaling_t *scaling, uint32_t rows, uint32_t cols, uint32_t extent[2]);

/* A matrix of what is at these addresses; of a stack, the addresses of the first one's. */
decoder_matrix_t decoder_matrix(decoder_format_id_t format, uint32_t rows, uint32_t cols, const void *data,
                                const void *scale, const float *global);

/* Write columns [col, col + cols) of a row as floats, on the host. Of 4-bit codes both are even. */
void decoder_dequantize(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols,
                        float *out);

/* The matrix of one expert of a stack. */
DECODER_HD decoder_matrix_t decoder_matrix_expert(const decoder_matrix_t *stack, uint32_t expert)
{
    decoder_matrix_t one = *stack;
    one.data = (const char *)stack->data + expert * stack->bytes;
    if (stack->scale)
        one.scale = (const char *)stack->scale + expert * stack->scale_bytes;
    if (stack->global)
        one.global = stack->global + expert;
    return one;
}

/* A code of four bits, the lowest of `bits`: U8 holds E2M1, I32 holds integers. */
DECODER_HD float decoder_nibble(weft_dtype_t dtype, uint32_t bits)
{
    return dtype == WEFT_DTYPE_U8 ? decoder_float_of_e2m1(bits) : decoder_float_of_int4(bits);
}

/* Code number `index` of a run of codes, as a float. */
DECODER_HD float decoder_code(weft_dtype_t dtype, const void *codes, size_t index)
{
    switch (dtype) {
    case WEFT_DTYPE_BF16:
        return decoder_float_of_bf16(((const uint16_t *)codes)[index]);
    case WEFT_DTYPE_F16:
        return decoder_float_of_fp16(((const uint16_t *)codes)[index]);
    case WEFT_DTYPE_F32:
        return ((const float *)codes)[index];
    case WEFT_DTYPE_F8_E4M3:
        return decoder_float_of_e4m3(((const uint8_t *)codes)[index]);
    case WEFT_DTYPE_I8:
        return (float)((const int8_t *)codes)[index];
    default: /* two to a byte, also where the byte is of a little-endian I32 */
        return decoder_nibble(dtype, (uint32_t)((const uint8_t *)codes)[index / 2] >> 4 * (index % 2));
    }
}

/* What a code at (row, col) is multiplied by. `scaling` is of the matrix's format; where it is a constant, so
 * is most of this. */
DECODER_HD float decoder_scale(decoder_scaling_t scaling, const decoder_matrix_t *matrix, uint32_t row,
                               uint32_t col)
{
    size_t grid_cols = scaling.cols ? (matrix->cols + scaling.cols - 1) / scaling.cols : 1;
    size_t index =
        (scaling.rows ? row / scaling.rows : 0) * grid_cols + (scaling.cols ? col / scaling.cols : 0);
    if (!scaling.scaled)
        return 1;
    float global = scaling.global ? *matrix->global : 1;
    switch (scaling.dtype) {
    case WEFT_DTYPE_BF16:
        return decoder_float_of_bf16(((const uint16_t *)matrix->scale)[index]);
    case WEFT_DTYPE_F8_E4M3:
        return decoder_float_of_e4m3(((const uint8_t *)matrix->scale)[index]) * global;
    case WEFT_DTYPE_U8:
        return decoder_float_of_e8m0(((const uint8_t *)matrix->scale)[index]);
    default: /* F32 */
        return ((const float *)matrix->scale)[index];
    }
}

/* One element, whatever the format. */
DECODER_HD float decoder_matrix_value(const decoder_matrix_t *matrix, uint32_t row, uint32_t col)
{
    const size_t at = (size_t)row * matrix->cols + col;
    switch (matrix->format) {
#define X(id, scheme, suffix, dtype_, bits, scale_suffix, scale_dtype, rows_, cols_, global_suffix)          \
    case DECODER_FORMAT_##id: {                                                                              \
        const decoder_scaling_t scaling =                                                                    \
            DECODER_SCALING(scale_suffix, scale_dtype, rows_, cols_, global_suffix);                         \
        return decoder_code(WEFT_DTYPE_##dtype_, matrix->data, at) *                                         \
               decoder_scale(scaling, matrix, row, col);                                                     \
    }
        DECODER_FORMATS(X)
#undef X
    default:
        return 0;
    }
}

#endif
