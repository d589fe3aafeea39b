/* nvfp4 against its formulas in double, both orders of operations, under the amax of larger tensors. */
#include "fixture.h"

#define GROUP 16

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

/* One fp32 operation after another, each computed in double and rounded. */
static float f(double x)
{
    return (float)x;
}

static void expect_group(bool modelopt, float amax, float group_amax, const double *x, float *global, uint8_t *scale,
                         uint8_t *code)
{
    const double large = (double)f32_of_bits(0x7F7FFFFF);
    if (modelopt) {
        float s2 = amax > 0 ? f((double)amax / 2688) : 1;
        float quotient = f((double)group_amax / (double)f(6.0 * (double)s2));
        *global = s2;
        *scale = encode_e4m3(quotient > 0 ? fmin(fmax((double)quotient, 0x1p-9), 448) : 1);
        float divisor = f(decode_e4m3(*scale) * (double)s2);
        for (int i = 0; i < GROUP; i++)
            code[i] = encode_e2m1(divisor > 0    ? (double)f(x[i] / (double)divisor)
                                  : isfinite(x[i]) ? copysign(0, x[i])
                                                   : x[i]);
        return;
    }
    double s = amax > 0 ? fmin((double)f(2688 / (double)amax), large) : 1;
    float inverse = f(1 / s), sixth = f(1.0 / 6);
    *global = inverse;
    *scale = encode_e4m3((double)f((double)group_amax * (double)f(s * (double)sixth)));
    float product = f(decode_e4m3(*scale) * (double)inverse);
    double factor = product > 0 ? fmin((double)f(1 / (double)product), large) : large;
    for (int i = 0; i < GROUP; i++)
        code[i] = encode_e2m1((double)f(x[i] * factor));
}

static request_t request_for(bool modelopt, const uint16_t *amax)
{
    return (request_t){WEFT_KERNEL_NVFP4, modelopt ? WEFT_PROFILE_MODELOPT : WEFT_PROFILE_DEFAULT, WEFT_DTYPE_U8, NULL,
                       amax};
}

static float amax_in(const matrix_t *matrix, size_t first, size_t count)
{
    double amax = 0;
    for (size_t i = first; i < first + count; i++) {
        double value = element_value(matrix->dtype, matrix->data, i);
        amax = isfinite(value) ? fmax(amax, fabs(value)) : amax;
    }
    return (float)amax;
}

static int found_code(const output_t *output, size_t index)
{
    return ((const uint8_t *)output->data)[index / 2] >> (index % 2 * 4) & 15;
}

static void check_group(const matrix_t *matrix, const output_t *output, bool modelopt, float amax, size_t first)
{
    double x[GROUP];
    uint8_t scale, code[GROUP];
    float global;
    for (size_t i = 0; i < GROUP; i++)
        x[i] = element_value(matrix->dtype, matrix->data, first + i);
    expect_group(modelopt, amax, amax_in(matrix, first, GROUP), x, &global, &scale, code);
    assert_int_equal(bits_of_f32(output->global), bits_of_f32(global));
    assert_int_equal(((const uint8_t *)output->scale)[first / GROUP], scale);
    for (size_t i = 0; i < GROUP; i++)
        assert_int_equal(found_code(output, first + i), code[i]);
}

static void check_matrix(const matrix_t *matrix, const uint16_t *given)
{
    size_t count = (size_t)matrix->rows * matrix->cols;
    float amax = given ? (float)decode_value(matrix->dtype, *given) : amax_in(matrix, 0, count);
    for (int modelopt = 0; modelopt < 2; modelopt++) {
        output_t output = quantize_cut(matrix, request_for(modelopt, given), random_in(0, 8));
        for (size_t first = 0; first < count; first += GROUP)
            check_group(matrix, &output, modelopt, amax, first);
        output_destroy(&output);
    }
}

static void random_weights_of_every_dtype(void **state)
{
    (void)state;
    random_begin("random_weights_of_every_dtype");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (int i = 0; i < 45; i++) {
        matrix_t matrix = matrix_random(dtypes[i % 3], random_in(1, 128), GROUP * random_in(1, 20));
        uint16_t amax = dtypes[i % 3] == WEFT_DTYPE_F16 ? 0x3400 : 0x3E80; /* 0.25 */
        check_matrix(&matrix, i % 2 ? &amax : NULL);
        free(matrix.data);
    }
}

