/* Codes without divisions (kernels/cuda/codes.h) against arith_int.h and arith_fp4.h: every x under a sample
 * of amaxes, and the quotients that lie as near a tie as quotients can. */
#include "fixture.h"

#include "kernels/cuda/codes.h"

#define STRIDE 127 /* a prime, so that all mantissas come by */

typedef float (*value_fn)(uint16_t bits);

/* A scheme's scale and codes, plain and quick. */
typedef struct subject {
    weft_profile_t profile;
    float (*scale)(weft_profile_t profile, float amax);
    int (*code)(weft_profile_t profile, float x, float scale);
    int (*quick)(weft_profile_t profile, float quotient);
} subject_t;

static int int8_code(weft_profile_t profile, float x, float scale)
{
    return (uint8_t)weft_int8_code(profile, x, scale);
}

static int int8_quick(weft_profile_t profile, float quotient)
{
    float q = weft_int8_rounds(profile) ? weft_round_bf16(quotient) : quotient;
    return (uint8_t)weft_quick_int8(q, weft_int8_low(profile));
}

static int int4_code(weft_profile_t profile, float x, float scale)
{
    return weft_int4_code(profile, x, scale);
}

static int int4_quick(weft_profile_t profile, float quotient)
{
    uint32_t sum = weft_quick_int4(profile == WEFT_PROFILE_CT ? weft_round_bf16(quotient) : quotient);
    assert_int_equal(sum & ~15u, WEFT_QUICK_INT4);
    return (int)(sum & 15);
}

static const subject_t subjects[] = {
    {WEFT_PROFILE_IEEE, weft_int8_scale, int8_code, int8_quick},
    {WEFT_PROFILE_VLLM, weft_int8_scale, int8_code, int8_quick},
    {WEFT_PROFILE_CT, weft_int8_scale, int8_code, int8_quick},
    {WEFT_PROFILE_IEEE, weft_int4_scale, int4_code, int4_quick},
    {WEFT_PROFILE_CT, weft_int4_scale, int4_code, int4_quick},
    {WEFT_PROFILE_QAT, weft_int4_scale, int4_code, int4_quick},
};

static uint32_t count_wrong(const subject_t *s, value_fn value, uint32_t amax)
{
    const float scale = s->scale(s->profile, value((uint16_t)amax));
    const weft_inverse_t inverse = weft_inverse_of(scale);
    uint32_t wrong = 0;
    for (uint32_t bits = 0; weft_quick_scale(scale) && bits <= amax; bits++) {
        const float x = value((uint16_t)bits);
        wrong += s->quick(s->profile, weft_quotient(x, inverse)) != s->code(s->profile, x, scale);
        wrong += s->quick(s->profile, weft_quotient(-x, inverse)) != s->code(s->profile, -x, scale);
    }
    return wrong;
}

static void check_sample(value_fn value, uint32_t end)
{
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        for (uint32_t amax = i; amax < end; amax += STRIDE)
            assert_int_equal(count_wrong(&subjects[i], value, amax), 0);
    }
}

static void every_bf16_of_a_sample_of_groups(void **state)
{
    (void)state;
    check_sample(weft_f32_from_bf16, WEFT_BF16_INF);
}

static void every_f16_of_a_sample_of_groups(void **state)
{
    (void)state;
    check_sample(weft_f32_from_f16, WEFT_F16_INF);
}

static int e2m1_quick(float x)
{
    const uint32_t sum = weft_saturating_e2m1(x);
    assert_int_equal(sum & ~7u, WEFT_QUICK_E2M1);
    if (fabsf(x) < 7)
        assert_int_equal(weft_quick_e2m1(x), sum);
    return (int)(sum & 7) | (signbit(x) ? WEFT_E2M1_SIGN : 0);
}

/* Scales of 24 bits around x / t, for every mantissa of 16-bit floats: no quotient is nearer t, or the last
 * number that rounds to it, without being it. */
static uint32_t count_near(float tie, float x)
{
    uint32_t wrong = 0;
    for (int32_t edge = -1; edge <= 1; edge++) {
        const double target = tie * (1 + edge * 0x1p-24);
        const uint32_t nearest = weft_f32_bits((float)(x / target));
        for (uint32_t bits = nearest - 4; bits <= nearest + 4; bits++) {
            const float scale = weft_f32(bits), quick = weft_quotient(x, weft_inverse_of(scale));
            if (!weft_quick_scale(scale))
                continue;
            if (tie <= 5)
                wrong += e2m1_quick(quick) != weft_e2m1_from_f32(x / scale);
            if (tie <= 7.5f)
                wrong += (weft_quick_int4(quick) & 15) != weft_int4_code(WEFT_PROFILE_IEEE, x, scale);
            wrong +=
                (uint8_t)weft_quick_int8(quick, -127) != (uint8_t)weft_int8_code(WEFT_PROFILE_IEEE, x, scale);
        }
    }
    return wrong;
}

static void quotients_near_a_tie(void **state)
{
    (void)state;
    for (uint32_t mantissa = 1024; mantissa < 2048; mantissa++) {
        const float x = (float)mantissa;
        for (float tie = 0.25f; tie < 127; tie += tie < 2 ? 0.25f : 0.5f)
            assert_int_equal(count_near(tie, x), 0);
    }
}

