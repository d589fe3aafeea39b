/* Rows of codes to rows of floats. Each loop is branch-free, so that it vectorizes. */
#include "launch/decoder/clones.h"
#include "launch/decoder/matrix.h"

/* `count` codes that share a scale. */
typedef void (*run_fn)(const void *codes, uint32_t count, float scale, float *restrict out);

DECODER_VECTOR_CLONES
static void run_of_bf16(const void *codes, uint32_t count, float scale, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = decoder_float_of_bf16(((const uint16_t *)codes)[i]) * scale;
}

DECODER_VECTOR_CLONES
static void run_of_fp16(const void *codes, uint32_t count, float scale, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = decoder_float_of_fp16(((const uint16_t *)codes)[i]) * scale;
}

DECODER_VECTOR_CLONES
static void run_of_e4m3(const void *codes, uint32_t count, float scale, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = decoder_float_of_e4m3(((const uint8_t *)codes)[i]) * scale;
}

DECODER_VECTOR_CLONES
static void run_of_int8(const void *codes, uint32_t count, float scale, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = (float)((const int8_t *)codes)[i] * scale;
}

DECODER_VECTOR_CLONES
static void run_of_e2m1(const void *codes, uint32_t count, float scale, float *restrict out)
{
    for (uint32_t i = 0; i < count / 2; i++) {
        uint32_t pair = ((const uint8_t *)codes)[i];
        out[2 * i] = decoder_float_of_e2m1(pair) * scale;
        out[2 * i + 1] = decoder_float_of_e2m1(pair >> 4) * scale;
    }
}

DECODER_VECTOR_CLONES
static void run_of_int4(const void *codes, uint32_t count, float scale, float *restrict out)
{
    for (uint32_t i = 0; i < count / 2; i++) {
        uint32_t pair = ((const uint8_t *)codes)[i];
        out[2 * i] = decoder_float_of_int4(pair) * scale;
        out[2 * i + 1] = decoder_float_of_int4(pair >> 4) * scale;
    }
}

static const run_fn runs[WEFT_DTYPE_COUNT] = {
    [WEFT_DTYPE_BF16] = run_of_bf16, [WEFT_DTYPE_F16] = run_of_fp16, [WEFT_DTYPE_F8_E4M3] = run_of_e4m3,
    [WEFT_DTYPE_I8] = run_of_int8,   [WEFT_DTYPE_U8] = run_of_e2m1,  [WEFT_DTYPE_I32] = run_of_int4,
};

void decoder_dequantize(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols, float *out)
{
    const decoder_format_t *format = &decoder_formats[matrix->format];
    const uint8_t *codes = (const uint8_t *)matrix->data + (size_t)row * matrix->cols * format->bits / 8;
    uint32_t each = format->scaling.cols ? format->scaling.cols : matrix->cols;
    for (uint32_t end = col + cols; col < end;) {
        uint32_t count = each - col % each;
        if (count > end - col)
            count = end - col;
        runs[format->dtype](codes + (size_t)col * format->bits / 8, count,
                            decoder_scale(format->scaling, matrix, row, col), out);
        out += count;
        col += count;
    }
}
