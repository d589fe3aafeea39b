/* Logits of two decoders side by side. */
#ifndef WEFT_TESTS_CUDA_DECODER_LOGITS_H
#define WEFT_TESTS_CUDA_DECODER_LOGITS_H

#include <stdint.h>

uint32_t likeliest(const float *logits, uint32_t vocab);

/* Fail the running test where a logit is off by 0.01, or the likeliest token is another; *largest becomes the
 * largest difference met so far. */
void check_near(const float *expected, const float *logits, uint32_t vocab, float *largest);

#endif
