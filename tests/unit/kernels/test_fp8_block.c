/* fp8-block against the profiles restated in double, and against itself under every kind of cut. */
#include "fixture.h"

#define BLOCK 128

static const weft_profile_t profiles[] = {WEFT_PROFILE_IEEE, WEFT_PROFILE_VLLM, WEFT_PROFILE_POW2,
                                          WEFT_PROFILE_VLLM_POW2};
#define NUM_PROFILES (sizeof profiles / sizeof *profiles)

static request_t request_of(weft_profile_t profile)
{
    return (request_t){WEFT_KERNEL_FP8_BLOCK, profile, WEFT_DTYPE_F8_E4M3, NULL, NULL};
}

/* ---- The restatement: one block of values, fp32 results of operations in double ---- */

typedef struct block {
    double value[BLOCK * BLOCK];
    uint8_t code[BLOCK * BLOCK];
    size_t count;
    float scale;
} block_t;

static void expect_block(weft_profile_t profile, block_t *block)
{
    double amax = 0;
    for (size_t i = 0; i < block->count; i++)
        amax = isfinite(block->value[i]) ? fmax(amax, fabs(block->value[i])) : amax;
    amax = fmax(amax, (double)(float)1e-4);
    block->scale = (float)(amax / 448);
    if (profile == WEFT_PROFILE_VLLM)
        block->scale = (float)(amax * (double)(float)(1.0 / 448));
    if (profile == WEFT_PROFILE_POW2)
        block->scale = (float)exp2(ceil(log2((double)block->scale)));
    float factor = (float)(1 / (double)block->scale);
    for (size_t i = 0; i < block->count; i++)
        block->code[i] = encode_e4m3((double)(float)(block->value[i] * (double)factor));
}

static void expect_profile(weft_profile_t profile, block_t *block)
{
    if (profile != WEFT_PROFILE_VLLM_POW2) {
        expect_block(profile, block);
        return;
    }
    expect_block(WEFT_PROFILE_VLLM, block);
    for (size_t i = 0; i < block->count; i++)
        block->value[i] = (double)(float)(decode_e4m3(block->code[i]) * (double)block->scale);
    expect_block(WEFT_PROFILE_POW2, block);
}

static void check_block(const matrix_t *matrix, weft_profile_t profile, const output_t *output, uint32_t col)
{
    static block_t block;
    uint32_t cols = matrix->cols - col < BLOCK ? matrix->cols - col : BLOCK;
    block.count = 0;
    for (uint32_t row = 0; row < matrix->rows; row++) {
        for (uint32_t i = 0; i < cols; i++)
            block.value[block.count++] =
                element_value(matrix->dtype, matrix->data, (size_t)row * matrix->cols + col + i);
    }
    expect_profile(profile, &block);
    assert_int_equal(bits_of_f32(output->scale[col / BLOCK]), bits_of_f32(block.scale));
    for (uint32_t row = 0; row < matrix->rows; row++)
        assert_memory_equal((uint8_t *)output->data + (size_t)row * matrix->cols + col,
                            block.code + row * cols, cols);
}

/* Every profile over a matrix that lies in a few pieces. */
static void check_matrix(const matrix_t *matrix)
{
    for (size_t p = 0; p < NUM_PROFILES; p++) {
        output_t output = quantize_cut(matrix, request_of(profiles[p]), random_in(0, 8));
        for (uint32_t col = 0; col < matrix->cols; col += BLOCK)
            check_block(matrix, profiles[p], &output, col);
        output_destroy(&output);
    }
}

/* ---- Tests ---- */

static void random_weights_of_every_dtype(void **state)
{
    (void)state;
    random_begin("random_weights_of_every_dtype");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (int i = 0; i < 3; i++) {
        matrix_t matrix = matrix_random(dtypes[i], 128, 300);
        check_matrix(&matrix);
        free(matrix.data);
    }
}

static void ragged_sizes(void **state)
{
    (void)state;
    random_begin("ragged_sizes");
    for (int i = 0; i < 40; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), random_in(1, 300));
        check_matrix(&matrix);
        free(matrix.data);
    }
}

/* Blocks with one largest magnitude each, from subnormal to the largest, the rest below it over all
 * exponents. */
static void every_magnitude_of_amax(void **state)
{
    (void)state;
    random_begin("every_magnitude_of_amax");
    for (uint32_t amax = 0; amax < 0x7F80; amax += random_in(1, 400)) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 3, 40);
        for (size_t i = 0; i < 120; i++) {
            uint32_t below = random_in(0, 3) == 0 ? random_in(0, 0x400) : 0;
            matrix_set_bits(&matrix, i, random_in(0, 1) << 15 | (amax > below ? amax - below : 0));
        }
        matrix_set_bits(&matrix, random_in(0, 119), amax | 0x8000);
        check_matrix(&matrix);
        free(matrix.data);
    }
}

static void zeros_keep_their_signs(void **state)
{
    (void)state;
    random_begin("zeros_keep_their_signs");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 5, 130);
    for (size_t i = 0; i < 650; i += 3)
        matrix_set_bits(&matrix, i, 0x8000);
    check_matrix(&matrix);
    output_t output = quantize_cut(&matrix, request_of(WEFT_PROFILE_DEFAULT), 4);
    for (size_t i = 0; i < 650; i++)
        assert_int_equal(((uint8_t *)output.data)[i], i % 3 == 0 ? 0x80 : 0);
    output_destroy(&output);
    free(matrix.data);
}

