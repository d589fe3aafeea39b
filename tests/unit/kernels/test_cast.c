/* Casts of every 16-bit pattern, and of fp32, through units in pieces. */
#include "fixture.h"

#define ALL_16_BITS 0x10000u
#define ROWS        128
#define COLS        512

static matrix_t every_pattern(weft_dtype_t dtype)
{
    matrix_t matrix = matrix_create(dtype, ROWS, COLS);
    for (uint32_t i = 0; i < ALL_16_BITS; i++)
        matrix_set_bits(&matrix, i, i);
    return matrix;
}

static output_t cast(const matrix_t *matrix, weft_dtype_t out_dtype)
{
    return quantize_cut(matrix, (request_t){WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, out_dtype, NULL}, 20);
}

static void same_dtype_keeps_bytes(void **state)
{
    (void)state;
    random_begin("same_dtype_keeps_bytes");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16};
    for (int i = 0; i < 2; i++) {
        matrix_t matrix = every_pattern(dtypes[i]);
        output_t output = cast(&matrix, dtypes[i]);
        assert_memory_equal(output.data, matrix.data, output.bytes);
        assert_true(output.result.nonfinite);
        uint32_t first = output.result.nonfinite_row * COLS + output.result.nonfinite_col;
        assert_int_equal(first, dtypes[i] == WEFT_DTYPE_F16 ? 0x7C00 : 0x7F80);
        output_destroy(&output);
        free(matrix.data);
    }
}

/* The nearest value of the other format, found by asking which neighbour of the result could be nearer. */
static void assert_nearest(weft_dtype_t dtype, uint16_t found, double value)
{
    if (isnan(value)) {
        assert_int_equal(found, 0x7FFF);
        return;
    }
    uint16_t inf = dtype == WEFT_DTYPE_F16 ? 0x7C00 : 0x7F80, magnitude = found & 0x7FFF;
    double largest_tie = dtype == WEFT_DTYPE_F16 ? 65520 : 0x1.FFp127;
    assert_int_equal(found >> 15, signbit(value) != 0);
    assert_int_equal(magnitude == inf, fabs(value) >= largest_tie);
    if (magnitude == inf)
        return;
    double distance = fabs(fabs(value) - decode_value(dtype, magnitude));
    for (int step = -1; step <= 1; step += 2) {
        if (magnitude + step < 0 || magnitude + step >= inf)
            continue;
        double other = fabs(fabs(value) - decode_value(dtype, (uint16_t)(magnitude + step)));
        assert_true(distance < other || (distance == other && magnitude % 2 == 0));
    }
}

static void every_pattern_to_the_other_dtype(void **state)
{
    (void)state;
    random_begin("every_pattern_to_the_other_dtype");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16};
    for (int i = 0; i < 2; i++) {
        matrix_t matrix = every_pattern(dtypes[i]);
        output_t output = cast(&matrix, dtypes[1 - i]);
        for (uint32_t bits = 0; bits < ALL_16_BITS; bits++)
            assert_nearest(dtypes[1 - i], ((uint16_t *)output.data)[bits],
                           decode_value(dtypes[i], (uint16_t)bits));
        /* What overflows counts as Inf: 65536 and above. */
        uint32_t first = output.result.nonfinite_row * COLS + output.result.nonfinite_col;
        assert_true(output.result.nonfinite);
        assert_int_equal(first, dtypes[i] == WEFT_DTYPE_F16 ? 0x7C00 : 0x4780);
        output_destroy(&output);
        free(matrix.data);
    }
}

/* All of bf16 that fits fp16, with nothing that sends fast kernels another way. */
static void every_value_that_fits(void **state)
{
    (void)state;
    random_begin("every_value_that_fits");
    matrix_t matrix = every_pattern(WEFT_DTYPE_BF16);
    for (uint32_t i = 0; i < ALL_16_BITS; i++)
        matrix_set_bits(&matrix, i, ((i & 0x7FFF) % 0x4780) | (i & 0x8000));
    output_t output = cast(&matrix, WEFT_DTYPE_F16);
    for (uint32_t i = 0; i < ALL_16_BITS; i++)
        assert_nearest(WEFT_DTYPE_F16, ((uint16_t *)output.data)[i],
                       decode_value(WEFT_DTYPE_BF16, ((uint16_t *)matrix.data)[i]));
    assert_false(output.result.nonfinite);
    output_destroy(&output);
    free(matrix.data);
}

