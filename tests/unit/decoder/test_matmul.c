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
    decoder_matrix_t bf16 = {.data = codes, .dtype = WEFT_DTYPE_BF16, .rows = 1, .cols = 65536};
    decoder_dequantize(&bf16, 0, 0, 65536, out);
    for (uint32_t i = 0; i < 65536; i++)
        assert_same(out[i], by_the_book(i, 7, 8, 255));
    decoder_matrix_t fp16 = {.data = codes, .dtype = WEFT_DTYPE_F16, .rows = 1, .cols = 65536};
    decoder_dequantize(&fp16, 0, 0, 65536, out);
    for (uint32_t i = 0; i < 65536; i++)
        assert_same(out[i], by_the_book(i, 10, 5, 31));
    decoder_matrix_t fp8 = {.data = bytes,
                            .scale = &scale,
                            .dtype = WEFT_DTYPE_F8_E4M3,
                            .scaling = DECODER_SCALING_CHANNEL,
                            .rows = 1,
                            .cols = 256};
    decoder_dequantize(&fp8, 0, 0, 256, out);
    for (uint32_t i = 0; i < 256; i++)
        assert_same(out[i], (i & 0x7F) == 0x7F ? NAN : by_the_book(i, 3, 4, 99) * scale);
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
    decoder_matrix_t matrix = {.data = codes,
                               .scale = scales,
                               .dtype = WEFT_DTYPE_F8_E4M3,
                               .scaling = DECODER_SCALING_BLOCK,
                               .rows = ROWS,
                               .cols = COLS};
    for (uint32_t row = 0; row < ROWS; row += 43)
        for (uint32_t col = 0; col < COLS; col += 37) {
            decoder_dequantize(&matrix, row, col, COLS - col, out);
            for (uint32_t i = col; i < COLS; i++)
                assert_true(out[i - col] == scales[row / 128 * 3 + i / 128]);
        }
}

static void an_expert_is_a_slice_of_its_stack(void **state)
{
    static uint8_t codes[3 * 130 * 5];
    static float scales[3 * 130];
    (void)state;
    decoder_matrix_t stack = {.data = codes,
                              .scale = scales,
                              .dtype = WEFT_DTYPE_F8_E4M3,
                              .scaling = DECODER_SCALING_BLOCK,
                              .rows = 130,
                              .cols = 5};
    decoder_matrix_t expert = decoder_matrix_expert(&stack, 2);
    assert_ptr_equal(expert.data, codes + 2 * 130 * 5);
    assert_ptr_equal(expert.scale, scales + 2 * 2);
    stack.scaling = DECODER_SCALING_CHANNEL;
    assert_ptr_equal(decoder_matrix_expert(&stack, 1).scale, scales + 130);
    stack = (decoder_matrix_t){.data = codes, .dtype = WEFT_DTYPE_BF16, .rows = 10, .cols = 5};
    assert_ptr_equal(decoder_matrix_expert(&stack, 3).data, codes + 3 * 10 * 5 * 2);
    assert_null(decoder_matrix_expert(&stack, 3).scale);
}

static float random_float(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (1 << 23) - 1;
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
    decoder_matrix_t matrix = {.data = codes, .dtype = WEFT_DTYPE_BF16, .rows = rows, .cols = cols};
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
        cmocka_unit_test(each_block_has_its_scale),
        cmocka_unit_test(an_expert_is_a_slice_of_its_stack),
        cmocka_unit_test(products_of_ragged_sizes_are_right),
        cmocka_unit_test(weighted_sums_of_ragged_widths_are_right),
        cmocka_unit_test(softmax_is_stable),
        cmocka_unit_test(swiglu_packs_its_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
