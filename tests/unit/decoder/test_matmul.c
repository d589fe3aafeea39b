/* Bits to floats over every code, and products of ragged sizes against sums in double. */
#include "launch/decoder/matmul.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/decoder/vector.h"

/* Sign, exponent and mantissa by the book; `special` is the exponent field of Inf and NaN, or out of reach.
 */
static float by_the_book(uint32_t code, int mantissa_bits, int exponent_bits, int special)
{
    int bias = (1 << (exponent_bits - 1)) - 1, one = 1 << mantissa_bits;
    int exponent = (int)(code >> mantissa_bits) & ((1 << exponent_bits) - 1),
        mantissa = (int)code & (one - 1);
    float sign = code >> (mantissa_bits + exponent_bits) ? -1.0f : 1.0f;
    if (exponent == special)
        return mantissa ? NAN : copysignf(INFINITY, sign);
    if (exponent == 0)
        return sign * ldexpf((float)mantissa, 1 - bias - mantissa_bits);
    return sign * ldexpf((float)(one + mantissa), exponent - bias - mantissa_bits);
}

static void assert_same(float found, float expected)
{
    if (isnan(expected))
        assert_true(isnan(found));
    else
        assert_memory_equal(&found, &expected, sizeof found);
}

static void every_code_is_dequantized(void **state)
{
    static uint16_t codes[65536];
    static float out[65536];
    uint8_t bytes[256];
    const float scale = 3;
    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        codes[i] = (uint16_t)i;
    for (uint32_t i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    decoder_matrix_t bf16 = decoder_matrix(DECODER_FORMAT_BF16, 1, 65536, codes, NULL, NULL);
    decoder_dequantize(&bf16, 0, 0, 65536, out);
    for (uint32_t i = 0; i < 65536; i++)
        assert_same(out[i], by_the_book(i, 7, 8, 255));
    decoder_matrix_t fp16 = decoder_matrix(DECODER_FORMAT_F16, 1, 65536, codes, NULL, NULL);
    decoder_dequantize(&fp16, 0, 0, 65536, out);
    for (uint32_t i = 0; i < 65536; i++)
        assert_same(out[i], by_the_book(i, 10, 5, 31));
    static const float values[] = {0, -0.0f, 1.5f, 0x1p-149f, -0x1.fffffep127f};
    decoder_matrix_t fp32 = decoder_matrix(DECODER_FORMAT_F32, 1, 5, values, NULL, NULL);
    for (uint32_t i = 0; i < 5; i++)
        assert_same(decoder_matrix_value(&fp32, 0, i), values[i]);
    decoder_matrix_t fp8 = decoder_matrix(DECODER_FORMAT_FP8_CHANNEL, 1, 256, bytes, &scale, NULL);
    decoder_dequantize(&fp8, 0, 0, 256, out);
    for (uint32_t i = 0; i < 256; i++)
        assert_same(out[i], (i & 0x7F) == 0x7F ? NAN : by_the_book(i, 3, 4, 99) * scale);
    decoder_matrix_t int8 = decoder_matrix(DECODER_FORMAT_INT8_CHANNEL, 1, 256, bytes, &scale, NULL);
    decoder_dequantize(&int8, 0, 0, 256, out);
    for (uint32_t i = 0; i < 256; i++)
        assert_same(out[i], (i < 128 ? (float)i : (float)i - 256) * scale);
}

/* Each byte holds two codes, the first one low. */
static void every_pair_of_nibbles_is_dequantized(void **state)
{
    uint8_t pairs[256];
    uint16_t threes[16];
    float out[512];
    (void)state;
    for (uint32_t i = 0; i < 256; i++)
        pairs[i] = (uint8_t)i;
    for (uint32_t i = 0; i < 16; i++)
        threes[i] = 0x4040; /* bf16 3.0 */
    decoder_matrix_t int4 = decoder_matrix(DECODER_FORMAT_INT4_GROUP_32, 1, 512, pairs, threes, NULL);
    decoder_dequantize(&int4, 0, 0, 512, out);
    for (uint32_t i = 0; i < 512; i++)
        assert_same(out[i], ((float)(i % 2 ? i / 2 / 16 : i / 2 % 16) - 8) * 3);
    uint8_t scales[32];
    float global = 0.75f;
    memset(scales, 0x44, sizeof scales); /* e4m3 3.0 */
    decoder_matrix_t nvfp4 = decoder_matrix(DECODER_FORMAT_NVFP4, 1, 512, pairs, scales, &global);
    decoder_dequantize(&nvfp4, 0, 0, 512, out);
    for (uint32_t i = 0; i < 512; i++)
        assert_same(out[i], by_the_book(i % 2 ? i / 2 / 16 : i / 2 % 16, 1, 2, 99) * 2.25f);
}

/* 2^-127, a subnormal, to 2^127, and NaN. */
static void every_power_of_two_is_a_scale(void **state)
{
    static uint8_t codes[256 * 32], exponents[256];
    static float out[256 * 32];
    (void)state;
    memset(codes, 0x38, sizeof codes); /* 1.0 */
    for (uint32_t i = 0; i < 256; i++)
        exponents[i] = (uint8_t)i;
    decoder_matrix_t matrix = decoder_matrix(DECODER_FORMAT_MXFP8, 1, sizeof codes, codes, exponents, NULL);
    decoder_dequantize(&matrix, 0, 0, sizeof codes, out);
    for (uint32_t i = 0; i < sizeof codes; i++)
        assert_same(out[i], i / 32 == 255 ? NAN : ldexpf(1, (int)(i / 32) - 127));
}

static float random_float(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (1 << 23) - 1;
}

/* Two experts of random bytes in one format; the data is to be freed. */
static decoder_matrix_t random_stack(decoder_format_id_t id, uint32_t rows, uint32_t cols)
{
    static const float globals[2] = {0.5f, 3};
    uint32_t seed = id + 1;
    const decoder_format_t *format = &decoder_formats[id];
    decoder_matrix_t stack = decoder_matrix(id, rows, cols, NULL, NULL, NULL);
    uint8_t *data = malloc(2 * stack.bytes), *scale = malloc(2 * stack.scale_bytes);
    assert_true(data && scale);
    for (size_t i = 0; i < 2 * stack.bytes; i++)
        data[i] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
    for (size_t i = 0; i < 2 * stack.scale_bytes; i++)
        scale[i] = (uint8_t)(0x30 + i % 7);
    for (size_t i = 0; format->scaling.dtype == WEFT_DTYPE_F32 && i < 2 * stack.scale_bytes / 4; i++)
        ((float *)scale)[i] = (float)(i % 13) + 1;
    return decoder_matrix(id, rows, cols, data, scale, format->scaling.global ? globals : NULL);
}

/* 130 rows, 384 columns: a last row of blocks with 2 rows; and rows by pieces that begin within groups and
 * end there. */
static void rows_are_made_of_elements(void **state)
{
    enum { ROWS = 130, COLS = 384 };
    float out[COLS], plain[COLS];
    (void)state;
    for (uint32_t id = 0; id < DECODER_FORMAT_COUNT; id++) {
        decoder_matrix_t stack = random_stack((decoder_format_id_t)id, ROWS, COLS);
        decoder_matrix_t matrix = decoder_matrix_expert(&stack, 1);
        for (uint32_t row = 0; row < ROWS; row += 43)
            for (uint32_t col = 0; col < COLS; col += 38) {
                for (uint32_t i = col; i < COLS; i++)
                    plain[i] = decoder_matrix_value(&matrix, row, i);
                decoder_dequantize(&matrix, row, col, COLS - col, out + col);
                for (uint32_t i = col; i < COLS; i++)
                    assert_same(out[i], plain[i]);
                decoder_dequantize(&matrix, row, col, 2, out + col);
                assert_same(out[col + 1], plain[col + 1]);
            }
        free((void *)stack.data), free((void *)stack.scale);
    }
}

/* 130 x 300: the last block of each row has 44 columns, the last row of blocks 2 rows. */
static void each_block_has_its_scale(void **state)
{
    enum { ROWS = 130, COLS = 300 };
    static uint8_t codes[ROWS * COLS];
    static const float scales[2 * 3] = {1, 2, 3, 4, 5, 6};
    float out[COLS];
    (void)state;
    memset(codes, 0x38, sizeof codes); /* 1.0 */
    decoder_matrix_t matrix = decoder_matrix(DECODER_FORMAT_FP8_BLOCK, ROWS, COLS, codes, scales, NULL);
    for (uint32_t row = 0; row < ROWS; row += 43)
        for (uint32_t col = 0; col < COLS; col += 37) {
            decoder_dequantize(&matrix, row, col, COLS - col, out);
            for (uint32_t i = col; i < COLS; i++)
                assert_true(out[i - col] == scales[row / 128 * 3 + i / 128]);
        }
}

static void each_row_and_each_group_has_its_scale(void **state)
{
    enum { ROWS = 3, COLS = 128 };
    static uint8_t codes[ROWS * COLS], exponents[ROWS * COLS / 32];
    static const float whole = 5, rows[ROWS] = {1, 2, 3};
    float out[COLS];
    (void)state;
    memset(codes, 0x38, sizeof codes); /* 1.0 */
    for (uint32_t i = 0; i < sizeof exponents; i++)
        exponents[i] = (uint8_t)(120 + i);
    decoder_matrix_t tensor = decoder_matrix(DECODER_FORMAT_FP8_TENSOR, ROWS, COLS, codes, &whole, NULL);
    decoder_matrix_t channel = decoder_matrix(DECODER_FORMAT_FP8_CHANNEL, ROWS, COLS, codes, rows, NULL);
    decoder_matrix_t group = decoder_matrix(DECODER_FORMAT_MXFP8, ROWS, COLS, codes, exponents, NULL);
    for (uint32_t row = 0; row < ROWS; row++) {
        decoder_dequantize(&tensor, row, 0, COLS, out);
        assert_true(out[0] == whole && out[COLS - 1] == whole);
        decoder_dequantize(&channel, row, 0, COLS, out);
        assert_true(out[0] == rows[row] && out[COLS - 1] == rows[row]);
        decoder_dequantize(&group, row, 0, COLS, out);
        for (uint32_t i = 0; i < COLS; i++)
            assert_true(out[i] == ldexpf(1, (int)(row * 4 + i / 32) - 7));
    }
}

static void an_expert_is_a_slice_of_its_stack(void **state)
{
    static uint8_t codes[3 * 130 * 32], scales[3 * 130 * 4];
    static const float globals[3];
    (void)state;
    decoder_matrix_t stack = decoder_matrix(DECODER_FORMAT_FP8_BLOCK, 130, 32, codes, scales, NULL);
    decoder_matrix_t expert = decoder_matrix_expert(&stack, 2);
    assert_ptr_equal(expert.data, codes + 2 * 130 * 32);
    assert_ptr_equal(expert.scale, scales + 2 * 2 * 4);
    stack = decoder_matrix(DECODER_FORMAT_FP8_CHANNEL, 130, 32, codes, scales, NULL);
    assert_ptr_equal(decoder_matrix_expert(&stack, 1).scale, scales + 130 * 4);
    stack = decoder_matrix(DECODER_FORMAT_FP8_TENSOR, 130, 32, codes, scales, NULL);
    assert_ptr_equal(decoder_matrix_expert(&stack, 2).scale, scales + 2 * 4);
    stack = decoder_matrix(DECODER_FORMAT_NVFP4, 130, 32, codes, scales, globals);
    expert = decoder_matrix_expert(&stack, 2);
    assert_ptr_equal(expert.data, codes + 2 * 130 * 16);
    assert_ptr_equal(expert.scale, scales + 2 * 130 * 2);
    assert_ptr_equal(expert.global, globals + 2);
    stack = decoder_matrix(DECODER_FORMAT_BF16, 10, 5, codes, NULL, NULL);
    assert_ptr_equal(decoder_matrix_expert(&stack, 3).data, codes + 3 * 10 * 5 * 2);
    assert_null(decoder_matrix_expert(&stack, 3).scale);
}

static void check_product(uint32_t count, uint32_t rows, uint32_t cols, uint32_t seed)
{
    uint16_t *codes = calloc((size_t)rows * cols, sizeof *codes);
    float *x = calloc((size_t)count * cols, sizeof *x), *y = calloc((size_t)count * rows, sizeof *y);
    float *w = calloc(cols, sizeof *w);
    assert_true(codes && x && y && w);
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float value = random_float(&seed);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        codes[i] = (uint16_t)(bits >> 16);
    }
    for (size_t i = 0; i < (size_t)count * cols; i++)
        x[i] = random_float(&seed);
    decoder_matrix_t matrix = decoder_matrix(DECODER_FORMAT_BF16, rows, cols, codes, NULL, NULL);
    decoder_matmul(x, count, &matrix, y);
    for (uint32_t n = 0; n < rows; n++) {
        decoder_dequantize(&matrix, n, 0, cols, w);
        for (uint32_t t = 0; t < count; t++) {
            double sum = 0;
            for (uint32_t k = 0; k < cols; k++)
                sum += (double)x[(size_t)t * cols + k] * w[k];
            assert_true(fabs(y[(size_t)t * rows + n] - sum) < 1e-4);
        }
    }
    free(codes), free(x), free(y), free(w);
}