/* Once, whatever comes out: bits of every kind, and ties of either format. */
static void f32_is_rounded_once(void **state)
{
    (void)state;
    random_begin("f32_is_rounded_once");
    matrix_t matrix = matrix_create(WEFT_DTYPE_F32, 100, 300);
    for (uint32_t i = 0; i < 30000; i++) {
        uint32_t bits = (uint32_t)random_u64(), small = (bits & 0x87FFFFFF) + 0x30000000; /* as fp16 has them */
        matrix_set_bits(&matrix, i,
                        i % 4 == 0   ? (bits & 0xFFFF0000) | 0x8000
                        : i % 4 == 1 ? (small & 0xFFFFE000) | 0x1000
                        : i % 4 == 2 ? small
                                     : bits);
    }
    output_t as_bf16 = cast(&matrix, WEFT_DTYPE_BF16), as_f16 = cast(&matrix, WEFT_DTYPE_F16);
    for (uint32_t i = 0; i < 30000; i++) {
        double value = ((float *)matrix.data)[i];
        assert_nearest(WEFT_DTYPE_BF16, ((uint16_t *)as_bf16.data)[i], value);
        assert_nearest(WEFT_DTYPE_F16, ((uint16_t *)as_f16.data)[i], value);
    }
    output_destroy(&as_bf16);
    output_destroy(&as_f16);
    free(matrix.data);
}

/* The largest that does not overflow passes; the tie above it is named. */
static void overflow_is_named(void **state)
{
    (void)state;
    random_begin("overflow_is_named");
    for (int i = 0; i < 20; i++) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_F32, random_in(1, 128), random_in(1, 300));
        uint32_t count = matrix.rows * matrix.cols, place = random_in(0, count - 1);
        for (uint32_t k = 0; k < count; k++)
            matrix_set_bits(&matrix, k, random_in(0, 0x477FEFFF) | (random_in(0, 1) << 31));
        output_t output = cast(&matrix, WEFT_DTYPE_F16);
        assert_false(output.result.nonfinite);
        output_destroy(&output);
        matrix_set_bits(&matrix, place, 0x477FF000); /* 65520 */
        output = cast(&matrix, WEFT_DTYPE_F16);
        assert_true(output.result.nonfinite);
        assert_int_equal(output.result.nonfinite_row * matrix.cols + output.result.nonfinite_col, place);
        assert_int_equal(((uint16_t *)output.data)[place], 0x7C00);
        output_destroy(&output);
        free(matrix.data);
    }
}

static void ragged_pieces(void **state)
{
    (void)state;
    random_begin("ragged_pieces");
    for (int i = 0; i < 60; i++) {
        matrix_t matrix = matrix_random(WEFT_DTYPE_BF16, random_in(1, 128), random_in(1, 300));
        output_t output = cast(&matrix, WEFT_DTYPE_BF16);
        assert_memory_equal(output.data, matrix.data, output.bytes);
        assert_false(output.result.nonfinite);
        output_destroy(&output);
        free(matrix.data);
    }
}

static void every_pattern_to_f32(void **state)
{
    (void)state;
    random_begin("every_pattern_to_f32");
    const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16};
    for (int i = 0; i < 2; i++) {
        matrix_t matrix = every_pattern(dtypes[i]);
        output_t output = cast(&matrix, WEFT_DTYPE_F32);
        for (uint32_t bits = 0; bits < ALL_16_BITS; bits++) {
            double value = decode_value(dtypes[i], (uint16_t)bits), found = (double)((float *)output.data)[bits];
            assert_true(isnan(value) ? isnan(found) : found == value && signbit(found) == signbit(value));
        }
        uint32_t first = output.result.nonfinite_row * COLS + output.result.nonfinite_col;
        assert_int_equal(first, dtypes[i] == WEFT_DTYPE_F16 ? 0x7C00 : 0x7F80);
        output_destroy(&output);
        free(matrix.data);
    }
}

/* Not by way of bf16; nor is an element too large for bf16 taken for Inf. */
static void f32_stays_as_it_is(void **state)
{
    (void)state;
    random_begin("f32_stays_as_it_is");
    for (int i = 0; i < 20; i++) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_F32, random_in(1, 128), random_in(1, 300));
        uint32_t count = matrix.rows * matrix.cols, place = random_in(0, count - 1);
        for (uint32_t k = 0; k < count; k++)
            matrix_set_bits(&matrix, k, (uint32_t)random_u64() & 0xFF7FFFFF);
        matrix_set_bits(&matrix, place, 0x7F7FFFFF);
        output_t output = cast(&matrix, WEFT_DTYPE_F32);
        assert_memory_equal(output.data, matrix.data, output.bytes);
        assert_false(output.result.nonfinite);
        output_destroy(&output);
        matrix_set_bits(&matrix, place, 0x7F800001);
        output = cast(&matrix, WEFT_DTYPE_F32);
        assert_memory_equal(output.data, matrix.data, output.bytes);
        assert_true(output.result.nonfinite);
        assert_int_equal(output.result.nonfinite_row * matrix.cols + output.result.nonfinite_col, place);
        output_destroy(&output);
        free(matrix.data);
    }
}

