/* What the kernel tests share: the backend under test (WEFT_TEST_KERNELS, "ref" without it), seeded numbers,
 * units cut into segments at random, and the schemes restated in double with a table of e4m3 values,
 * independent of kernels/arith.h. */
#ifndef WEFT_TESTS_KERNELS_FIXTURE_H
#define WEFT_TESTS_KERNELS_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/format.h"

#define MAX_SEGMENTS 64

/* ---- The backend under test ---- */

static const weft_kernels_t *tested;

/* Before main: a machine that lacks the backend skips the test. */
static void __attribute__((constructor)) choose_backend(void)
{
    const char *name = getenv("WEFT_TEST_KERNELS");
    tested = weft_kernels_find(name ? name : "ref");
    if (tested)
        return;
    printf("skipped: this machine has no %s\n", name);
    exit(77);
}

/* ---- Random numbers ---- */

static uint64_t random_state;

static inline void random_begin(const char *test)
{
    const char *seed = getenv("WEFT_TEST_SEED");
    random_state = seed != NULL ? strtoull(seed, NULL, 0) : 1;
    print_message("%s: WEFT_TEST_SEED=%llu\n", test, (unsigned long long)random_state);
}

static inline uint64_t random_u64(void)
{
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* A number in [low, high]. */
static inline uint32_t random_in(uint32_t low, uint32_t high)
{
    return low + (uint32_t)(random_u64() % (high - low + 1));
}

/* Near-normal, sigma 1. */
static inline double random_normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (double)(random_u64() >> 11) * 0x1p-53;
    return sum;
}

/* ---- Elements, restated ---- */

static inline float f32_of_bits(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } u = {bits};
    return u.value;
}

static inline uint32_t bits_of_f32(float value)
{
    union {
        float value;
        uint32_t bits;
    } u = {value};
    return u.bits;
}

/* The value of sign, exponent and mantissa fields, for bf16, fp16 and e4m3 alike; NaN and Inf as those of
 * IEEE. */
static inline double decode(uint32_t bits, int exponent_bits, int mantissa_bits, bool ieee_specials)
{
    int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
    int exponent = (int)(bits >> mantissa_bits) & top;
    int mantissa = (int)(bits & ((1u << mantissa_bits) - 1));
    double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1.0 : 1.0;
    if (ieee_specials && exponent == top)
        return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

static inline double decode_e4m3(uint8_t code)
{
    return (code & 0x7F) == 0x7F ? (double)NAN : decode(code, 4, 3, false);
}

static inline double decode_value(weft_dtype_t dtype, uint16_t bits)
{
    return dtype == WEFT_DTYPE_F16 ? decode(bits, 5, 10, true) : decode(bits, 8, 7, true);
}

/* The code whose value is nearest, by looking at all of them; of two equally near the even one. */
static inline uint8_t encode_e4m3(double x)
{
    if (isnan(x))
        return 0x7F;
    uint8_t best = 0;
    double magnitude = fmin(fabs(x), 448), best_distance = magnitude;
    for (uint8_t code = 1; code < 0x7F; code++) {
        double distance = fabs(magnitude - decode_e4m3(code));
        if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
            best = code;
            best_distance = distance;
        }
    }
    return signbit(x) ? best | 0x80 : best;
}

/* An fp32 source's value: of the bf16 on either side the nearer, the even one when both are as near. What
 * would follow the largest bf16 is 2^128, which is written as Inf. */
static inline double round_to_bf16(float x)
{
    if (!isfinite(x))
        return (double)x;
    uint32_t below = bits_of_f32(x) >> 16, above = below + 1;
    double to_below = fabs((double)x - decode(below, 8, 7, false));
    double to_above = fabs((double)x - decode(above, 8, 7, false));
    bool up = to_above < to_below || (to_above == to_below && below % 2 == 1);
    return decode(up ? above : below, 8, 7, true);
}

static inline double element_value(weft_dtype_t dtype, const void *data, size_t index)
{
    if (dtype == WEFT_DTYPE_F32)
        return round_to_bf16(((const float *)data)[index]);
    return decode_value(dtype, ((const uint16_t *)data)[index]);
}

