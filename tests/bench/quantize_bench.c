/* How fast one core quantizes, digests and finds maxima, beside a memcpy of the same bytes.
 *
 *     quantize_bench [--backend NAME] [--rounds N] [ROWSxCOLS ...]
 *
 * One round runs every operation once, in turn, so that a change of clock or a noisy neighbour meets all of
 * them; times are over rounds. GB/s counts the bf16 bytes read. #wrong counts output bytes that differ from
 * the `ref` backend's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/arith.h"
#include "kernels/kernels.h"
#include "src/base/clock.h"

#define UNIT_ROWS      128
#define BLOCK          128
#define MAX_ROUNDS     1000
#define DEFAULT_ROUNDS 11

/* Layers of Qwen3-8B, cut to 4096 rows where they are longer. */
static const char *const default_shapes[] = {"4096x4096", "4096x12288"};

typedef struct matrix {
    uint32_t rows, cols;
    uint16_t *weights;
    uint8_t *out, *expected; /* as large as weights, for memcpy */
    float *scale;
    uint16_t *amax;
} matrix_t;

typedef void (*run_fn)(const weft_kernels_t *kernels, weft_profile_t profile, const matrix_t *matrix);

/* ---- Operations ---- */

static void run_memcpy(const weft_kernels_t *kernels, weft_profile_t profile, const matrix_t *matrix)
{
    (void)kernels, (void)profile;
    memcpy(matrix->out, matrix->weights, (size_t)matrix->rows * matrix->cols * sizeof *matrix->weights);
}

static void run_quantize(const weft_kernels_t *kernels, weft_kernel_id_t id, weft_profile_t profile,
                         const matrix_t *matrix)
{
    for (uint32_t row = 0; row < matrix->rows; row += UNIT_ROWS) {
        uint32_t rows = matrix->rows - row < UNIT_ROWS ? matrix->rows - row : UNIT_ROWS;
        size_t first = (size_t)row * matrix->cols;
        size_t grid_row = (size_t)(row / UNIT_ROWS) * ((matrix->cols + BLOCK - 1) / BLOCK);
        weft_segment_t segment = {matrix->weights + first, matrix->cols, 0, 0, rows, matrix->cols};
        weft_quantize_unit_t unit = {
            .segments = &segment,
            .num_segments = 1,
            .dtype = WEFT_DTYPE_BF16,
            .rows = rows,
            .cols = matrix->cols,
            .profile = profile,
            .out_dtype = WEFT_DTYPE_F8_E4M3,
            .out = matrix->out + first,
            .scale = matrix->scale + (id == WEFT_KERNEL_FP8_BLOCK ? grid_row : row),
        };
        weft_quantize_result_t result;
        if (kernels->quantize[id](&unit, &result) != WEFT_OK)
            abort();
    }
}

static void run_fp8_block(const weft_kernels_t *kernels, weft_profile_t profile, const matrix_t *matrix)
{
    run_quantize(kernels, WEFT_KERNEL_FP8_BLOCK, profile, matrix);
}

static void run_fp8_channel(const weft_kernels_t *kernels, weft_profile_t profile, const matrix_t *matrix)
{
    run_quantize(kernels, WEFT_KERNEL_FP8_CHANNEL, profile, matrix);
}

static void run_digest(const weft_kernels_t *kernels, weft_profile_t profile, const matrix_t *matrix)
{
    (void)profile;
    size_t bytes = (size_t)matrix->rows * matrix->cols * sizeof *matrix->weights;
    weft_digest_t digest = weft_digest_run(kernels, matrix->weights, bytes);
    memcpy(matrix->out, &digest, sizeof digest);
}

static void run_amax(const weft_kernels_t *kernels, weft_profile_t profile, const matrix_t *matrix)
{
    (void)profile;
    uint32_t row, col;
    memset(matrix->amax, 0, matrix->rows * sizeof *matrix->amax);
    kernels->amax(matrix->weights, matrix->cols, matrix->rows, matrix->cols, WEFT_DTYPE_BF16, matrix->amax,
                  &row, &col);
    memcpy(matrix->out, matrix->amax, matrix->rows * sizeof *matrix->amax);
}

static const struct {
    const char *name, *profile_name;
    weft_profile_t profile;
    run_fn run;
} operations[] = {
    {"memcpy", "-", WEFT_PROFILE_DEFAULT, run_memcpy},
    {"fp8-block", "ieee", WEFT_PROFILE_IEEE, run_fp8_block},
    {"fp8-block", "vllm", WEFT_PROFILE_VLLM, run_fp8_block},
    {"fp8-block", "pow2", WEFT_PROFILE_POW2, run_fp8_block},
    {"fp8-block", "vllm-pow2", WEFT_PROFILE_VLLM_POW2, run_fp8_block},
    {"fp8-channel", "-", WEFT_PROFILE_DEFAULT, run_fp8_channel},
    {"digest", "-", WEFT_PROFILE_DEFAULT, run_digest},
    {"amax", "-", WEFT_PROFILE_DEFAULT, run_amax},
};

#define NUM_OPERATIONS (sizeof operations / sizeof *operations)

/* ---- Data ---- */

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (memory == NULL) {
        fprintf(stderr, "quantize_bench: no memory for %zu bytes\n", bytes);
        exit(3);
    }
    return memory;
}

/* Roughly what weights look like: near-normal around zero, sigma 0.02. */
static float next_weight(uint64_t *state)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(*state >> 40) / 16777216.0f - 0.5f;
    }
    return sum * 0.035f;
}

