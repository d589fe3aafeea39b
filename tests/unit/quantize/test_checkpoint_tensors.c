/* The list itself is checked on whole models by tests/ranks/quantized.py; here is the number that has no other copy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/arith_fp4.h"
#include "src/quantize/checkpoint_tensors.h"

static float divisor_of(float amax)
{
    float divisor = amax > 0 ? 2688.0f / amax : 1.0f;
    return divisor < WEFT_F32_LARGEST ? divisor : WEFT_F32_LARGEST;
}

static void assert_found_again(float amax, weft_dtype_t dtype)
{
    float multiplier = weft_nvfp4_domain(WEFT_PROFILE_DEFAULT, amax).global;
    float found = weft_checkpoint_divisor(multiplier, dtype);
    assert_int_equal(weft_f32_bits(found), weft_f32_bits(divisor_of(amax)));
}

/* Every amax there is, subnormals and 0 too. */
static void test_divisor_of_every_amax(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < WEFT_BF16_INF; bits++) {
        assert_found_again(weft_f32_from_bf16((uint16_t)bits), WEFT_DTYPE_BF16);
        assert_found_again(weft_f32_from_bf16((uint16_t)bits), WEFT_DTYPE_F32); /* rounded to bf16 before */
    }
    for (uint32_t bits = 0; bits < WEFT_F16_INF; bits++)
        assert_found_again(weft_f32_from_f16((uint16_t)bits), WEFT_DTYPE_F16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_divisor_of_every_amax)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
