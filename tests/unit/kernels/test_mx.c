/* mxfp8 and mxfp4 against their formulas in double: every bf16 in groups of every magnitude, ragged rows, every kind of
 * cut. */
#include "fixture.h"

#define GROUP 32

static const double e2m1_values[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

static uint8_t encode_e2m1(double x)
{
    if (isnan(x))
        return 0;
    double magnitude = fmin(fabs(x), 6);
    uint8_t best = 0;
    for (uint8_t code = 1; code < 8; code++) {
        double distance = fabs(magnitude - e2m1_values[code]), to_best = fabs(magnitude - e2m1_values[best]);
        if (distance < to_best || (distance == to_best && code % 2 == 0))
            best = code;
    }
    return signbit(x) ? best | 8 : best;
}

/* mxfp8: the least power of two not below v; in fp32 there is none between 2^-127 and 2^-126. */
static int exponent_up(double v)
{
    int e = 0;
    while (e < 254 && ldexp(1, e - 127) < v)
        e++;
    return e;
}

/* mxfp4: that of the largest, as if its mantissa had been rounded to a half first. */
static int exponent_near(double amax)
{
    int e = -127;
    while (e < 128 && amax >= ldexp(1.75, e))
        e++;
    return amax == 0 || e - 2 + 127 < 0 ? 0 : e - 2 + 127;
}

static int found_code(const output_t *output, bool fp4, size_t index)
{
    const uint8_t *code = output->data;
    return fp4 ? code[index / 2] >> (index % 2 * 4) & 15 : code[index];
}

static void check_group(const matrix_t *matrix, const output_t *output, bool fp4, size_t first)
{
    double amax = 0;
    for (size_t i = first; i < first + GROUP; i++) {
        double value = element_value(matrix->dtype, matrix->data, i);
        amax = isfinite(value) ? fmax(amax, fabs(value)) : amax;
    }
    int e = fp4 ? exponent_near(amax) : exponent_up((double)(float)(amax / 448));
    assert_int_equal(((const uint8_t *)output->scale)[first / GROUP], e);
    for (size_t i = first; i < first + GROUP; i++) {
        double x = ldexp(element_value(matrix->dtype, matrix->data, i), 127 - e);
        assert_int_equal(found_code(output, fp4, i), fp4 ? encode_e2m1(x) : encode_e4m3(x));
    }
}

static request_t request_for(bool fp4)
{
    return fp4 ? (request_t){WEFT_KERNEL_MXFP4, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_U8, NULL, NULL}
               : (request_t){WEFT_KERNEL_MXFP8, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F8_E4M3, NULL, NULL};
}

static void check_matrix(const matrix_t *matrix)
{
    for (int fp4 = 0; fp4 < 2; fp4++) {
        output_t output = quantize_cut(matrix, request_for(fp4), random_in(0, 8));
        for (size_t first = 0; first < (size_t)matrix->rows * matrix->cols; first += GROUP)
            check_group(matrix, &output, fp4, first);
        output_destroy(&output);
    }
}

static void random_weights_of_every_dtype(void **state)
{
    (void)state;
    random_begin("random_weights_of_every_dtype");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_random(dtypes[i % 3], random_in(1, 128), GROUP * random_in(1, 9));
        check_matrix(&matrix);
        free(matrix.data);
    }
}

/* All bf16 together with those near them: Inf, NaN and subnormals too. */
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

/* Every finite amax; below it values from all over its last 16 binades. */
static void every_amax(void **state)
{
    (void)state;
    random_begin("every_amax");
    for (uint32_t first = 0; first < 0x7F80; first += 128 * 8) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 128, 8 * GROUP);
        for (uint32_t i = 0; i < 128 * 8 * GROUP; i++) {
            uint32_t amax = first + i / GROUP < 0x7F80 ? first + i / GROUP : 0x7F7F;
            uint32_t least = amax > 16 * 128 ? amax - 16 * 128 : 0;
            uint32_t bits = i % GROUP ? random_in(least, amax) : amax;
            matrix_set_bits(&matrix, i, bits | random_in(0, 1) << 15);
        }
        check_matrix(&matrix);
        free(matrix.data);
    }
}

/* Every tie of e2m1 and its neighbours, under an amax of 6 and so a scale of 1. */
static void ties(void **state)
{
    (void)state;
    random_begin("ties");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 1, GROUP);
    const uint16_t tie[] = {0x3E80, 0x3F40, 0x3FA0, 0x3FE0, 0x4020, 0x4060, 0x40A0};
    matrix_set_bits(&matrix, 31, 0x40C0);
    for (uint32_t i = 0; i < 21; i++)
        matrix_set_bits(&matrix, i, (uint32_t)(tie[i / 3] + (int)(i % 3) - 1) | (i % 2 ? 0x8000u : 0));
    check_matrix(&matrix);
    output_t output = quantize_cut(&matrix, request_for(true), 0);
    assert_int_equal(((uint8_t *)output.scale)[0], 127);
    for (uint32_t i = 0; i < 7; i++) /* to the even one */
        assert_int_equal(found_code(&output, true, 3 * i + 1) & 7, (i + 1) / 2 * 2);
    output_destroy(&output);
    free(matrix.data);
}

static void zeros_keep_their_signs(void **state)
{
    (void)state;
    random_begin("zeros_keep_their_signs");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 2, GROUP);
    for (uint32_t i = 0; i < 2 * GROUP; i += 2)
        matrix_set_bits(&matrix, i, 0x8000);
    for (int fp4 = 0; fp4 < 2; fp4++) {
        output_t output = quantize_cut(&matrix, request_for(fp4), 1);
        assert_int_equal(((uint8_t *)output.scale)[0], 0);
        for (uint32_t i = 0; i < 2 * GROUP; i++)
            assert_int_equal(found_code(&output, fp4, i), i % 2 ? 0 : fp4 ? 8 : 0x80);
        output_destroy(&output);
    }
    free(matrix.data);
}

static void cuts_do_not_show(void **state)
{
    (void)state;
    random_begin("cuts_do_not_show");
    for (int i = 0; i < 40; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), GROUP * random_in(1, 20));
        output_t whole = quantize_cut(&matrix, request_for(i % 2), 0),
                 cut = quantize_cut(&matrix, request_for(i % 2), random_in(1, 63));
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
    for (int fp4 = 0; fp4 < 2; fp4++) {
        weft_kernel_id_t kernel = request_for(fp4).kernel;
        weft_quantize_unit_t good = {.dtype = WEFT_DTYPE_BF16, .out_dtype = request_for(fp4).out_dtype}, bad = good;
        assert_int_equal(tested->quantize[kernel](&good, &result), WEFT_OK);
        bad.cols = 33;
        assert_int_equal(tested->quantize[kernel](&bad, &result), WEFT_ERR_ARGUMENT);
        bad = good, bad.profile = WEFT_PROFILE_VLLM;
        assert_int_equal(tested->quantize[kernel](&bad, &result), WEFT_ERR_ARGUMENT);
        bad = good, bad.out_dtype = WEFT_DTYPE_I8;
        assert_int_equal(tested->quantize[kernel](&bad, &result), WEFT_ERR_ARGUMENT);
        bad = good, bad.rows = 129;
        assert_int_equal(tested->quantize[kernel](&bad, &result), WEFT_ERR_ARGUMENT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_of_every_dtype),
        cmocka_unit_test(every_bf16),
        cmocka_unit_test(every_amax),
        cmocka_unit_test(ties),
        cmocka_unit_test(zeros_keep_their_signs),
        cmocka_unit_test(cuts_do_not_show),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