/* A largest of 448 x 2^k makes every scale a power of two: each value then meets a tie of e4m3. */
static void ties_and_equal_values(void **state)
{
    (void)state;
    random_begin("ties_and_equal_values");
    for (int shift = -16; shift <= 16; shift += 4) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 2, 127);
        for (uint8_t code = 0; code < 0x7E; code++) {
            double tie = (decode_e4m3(code) + decode_e4m3(code + 1)) / 2;
            matrix_set(&matrix, code, ldexp(tie, shift));
            matrix_set(&matrix, 127u + code, -ldexp(tie, shift));
        }
        matrix_set(&matrix, 253, ldexp(448, shift));
        check_matrix(&matrix);
        for (size_t i = 0; i < 254; i++)
            matrix_set(&matrix, i, ldexp(1.5, shift));
        check_matrix(&matrix);
        free(matrix.data);
    }
}

static void cuts_do_not_show(void **state)
{
    (void)state;
    random_begin("cuts_do_not_show");
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_random(i % 2 == 0 ? WEFT_DTYPE_BF16 : WEFT_DTYPE_F32, random_in(1, 128),
                                        random_in(1, 500));
        if (i % 3 == 0)
            memset(matrix.data, 0,
                   (size_t)random_in(0, matrix.rows) * matrix.cols * weft_dtype_bytes(matrix.dtype));
        request_t request = request_of(profiles[i % NUM_PROFILES]);
        output_t whole = quantize_cut(&matrix, request, 0),
                 cut = quantize_cut(&matrix, request, random_in(1, 63));
        assert_outputs_equal(&whole, &cut);
        output_destroy(&whole);
        output_destroy(&cut);
        free(matrix.data);
    }
}

static void nonfinite_is_found_first_in_row_major_order(void **state)
{
    (void)state;
    random_begin("nonfinite_is_found_first_in_row_major_order");
    const uint32_t bits[] = {0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF};
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), random_in(1, 400));
        uint32_t first = UINT32_MAX;
        for (uint32_t n = random_in(1, 5); n > 0; n--) {
            uint32_t place = random_in(0, matrix.rows * matrix.cols - 1);
            matrix_set_bits(&matrix, place, bits[n - 1]);
            first = place < first ? place : first;
        }
        output_t output = quantize_cut(&matrix, request_of(profiles[i % NUM_PROFILES]), 20);
        assert_true(output.result.nonfinite);
        assert_int_equal(output.result.nonfinite_row, first / matrix.cols);
        assert_int_equal(output.result.nonfinite_col, first % matrix.cols);
        check_matrix(&matrix);
        output_destroy(&output);
        free(matrix.data);
    }
}

/* An fp32 that rounds to Inf in bf16 is not finite; the largest that does not is. */
static void f32_beyond_bf16(void **state)
{
    (void)state;
    random_begin("f32_beyond_bf16");
    matrix_t matrix = matrix_create(WEFT_DTYPE_F32, 2, 3);
    matrix_set_bits(&matrix, 1, 0x7F7F7FFF);
    output_t output = quantize_cut(&matrix, request_of(WEFT_PROFILE_IEEE), 2);
    assert_false(output.result.nonfinite);
    output_destroy(&output);
    matrix_set_bits(&matrix, 4, 0x7F7F8000);
    output = quantize_cut(&matrix, request_of(WEFT_PROFILE_IEEE), 2);
    assert_true(output.result.nonfinite);
    assert_int_equal(output.result.nonfinite_row, 1);
    assert_int_equal(output.result.nonfinite_col, 1);
    assert_int_equal(((uint8_t *)output.data)[4], 0x7E);
    output_destroy(&output);
    free(matrix.data);
}

static void arguments_are_checked(void **state)
{
    (void)state;
    weft_quantize_fn quantize = tested->quantize[WEFT_KERNEL_FP8_BLOCK];
    weft_quantize_result_t result;
    weft_quantize_unit_t good = {.dtype = WEFT_DTYPE_BF16, .out_dtype = WEFT_DTYPE_F8_E4M3}, unit = good;
    assert_int_equal(quantize(&unit, &result), WEFT_OK);
    unit.dtype = WEFT_DTYPE_I32;
    assert_int_equal(quantize(&unit, &result), WEFT_ERR_ARGUMENT);
    unit = good, unit.out_dtype = WEFT_DTYPE_BF16;
    assert_int_equal(quantize(&unit, &result), WEFT_ERR_ARGUMENT);
    unit = good, unit.profile = WEFT_PROFILE_COUNT;
    assert_int_equal(quantize(&unit, &result), WEFT_ERR_ARGUMENT);
    unit = good, unit.rows = 129;
    assert_int_equal(quantize(&unit, &result), WEFT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_of_every_dtype),
        cmocka_unit_test(ragged_sizes),
        cmocka_unit_test(every_magnitude_of_amax),
        cmocka_unit_test(zeros_keep_their_signs),
        cmocka_unit_test(ties_and_equal_values),
        cmocka_unit_test(cuts_do_not_show),
        cmocka_unit_test(nonfinite_is_found_first_in_row_major_order),
        cmocka_unit_test(f32_beyond_bf16),
        cmocka_unit_test(arguments_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