/* ---- Matrices and units ---- */

typedef struct matrix {
    weft_dtype_t dtype;
    uint32_t rows, cols;
    void *data;
} matrix_t;

static inline matrix_t matrix_create(weft_dtype_t dtype, uint32_t rows, uint32_t cols)
{
    matrix_t matrix = {dtype, rows, cols, calloc((size_t)rows * cols, weft_dtype_bytes(dtype))};
    assert_non_null(matrix.data);
    return matrix;
}

/* Bits of an fp16 near `x`: cut off, and zero below the normals. Good enough to make inputs. */
static inline uint16_t f16_near(float x)
{
    uint32_t bits = bits_of_f32(x), magnitude = (bits & 0x7FFFFFFF) >> 13;
    uint32_t rebias = (127 - 15) << 10, least_normal = 1 << 10;
    return (uint16_t)(magnitude < rebias + least_normal ? 0 : (bits >> 16 & 0x8000) | (magnitude - rebias));
}

static inline void matrix_set(matrix_t *matrix, size_t index, double value)
{
    float x = (float)value;
    if (matrix->dtype == WEFT_DTYPE_F32)
        ((float *)matrix->data)[index] = x;
    else if (matrix->dtype == WEFT_DTYPE_F16)
        ((uint16_t *)matrix->data)[index] = f16_near(x);
    else
        ((uint16_t *)matrix->data)[index] = (uint16_t)(bits_of_f32(x) >> 16);
}

static inline void matrix_set_bits(matrix_t *matrix, size_t index, uint32_t bits)
{
    if (matrix->dtype == WEFT_DTYPE_F32)
        ((uint32_t *)matrix->data)[index] = bits;
    else
        ((uint16_t *)matrix->data)[index] = (uint16_t)bits;
}

static inline matrix_t matrix_random(weft_dtype_t dtype, uint32_t rows, uint32_t cols)
{
    matrix_t matrix = matrix_create(dtype, rows, cols);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        matrix_set(&matrix, i, 0.02 * random_normal());
    return matrix;
}

typedef struct cut {
    weft_segment_t segments[MAX_SEGMENTS];
    uint32_t count;
} cut_t;

static inline bool rect_is_plus_zero(const matrix_t *matrix, const weft_segment_t *segment)
{
    size_t elem = weft_dtype_bytes(matrix->dtype);
    for (uint32_t row = 0; row < segment->rows; row++) {
        const char *at =
            (const char *)matrix->data + ((size_t)(segment->row + row) * matrix->cols + segment->col) * elem;
        for (size_t i = 0; i < segment->cols * elem; i++) {
            if (at[i] != 0)
                return false;
        }
    }
    return true;
}

/* Give a segment memory of its own, exactly as large as it must be, with a leading dimension of its own; one in four
 * lies transposed. */
static inline void segment_fill(const matrix_t *matrix, weft_segment_t *segment)
{
    if (rect_is_plus_zero(matrix, segment))
        return; /* NULL: zeros */
    size_t elem = weft_dtype_bytes(matrix->dtype);
    segment->transposed = random_in(0, 3) == 0;
    uint32_t runs = segment->transposed ? segment->cols : segment->rows;
    uint32_t length = segment->transposed ? segment->rows : segment->cols;
    segment->ld_elems = length + random_in(0, 3);
    char *data = malloc(((runs - 1) * segment->ld_elems + length) * elem);
    assert_non_null(data);
    for (uint32_t run = 0; run < runs; run++) {
        for (uint32_t i = 0; i < length; i++) {
            uint32_t row = segment->transposed ? i : run, col = segment->transposed ? run : i;
            size_t from = (size_t)(segment->row + row) * matrix->cols + segment->col + col;
            memcpy(data + (run * segment->ld_elems + i) * elem, (const char *)matrix->data + from * elem, elem);
        }
    }
    segment->data = data;
}