static matrix_t matrix_create(uint32_t rows, uint32_t cols)
{
    size_t elems = (size_t)rows * cols;
    matrix_t matrix = {rows, cols, allocate(elems * 2), allocate(elems * 2), allocate(elems * 2), NULL, NULL};
    size_t grid_elems = (size_t)((rows + BLOCK - 1) / BLOCK) * ((cols + BLOCK - 1) / BLOCK);
    matrix.scale = allocate((grid_elems > rows ? grid_elems : rows) * sizeof *matrix.scale);
    matrix.amax = allocate(rows * sizeof *matrix.amax);
    uint64_t state = 1;
    for (size_t i = 0; i < elems; i++)
        matrix.weights[i] = weft_bf16_from_f32(next_weight(&state));
    return matrix;
}

static void matrix_destroy(matrix_t *matrix)
{
    free(matrix->weights);
    free(matrix->out);
    free(matrix->expected);
    free(matrix->scale);
    free(matrix->amax);
}

/* ---- Measuring ---- */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static size_t count_wrong(size_t op, const weft_kernels_t *kernels, const matrix_t *matrix)
{
    matrix_t reference = *matrix;
    reference.out = matrix->expected;
    size_t bytes = (size_t)matrix->rows * matrix->cols * sizeof *matrix->weights, wrong = 0;
    memset(matrix->out, 0, bytes);
    memset(matrix->expected, 0, bytes);
    operations[op].run(kernels, operations[op].profile, matrix);
    operations[op].run(weft_kernels_find("ref"), operations[op].profile, &reference);
    for (size_t i = 0; i < bytes; i++)
        wrong += matrix->out[i] != matrix->expected[i];
    return wrong;
}

static void measure(const weft_kernels_t *kernels, const matrix_t *matrix, int rounds)
{
    static uint64_t ns[NUM_OPERATIONS][MAX_ROUNDS];
    for (int round = 0; round < rounds; round++) {
        for (size_t op = 0; op < NUM_OPERATIONS; op++) {
            uint64_t start = weft_now_ns();
            operations[op].run(kernels, operations[op].profile, matrix);
            ns[op][round] = weft_now_ns() - start;
        }
    }
    double bytes = 2.0 * matrix->rows * matrix->cols, memcpy_p50 = 0;
    for (size_t op = 0; op < NUM_OPERATIONS; op++) {
        qsort(ns[op], (size_t)rounds, sizeof ns[op][0], compare_u64);
        double p50 = (double)ns[op][rounds / 2], p99 = (double)ns[op][rounds * 99 / 100];
        if (op == 0)
            memcpy_p50 = p50;
        printf("%-12s %-10s %6u %6u %12.0f %11.1f %11.1f %8.2f %8.3f %7zu\n", operations[op].name,
               operations[op].profile_name, matrix->rows, matrix->cols, bytes, p50 / 1e3, p99 / 1e3,
               bytes / p50, memcpy_p50 / p50, count_wrong(op, kernels, matrix));
    }
}

static void print_header(const weft_kernels_t *kernels, int rounds)
{
    printf("# weft quantize_bench: one core, backend %s, compiler %s\n", kernels->name, __VERSION__);
    printf("# rounds %d, interleaved; GB/s of bf16 read; of-memcpy = memcpy time / time, P50 over P50\n",
           rounds);
    printf("#%-11s %-10s %6s %6s %12s %11s %11s %8s %8s %7s\n", "operation", "profile", "rows", "cols",
           "bytes", "P50", "P99", "GB/s", "of", "#wrong");
    printf("#%-11s %-10s %6s %6s %12s %11s %11s %8s %8s %7s\n", "", "", "", "", "(B)", "(us)", "(us)", "",
           "memcpy", "(B)");
}

static int usage(void)
{
    fprintf(stderr, "usage: quantize_bench [--backend NAME] [--rounds N (3..%d)] [ROWSxCOLS ...]\n",
            MAX_ROUNDS);
    return 2;
}

static int run_shape(const weft_kernels_t *kernels, const char *shape, int rounds)
{
    uint32_t rows, cols;
    if (sscanf(shape, "%ux%u", &rows, &cols) != 2 || rows == 0 || cols == 0)
        return usage();
    matrix_t matrix = matrix_create(rows, cols);
    measure(kernels, &matrix, rounds);
    matrix_destroy(&matrix);
    return 0;
}

int main(int argc, char **argv)
{
    const weft_kernels_t *kernels = weft_kernels_find("ref");
    int rounds = DEFAULT_ROUNDS, next = 1;
    for (; next + 1 < argc && strncmp(argv[next], "--", 2) == 0; next += 2) {
        if (strcmp(argv[next], "--backend") == 0)
            kernels = weft_kernels_find(argv[next + 1]);
        else if (strcmp(argv[next], "--rounds") == 0)
            rounds = atoi(argv[next + 1]);
        else
            return usage();
    }
    if (kernels == NULL || rounds < 3 || rounds > MAX_ROUNDS)
        return usage();
    weft_kernels_thread_begin();
    print_header(kernels, rounds);
    size_t num_defaults = sizeof default_shapes / sizeof *default_shapes;
    int status = 0;
    for (size_t i = 0; next == argc && i < num_defaults; i++)
        status |= run_shape(kernels, default_shapes[i], rounds);
    for (; next < argc; next++)
        status |= run_shape(kernels, argv[next], rounds);
    return status;
}
