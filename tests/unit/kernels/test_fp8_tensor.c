/* fp8-tensor against its formula in double, alone and under the amax of a larger tensor. */
#include "fixture.h"

static request_t request_for(const uint16_t *amax)
{
    return (request_t){WEFT_KERNEL_FP8_TENSOR, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F8_E4M3, NULL, amax};
}

static double amax_of(const matrix_t *matrix)
{
    double amax = 0;
    for (size_t i = 0; i < (size_t)matrix->rows * matrix->cols; i++) {
        double value = element_value(matrix->dtype, matrix->data, i);
        amax = isfinite(value) ? fmax(amax, fabs(value)) : amax;
    }
    return amax;
}

static void check_matrix(const matrix_t *matrix, const uint16_t *given)
{
    output_t output = quantize_cut(matrix, request_for(given), random_in(0, 8));
    double amax = given ? decode_value(matrix->dtype, *given) : amax_of(matrix);
    float scale = (float)(amax / 448);
    if (scale == 0 || isinf((float)(1 / (double)scale)))
        scale = 1;
    double factor = (double)(float)(1 / (double)scale);
    assert_int_equal(bits_of_f32(output.scale[0]), bits_of_f32(scale));
    for (size_t i = 0; i < (size_t)matrix->rows * matrix->cols; i++) {
        double value = element_value(matrix->dtype, matrix->data, i);
        assert_int_equal(((uint8_t *)output.data)[i], encode_e4m3((double)(float)(value * factor)));
    }
    output_destroy(&output);
}

static void random_weights_of_every_dtype(void **state)
{
    (void)state;
    random_begin("random_weights_of_every_dtype");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_random(dtypes[i % 3], random_in(1, 128), random_in(1, 300));
        uint16_t amax = (uint16_t)random_in(1, dtypes[i % 3] == WEFT_DTYPE_F16 ? 0x7BFF : 0x7F7F);
        check_matrix(&matrix, i % 2 ? &amax : NULL);
        free(matrix.data);
    }
}

/* All bf16 under one amax after another: those around 1.3166e-36, where the inverse of a scale becomes Inf, and zero. */
static void every_bf16_under_chosen_scales(void **state)
{
    (void)state;
    random_begin("every_bf16_under_chosen_scales");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 64, 1024);
    for (uint32_t i = 0; i < 0x10000; i++)
        matrix_set_bits(&matrix, i, i);
    const uint16_t amax[] = {0, 1, 0x03DF, 0x03E0, 0x03E1, 0x0400, 0x3A00, 0x43E0, 0x7F7F};
    for (int i = 0; i < 9; i++)
        check_matrix(&matrix, &amax[i]);
    check_matrix(&matrix, NULL);
    free(matrix.data);
}

static void zeros_keep_their_signs(void **state)
{
    (void)state;
    random_begin("zeros_keep_their_signs");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 3, 200);
    for (uint32_t i = 0; i < 600; i += 2)
        matrix_set_bits(&matrix, i, 0x8000);
    output_t output = quantize_cut(&matrix, request_for(NULL), 3);
    for (uint32_t i = 0; i < 600; i++)
        assert_int_equal(((uint8_t *)output.data)[i], i % 2 ? 0 : 0x80);
    assert_int_equal(bits_of_f32(output.scale[0]), bits_of_f32(1));
    output_destroy(&output);
    free(matrix.data);
}

static void cuts_do_not_show(void **state)
{
    (void)state;
    random_begin("cuts_do_not_show");
    for (int i = 0; i < 30; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), random_in(1, 500));
        output_t whole = quantize_cut(&matrix, request_for(NULL), 0),
                 cut = quantize_cut(&matrix, request_for(NULL), random_in(1, 63));
        whole.global = cut.global = 0; /* it has none */
        assert_outputs_equal(&whole, &cut);
        output_destroy(&whole);
        output_destroy(&cut);
        free(matrix.data);
    }
}

static void nonfinite_is_found_where_amax_is_given(void **state)
{
    (void)state;
    random_begin("nonfinite_is_found_where_amax_is_given");
    matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, 9, 310);
    matrix_set_bits(&matrix, 4 * 310 + 299, 0xFF80);
    matrix_set_bits(&matrix, 5 * 310 + 2, 0xFFC0);
    const uint16_t amax = 0x3F80;
    output_t output = quantize_cut(&matrix, request_for(&amax), 12);
    assert_true(output.result.nonfinite);
    assert_int_equal(output.result.nonfinite_row, 4);
    assert_int_equal(output.result.nonfinite_col, 299);
    assert_int_equal(((uint8_t *)output.data)[4 * 310 + 299], 0xFE);
    assert_int_equal(((uint8_t *)output.data)[5 * 310 + 2], 0x7F);
    output_destroy(&output);
    free(matrix.data);
}

static void there_are_no_profiles(void **state)
{
    (void)state;
    weft_quantize_unit_t unit = {
        .dtype = WEFT_DTYPE_BF16, .out_dtype = WEFT_DTYPE_F8_E4M3, .profile = WEFT_PROFILE_VLLM};
    weft_quantize_result_t result;
    assert_int_equal(tested->quantize[WEFT_KERNEL_FP8_TENSOR](&unit, &result), WEFT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_of_every_dtype),
        cmocka_unit_test(every_bf16_under_chosen_scales),
        cmocka_unit_test(zeros_keep_their_signs),
        cmocka_unit_test(cuts_do_not_show),
        cmocka_unit_test(nonfinite_is_found_where_amax_is_given),
        cmocka_unit_test(there_are_no_profiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