static void every_e2m1_magnitude(void **state)
{
    (void)state;
    const uint32_t step = 251; /* a prime */
    for (uint32_t bits = 0; bits <= WEFT_F32_INF; bits += step) {
        const float x = weft_f32(bits);
        assert_int_equal(e2m1_quick(x), weft_e2m1_from_f32(x));
        assert_int_equal(e2m1_quick(-x), weft_e2m1_from_f32(-x));
    }
    const float ties[] = {.25f, .5f, .75f, 1, 1.25f, 1.5f, 1.75f, 2, 2.5f, 3, 3.5f, 4, 5, 6, 7, 8};
    for (size_t i = 0; i < sizeof ties / sizeof *ties; i++) {
        for (uint32_t bits = weft_f32_bits(ties[i]) - 3; bits <= weft_f32_bits(ties[i]) + 3; bits++)
            assert_int_equal(e2m1_quick(weft_f32(bits)), weft_e2m1_from_f32(weft_f32(bits)));
    }
    assert_int_equal(e2m1_quick(INFINITY), weft_e2m1_from_f32(INFINITY));
}

/* The exponent of mxfp8 without its division. */
static void every_mxfp8_exponent(void **state)
{
    (void)state;
    for (uint32_t bits = 1; bits < WEFT_BF16_INF; bits++) {
        const float bf16 = weft_f32_from_bf16((uint16_t)bits), f16 = weft_f32_from_f16((uint16_t)bits);
        assert_int_equal(weft_mxfp8_exponent(bf16), weft_exponent_ceil(bf16 / 448));
        if (bits < WEFT_F16_INF)
            assert_int_equal(weft_mxfp8_exponent(f16), weft_exponent_ceil(f16 / 448));
    }
    assert_int_equal(weft_mxfp8_exponent(0), 0);
}

/* The scales of modelopt's groups without their division, under a sample of tensors. */
static uint32_t count_wrong_scales(value_fn value, uint32_t tensor_amax)
{
    const weft_nvfp4_t d = weft_nvfp4_domain(WEFT_PROFILE_MODELOPT, value((uint16_t)tensor_amax));
    const weft_inverse_t inverse = weft_inverse_of(d.to_scale);
    uint32_t wrong = 0;
    for (uint32_t bits = 0; weft_quick_scale(d.to_scale) && bits <= tensor_amax; bits++) {
        const float amax = value((uint16_t)bits), quotient = weft_quotient(amax, inverse);
        const float clamped = quotient > 0 ? weft_quick_max(quotient, 0.001953125f) : 1.0f;
        wrong += weft_e4m3_from_f32(clamped) != weft_nvfp4_scale(&d, amax);
    }
    return wrong;
}

static void every_nvfp4_scale_of_a_sample_of_tensors(void **state)
{
    (void)state;
    for (uint32_t amax = 1; amax < WEFT_BF16_INF; amax += STRIDE)
        assert_int_equal(count_wrong_scales(weft_f32_from_bf16, amax), 0);
    for (uint32_t amax = 1; amax < WEFT_F16_INF; amax += STRIDE)
        assert_int_equal(count_wrong_scales(weft_f32_from_f16, amax), 0);
}

/* What weft_quick_e2m1 asks for: the largest element of a group is below 7 times its scale, but in nvfp4 where that is
 * subnormal or the largest. */
static void check_below_7(const weft_nvfp4_t *d, float amax)
{
    const uint8_t scale = weft_nvfp4_scale(d, amax);
    if (scale < 0x08 || scale >= 0x7E)
        return;
    const float factor = weft_nvfp4_factor(d, scale);
    assert_true((d->modelopt ? amax / factor : amax * factor) < 7);
}

static void elements_over_their_scale_are_below_7(void **state)
{
    (void)state;
    for (uint32_t bits = 1; bits < WEFT_F32_INF; bits += 65521) { /* a prime */
        const float amax = weft_f32(bits);
        assert_true(amax * weft_mx_factor(weft_mxfp4_exponent(amax)) < 7);
    }
    const weft_profile_t profiles[] = {WEFT_PROFILE_DEFAULT, WEFT_PROFILE_MODELOPT};
    for (uint32_t i = 0; i < 256; i++) {
        const float tensor = weft_f32_from_bf16((uint16_t)(0x3E00 + i * 3));
        const weft_nvfp4_t d = weft_nvfp4_domain(profiles[i % 2], tensor);
        for (uint32_t bits = weft_f32_bits(tensor) - (24 << 23); bits <= weft_f32_bits(tensor); bits += 65521)
            check_below_7(&d, weft_f32(bits));
    }
}

/* Where codes.h must not be asked. */
static void scales_near_the_ends_are_not_quick(void **state)
{
    (void)state;
    assert_false(weft_quick_scale(0x1.fffffep+3f)); /* 0x1p10 / it is not */
    assert_true(weft_quick_scale(1.0f) && weft_quick_scale(0x1p-60f) && weft_quick_scale(0x1p59f));
    assert_false(weft_quick_scale(0x1p-61f) || weft_quick_scale(0x1p60f) || weft_quick_scale(0.0f));
    assert_false(weft_quick_scale(INFINITY) || weft_quick_scale(-1.0f) || weft_quick_scale(NAN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bf16_of_a_sample_of_groups),
        cmocka_unit_test(every_f16_of_a_sample_of_groups),
        cmocka_unit_test(quotients_near_a_tie),
        cmocka_unit_test(every_e2m1_magnitude),
        cmocka_unit_test(every_mxfp8_exponent),
        cmocka_unit_test(every_nvfp4_scale_of_a_sample_of_tensors),
        cmocka_unit_test(elements_over_their_scale_are_below_7),
        cmocka_unit_test(scales_near_the_ends_are_not_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