/* All bf16 under one amax after another, and under their own. */
static void every_bf16_under_chosen_scales(void **state)
{
    (void)state;
    random_begin("every_bf16_under_chosen_scales");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 64, 1024);
    for (uint32_t i = 0; i < 0x10000; i++)
        matrix_set_bits(&matrix, i, i);
    const uint16_t amax[] = {0, 1, 0x0080, 0x0527, 0x0528, 0x0529, 0x3B00, 0x4528, 0x7F7F};
    for (int i = 0; i < 9; i++)
        check_matrix(&matrix, &amax[i]);
    check_matrix(&matrix, NULL);
    free(matrix.data);
}

/* Groups of every magnitude below a largest one. */
static void every_group_amax(void **state)
{
    (void)state;
    random_begin("every_group_amax");
    for (uint32_t top = 0x0100; top < 0x7F80; top += 0x0C3B) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 128, 16 * GROUP);
        for (uint32_t i = 0; i < 128 * 16 * GROUP; i++) {
            uint32_t below = i / GROUP, largest = top > below ? top - below : 0;
            uint32_t bits = i % GROUP ? random_in(largest > 500 ? largest - 500 : 0, largest) : largest;
            matrix_set_bits(&matrix, i, bits | random_in(0, 1) << 15);
        }
        check_matrix(&matrix, NULL);
        free(matrix.data);
    }
}

static void a_small_group_keeps_its_codes(void **state)
{
    (void)state;
    random_begin("a_small_group_keeps_its_codes");
    matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, 1, 2 * GROUP);
    matrix_set(&matrix, 0, 1);
    matrix_set(&matrix, GROUP, 1e-9);
    matrix_set(&matrix, GROUP + 1, -1e-9);
    matrix_set_bits(&matrix, GROUP + 2, 0x8000);
    output_t output = quantize_cut(&matrix, request_for(false, NULL), 0);
    assert_int_equal(((uint8_t *)output.scale)[1], 0);
    assert_int_equal(found_code(&output, GROUP), 7);
    assert_int_equal(found_code(&output, GROUP + 1), 15);
    assert_int_equal(found_code(&output, GROUP + 2), 8);
    assert_int_equal(found_code(&output, GROUP + 3), 0);
    output_destroy(&output);
    output = quantize_cut(&matrix, request_for(true, NULL), 0);
    assert_int_equal(((uint8_t *)output.scale)[1], 1); /* 2^-9 */
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
    for (int modelopt = 0; modelopt < 2; modelopt++) {
        output_t output = quantize_cut(&matrix, request_for(modelopt, NULL), 1);
        assert_int_equal(bits_of_f32(output.global), bits_of_f32(1));
        assert_int_equal(((uint8_t *)output.scale)[0], modelopt ? 0x38 : 0);
        for (uint32_t i = 0; i < 2 * GROUP; i++)
            assert_int_equal(found_code(&output, i), i % 2 ? 0 : 8);
        output_destroy(&output);
    }
    free(matrix.data);
}

static void cuts_do_not_show(void **state)
{
    (void)state;
    random_begin("cuts_do_not_show");
    for (int i = 0; i < 40; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), GROUP * random_in(1, 30));
        output_t whole = quantize_cut(&matrix, request_for(i % 2, NULL), 0),
                 cut = quantize_cut(&matrix, request_for(i % 2, NULL), random_in(1, 63));
        assert_outputs_equal(&whole, &cut);
        output_destroy(&whole);
        output_destroy(&cut);
        free(matrix.data);
    }
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    float scale;
    weft_quantize_result_t result;
    weft_quantize_fn quantize = tested->quantize[WEFT_KERNEL_NVFP4];
    weft_quantize_unit_t good = {.dtype = WEFT_DTYPE_BF16, .out_dtype = WEFT_DTYPE_U8, .global = &scale}, bad = good;
    assert_int_equal(quantize(&good, &result), WEFT_OK);
    bad.cols = 8;
    assert_int_equal(quantize(&bad, &result), WEFT_ERR_ARGUMENT);
    bad = good, bad.profile = WEFT_PROFILE_CT;
    assert_int_equal(quantize(&bad, &result), WEFT_ERR_ARGUMENT);
    bad = good, bad.out_dtype = WEFT_DTYPE_F8_E4M3;
    assert_int_equal(quantize(&bad, &result), WEFT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights_of_every_dtype),
        cmocka_unit_test(every_bf16_under_chosen_scales),
        cmocka_unit_test(every_group_amax),
        cmocka_unit_test(a_small_group_keeps_its_codes),
        cmocka_unit_test(zeros_keep_their_signs),
        cmocka_unit_test(cuts_do_not_show),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
