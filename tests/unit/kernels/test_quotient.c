/* The division of fp8-channel on the device, which is none: the codes of every x under a sample of amaxes,
 * against true divisions. tests/cuda tries all amaxes. */
#include "fixture.h"

#include "kernels/arith.h"
#include "kernels/cuda/quotient.h"

#define STRIDE 61 /* a prime, so that all mantissas come by */

typedef float (*value_fn)(uint16_t bits);

/* How many x up to the amax, of either sign, get another code than by division. */
static uint32_t count_wrong(value_fn value, uint32_t amax)
{
    const float s = weft_channel_scale(value((uint16_t)amax));
    const weft_inverse_t inverse = weft_inverse_of(s);
    uint32_t wrong = 0;
    for (uint32_t bits = 0; bits <= amax; bits++) {
        const float x = value((uint16_t)bits);
        wrong += weft_e4m3_from_f32(weft_quotient(x, inverse)) != weft_channel_code(x, s);
        wrong += weft_e4m3_from_f32(weft_quotient(-x, inverse)) != weft_channel_code(-x, s);
    }
    return wrong;
}

static void check_sample(value_fn value, uint32_t end)
{
    for (uint32_t amax = 0; amax < end; amax += STRIDE)
        assert_int_equal(count_wrong(value, amax), 0);
    for (uint32_t amax = end - 2; amax < end; amax++)
        assert_int_equal(count_wrong(value, amax), 0);
}

static void every_bf16_of_a_sample_of_rows(void **state)
{
    (void)state;
    check_sample(weft_f32_from_bf16, WEFT_BF16_INF);
}

static void every_f16_of_a_sample_of_rows(void **state)
{
    (void)state;
    check_sample(weft_f32_from_f16, WEFT_F16_INF);
}

/* One multiplication would not do: this is what the second operation is for. */
static void a_product_is_not_enough(void **state)
{
    (void)state;
    uint32_t wrong = 0;
    for (uint32_t amax = 0; amax < WEFT_BF16_INF; amax += STRIDE) {
        const float s = weft_channel_scale(weft_f32_from_bf16((uint16_t)amax)), r = 1.0f / s;
        for (uint32_t bits = 0; bits <= amax; bits++) {
            const float x = weft_f32_from_bf16((uint16_t)bits);
            wrong += weft_e4m3_from_f32(x * r) != weft_channel_code(x, s);
        }
    }
    assert_true(wrong > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bf16_of_a_sample_of_rows),
        cmocka_unit_test(every_f16_of_a_sample_of_rows),
        cmocka_unit_test(a_product_is_not_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
