/* Where scales lie: every one has a place of its own, all others are padding, and the places are those of the
 * formulas that engines' documents give. */
#include "fixture.h"

#include "kernels/arrange.h"
#include "kernels/ref/ref.h"

static uint8_t *used_bytes(weft_arrange_t arrange, weft_kernel_id_t kernel, uint32_t rows, uint32_t cols,
                           uint64_t *bytes)
{
    uint64_t extent[2];
    weft_dtype_t dtype = weft_arrange_scales(arrange, kernel, rows, cols, extent);
    *bytes = extent[0] * extent[1] * weft_dtype_bytes(dtype);
    uint8_t *used = calloc(1, *bytes + 1);
    assert_non_null(used);
    return used;
}

/* 128x4 of a matrix whose columns share scales by 32. */
static void check_swizzle(uint32_t rows, uint32_t scales)
{
    uint64_t bytes;
    uint8_t *used = used_bytes(WEFT_ARRANGE_SWIZZLE, WEFT_KERNEL_MXFP8, rows, scales * 32, &bytes);
    assert_int_equal(bytes, (uint64_t)((rows + 127) / 128 * 128) * ((scales + 3) / 4 * 4));
    for (uint32_t m = 0; m < rows; m++) {
        for (uint32_t k = 0; k < scales; k++) {
            uint64_t at = weft_arrange_index(WEFT_ARRANGE_SWIZZLE, m, k, rows, scales),
                     padded = (scales + 3) / 4 * 4;
            assert_int_equal(at,
                             (m / 128 * (padded / 4) + k / 4) * 512 + m % 32 * 16 + m % 128 / 32 * 4 + k % 4);
            assert_true(at < bytes && !used[at]);
            used[at] = 1;
        }
    }
    free(used);
}

static void test_swizzle(void **state)
{
    (void)state;
    const uint32_t sizes[][2] = {{1, 1}, {128, 4}, {129, 5}, {300, 17}, {31, 8}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_swizzle(sizes[i][0], sizes[i][1]);
}

/* Column-major int32 words [N, blocks / 4] with a leading dimension that 4 divides: bytes of one row lie in
 * one word. */
static void check_deepgemm(uint32_t rows, uint32_t cols)
{
    uint64_t bytes, ld = (rows + 3) / 4 * 4;
    uint32_t blocks = (cols + 127) / 128;
    uint8_t *used = used_bytes(WEFT_ARRANGE_DEEPGEMM, WEFT_KERNEL_FP8_BLOCK, rows, cols, &bytes);
    assert_int_equal(bytes, ld * ((blocks + 3) / 4) * 4);
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t block = 0; block < blocks; block++) {
            uint64_t at = weft_arrange_index(WEFT_ARRANGE_DEEPGEMM, row, block, rows, 0);
            assert_int_equal(at, (block / 4 * ld + row) * 4 + block % 4);
            assert_true(at < bytes && !used[at]);
            used[at] = 1;
        }
    }
    free(used);
}

static void test_deepgemm(void **state)
{
    (void)state;
    check_deepgemm(1, 1);
    check_deepgemm(576, 7168);
    check_deepgemm(130, 640);
}

/* marlin: the words of thread `thread` and warp `warp` hold eight codes in this order; every place is used once. */
static void check_marlin_codes(uint32_t rows, uint32_t cols)
{
    static const uint32_t rights[] = {0, 8, 0, 8, 1, 9, 1, 9}, downs[] = {0, 0, 8, 8, 0, 0, 8, 8};
    for (uint32_t tile = 0; tile < cols / 16 * (rows / 64); tile++) {
        for (uint32_t word = 0; word < 128; word++) {
            const uint32_t thread = word / 4, warp = word % 4;
            const uint32_t row = tile % (rows / 64) * 64 + warp * 16 + thread / 4;
            const uint32_t col = tile / (rows / 64) * 16 + 2 * (thread % 4);
            for (uint32_t i = 0; i < 8; i++) {
                const weft_marlin_place_t place = weft_marlin_code(row + downs[i], col + rights[i], rows);
                assert_int_equal(place.word, tile * 128 + word);
                assert_int_equal(place.shift, 4 * i);
            }
        }
    }
}

