/* int4-group against its formulas in double, for each size of group and profile. */
#include "fixture.h"

static const weft_profile_t profiles[] = {WEFT_PROFILE_IEEE, WEFT_PROFILE_CT, WEFT_PROFILE_QAT};
static const uint32_t sizes[] = {32, 64, 128};

static request_t request_for(uint32_t which)
{
    const weft_kernel_id_t kernels[] = {WEFT_KERNEL_INT4_GROUP_32, WEFT_KERNEL_INT4_GROUP_64,
                                        WEFT_KERNEL_INT4_GROUP_128};
    return (request_t){kernels[which % 3], profiles[which / 3 % 3], WEFT_DTYPE_I32, NULL, NULL};
}

static double expected_scale(weft_profile_t profile, double amax)
{
    if (profile == WEFT_PROFILE_QAT)
        return fmax((double)(float)(amax * (double)(float)(1.0 / 7)), (double)1e-5f);
    double scale = round_to_bf16((float)(amax / 7.5));
    return scale > 0 ? scale : profile == WEFT_PROFILE_CT ? 0x1p-7 : 1;
}

static int expected_code(weft_profile_t profile, double value, double scale)
{
    double quotient = (double)(float)(value / scale);
    if (isnan(quotient))
        return 0;
    if (profile == WEFT_PROFILE_CT)
        quotient = round_to_bf16((float)quotient);
    return (int)fmin(fmax(nearbyint(quotient), -8), 7);
}

static int found_code(const output_t *output, size_t index)
{
    return (int)(((const uint32_t *)output->data)[index / 8] >> 4 * (index % 8) & 15) - 8;
}

static void check_group(const matrix_t *matrix, const output_t *output, weft_profile_t profile, uint32_t size,
                        size_t first)
{
    double amax = 0;
    for (size_t i = first; i < first + size; i++) {
        double value = element_value(matrix->dtype, matrix->data, i);
        amax = isfinite(value) ? fmax(amax, fabs(value)) : amax;
    }
    double scale = expected_scale(profile, amax), stored = round_to_bf16((float)scale);
    uint16_t bits = ((const uint16_t *)(const void *)output->scale)[first / size];
    assert_int_equal(bits, bits_of_f32((float)stored) >> 16);
    for (size_t i = first; i < first + size; i++) {
        double value = element_value(matrix->dtype, matrix->data, i);
        assert_int_equal(found_code(output, i), expected_code(profile, value, scale));
    }
}

static void check_matrix(const matrix_t *matrix, uint32_t which)
{
    output_t output = quantize_cut(matrix, request_for(which), random_in(0, 8));
    uint32_t size = sizes[which % 3];
    for (size_t first = 0; first < (size_t)matrix->rows * matrix->cols; first += size)
        check_group(matrix, &output, profiles[which / 3 % 3], size, first);
    output_destroy(&output);
}

static void random_weights_of_every_dtype(void **state)
{
    (void)state;
    random_begin("random_weights_of_every_dtype");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (uint32_t i = 0; i < 81; i++) {
        matrix_t matrix = matrix_random(dtypes[i / 9 % 3], random_in(1, 128), sizes[i % 3] * random_in(1, 5));
        check_matrix(&matrix, i);
        free(matrix.data);
    }
}

static void every_bf16(void **state)
{
    (void)state;
    random_begin("every_bf16");
    for (uint32_t i = 0; i < 18; i++) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 128, 256);
        for (uint32_t e = 0; e < 128 * 256; e++)
            matrix_set_bits(&matrix, e, i / 9 * 128 * 256 + e);
        check_matrix(&matrix, i);
        free(matrix.data);
    }
}

