/* Conversions, exhaustively where 16 bits allow it, against a search of all values in double. */
#include "fixture.h"

#include "kernels/arith.h"

#define ALL_16_BITS 0x10000u

static void assert_same_float(float found, double expected)
{
    if (isnan(expected))
        assert_true(isnan(found));
    else
        assert_int_equal(bits_of_f32(found), bits_of_f32((float)expected));
}

static void every_bf16_to_e4m3(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < ALL_16_BITS; bits++) {
        float x = weft_f32_from_bf16((uint16_t)bits);
        assert_same_float(x, decode(bits, 8, 7, true));
        assert_int_equal(weft_e4m3_from_f32(x), encode_e4m3(decode(bits, 8, 7, true)));
    }
}

static void every_f16_to_e4m3(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < ALL_16_BITS; bits++) {
        float x = weft_f32_from_f16((uint16_t)bits);
        assert_same_float(x, decode(bits, 5, 10, true));
        assert_int_equal(weft_e4m3_from_f32(x), encode_e4m3(decode(bits, 5, 10, true)));
    }
}

/* Each tie between two codes, and the fp32 on either side of it. */
static void every_e4m3_tie(void **state)
{
    (void)state;
    for (uint8_t code = 0; code < 0x7E; code++) {
        float tie = (float)((decode_e4m3(code) + decode_e4m3(code + 1)) / 2);
        uint8_t even = code % 2 == 0 ? code : code + 1;
        assert_int_equal(weft_e4m3_from_f32(tie), even);
        assert_int_equal(weft_e4m3_from_f32(-tie), even | 0x80);
        assert_int_equal(weft_e4m3_from_f32(nextafterf(tie, 0)), code);
        assert_int_equal(weft_e4m3_from_f32(nextafterf(tie, INFINITY)), code + 1);
    }
}

static void e4m3_ends(void **state)
{
    (void)state;
    assert_int_equal(weft_e4m3_from_f32(464.0f), 0x7E);
    assert_int_equal(weft_e4m3_from_f32(-1e30f), 0xFE);
    assert_int_equal(weft_e4m3_from_f32(INFINITY), 0x7E);
    assert_int_equal(weft_e4m3_from_f32(-INFINITY), 0xFE);
    assert_int_equal(weft_e4m3_from_f32(NAN), 0x7F);
    assert_int_equal(weft_e4m3_from_f32(-NAN), 0x7F);
    assert_int_equal(weft_e4m3_from_f32(-0.0f), 0x80);
    assert_int_equal(weft_e4m3_from_f32(-0x1p-149f), 0x80);
    assert_int_equal(weft_e4m3_from_f32(0x1p-10f), 0x00);
    for (uint32_t code = 0; code < 256; code++)
        assert_same_float(weft_f32_from_e4m3((uint8_t)code), decode_e4m3((uint8_t)code));
}

/* A walk over all fp32, in steps of a prime. */
static void sampled_f32_to_e4m3_and_bf16(void **state)
{
    (void)state;
    for (uint64_t bits = 0; bits < UINT64_C(0x100000000); bits += 65063) {
        float x = f32_of_bits((uint32_t)bits);
        assert_int_equal(weft_e4m3_from_f32(x), encode_e4m3((double)x));
        assert_same_float(weft_f32_from_bf16(weft_bf16_from_f32(x)), round_to_bf16(x));
    }
}

static void every_bf16_tie(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < ALL_16_BITS; bits++) {
        uint32_t below = bits << 16, even = bits + (bits & 1);
        if ((bits & 0x7FFF) >= WEFT_BF16_INF)
            continue;
        assert_int_equal(weft_bf16_from_f32(f32_of_bits(below)), bits);
        assert_int_equal(weft_bf16_from_f32(f32_of_bits(below | 0x7FFF)), bits);
        assert_int_equal(weft_bf16_from_f32(f32_of_bits(below | 0x8000)), even);
        assert_int_equal(weft_bf16_from_f32(f32_of_bits(below | 0x8001)), bits + 1);
    }
    assert_int_equal(weft_bf16_from_f32(INFINITY), 0x7F80);
    assert_int_equal(weft_bf16_from_f32(f32_of_bits(0xFF800001)), 0x7FFF);
    assert_int_equal(weft_bf16_from_f32(f32_of_bits(0xFFFFFFFF)), 0x7FFF);
}

static void every_f16_tie(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < WEFT_F16_INF; bits++) {
        double value = decode(bits, 5, 10, true),
               next = bits == 0x7BFF ? 65536 : decode(bits + 1, 5, 10, true);
        float tie = (float)((value + next) / 2);
        uint32_t even = bits + (bits & 1);
        assert_int_equal(weft_f16_from_f32((float)value), bits);
        assert_int_equal(weft_f16_from_f32(tie), even);
        assert_int_equal(weft_f16_from_f32(-tie), even | 0x8000);
        assert_int_equal(weft_f16_from_f32(nextafterf(tie, 0)), bits);
        assert_int_equal(weft_f16_from_f32(nextafterf(tie, INFINITY)), bits + 1);
    }
    assert_int_equal(weft_f16_from_f32(1e30f), 0x7C00);
    assert_int_equal(weft_f16_from_f32(-INFINITY), 0xFC00);
    assert_int_equal(weft_f16_from_f32(-NAN), 0x7FFF);
}

static void exponents_round_up(void **state)
{
    (void)state;
    assert_int_equal(weft_exponent_ceil(1.0f), 127);
    assert_int_equal(weft_exponent_ceil(nextafterf(1.0f, 2.0f)), 128);
    assert_int_equal(weft_exponent_ceil(nextafterf(1.0f, 0.0f)), 127);
    assert_int_equal(weft_exponent_ceil(0x1p-127f), 0);
    assert_int_equal(weft_exponent_ceil(nextafterf(0x1p-127f, 1.0f)), 1);
    for (uint32_t bits = 0; bits < WEFT_BF16_INF; bits++) {
        uint32_t exponent = weft_f32_bits(weft_block_scale_pow2(weft_f32_from_bf16((uint16_t)bits))) >> 23;
        assert_in_range(exponent, 105, 247);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bf16_to_e4m3),
        cmocka_unit_test(every_f16_to_e4m3),
        cmocka_unit_test(every_e4m3_tie),
        cmocka_unit_test(e4m3_ends),
        cmocka_unit_test(sampled_f32_to_e4m3_and_bf16),
        cmocka_unit_test(every_bf16_tie),
        cmocka_unit_test(every_f16_tie),
        cmocka_unit_test(exponents_round_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
