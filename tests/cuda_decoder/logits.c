#include "tests/cuda_decoder/logits.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define TOLERANCE 1e-2f

uint32_t likeliest(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

void check_near(const float *expected, const float *logits, uint32_t vocab, float *largest)
{
    for (uint32_t i = 0; i < vocab; i++) {
        float off = fabsf(expected[i] - logits[i]);
        if (!(off < TOLERANCE))
            fail_msg("logit %u is %f, expected %f", i, logits[i], expected[i]);
        *largest = off > *largest ? off : *largest;
    }
    assert_int_equal(likeliest(expected, vocab), likeliest(logits, vocab));
}