/* Every finite amax in a group of 32; below it values from all over its last 8 binades, and quotients near halves. */
static void every_amax(void **state)
{
    (void)state;
    random_begin("every_amax");
    for (uint32_t first = 0; first < 0x7F80; first += 128 * 8) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 128, 8 * 32);
        for (uint32_t i = 0; i < 128 * 8 * 32; i++) {
            uint32_t amax = first + i / 32 < 0x7F80 ? first + i / 32 : 0x7F7F;
            uint32_t least = amax > 8 * 128 ? amax - 8 * 128 : 0;
            double half = decode(amax, 8, 7, false) / 7.5 * (random_in(0, 7) + 0.5);
            uint32_t bits = i % 32 == 0  ? amax
                            : i % 2 == 0 ? bits_of_f32((float)fmin(half, decode(amax, 8, 7, false))) >> 16
                                         : random_in(least, amax);
            matrix_set_bits(&matrix, i, bits | random_in(0, 1) << 15);
        }
        for (uint32_t which = 0; which < 9; which += 3)
            check_matrix(&matrix, which);
        free(matrix.data);
    }
}

/* A code's place in its word, and the scale of zeros. */
static void packing(void **state)
{
    (void)state;
    random_begin("packing");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 2, 32);
    for (uint32_t i = 0; i < 32; i++)
        matrix_set(&matrix, i, i == 31 ? -7.5 : (int)(i % 15) - 7);
    output_t output = quantize_cut(&matrix, request_for(0), 0);
    const uint32_t *word = output.data;
    const uint16_t *scale = (const uint16_t *)(const void *)output.scale;
    assert_int_equal(word[0], 0x87654321);
    assert_int_equal(word[1], 0x1FEDCBA9); /* 14 % 15 is 7, then -7 again */
    assert_int_equal(word[3] >> 28, 0);    /* -7.5: to the even -8 */
    assert_int_equal(word[4], 0x88888888);
    assert_int_equal(scale[0], 0x3F80);
    assert_int_equal(scale[1], 0x3F80);
    output_destroy(&output);
    output = quantize_cut(&matrix, request_for(3), 0);
    assert_int_equal(((const uint16_t *)(const void *)output.scale)[1], 0x3C00);
    output_destroy(&output);
    free(matrix.data);
}

static void nonfinite(void **state)
{
    (void)state;
    random_begin("nonfinite");
    matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, 2, 128);
    matrix_set_bits(&matrix, 130, 0xFFC0);
    matrix_set_bits(&matrix, 131, 0x7F80);
    matrix_set_bits(&matrix, 132, 0xFF80);
    for (uint32_t which = 0; which < 9; which++) {
        output_t output = quantize_cut(&matrix, request_for(which), 5);
        assert_true(output.result.nonfinite && output.result.nonfinite_row == 1 && output.result.nonfinite_col == 2);
        assert_int_equal(found_code(&output, 130), 0);
        assert_int_equal(found_code(&output, 131), 7);
        assert_int_equal(found_code(&output, 132), -8);
        output_destroy(&output);
    }
    free(matrix.data);
}

static void cuts_do_not_show(void **state)
{
    (void)state;
    random_begin("cuts_do_not_show");
    for (uint32_t i = 0; i < 45; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), sizes[i % 3] * random_in(1, 6));
        output_t whole = quantize_cut(&matrix, request_for(i), 0),
                 cut = quantize_cut(&matrix, request_for(i), random_in(1, 63));
        assert_outputs_equal(&whole, &cut);
        output_destroy(&whole);
        output_destroy(&cut);
        free(matrix.data);
    }
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    weft_quantize_result_t result;
    for (uint32_t which = 0; which < 3; which++) {
        weft_quantize_fn quantize = tested->quantize[request_for(which).kernel];
        weft_quantize_unit_t good = {.dtype = WEFT_DTYPE_BF16, .out_dtype = WEFT_DTYPE_I32}, bad = good;
        assert_int_equal(quantize(&good, &result), WEFT_OK);
        bad.cols = sizes[which] / 2;
        assert_int_equal(quantize(&bad, &result), WEFT_ERR_ARGUMENT);
        bad = good, bad.profile = WEFT_PROFILE_VLLM;
        assert_int_equal(quantize(&bad, &result), WEFT_ERR_ARGUMENT);
        bad = good, bad.out_dtype = WEFT_DTYPE_I8;
        assert_int_equal(quantize(&bad, &result), WEFT_ERR_ARGUMENT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_of_every_dtype),
        cmocka_unit_test(every_bf16),
        cmocka_unit_test(every_amax),
        cmocka_unit_test(packing),
        cmocka_unit_test(nonfinite),
        cmocka_unit_test(cuts_do_not_show),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