/* Codes of a byte: a thread of a warp has two words, of a row and of the one 8 below. */
static void check_marlin_bytes(uint32_t rows, uint32_t cols)
{
    static const uint32_t rights[] = {0, 8, 1, 9};
    for (uint32_t at = 0; at < rows * cols; at++) {
        const uint32_t tile = at / 1024, word = at % 1024 / 4, thread = word / 8, warp = word % 8 / 2;
        const uint32_t row = tile % (rows / 64) * 64 + warp * 16 + thread / 4 + word % 2 * 8;
        const uint32_t col = tile / (rows / 64) * 16 + 2 * (thread % 4) + rights[at % 4];
        assert_int_equal(weft_marlin_byte(row, col, rows), at);
    }
}

/* Exact but for what bf16 cannot hold; integers' are rounded only. */
static void test_marlin_numbers(void **state)
{
    (void)state;
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_I8, 1.0f), 0x3F80);
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_I8, 0x1.01p0f), 0x3F80); /* a tie: to even */
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_I8, 0x1.03p0f), 0x3F82);
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_F8_E4M3, 1.0f), (127 + 120) << 7);
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_F8_E4M3, 0x1.02p-18f), ((127 + 102) << 7) + 1);
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_F8_E4M3, 0x1p-130f), (127 - 10) << 7); /* bf16 has subnormals */
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_F8_E4M3, 0x1.FEp7f), 0x7F7F);
    assert_int_equal(weft_marlin_scale(WEFT_DTYPE_F8_E4M3, 0x1.FFp7f), WEFT_BF16_INF);
}

/* Its scales: the p-th of 64 (or of 32, where a row has one) is that of row 8 (p % 8) + p / 8 (or ...). */
static void check_marlin_scales(uint32_t rows, uint32_t groups)
{
    const uint32_t each = groups > 1 ? 64 : 32;
    for (uint32_t at = 0; at < rows * groups; at++) {
        const uint32_t p = at % rows % each, group = at / rows;
        const uint32_t row = at % rows - p + (groups > 1 ? 8 * (p % 8) + p / 8 : 2 * (p / 8) + 8 * (p % 8 / 2) + p % 2);
        assert_int_equal(weft_arrange_index(WEFT_ARRANGE_MARLIN, row, group, rows, groups), at);
    }
}

static void test_marlin(void **state)
{
    (void)state;
    check_marlin_codes(192, 80);
    check_marlin_bytes(192, 80);
    check_marlin_scales(192, 5);
    check_marlin_scales(64, 1);
    uint64_t extent[2];
    assert_int_equal(weft_arrange_codes(WEFT_ARRANGE_MARLIN, WEFT_KERNEL_INT4_GROUP_128, WEFT_DTYPE_I32, 256, 512, extent), WEFT_DTYPE_I32);
    assert_true(extent[0] == 32 && extent[1] == 512);
    assert_int_equal(weft_arrange_codes(WEFT_ARRANGE_MARLIN, WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3, 256, 512, extent), WEFT_DTYPE_I32);
    assert_true(extent[0] == 32 && extent[1] == 1024);
    assert_int_equal(weft_arrange_scales(WEFT_ARRANGE_MARLIN, WEFT_KERNEL_INT4_GROUP_128, 256, 512, extent),
                     WEFT_DTYPE_BF16);
    assert_true(extent[0] == 4 && extent[1] == 256);
    for (weft_kernel_id_t kernel = WEFT_KERNEL_CAST; kernel < WEFT_KERNEL_COUNT; kernel++)
        if (weft_arrange_takes(WEFT_ARRANGE_MARLIN, kernel, WEFT_PROFILE_DEFAULT))
            assert_int_equal(weft_arrange_scales(WEFT_ARRANGE_MARLIN, kernel, 192, 512, extent), WEFT_DTYPE_BF16);
    weft_arrange_scales(WEFT_ARRANGE_MARLIN, WEFT_KERNEL_FP8_BLOCK, 192, 512, extent);
    assert_true(extent[0] == 4 && extent[1] == 192);
    weft_arrange_scales(WEFT_ARRANGE_MARLIN, WEFT_KERNEL_FP8_TENSOR, 192, 512, extent);
    assert_true(extent[0] == 1 && extent[1] == 192);
}

