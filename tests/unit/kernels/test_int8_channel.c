/* int8-channel against its formulas in double, every bf16 under scales of every kind, and under every kind of cut. */
#include "fixture.h"

static const weft_profile_t profiles[] = {WEFT_PROFILE_IEEE, WEFT_PROFILE_VLLM, WEFT_PROFILE_CT};

static request_t request_for(weft_profile_t profile)
{
    return (request_t){WEFT_KERNEL_INT8_CHANNEL, profile, WEFT_DTYPE_I8, NULL, NULL};
}

static double expected_scale(weft_profile_t profile, double amax)
{
    double scale = profile == WEFT_PROFILE_IEEE   ? (double)(float)(amax / 127)
                   : profile == WEFT_PROFILE_VLLM ? round_to_bf16((float)(amax * (double)(float)(1.0 / 127)))
                                                  : round_to_bf16((float)(amax / 127.5));
    return scale > 0 ? scale : profile == WEFT_PROFILE_CT ? 0x1p-7 : 1;
}

static int expected_code(weft_profile_t profile, double value, double scale)
{
    double low = profile == WEFT_PROFILE_CT ? -128 : -127, quotient = (double)(float)(value / scale);
    if (isnan(quotient))
        return 0;
    if (profile != WEFT_PROFILE_IEEE)
        quotient = round_to_bf16((float)quotient);
    return (int)fmin(fmax(nearbyint(quotient), low), 127);
}

static double amax_of(const matrix_t *matrix, uint32_t row)
{
    double amax = 0;
    for (uint32_t col = 0; col < matrix->cols; col++) {
        double value = element_value(matrix->dtype, matrix->data, (size_t)row * matrix->cols + col);
        amax = isfinite(value) ? fmax(amax, fabs(value)) : amax;
    }
    return amax;
}

static void check_matrix(const matrix_t *matrix, weft_profile_t profile, const uint16_t *row_amax)
{
    request_t request = request_for(profile);
    request.row_amax = row_amax;
    output_t output = quantize_cut(matrix, request, random_in(0, 8));
    for (uint32_t row = 0; row < matrix->rows; row++) {
        double amax = row_amax ? decode_value(matrix->dtype, row_amax[row]) : amax_of(matrix, row);
        double scale = expected_scale(profile, amax);
        assert_int_equal(bits_of_f32(output.scale[row]), bits_of_f32((float)scale));
        for (uint32_t col = 0; col < matrix->cols; col++) {
            size_t index = (size_t)row * matrix->cols + col;
            double value = element_value(matrix->dtype, matrix->data, index);
            assert_int_equal(((int8_t *)output.data)[index], expected_code(profile, value, scale));
        }
    }
    output_destroy(&output);
}

static void random_weights_of_every_dtype(void **state)
{
    (void)state;
    random_begin("random_weights_of_every_dtype");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (int i = 0; i < 9; i++) {
        matrix_t matrix = matrix_random(dtypes[i % 3], 128, 300);
        check_matrix(&matrix, profiles[i / 3], NULL);
        free(matrix.data);
    }
}

static void ragged_sizes(void **state)
{
    (void)state;
    random_begin("ragged_sizes");
    for (int i = 0; i < 90; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), random_in(1, 300));
        check_matrix(&matrix, profiles[i % 3], NULL);
        free(matrix.data);
    }
}

/* All bf16, in rows of their own magnitude: Inf, NaN, subnormals, and scales that round to zero. */
static void every_bf16(void **state)
{
    (void)state;
    random_begin("every_bf16");
    for (int i = 0; i < 6; i++) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 128, 256);
        for (uint32_t e = 0; e < 128 * 256; e++)
            matrix_set_bits(&matrix, e, i % 2 * 128 * 256 + e);
        check_matrix(&matrix, profiles[i / 2], NULL);
        free(matrix.data);
    }
}

/* All bf16 under one given scale after another. */
static void every_bf16_under_chosen_scales(void **state)
{
    (void)state;
    random_begin("every_bf16_under_chosen_scales");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 64, 1024);
    for (uint32_t i = 0; i < 0x10000; i++)
        matrix_set_bits(&matrix, i, i);
    const uint16_t amax[] = {0, 1, 0x0080, 0x3880, 0x3F80, 0x42FE, 0x42FF, 0x4300, 0x7F7F};
    for (uint32_t i = 0; i < 3 * 12; i++) {
        uint16_t rows[64];
        uint16_t chosen = i / 3 < 9 ? amax[i / 3] : (uint16_t)random_in(1, 0x7F7F);
        for (uint32_t row = 0; row < 64; row++)
            rows[row] = chosen;
        check_matrix(&matrix, profiles[i % 3], rows);
    }
    free(matrix.data);
}