static void products_of_ragged_sizes_are_right(void **state)
{
    static const uint32_t counts[] = {1, 2, 7, 8, 9, 33}, rows[] = {1, 31, 33, 70},
                          cols[] = {1, 15, 17, 257, 1100};
    (void)state;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (size_t j = 0; j < sizeof rows / sizeof rows[0]; j++)
            for (size_t k = 0; k < sizeof cols / sizeof cols[0]; k++)
                check_product(counts[i], rows[j], cols[k], (uint32_t)(i * 100 + j * 10 + k));
}

static void weighted_sums_of_ragged_widths_are_right(void **state)
{
    float rows[3 * 131], weights[3] = {0.5f, -2, 1}, out[131];
    uint32_t seed = 5;
    (void)state;
    for (uint32_t i = 0; i < 3 * 131; i++)
        rows[i] = random_float(&seed);
    for (uint32_t width = 1; width <= 131; width += 13) {
        decoder_weighted_sum(weights, rows, 3, width, out);
        for (uint32_t i = 0; i < width; i++)
            assert_true(fabsf(out[i] - (0.5f * rows[i] - 2 * rows[width + i] + rows[2 * width + i])) < 1e-5f);
    }
}

/* Large logits must not overflow, and equal ones share. */
static void softmax_is_stable(void **state)
{
    float values[4] = {1000, 1000, -1000, 1000};
    (void)state;
    decoder_softmax(values, 4);
    assert_true(fabsf(values[0] - 1 / 3.0f) < 1e-6f && values[0] == values[1] && values[1] == values[3]);
    assert_true(values[2] == 0);
}

static void swiglu_packs_its_rows(void **state)
{
    float values[2 * 2 * 3] = {0, 1, 2, 10, 20, 30, -1, -2, 100, 1, 1, 1};
    const float gates[6] = {0, 1, 2, -1, -2, 100}, ups[6] = {10, 20, 30, 1, 1, 1};
    (void)state;
    decoder_swiglu(values, 2, 3);
    for (int i = 0; i < 6; i++)
        assert_true(fabsf(values[i] - gates[i] / (1 + expf(-gates[i])) * ups[i]) < 1e-5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_is_dequantized),
        cmocka_unit_test(every_pair_of_nibbles_is_dequantized),
        cmocka_unit_test(every_power_of_two_is_a_scale),
        cmocka_unit_test(rows_are_made_of_elements),
        cmocka_unit_test(each_block_has_its_scale),
        cmocka_unit_test(each_row_and_each_group_has_its_scale),
        cmocka_unit_test(an_expert_is_a_slice_of_its_stack),
        cmocka_unit_test(products_of_ragged_sizes_are_right),
        cmocka_unit_test(weighted_sums_of_ragged_widths_are_right),
        cmocka_unit_test(softmax_is_stable),
        cmocka_unit_test(swiglu_packs_its_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
