/* The table of backends, and the arithmetic a thread is given. */
#include <fenv.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "fixture.h"

static void ref_is_complete(void **state)
{
    (void)state;
    const weft_kernels_t *ref = weft_kernels_find("ref");
    assert_non_null(ref);
    assert_string_equal(ref->name, "ref");
    for (int i = 0; i < WEFT_KERNEL_COUNT; i++)
        assert_non_null(ref->quantize[i]);
    assert_non_null(ref->amax);
    assert_non_null(ref->pack);
    assert_non_null(ref->digest);
    assert_null(weft_kernels_find("no such backend"));
}

static void thread_begin_restores_subnormals_and_rounding(void **state)
{
    (void)state;
#if defined(__SSE2__)
    const unsigned flush_to_zero = 0x8000, denormals_are_zero = 0x0040;
    _mm_setcsr(_mm_getcsr() | flush_to_zero | denormals_are_zero);
#endif
    fesetround(FE_UPWARD);
    weft_kernels_thread_begin();
    assert_int_equal(fegetround(), FE_TONEAREST);
    volatile float least_normal = 0x1p-126f, half = 0.5f;
    volatile float subnormal = least_normal * half;
    assert_true(subnormal > 0);
    assert_true(subnormal * 2 == least_normal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_is_complete),
        cmocka_unit_test(thread_begin_restores_subnormals_and_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
