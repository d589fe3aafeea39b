/* What the decoder does to runs of floats. Every sum has one fixed order, whatever machine or vector width
 * computes it. */
#ifndef WEFT_LAUNCH_DECODER_VECTOR_H
#define WEFT_LAUNCH_DECODER_VECTOR_H

#include <stddef.h>
#include <stdint.h>

/* The dot product of two runs. */
float decoder_dot(const float *a, const float *b, uint32_t count);

/* y += factor * x. */
void decoder_add_scaled(float factor, const float *x, uint32_t count, float *y);

/* out [width] = the sum of `count` rows [width], each times its weight. */
void decoder_weighted_sum(const float *weights, const float *rows, uint32_t count, uint32_t width,
                          float *out);

/* out = x / sqrt(mean(x^2) + eps) * weight; `out` may be `x`. */
void decoder_rms_norm(const float *x, const float *weight, float eps, uint32_t count, float *out);

/* values = exp(values - max) / sum. */
void decoder_softmax(float *values, uint32_t count);

/* SwiGLU in place: from `count` rows [gate; up] of 2 * width to as many rows silu(gate) * up of width,
 * packed. */
void decoder_swiglu(float *values, uint32_t count, uint32_t width);

#endif
