/* kernel_rank_quantize: codes by plain arithmetic, scales restricted to powers of two. */
#include "tests/unit/decoder/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/arith.h"
#include "src/base/array.h"

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

/* One matrix on its way: the values, and where its codes and scales go. */
typedef struct subject {
    const decoder_format_t *format;
    uint16_t *values; /* bf16; become what the codes stand for */
    uint8_t *codes, *scales;
    uint32_t rows, cols;
    int global; /* nvfp4: the exponent of the tensor's scale */
} subject_t;

/* A float format: bits of the mantissa and the exponent of the least normal number. */
typedef struct coding {
    int mantissa, least;
} coding_t;

static const coding_t e4m3 = {3, -6}, e2m1 = {1, 0};

static float largest_code(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F8_E4M3 ? 448 : dtype == WEFT_DTYPE_I8 ? 127 : dtype == WEFT_DTYPE_U8 ? 6 : 7;
}

/* The nearest code to `value`, which is in range, without its sign; *rounded is what it stands for. */
static uint8_t encode_float(float value, coding_t coding, float *rounded)
{
    int exponent;
    float magnitude = fabsf(value);
    frexpf(magnitude, &exponent);
    int place = exponent - 1 < coding.least ? coding.least : exponent - 1;
    float step = ldexpf(1, place - coding.mantissa);
    magnitude = rintf(magnitude / step) * step;
    *rounded = copysignf(magnitude, value);
    float least = ldexpf(1, coding.least);
    if (magnitude < least)
        return (uint8_t)ldexpf(magnitude, coding.mantissa - coding.least);
    float fraction = frexpf(magnitude, &exponent) * 2 - 1; /* in [0, 1) */
    return (uint8_t)((exponent - coding.least) << coding.mantissa | (int)ldexpf(fraction, coding.mantissa));
}

/* The code of `value` in its low bits; *rounded is what it stands for. */
static uint8_t encode(weft_dtype_t dtype, float value, float *rounded)
{
    uint8_t sign = signbit(value) ? 1 : 0;
    switch (dtype) {
    case WEFT_DTYPE_F8_E4M3:
        return (uint8_t)(sign << 7 | encode_float(value, e4m3, rounded));
    case WEFT_DTYPE_U8:
        return (uint8_t)(sign << 3 | encode_float(value, e2m1, rounded));
    case WEFT_DTYPE_I8:
        return (uint8_t)(int8_t)(*rounded = rintf(value) + 0.0f);
    default:
        return (uint8_t)((*rounded = rintf(value) + 0.0f) + 8);
    }
}

static float value_of(const subject_t *s, uint32_t row, uint32_t col)
{
    return load_bf16(s->values[(size_t)row * s->cols + col]);
}

static float amax_of(const subject_t *s, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols)
{
    float largest = 0;
    for (uint32_t i = row; i < row + rows; i++)
        for (uint32_t j = col; j < col + cols; j++)
            largest = fmaxf(largest, fabsf(value_of(s, i, j)));
    return largest;
}

/* The exponent of the least power of two with which no value is above the largest code. */
static int exponent_for(const subject_t *s, float amax)
{
    return amax > 0 ? (int)ceilf(log2f(amax / largest_code(s->format->dtype))) : 0;
}

static void store_code(const subject_t *s, size_t at, uint8_t code)
{
    if (s->format->bits == 8)
        s->codes[at] = code;
    else
        s->codes[at / 2] |= (uint8_t)(code << (at % 2 ? 4 : 0));
}

/* Store scale number `at`, which is 2^exponent; of nvfp4, what is left of it beside the tensor's. */
static void store_scale(const subject_t *s, size_t at, int exponent)
{
    float rounded, scale = ldexpf(1, exponent);
    uint16_t bf16 = store_bf16(scale);
    switch (s->format->scaling.dtype) {
    case WEFT_DTYPE_F32:
        memcpy(s->scales + 4 * at, &scale, 4);
        return;
    case WEFT_DTYPE_BF16:
        memcpy(s->scales + 2 * at, &bf16, 2);
        return;
    case WEFT_DTYPE_U8:
        s->scales[at] = (uint8_t)(exponent + 127);
        return;
    default:
        s->scales[at] = encode(WEFT_DTYPE_F8_E4M3, ldexpf(1, exponent - s->global), &rounded);
    }
}

static void quantize_domain(const subject_t *s, size_t at, uint32_t row, uint32_t rows, uint32_t col,
                            uint32_t cols)
{
    float rounded;
    int exponent = exponent_for(s, amax_of(s, row, rows, col, cols));
    if (s->format->scaling.global) /* E4M3 has powers from -9 to 8 */
        exponent = exponent < s->global - 9 ? s->global - 9 : exponent;
    for (uint32_t i = row; i < row + rows; i++)
        for (uint32_t j = col; j < col + cols; j++) {
            size_t place = (size_t)i * s->cols + j;
            store_code(s, place, encode(s->format->dtype, ldexpf(value_of(s, i, j), -exponent), &rounded));
            s->values[place] = store_bf16(ldexpf(rounded, exponent));
        }
    store_scale(s, at, exponent);
}