/* Quotients that are halves: to even, and where bf16 rounds before. */
static void ties(void **state)
{
    (void)state;
    random_begin("ties");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 2, 511);
    for (uint32_t i = 0; i < 511; i++) {
        matrix_set(&matrix, i, ((int)i - 255) / 2.0);
        matrix_set(&matrix, 511 + i, ((int)i - 255) / 2.0 * 0x1p-9);
    }
    const uint16_t amax[2] = {0x42FE, 0x3E7E}; /* 127, 127 / 512: scales 1 and 2^-9 */
    for (int i = 0; i < 3; i++)
        check_matrix(&matrix, profiles[i], amax);
    output_t output = quantize_cut(&matrix, (request_t){WEFT_KERNEL_INT8_CHANNEL, WEFT_PROFILE_IEEE, WEFT_DTYPE_I8, amax, NULL}, 0);
    assert_int_equal(((int8_t *)output.data)[255 + 1], 0); /* 0.5 */
    assert_int_equal(((int8_t *)output.data)[255 + 3], 2); /* 1.5 */
    assert_int_equal(((int8_t *)output.data)[255 - 5], -2); /* -2.5 */
    output_destroy(&output);
    free(matrix.data);
}

static void nonfinite_becomes_zero_or_the_largest(void **state)
{
    (void)state;
    random_begin("nonfinite_becomes_zero_or_the_largest");
    for (int i = 0; i < 3; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, 3, 200);
        matrix_set_bits(&matrix, 201, 0x7FC0);
        matrix_set_bits(&matrix, 202, 0x7F80);
        matrix_set_bits(&matrix, 203, 0xFF80);
        output_t output = quantize_cut(&matrix, request_for(profiles[i]), 4);
        const int8_t *code = (int8_t *)output.data + 201;
        assert_true(output.result.nonfinite && output.result.nonfinite_row == 1 && output.result.nonfinite_col == 1);
        assert_int_equal(code[0], 0);
        assert_int_equal(code[1], 127);
        assert_int_equal(code[2], profiles[i] == WEFT_PROFILE_CT ? -128 : -127);
        output_destroy(&output);
        free(matrix.data);
    }
}

static void cuts_do_not_show(void **state)
{
    (void)state;
    random_begin("cuts_do_not_show");
    for (int i = 0; i < 30; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_F16, random_in(1, 128), random_in(1, 500));
        output_t whole = quantize_cut(&matrix, request_for(profiles[i % 3]), 0),
                 cut = quantize_cut(&matrix, request_for(profiles[i % 3]), random_in(1, 63));
        assert_outputs_equal(&whole, &cut);
        output_destroy(&whole);
        output_destroy(&cut);
        free(matrix.data);
    }
}

static void other_profiles_and_dtypes_are_refused(void **state)
{
    (void)state;
    weft_quantize_result_t result;
    for (unsigned p = 0; p < WEFT_PROFILE_COUNT; p++) {
        weft_quantize_unit_t unit = {.dtype = WEFT_DTYPE_BF16, .out_dtype = WEFT_DTYPE_I8, .profile = (weft_profile_t)p};
        bool known = p == WEFT_PROFILE_DEFAULT || p == WEFT_PROFILE_IEEE || p == WEFT_PROFILE_VLLM || p == WEFT_PROFILE_CT;
        assert_int_equal(tested->quantize[WEFT_KERNEL_INT8_CHANNEL](&unit, &result), known ? WEFT_OK : WEFT_ERR_ARGUMENT);
        unit.out_dtype = WEFT_DTYPE_F8_E4M3;
        assert_int_equal(tested->quantize[WEFT_KERNEL_INT8_CHANNEL](&unit, &result), WEFT_ERR_ARGUMENT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_of_every_dtype),
        cmocka_unit_test(ragged_sizes),
        cmocka_unit_test(every_bf16),
        cmocka_unit_test(every_bf16_under_chosen_scales),
        cmocka_unit_test(ties),
        cmocka_unit_test(nonfinite_becomes_zero_or_the_largest),
        cmocka_unit_test(cuts_do_not_show),
        cmocka_unit_test(other_profiles_and_dtypes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
