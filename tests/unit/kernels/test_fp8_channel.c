/* fp8-channel against its formula in double, whole rows against rows split over ranks, and under every kind
 * of cut. */
#include "fixture.h"

static const request_t channel = {WEFT_KERNEL_FP8_CHANNEL, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F8_E4M3, NULL, NULL};

static double expected_scale(const matrix_t *matrix, uint32_t row)
{
    double amax = 0;
    for (uint32_t col = 0; col < matrix->cols; col++) {
        double value = element_value(matrix->dtype, matrix->data, (size_t)row * matrix->cols + col);
        amax = isfinite(value) ? fmax(amax, fabs(value)) : amax;
    }
    return fmax((double)(float)(amax / 448), (double)(float)(1.0 / (448 * 512)));
}

static void check_matrix(const matrix_t *matrix)
{
    output_t output = quantize_cut(matrix, channel, random_in(0, 8));
    for (uint32_t row = 0; row < matrix->rows; row++) {
        double scale = expected_scale(matrix, row);
        assert_int_equal(bits_of_f32(output.scale[row]), bits_of_f32((float)scale));
        for (uint32_t col = 0; col < matrix->cols; col++) {
            size_t index = (size_t)row * matrix->cols + col;
            double value = element_value(matrix->dtype, matrix->data, index);
            assert_int_equal(((uint8_t *)output.data)[index], encode_e4m3((double)(float)(value / scale)));
        }
    }
    output_destroy(&output);
}

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
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), random_in(1, 300));
        check_matrix(&matrix);
        free(matrix.data);
    }
}

/* All bf16, 256 a row: Inf and NaN too, subnormals, zeros of both signs, and rows below the floor. */
static void every_bf16(void **state)
{
    (void)state;
    random_begin("every_bf16");
    for (uint32_t first = 0; first < 0x10000; first += 128 * 256) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 128, 256);
        for (uint32_t i = 0; i < 128 * 256; i++)
            matrix_set_bits(&matrix, i, first + i);
        check_matrix(&matrix);
        free(matrix.data);
    }
}

/* Quotients that land on ties of e4m3: where a product with the reciprocal would round the other way. */
static void quotients_at_ties(void **state)
{
    (void)state;
    random_begin("quotients_at_ties");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 128, 253);
    for (uint32_t row = 0; row < 128; row++) {
        double largest = ldexp(1 + row / 128.0, (int)random_in(0, 16) - 12);
        for (uint32_t col = 0; col < 252; col++) {
            uint8_t code = (uint8_t)(col / 2);
            double tie = (decode_e4m3(code) + decode_e4m3(code + 1)) / 2;
            matrix_set(&matrix, row * 253 + col, (col % 2 ? -1 : 1) * tie * largest / 448);
        }
        matrix_set(&matrix, row * 253 + 252, largest);
    }
    check_matrix(&matrix);
    free(matrix.data);
}

static void zeros_keep_their_signs(void **state)
{
    (void)state;
    random_begin("zeros_keep_their_signs");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 3, 200);
    for (uint32_t i = 0; i < 600; i += 2)
        matrix_set_bits(&matrix, i, 0x8000);
    output_t output = quantize_cut(&matrix, channel, 3);
    for (uint32_t i = 0; i < 600; i++)
        assert_int_equal(((uint8_t *)output.data)[i], i % 2 == 0 ? 0x80 : 0);
    assert_int_equal(bits_of_f32(output.scale[0]), bits_of_f32(1.0f / 229376.0f));
    output_destroy(&output);
    free(matrix.data);
}

/* The columns [begin, end) of a matrix, as another rank would hold them. */
static matrix_t columns_of(const matrix_t *matrix, uint32_t begin, uint32_t end)
{
    matrix_t part = matrix_create(matrix->dtype, matrix->rows, end - begin);
    size_t elem = weft_dtype_bytes(matrix->dtype), row_bytes = part.cols * elem;
    for (uint32_t row = 0; row < matrix->rows; row++) {
        const char *from = (const char *)matrix->data + ((size_t)row * matrix->cols + begin) * elem;
        memcpy((char *)part.data + row * row_bytes, from, row_bytes);
    }
    return part;
}

/* Quantize columns [begin, end) with the amax of the whole rows: codes and scales of the whole must come out.
 */
