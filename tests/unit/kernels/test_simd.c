/* The backends for vector units beside `ref`, which the other tests hold to the specification: every bf16
 * value under many scales, and units of any shape in any number of pieces. */
#include "fixture.h"

static const char *const names[] = {"avx2", "avx512"};

#define NUM_NAMES (sizeof names / sizeof *names)
#define BLOCK     128

/* Quantize with `ref` and with every other backend there is; all must be equal. Returns how many there were.
 */
static uint32_t compare(const matrix_t *matrix, request_t request, uint32_t splits)
{
    uint32_t compared = 0;
    uint64_t state = random_state;
    const weft_kernels_t *chosen = tested;
    tested = weft_kernels_find("ref");
    output_t expected = quantize_cut(matrix, request, splits);
    for (size_t i = 0; i < NUM_NAMES; i++) {
        tested = weft_kernels_find(names[i]);
        if (!tested)
            continue;
        random_state = state; /* the same cut */
        output_t found = quantize_cut(matrix, request, splits);
        assert_outputs_equal(&found, &expected);
        output_destroy(&found);
        compared++;
    }
    output_destroy(&expected);
    tested = chosen;
    return compared;
}

static request_t request_for(uint32_t which)
{
    static const request_t requests[] = {
        {WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_BF16, NULL, NULL},
        {WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F16, NULL, NULL},
        {WEFT_KERNEL_FP8_BLOCK, WEFT_PROFILE_IEEE, WEFT_DTYPE_F8_E4M3, NULL, NULL},
        {WEFT_KERNEL_FP8_BLOCK, WEFT_PROFILE_VLLM, WEFT_DTYPE_F8_E4M3, NULL, NULL},
        {WEFT_KERNEL_FP8_BLOCK, WEFT_PROFILE_POW2, WEFT_DTYPE_F8_E4M3, NULL, NULL},
        {WEFT_KERNEL_FP8_BLOCK, WEFT_PROFILE_VLLM_POW2, WEFT_DTYPE_F8_E4M3, NULL, NULL},
        {WEFT_KERNEL_FP8_CHANNEL, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_F8_E4M3, NULL, NULL},
    };
    return requests[which % (sizeof requests / sizeof *requests)];
}

/* A block whose amax is `amax`, and otherwise every kind of value below it. */
static void blocks_of_every_amax(void **state)
{
    (void)state;
    random_begin("blocks_of_every_amax");
    uint32_t compared = 1;
    for (uint32_t amax = random_in(0, 30); amax < 0x7F80 && compared; amax += random_in(1, 60)) {
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, BLOCK, BLOCK);
        uint16_t *value = matrix.data;
        for (uint32_t i = 0; i < BLOCK * BLOCK; i++)
            value[i] = (uint16_t)((i ? random_in(0, amax) : amax) | random_in(0, 1) << 15);
        for (uint32_t profile = 2; profile < 6; profile++)
            compared = compare(&matrix, request_for(profile), 0);
        free(matrix.data);
    }
    if (!compared)
        skip();
}

/* Every bf16 value by division with every kind of scale, which here need not be that of the values. */
static void rows_of_every_value(void **state)
{
    (void)state;
    random_begin("rows_of_every_value");
    uint32_t compared = 1;
    for (uint32_t round = 0; round < 12 && compared; round++) {
        uint16_t amax[BLOCK];
        matrix_t matrix = matrix_create(WEFT_DTYPE_BF16, BLOCK, 65536 / 64);
        for (uint32_t i = 0; i < BLOCK * matrix.cols; i++) {
            uint16_t bits = (uint16_t)(i * 40503u + i / 65536); /* odd: each value once in 65,536 */
            ((uint16_t *)matrix.data)[i] = (bits & 0x7FFF) < 0x7F80 ? bits : (uint16_t)(bits & 0x80FF);
        }
        for (uint32_t i = 0; i < BLOCK; i++)
            amax[i] = (uint16_t)random_in(0, 0x7F7F);
        request_t request = request_for(6);
        request.row_amax = amax;
        compared = compare(&matrix, request, random_in(0, 3));
        free(matrix.data);
    }
    if (!compared)
        skip();
}

static void any_unit(void **state)
{
    (void)state;
    random_begin("any_unit");
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_BF16, WEFT_DTYPE_F32, WEFT_DTYPE_F16};
    uint32_t compared = 1;
    for (uint32_t round = 0; round < 1500 && compared; round++) {
        matrix_t matrix = matrix_random(dtypes[random_in(0, 3)], random_in(1, BLOCK), random_in(1, 700));
        if (random_in(0, 7) == 0) /* NaN or Inf somewhere */
            matrix_set(&matrix, random_u64() % ((size_t)matrix.rows * matrix.cols),
                       random_in(0, 1) ? INFINITY : NAN);
        compared = compare(&matrix, request_for(random_in(0, 6)), random_in(0, 6));
        free(matrix.data);
    }
    if (!compared)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_every_amax),
        cmocka_unit_test(rows_of_every_value),
        cmocka_unit_test(any_unit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