/* The fewest elements of at least 64 x 128 or 128 x 64, in whole groups; nothing is added where nothing need be. */
static void test_marlin_extents(void **state)
{
    (void)state;
    static const struct {
        weft_kernel_id_t kernel;
        uint32_t rows, cols, whole[2];
    } cases[] = {
        {WEFT_KERNEL_FP8_CHANNEL, 64, 128, {64, 128}},     {WEFT_KERNEL_FP8_CHANNEL, 128, 64, {128, 64}},
        {WEFT_KERNEL_INT8_CHANNEL, 192, 192, {192, 256}},  {WEFT_KERNEL_FP8_TENSOR, 192, 1216, {192, 1280}},
        {WEFT_KERNEL_FP8_TENSOR, 1216, 192, {1280, 192}},  {WEFT_KERNEL_INT4_GROUP_32, 192, 96, {192, 128}},
        {WEFT_KERNEL_INT4_GROUP_128, 64, 384, {64, 384}},  {WEFT_KERNEL_FP8_BLOCK, 200, 272, {256, 384}},
        {WEFT_KERNEL_INT4_GROUP_64, 200, 320, {256, 320}}, {WEFT_KERNEL_FP8_CHANNEL, 256, 208, {256, 256}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t extent[2], codes[2];
        const uint32_t rows = cases[i].rows, cols = cases[i].cols, *whole = cases[i].whole;
        weft_arrange_extent(WEFT_ARRANGE_MARLIN, cases[i].kernel, rows, cols, extent);
        assert_true(extent[0] == whole[0] && extent[1] == whole[1]);
        assert_int_equal(weft_arrange_pads_codes(WEFT_ARRANGE_MARLIN, cases[i].kernel, rows, cols), rows != whole[0] || cols != whole[1]);
        weft_arrange_codes(WEFT_ARRANGE_MARLIN, cases[i].kernel, WEFT_DTYPE_I8, rows, cols, codes);
        assert_int_equal(codes[0] * 16, whole[1]);
        weft_arrange_extent(WEFT_ARRANGE_PLAIN, cases[i].kernel, rows, cols, extent);
        assert_true(extent[0] == rows && extent[1] == cols);
    }
}

/* Units of marlin are whole tiles. */
static void test_marlin_units(void **state)
{
    (void)state;
    weft_quantize_unit_t unit = {.rows = 128, .cols = 64, .arrange = WEFT_ARRANGE_MARLIN, .matrix_row = 64, .matrix_rows = 192};
    assert_true(weft_arrange_takes_unit(WEFT_KERNEL_INT4_GROUP_32, &unit));
    assert_false(weft_arrange_takes_unit(WEFT_KERNEL_MXFP4, &unit));
    unit.rows = 100; /* and padding */
    assert_true(weft_arrange_takes_unit(WEFT_KERNEL_INT4_GROUP_32, &unit));
    unit.rows = 129;
    assert_false(weft_arrange_takes_unit(WEFT_KERNEL_INT4_GROUP_32, &unit));
    unit.rows = 128, unit.matrix_row = 32;
    assert_false(weft_arrange_takes_unit(WEFT_KERNEL_INT4_GROUP_32, &unit));
    unit.matrix_row = 64, unit.matrix_rows = 200;
    assert_false(weft_arrange_takes_unit(WEFT_KERNEL_INT4_GROUP_32, &unit));
    unit.matrix_rows = 192, unit.cols = 24;
    assert_false(weft_arrange_takes_unit(WEFT_KERNEL_FP8_TENSOR, &unit));
}

/* A unit in the middle of a matrix writes its own scales and nothing else. */
static void test_unit_in_a_matrix(void **state)
{
    (void)state;
    enum { ROWS = 40, COLS = 96, BEFORE = 110, ALL = 170 };
    uint16_t x[ROWS * COLS];
    uint8_t codes[ROWS * COLS], plain[ROWS * 3], *lies;
    for (int i = 0; i < ROWS * COLS; i++)
        x[i] = (uint16_t)(0x3F80 + i % 500);
    uint64_t bytes, written = 0;
    lies = used_bytes(WEFT_ARRANGE_SWIZZLE, WEFT_KERNEL_MXFP8, ALL, COLS, &bytes);
    weft_segment_t segment = {.data = x, .ld_elems = COLS, .rows = ROWS, .cols = COLS};
    weft_quantize_unit_t unit = {.segments = &segment,
                                 .num_segments = 1,
                                 .dtype = WEFT_DTYPE_BF16,
                                 .rows = ROWS,
                                 .cols = COLS,
                                 .out_dtype = WEFT_DTYPE_F8_E4M3,
                                 .out = codes,
                                 .scale = plain};
    weft_quantize_result_t result;
    assert_int_equal(weft_ref_mxfp8(&unit, &result), WEFT_OK);
    unit.scale = lies, unit.arrange = WEFT_ARRANGE_SWIZZLE, unit.matrix_row = BEFORE, unit.matrix_rows = ALL;
    assert_int_equal(weft_ref_mxfp8(&unit, &result), WEFT_OK);
    for (uint32_t row = 0; row < ROWS; row++)
        for (uint32_t k = 0; k < 3; k++)
            assert_int_equal(lies[weft_arrange_index(WEFT_ARRANGE_SWIZZLE, BEFORE + row, k, ALL, 3)],
                             plain[row * 3 + k]);
    for (uint64_t i = 0; i < bytes; i++)
        written += lies[i] != 0;
    assert_int_equal(written, ROWS * 3);
    free(lies);
}

enum { MARLIN_ROWS = 64, MARLIN_COLS = 144, MARLIN_BEFORE = 64, MARLIN_ALL = 192, UNTOUCHED = 0xA5 };

/* What a scheme makes of a unit in Marlin's order is what it makes of it plain, elsewhere, and nothing beside it is written. */
static void check_marlin_unit(weft_kernel_id_t kernel, weft_dtype_t codes, weft_quantize_unit_t unit)
{
    static uint8_t plain[MARLIN_ROWS * MARLIN_COLS], lies[MARLIN_ALL * MARLIN_COLS];
    static float scale[MARLIN_ROWS * 2];
    static uint16_t scales[MARLIN_ALL * 2];
    const uint32_t groups = kernel == WEFT_KERNEL_FP8_BLOCK ? 2 : 1;
    const bool each = kernel == WEFT_KERNEL_FP8_CHANNEL || kernel == WEFT_KERNEL_INT8_CHANNEL;
    const weft_quantize_fn quantize = weft_kernels_best()->quantize[kernel];
    weft_quantize_result_t result;
    memset(lies, UNTOUCHED, sizeof lies);
    memset(scales, UNTOUCHED, sizeof scales);
    unit.out_dtype = codes, unit.out = plain, unit.scale = scale;
    assert_int_equal(quantize(&unit, &result), WEFT_OK);
    unit.out = lies, unit.scale = scales, unit.arrange = WEFT_ARRANGE_MARLIN;
    unit.matrix_row = MARLIN_BEFORE, unit.matrix_rows = MARLIN_ALL, unit.matrix_cols = groups * 128;
    assert_int_equal(quantize(&unit, &result), WEFT_OK);
    for (uint32_t row = 0; row < MARLIN_ROWS; row++) {
        for (uint32_t col = 0; col < MARLIN_COLS; col++) {
            uint8_t *code = &lies[weft_marlin_byte(MARLIN_BEFORE + row, col, MARLIN_ALL)];
            assert_int_equal(*code ^ (codes == WEFT_DTYPE_I8 ? 0x80 : 0), plain[row * MARLIN_COLS + col]);
            *code = UNTOUCHED;
        }
        for (uint32_t group = 0; group < groups; group++) {
            uint16_t *its = &scales[weft_arrange_index(WEFT_ARRANGE_MARLIN, MARLIN_BEFORE + row, group, MARLIN_ALL, groups)];
            assert_int_equal(*its, weft_marlin_scale(codes, scale[each ? row : group]));
            *its = UNTOUCHED | UNTOUCHED << 8;
        }
    }
    for (size_t i = 0; i < sizeof lies; i++)
        assert_int_equal(lies[i], UNTOUCHED);
    for (size_t i = 0; i < sizeof scales; i++)
        assert_int_equal(((uint8_t *)scales)[i], UNTOUCHED);
}

static void test_unit_of_marlin(void **state)
{
    (void)state;
    static uint16_t x[MARLIN_ROWS * MARLIN_COLS];
    for (uint32_t i = 0; i < MARLIN_ROWS * MARLIN_COLS; i++)
        x[i] = (uint16_t)((0x3D00 + i * 40503u % 0x0200) | (i * 7919u & 0x80) << 8);
    const weft_segment_t segment = {.data = x, .ld_elems = MARLIN_COLS, .rows = MARLIN_ROWS, .cols = MARLIN_COLS};
    weft_quantize_unit_t unit = {.segments = &segment, .num_segments = 1, .dtype = WEFT_DTYPE_BF16, .rows = MARLIN_ROWS, .cols = MARLIN_COLS};
    check_marlin_unit(WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3, unit);
    check_marlin_unit(WEFT_KERNEL_FP8_CHANNEL, WEFT_DTYPE_F8_E4M3, unit);
    check_marlin_unit(WEFT_KERNEL_INT8_CHANNEL, WEFT_DTYPE_I8, unit);
    check_marlin_unit(WEFT_KERNEL_FP8_TENSOR, WEFT_DTYPE_F8_E4M3, unit);
    unit.profile = WEFT_PROFILE_VLLM_POW2;
    check_marlin_unit(WEFT_KERNEL_FP8_BLOCK, WEFT_DTYPE_F8_E4M3, unit);
}

static void test_refusals(void **state)
{
    (void)state;
    float scale[1];
    uint8_t code[1];
    weft_quantize_result_t result;
    weft_quantize_unit_t unit = {.dtype = WEFT_DTYPE_BF16,
                                 .out_dtype = WEFT_DTYPE_F8_E4M3,
                                 .out = code,
                                 .scale = scale,
                                 .profile = WEFT_PROFILE_IEEE,
                                 .arrange = WEFT_ARRANGE_DEEPGEMM};
    for (const char *const *name = (const char *const[]){"ref", "avx2", "avx512", NULL}; *name; name++) {
        const weft_kernels_t *kernels = weft_kernels_find(*name);
        unit.profile = WEFT_PROFILE_IEEE, unit.arrange = WEFT_ARRANGE_DEEPGEMM;
        if (kernels)
            assert_int_equal(kernels->quantize[WEFT_KERNEL_FP8_BLOCK](&unit, &result), WEFT_ERR_ARGUMENT);
        unit.profile = WEFT_PROFILE_DEFAULT, unit.arrange = WEFT_ARRANGE_SWIZZLE;
        if (kernels)
            assert_int_equal(kernels->quantize[WEFT_KERNEL_FP8_CHANNEL](&unit, &result), WEFT_ERR_ARGUMENT);
    }
    assert_false(weft_arrange_takes(WEFT_ARRANGE_SWIZZLE, WEFT_KERNEL_INT4_GROUP_32, WEFT_PROFILE_IEEE));
    assert_true(weft_arrange_takes(WEFT_ARRANGE_PLAIN, WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_swizzle),
        cmocka_unit_test(test_deepgemm),
        cmocka_unit_test(test_marlin),
        cmocka_unit_test(test_marlin_numbers),
        cmocka_unit_test(test_marlin_extents),
        cmocka_unit_test(test_marlin_units),
        cmocka_unit_test(test_unit_in_a_matrix),
        cmocka_unit_test(test_unit_of_marlin),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