static void check_columns(const matrix_t *matrix, const uint16_t *row_amax, const output_t *whole,
                          uint32_t begin, uint32_t end)
{
    matrix_t part = columns_of(matrix, begin, end);
    request_t request = channel;
    request.row_amax = row_amax;
    output_t output = quantize_cut(&part, request, 5);
    assert_memory_equal(output.scale, whole->scale, matrix->rows * sizeof(float));
    for (uint32_t row = 0; row < matrix->rows; row++)
        assert_memory_equal((uint8_t *)output.data + (size_t)row * part.cols,
                            (uint8_t *)whole->data + (size_t)row * matrix->cols + begin, part.cols);
    output_destroy(&output);
    free(part.data);
}

/* The amax of two ranks, folded, gives what one rank that holds everything finds. */
static void split_columns_equal_the_whole(void **state)
{
    (void)state;
    random_begin("split_columns_equal_the_whole");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    weft_amax_fn amax = tested->amax;
    for (int i = 0; i < 30; i++) {
        matrix_t matrix = matrix_random(dtypes[i % 3], random_in(1, 128), random_in(2, 400));
        uint32_t middle = random_in(1, matrix.cols - 1), row, col;
        uint16_t row_amax[128] = {0};
        const char *second = (const char *)matrix.data + middle * weft_dtype_bytes(matrix.dtype);
        assert_true(
            amax(second, matrix.cols, matrix.rows, matrix.cols - middle, matrix.dtype, row_amax, &row, &col));
        assert_true(amax(matrix.data, matrix.cols, matrix.rows, middle, matrix.dtype, row_amax, &row, &col));
        output_t whole = quantize_cut(&matrix, channel, 0);
        check_columns(&matrix, row_amax, &whole, 0, middle);
        check_columns(&matrix, row_amax, &whole, middle, matrix.cols);
        output_destroy(&whole);
        free(matrix.data);
    }
}

static void nonfinite_is_found_where_row_amax_is_given(void **state)
{
    (void)state;
    random_begin("nonfinite_is_found_where_row_amax_is_given");
    matrix_t matrix = matrix_random(WEFT_DTYPE_F16, 9, 310);
    matrix_set_bits(&matrix, 4 * 310 + 299, 0x7C00);
    matrix_set_bits(&matrix, 5 * 310 + 2, 0xFE00);
    uint16_t row_amax[9];
    for (int i = 0; i < 9; i++)
        row_amax[i] = 0x3C00;
    request_t request = channel;
    request.row_amax = row_amax;
    output_t output = quantize_cut(&matrix, request, 12);
    assert_true(output.result.nonfinite);
    assert_int_equal(output.result.nonfinite_row, 4);
    assert_int_equal(output.result.nonfinite_col, 299);
    assert_int_equal(((uint8_t *)output.data)[4 * 310 + 299], 0x7E);
    assert_int_equal(((uint8_t *)output.data)[5 * 310 + 2], 0x7F);
    output_destroy(&output);
    free(matrix.data);
}

static void cuts_do_not_show(void **state)
{
    (void)state;
    random_begin("cuts_do_not_show");
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), random_in(1, 500));
        output_t whole = quantize_cut(&matrix, channel, 0),
                 cut = quantize_cut(&matrix, channel, random_in(1, 63));
        assert_outputs_equal(&whole, &cut);
        output_destroy(&whole);
        output_destroy(&cut);
        free(matrix.data);
    }
}

static void there_are_no_profiles(void **state)
{
    (void)state;
    weft_quantize_unit_t unit = {
        .dtype = WEFT_DTYPE_BF16, .out_dtype = WEFT_DTYPE_F8_E4M3, .profile = WEFT_PROFILE_VLLM};
    weft_quantize_result_t result;
    assert_int_equal(tested->quantize[WEFT_KERNEL_FP8_CHANNEL](&unit, &result), WEFT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_of_every_dtype),
        cmocka_unit_test(ragged_sizes),
        cmocka_unit_test(every_bf16),
        cmocka_unit_test(quotients_at_ties),
        cmocka_unit_test(zeros_keep_their_signs),
        cmocka_unit_test(split_columns_equal_the_whole),
        cmocka_unit_test(nonfinite_is_found_where_row_amax_is_given),
        cmocka_unit_test(cuts_do_not_show),
        cmocka_unit_test(there_are_no_profiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