/* Split random segments in two, across or along, `splits` times; then shuffle. */
static inline void cut_create(const matrix_t *matrix, uint32_t splits, cut_t *cut)
{
    *cut = (cut_t){.segments = {{.rows = matrix->rows, .cols = matrix->cols}}, .count = 1};
    for (uint32_t i = 0; i < splits && cut->count < MAX_SEGMENTS; i++) {
        weft_segment_t *a = &cut->segments[random_in(0, cut->count - 1)], b = *a;
        if (random_in(0, 1) == 0 && a->rows > 1) {
            a->rows = random_in(1, a->rows - 1);
            b.row += a->rows, b.rows -= a->rows;
        } else if (a->cols > 1) {
            a->cols = random_in(1, a->cols - 1);
            b.col += a->cols, b.cols -= a->cols;
        } else {
            continue;
        }
        cut->segments[cut->count++] = b;
    }
    for (uint32_t i = 0; i < cut->count; i++)
        segment_fill(matrix, &cut->segments[i]);
    for (uint32_t i = cut->count - 1; i > 0; i--) {
        uint32_t j = random_in(0, i);
        weft_segment_t swap = cut->segments[i];
        cut->segments[i] = cut->segments[j], cut->segments[j] = swap;
    }
}

static inline void cut_destroy(cut_t *cut)
{
    for (uint32_t i = 0; i < cut->count; i++)
        free((void *)cut->segments[i].data);
}

/* ---- Running a kernel ---- */

typedef struct output {
    void *data;   /* rows of cols codes */
    float *scale; /* or whatever the kernel has for scales */
    size_t bytes, scale_bytes;
    float global;
    weft_quantize_result_t result;
} output_t;

typedef struct request {
    weft_kernel_id_t kernel;
    weft_profile_t profile;
    weft_dtype_t out_dtype;
    const uint16_t *row_amax, *tensor_amax;
} request_t;

static inline weft_quantize_unit_t unit_of(const matrix_t *matrix, request_t request, const cut_t *cut)
{
    return (weft_quantize_unit_t){
        .segments = cut->segments,
        .num_segments = cut->count,
        .dtype = matrix->dtype,
        .rows = matrix->rows,
        .cols = matrix->cols,
        .profile = request.profile,
        .allow_nonfinite = true,
        .row_amax = request.row_amax,
        .tensor_amax = request.tensor_amax,
        .out_dtype = request.out_dtype,
    };
}

/* Quantize a matrix that lies in `splits` + 1 pieces at most. */
static inline output_t quantize_cut(const matrix_t *matrix, request_t request, uint32_t splits)
{
    cut_t cut;
    cut_create(matrix, splits, &cut);
    const weft_format_t *format = weft_kernel_format(request.kernel);
    uint64_t scales[2];
    weft_format_scales(format, matrix->rows, matrix->cols, scales);
    output_t output = {
        .bytes = matrix->rows * weft_format_row_bytes(format, request.out_dtype, matrix->cols),
        .scale_bytes = scales[0] ? scales[0] * scales[1] * weft_dtype_bytes(format->scale_dtype) : 0};
    output.data = malloc(output.bytes);
    output.scale = malloc(output.scale_bytes + 1);
    output.global = 0;
    weft_quantize_unit_t unit = unit_of(matrix, request, &cut);
    unit.out = output.data;
    unit.scale = output.scale;
    unit.global = &output.global;
    assert_int_equal(tested->quantize[request.kernel](&unit, &output.result), WEFT_OK);
    cut_destroy(&cut);
    return output;
}

static inline void output_destroy(output_t *output)
{
    free(output->data);
    free(output->scale);
}

static inline void assert_outputs_equal(const output_t *a, const output_t *b)
{
    assert_memory_equal(a->data, b->data, a->bytes);
    if (a->scale_bytes > 0)
        assert_memory_equal(a->scale, b->scale, a->scale_bytes);
    assert_int_equal(bits_of_f32(a->global), bits_of_f32(b->global));
    assert_int_equal(a->result.nonfinite, b->result.nonfinite);
    assert_int_equal(a->result.nonfinite_row, b->result.nonfinite_row);
    assert_int_equal(a->result.nonfinite_col, b->result.nonfinite_col);
}

#endif
