#include "launch/decoder/vector.h"

#include <math.h>
#include <string.h>

#include "launch/decoder/clones.h"

#define LANES   16 /* independent sums of a dot product */
#define COLUMNS 64 /* sums of a weighted sum that are kept in registers */

/* Add the lanes as a tree. Every bound is a constant, or the compiler would keep the lanes in memory. */
static inline float sum_of_lanes(const float lanes[LANES])
{
    float eight[8], four[4];
    for (uint32_t lane = 0; lane < 8; lane++)
        eight[lane] = lanes[lane] + lanes[lane + 8];
    for (uint32_t lane = 0; lane < 4; lane++)
        four[lane] = eight[lane] + eight[lane + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

DECODER_VECTOR_CLONES
float decoder_dot(const float *a, const float *b, uint32_t count)
{
    float lanes[LANES] = {0}, rest = 0;
    uint32_t whole = count / LANES * LANES;
    for (uint32_t i = 0; i < whole; i += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++)
            lanes[lane] += a[i + lane] * b[i + lane];
    for (uint32_t i = whole; i < count; i++)
        rest += a[i] * b[i];
    return sum_of_lanes(lanes) + rest;
}

DECODER_VECTOR_CLONES
void decoder_add_scaled(float factor, const float *restrict x, uint32_t count, float *restrict y)
{
    for (uint32_t i = 0; i < count; i++)
        y[i] += factor * x[i];
}

DECODER_VECTOR_CLONES
void decoder_weighted_sum(const float *weights, const float *rows, uint32_t count, uint32_t width, float *out)
{
    uint32_t col = 0;
    for (; col + COLUMNS <= width; col += COLUMNS) {
        float sum[COLUMNS] = {0};
        for (uint32_t j = 0; j < count; j++)
            for (uint32_t i = 0; i < COLUMNS; i++)
                sum[i] += weights[j] * rows[(size_t)j * width + col + i];
        memcpy(out + col, sum, sizeof sum);
    }
    for (; col < width; col++) {
        out[col] = 0;
        for (uint32_t j = 0; j < count; j++)
            out[col] += weights[j] * rows[(size_t)j * width + col];
    }
}

void decoder_rms_norm(const float *x, const float *weight, float eps, uint32_t count, float *out)
{
    float factor = 1 / sqrtf(decoder_dot(x, x, count) / (float)count + eps);
    for (uint32_t i = 0; i < count; i++)
        out[i] = x[i] * factor * weight[i];
}

void decoder_softmax(float *values, uint32_t count)
{
    float largest = values[0], sum = 0;
    for (uint32_t i = 1; i < count; i++)
        largest = values[i] > largest ? values[i] : largest;
    for (uint32_t i = 0; i < count; i++) {
        values[i] = expf(values[i] - largest);
        sum += values[i];
    }
    for (uint32_t i = 0; i < count; i++)
        values[i] /= sum;
}

void decoder_swiglu(float *values, uint32_t count, uint32_t width)
{
    for (uint32_t t = 0; t < count; t++) {
        const float *gate = values + (size_t)t * 2 * width, *up = gate + width;
        float *out = values + (size_t)t * width; /* never ahead of what is still to be read */
        for (uint32_t i = 0; i < width; i++)
            out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    }
}