/* Domain by domain, in the order in which scales are stored. */
static void quantize_matrix(subject_t *s)
{
    uint32_t high = s->format->scaling.rows ? s->format->scaling.rows : s->rows;
    uint32_t wide = s->format->scaling.cols ? s->format->scaling.cols : s->cols;
    size_t at = 0;
    s->global = exponent_for(s, amax_of(s, 0, s->rows, 0, s->cols)) - 8;
    for (uint32_t row = 0; row < s->rows; row += high)
        for (uint32_t col = 0; col < s->cols; col += wide)
            quantize_domain(s, at++, row, s->rows - row < high ? s->rows - row : high, col,
                            s->cols - col < wide ? s->cols - col : wide);
}

static void push(kernel_rank_t *rank, const char *name, const char *suffix, kernel_tensor_t tensor)
{
    snprintf(tensor.name, sizeof tensor.name, "%s%s", name, suffix);
    tensor.weight.data = tensor.data;
    assert_non_null(tensor.data);
    assert_true(WEFT_ARRAY_PUSH(&rank->tensors, tensor));
}

static kernel_tensor_t make(weft_dtype_t dtype, uint32_t count, uint64_t rows, uint64_t cols)
{
    kernel_tensor_t made = {.weight = {.dtype = dtype, .shape = {rows, cols, 1}}};
    if (count)
        made.weight = (decoder_weight_t){.dtype = dtype, .shape = {count, rows, cols}};
    made.data = calloc((count ? count : 1) * rows * cols, weft_dtype_bytes(dtype));
    assert_non_null(made.data);
    return made;
}

static void quantize_tensor(kernel_tensor_t *tensor, decoder_format_id_t id, kernel_rank_t *out)
{
    const decoder_format_t *format = &decoder_formats[id];
    const uint64_t *shape = tensor->weight.shape;
    bool stack = strstr(tensor->name, ".experts.") != NULL;
    uint32_t count = stack ? (uint32_t)shape[0] : 0;
    uint32_t rows = (uint32_t)shape[stack], cols = (uint32_t)shape[stack + 1], extent[2];
    decoder_scale_extent(&format->scaling, rows, cols, extent);
    kernel_tensor_t code =
        make(format->dtype, count, rows, cols * format->bits / (8 * weft_dtype_bytes(format->dtype)));
    kernel_tensor_t scale = make(format->scaling.dtype, count, extent[0], extent[1]);
    kernel_tensor_t global = make(WEFT_DTYPE_F32, count, 1, 1);
    for (uint32_t i = 0; i < (count ? count : 1); i++) {
        decoder_matrix_t at = decoder_matrix(id, rows, cols, code.data, scale.data, NULL);
        subject_t s = {.format = format,
                       .values = (uint16_t *)tensor->data + (size_t)i * rows * cols,
                       .codes = (uint8_t *)code.data + i * at.bytes,
                       .scales = (uint8_t *)scale.data + i * at.scale_bytes,
                       .rows = rows,
                       .cols = cols};
        quantize_matrix(&s);
        ((float *)global.data)[i] = ldexpf(1, s.global);
    }
    push(out, tensor->name, format->suffix, code);
    push(out, tensor->name, format->scale_suffix, scale);
    if (format->scaling.global)
        push(out, tensor->name, format->global_suffix, global);
    else
        free(global.data);
}

void kernel_rank_quantize(kernel_rank_t *rank, decoder_format_id_t format, kernel_rank_t *quantized)
{
    *quantized = (kernel_rank_t){0};
    for (size_t i = 0; i < rank->tensors.count; i++) {
        kernel_tensor_t *tensor = &rank->tensors.items[i];
        if (strstr(tensor->name, "_proj.weight") || strstr(tensor->name, ".experts.")) {
            quantize_tensor(tensor, format, quantized);
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

/* ---- casts ---- */

static void cast_element(kernel_tensor_t *from, weft_dtype_t dtype, void *to, size_t at)
{
    float value = load_bf16(((uint16_t *)from->data)[at]);
    if (dtype == WEFT_DTYPE_F32) {
        ((float *)to)[at] = value;
        return;
    }
    uint16_t half = weft_f16_from_f32(value);
    ((uint16_t *)to)[at] = half;
    ((uint16_t *)from->data)[at] = store_bf16(weft_f32_from_f16(half));
}

void kernel_rank_cast(kernel_rank_t *rank, decoder_format_id_t format, kernel_rank_t *cast)
{
    *cast = (kernel_rank_t){0};
    for (size_t i = 0; i < rank->tensors.count; i++) {
        kernel_tensor_t *tensor = &rank->tensors.items[i], made = *tensor;
        size_t elems = tensor->weight.shape[0] * tensor->weight.shape[1] * tensor->weight.shape[2];
        made.weight.dtype = decoder_formats[format].dtype;
        made.data = calloc(elems, weft_dtype_bytes(made.weight.dtype));
        assert_non_null(made.data);
        for (size_t at = 0; at < elems; at++)
            cast_element(tensor, made.weight.dtype, made.data, at);
        push(cast, tensor->name, "", made);
    }
}

void kernel_rank_convert(kernel_rank_t *rank, decoder_format_id_t format, kernel_rank_t *converted)
{
    (decoder_formats[format].scaling.scaled ? kernel_rank_quantize : kernel_rank_cast)(rank, format, converted);
}
