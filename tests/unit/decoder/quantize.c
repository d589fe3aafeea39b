/* kernel_rank_quantize: E4M3 by plain arithmetic, scales restricted to powers of two. */
#include "tests/unit/decoder/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/base/array.h"

typedef struct domain {
    uint32_t rows, cols, row, col; /* extent of a stack's matrix, and where the domain begins in it */
    uint32_t num_rows, num_cols;
} domain_t;

static float load_bf16(uint16_t code)
{
    uint32_t bits = (uint32_t)code << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint16_t store_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    assert_int_equal(bits & 0xFFFF, 0); /* the point of powers of two */
    return (uint16_t)(bits >> 16);
}

/* The nearest code to `value`, at most 448 in magnitude; *rounded is what it stands for. */
static uint8_t encode(float value, float *rounded)
{
    int exponent;
    float magnitude = fabsf(value), step;
    frexpf(magnitude, &exponent);
    step = exponent - 1 < -6 ? 0x1p-9f : ldexpf(1, exponent - 4);
    magnitude = rintf(magnitude / step) * step;
    *rounded = copysignf(magnitude, value);
    uint8_t sign = signbit(value) ? 0x80 : 0;
    if (magnitude < 0x1p-6f)
        return sign | (uint8_t)(magnitude * 512);
    float fraction = frexpf(magnitude, &exponent); /* in [0.5, 1) */
    return sign | (uint8_t)((exponent - 1 + 7) << 3 | (int)(fraction * 16 - 8));
}

/* Quantize one domain in place: the values become what the codes stand for. Returns the scale. */
static float quantize_domain(uint16_t *values, uint8_t *codes, const domain_t *d)
{
    float largest = 0, scale = 1, rounded;
    for (uint32_t i = d->row; i < d->row + d->num_rows; i++)
        for (uint32_t j = d->col; j < d->col + d->num_cols; j++)
            largest = fmaxf(largest, fabsf(load_bf16(values[(size_t)i * d->cols + j])));
    if (largest > 0)
        scale = exp2f(ceilf(log2f(largest / 448)));
    for (uint32_t i = d->row; i < d->row + d->num_rows; i++)
        for (uint32_t j = d->col; j < d->col + d->num_cols; j++) {
            size_t at = (size_t)i * d->cols + j;
            codes[at] = encode(load_bf16(values[at]) / scale, &rounded);
            values[at] = store_bf16(rounded * scale);
        }
    return scale;
}

/* Quantize one matrix, domain by domain in the order in which its scales are stored. */
static float *quantize_matrix(uint16_t *values, uint8_t *codes, uint32_t rows, uint32_t cols,
                              kernel_scheme_t scheme, float *scale)
{
    uint32_t high = scheme == KERNEL_FP8_BLOCK ? 128 : 1, wide = scheme == KERNEL_FP8_BLOCK ? 128 : cols;
    for (uint32_t row = 0; row < rows; row += high)
        for (uint32_t col = 0; col < cols; col += wide) {
            domain_t d = {rows,
                          cols,
                          row,
                          col,
                          rows - row < high ? rows - row : high,
                          cols - col < wide ? cols - col : wide};
            *scale++ = quantize_domain(values, codes, &d);
        }
    return scale;
}

static void push(kernel_rank_t *rank, const char *name, const char *suffix, kernel_tensor_t tensor)
{
    snprintf(tensor.name, sizeof tensor.name, "%s%s", name, suffix);
    tensor.weight.data = tensor.data;
    assert_non_null(tensor.data);
    assert_true(WEFT_ARRAY_PUSH(&rank->tensors, tensor));
}

static void quantize_tensor(kernel_tensor_t *tensor, kernel_scheme_t scheme, kernel_rank_t *out)
{
    const uint64_t *shape = tensor->weight.shape;
    bool stack = strstr(tensor->name, ".experts.") != NULL;
    uint32_t count = stack ? (uint32_t)shape[0] : 1;
    uint32_t rows = (uint32_t)shape[stack], cols = (uint32_t)shape[stack + 1];
    uint32_t grid_rows = scheme == KERNEL_FP8_BLOCK ? (rows + 127) / 128 : rows;
    uint32_t grid_cols = scheme == KERNEL_FP8_BLOCK ? (cols + 127) / 128 : 1;
    size_t elems = (size_t)rows * cols;
    uint8_t *codes = malloc(count * elems);
    float *scales = malloc((size_t)count * grid_rows * grid_cols * sizeof *scales), *next = scales;
    assert_true(codes && scales);
    for (uint32_t i = 0; i < count; i++)
        next = quantize_matrix((uint16_t *)tensor->data + i * elems, codes + i * elems, rows, cols, scheme,
                               next);
    kernel_tensor_t code = {.weight = tensor->weight, .data = codes};
    code.weight.dtype = WEFT_DTYPE_F8_E4M3;
    kernel_tensor_t scale = {.weight = {.dtype = WEFT_DTYPE_F32, .shape = {grid_rows, grid_cols, 1}},
                             .data = scales};
    if (stack)
        scale.weight = (decoder_weight_t){.dtype = WEFT_DTYPE_F32, .shape = {count, grid_rows, grid_cols}};
    push(out, tensor->name, "", code);
    push(out, tensor->name, scheme == KERNEL_FP8_BLOCK ? "_scale_inv" : "_scale", scale);
}

void kernel_rank_quantize(kernel_rank_t *rank, kernel_scheme_t scheme, kernel_rank_t *quantized)
{
    *quantized = (kernel_rank_t){0};
    for (size_t i = 0; i < rank->tensors.count; i++) {
        kernel_tensor_t *tensor = &rank->tensors.items[i];
        if (strstr(tensor->name, "_proj.weight") || strstr(tensor->name, ".experts.")) {
            quantize_tensor(tensor, scheme, quantized);
            continue;
        }
        size_t bytes = tensor->weight.shape[0] * tensor->weight.shape[1] * tensor->weight.shape[2] * 2;
        kernel_tensor_t copy = *tensor;
        copy.data = malloc(bytes);
        assert_non_null(copy.data);
        memcpy(copy.data, tensor->data, bytes);
        push(quantized, tensor->name, "", copy);
    }
}
