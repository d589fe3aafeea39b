/* Bits to floats. Each loop is branch-free, so that it vectorizes. */
#include <string.h>

#include "launch/decoder/clones.h"
#include "launch/decoder/weights.h"

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float float_of_bf16(uint16_t code)
{
    return float_of_bits((uint32_t)code << 16);
}

/* Exponent and mantissa move to the float's place and the exponent is rebiased (15 -> 127). A subnormal has
 * no hidden 1: it is read as 2^-14 * (1 + m/1024), and 2^-14 is taken off again, which is exact. */
static inline float float_of_fp16(uint16_t code)
{
    uint32_t magnitude = (uint32_t)(code & 0x7FFF) << 13;
    uint32_t sign = (uint32_t)(code & 0x8000) << 16;
    float normal = float_of_bits(magnitude + (112u << 23));
    float subnormal = float_of_bits(magnitude + (113u << 23)) - 0x1p-14f;
    float special = float_of_bits(magnitude | 0x7F800000u);
    float value = magnitude < (1u << 23) ? subnormal : magnitude >= (31u << 23) ? special : normal;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return float_of_bits(bits | sign);
}

/* The same for E4M3 (bias 7); 0x7F is NaN and there is no Inf. */
static inline float float_of_e4m3(uint8_t code)
{
    uint32_t magnitude = (uint32_t)(code & 0x7F) << 20;
    uint32_t sign = (uint32_t)(code & 0x80) << 24;
    float normal = float_of_bits(magnitude + (120u << 23));
    float subnormal = float_of_bits(magnitude + (121u << 23)) - 0x1p-6f;
    float nan = float_of_bits(0x7FC00000u);
    float value = magnitude < (1u << 23) ? subnormal : magnitude == (0x7Fu << 20) ? nan : normal;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return float_of_bits(bits | sign);
}

DECODER_VECTOR_CLONES
static void run_of_bf16(const uint16_t *restrict codes, uint32_t count, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = float_of_bf16(codes[i]);
}

DECODER_VECTOR_CLONES
static void run_of_fp16(const uint16_t *restrict codes, uint32_t count, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = float_of_fp16(codes[i]);
}

DECODER_VECTOR_CLONES
static void run_of_e4m3(const uint8_t *restrict codes, uint32_t count, float scale, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = float_of_e4m3(codes[i]) * scale;
}

/* A run of one row meets a new scale at every multiple of 128 columns. */
static void row_of_blocks(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols,
                          float *out)
{
    const uint8_t *codes = (const uint8_t *)matrix->data + (size_t)row * matrix->cols;
    uint32_t grid_cols = (matrix->cols + DECODER_BLOCK - 1) / DECODER_BLOCK;
    const float *scales = matrix->scale + (size_t)(row / DECODER_BLOCK) * grid_cols;
    for (uint32_t end = col + cols; col < end;) {
        uint32_t count = DECODER_BLOCK - col % DECODER_BLOCK;
        if (count > end - col)
            count = end - col;
        run_of_e4m3(codes + col, count, scales[col / DECODER_BLOCK], out);
        out += count;
        col += count;
    }
}

void decoder_dequantize(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols, float *out)
{
    size_t first = (size_t)row * matrix->cols + col;
    if (matrix->dtype == WEFT_DTYPE_BF16)
        run_of_bf16((const uint16_t *)matrix->data + first, cols, out);
    else if (matrix->dtype == WEFT_DTYPE_F16)
        run_of_fp16((const uint16_t *)matrix->data + first, cols, out);
    else if (matrix->scaling == DECODER_SCALING_CHANNEL)
        run_of_e4m3((const uint8_t *)matrix->data + first, cols, matrix->scale[row], out);
    else
        row_of_blocks(matrix, row, col, cols, out);
}