static void other_outputs_are_refused(void **state)
{
    (void)state;
    weft_quantize_unit_t unit = {.dtype = WEFT_DTYPE_BF16, .out_dtype = WEFT_DTYPE_F8_E4M3};
    weft_quantize_result_t result;
    assert_int_equal(tested->quantize[WEFT_KERNEL_CAST](&unit, &result), WEFT_ERR_ARGUMENT);
}

/* Codes of every size, from two pieces beside each other and zeros below them. */
static void codes_stay_as_they_are(void **state)
{
    (void)state;
    enum { TALL = 5, REAL = 4, WIDE = 37, LEFT = 13 };
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_F8_E4M3, WEFT_DTYPE_I8, WEFT_DTYPE_U8, WEFT_DTYPE_I32};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        size_t element = weft_dtype_bytes(dtypes[d]);
        _Alignas(8) uint8_t from[REAL * WIDE * 4], out[TALL * WIDE * 4];
        for (size_t i = 0; i < sizeof from; i++)
            from[i] = (uint8_t)(i * 7 + 0x7F);
        memset(out, 0xAA, sizeof out);
        const weft_segment_t segments[] = {
            {.data = from, .ld_elems = WIDE, .rows = REAL, .cols = LEFT},
            {.data = from + LEFT * element, .ld_elems = WIDE, .col = LEFT, .rows = REAL, .cols = WIDE - LEFT},
            {.row = REAL, .rows = TALL - REAL, .cols = WIDE},
        };
        weft_quantize_unit_t unit = {.segments = segments, .num_segments = 3, .dtype = dtypes[d], .rows = TALL,
                                     .cols = WIDE, .out_dtype = dtypes[d], .out = out};
        weft_quantize_result_t result = {.nonfinite = true};
        static const uint8_t zeros[WIDE * 4];
        assert_int_equal(tested->quantize[WEFT_KERNEL_CAST](&unit, &result), WEFT_OK);
        assert_false(result.nonfinite);
        assert_memory_equal(out, from, REAL * WIDE * element);
        assert_memory_equal(out + REAL * WIDE * element, zeros, WIDE * element);
        unit.out_dtype = dtypes[(d + 1) % 4];
        assert_int_equal(tested->quantize[WEFT_KERNEL_CAST](&unit, &result), WEFT_ERR_ARGUMENT);
    }
}

static void divisors_become_multipliers(void **state)
{
    (void)state;
    const float divisors[] = {1, 3, 2688, 0x1.fffffep127f, 0x1p-149f, -7, NAN, INFINITY};
    float out[8];
    const weft_segment_t segment = {.data = divisors, .ld_elems = 8, .rows = 1, .cols = 8};
    weft_quantize_unit_t unit = {.segments = &segment, .num_segments = 1, .dtype = WEFT_DTYPE_F32, .rows = 1,
                                 .cols = 8, .inverse = true, .out_dtype = WEFT_DTYPE_F32, .out = out};
    weft_quantize_result_t result;
    const uint32_t expected[] = {0x3F800000, 0x3EAAAAAB, 0x39C30C31, 0x00200000, 0x7F800000, 0xBE124925,
                                 0x7FC00000, 0};
    assert_int_equal(tested->quantize[WEFT_KERNEL_CAST](&unit, &result), WEFT_OK);
    assert_memory_equal(out, expected, sizeof expected);
    assert_true(result.nonfinite && result.nonfinite_col == 4); /* what becomes Inf */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_dtype_keeps_bytes),    cmocka_unit_test(every_pattern_to_the_other_dtype),
        cmocka_unit_test(every_value_that_fits),     cmocka_unit_test(f32_is_rounded_once),
        cmocka_unit_test(overflow_is_named),         cmocka_unit_test(ragged_pieces),
        cmocka_unit_test(every_pattern_to_f32),      cmocka_unit_test(f32_stays_as_it_is),
        cmocka_unit_test(other_outputs_are_refused), cmocka_unit_test(codes_stay_as_they_are),
        cmocka_unit_test(divisors_become_multipliers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
