/* Floating point: a host program that flushes subnormals to zero, as many trainers and engines do, gets the same bytes,
 * and keeps its own setting. */
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "tests/support/job.h"

#if defined(__SSE2__)

#define FLUSH 0x8040u /* FTZ and DAZ */

/* Half of them subnormal, half as weights are: codes and scales have all their bits. */
static uint32_t tiny_element(uint32_t tensor, uint64_t flat, weft_dtype_t dtype)
{
    uint32_t bits = element_weight(tensor, flat, dtype);
    return mix64((uint64_t)(tensor + 1) << 40 | flat) & 1 ? bits & free_bits(dtype) : bits;
}

static void run(weft_dtype_t dtype, const char *scheme)
{
    checkpoint_t cp = checkpoint_block(dtype);
    weft_error_t error;
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = scheme});
    unsigned before = _mm_getcsr();
    uint64_t served;
    job_fill_base(job, tiny_element);
    job_expect(job, 1); /* with subnormals */
    uint32_t other_than_zero = 0;
    for (uint64_t b = 0; b < job->outputs[0].bytes; b++)
        other_than_zero += (job_slot(job, 1)->bytes[0][b] & 0x7F) != 0;
    assert_true(other_than_zero > job->outputs[0].bytes / 4);
    unsigned flushing = (_mm_getcsr() & ~0x3Fu) | FLUSH;
    _mm_setcsr(flushing); /* threads begin with what the one that starts them has */
    job_open(job);
    job_publish(job, 1);
    job_wait(job, 1, WEFT_PUBLISH_APPLIED, WEFT_OK);
    for (uint32_t i = 0; i < job->num_rollouts; i++)
        assert_int_equal(weft_rollout_step_begin(job_rollout(job, i)->rollout, 1, 0, &served, &error), WEFT_OK);
    job_check_live(job, 1);
    assert_int_equal(_mm_getcsr() & ~0x3Fu, flushing);
    job_close(job);
    _mm_setcsr(before);
    job_destroy(job);
}

static void test_flush_to_zero(void **state)
{
    (void)state;
    static const char *const schemes[] = {"bf16", "fp8-block", "fp8-channel"};
    for (uint32_t i = 0; i < 3; i++) {
        run(WEFT_DTYPE_BF16, schemes[i]);
        run(i == 1 ? WEFT_DTYPE_F16 : WEFT_DTYPE_F32, schemes[i]);
    }
}

#else

static void test_flush_to_zero(void **state)
{
    (void)state;
    print_message("no SSE: skipped\n");
    skip();
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_flush_to_zero)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
