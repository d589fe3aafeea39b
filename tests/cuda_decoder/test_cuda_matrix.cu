/* What a GPU's kernels read out of a matrix is what the host reads, to the bit, in every format: a product
 * with a unit vector is one element. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/decoder/cuda/engine.cuh"

constexpr uint32_t ROWS = 130,
                   COLS = 384; /* a last row of blocks of two rows; three blocks, and loads of every kind */

/* One matrix of random codes: on the host, and `shift` bytes into memory of the GPU. */
typedef struct subject {
    decoder_matrix_t host, device;
    uint8_t *codes, *scales, *device_codes, *device_scales;
    float global, *device_global;
} subject_t;

static void check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

static uint8_t random_byte(uint32_t *seed)
{
    return (uint8_t)((*seed = *seed * 1664525u + 1013904223u) >> 24);
}

/* A NaN would hide its whole row, an Inf too: codes that are none. Scales are positive and of moderate size.
 */
static void fill(subject_t *s, const decoder_format_t *format)
{
    uint32_t seed = (uint32_t)s->host.format + 1;
    for (size_t i = 0; i < s->host.bytes; i++) {
        const uint8_t byte = random_byte(&seed);
        const bool special = format->dtype == WEFT_DTYPE_F8_E4M3 ? (byte & 0x7F) == 0x7F
                             : format->bits == 16                ? i % 2 && (byte & 0x7C) == 0x7C
                                                                 : false;
        s->codes[i] = special ? 0x31 : byte;
    }
    for (size_t i = 0; i < s->host.scale_bytes; i++)
        s->scales[i] = (uint8_t)(0x38 + random_byte(&seed) % 16);
    s->global = 0.7f;
}

static uint8_t *upload(const void *from, size_t bytes, size_t shift)
{
    uint8_t *to;
    check(cudaMalloc((void **)&to, bytes + shift), "cudaMalloc");
    check(cudaMemcpy(to + shift, from, bytes, cudaMemcpyHostToDevice), "upload");
    return to;
}

static void open_subject(subject_t *s, decoder_format_id_t id, size_t shift)
{
    const decoder_format_t *format = &decoder_formats[id];
    *s = {};
    s->host = decoder_matrix(id, ROWS, COLS, NULL, NULL, NULL);
    s->codes = (uint8_t *)malloc(s->host.bytes);
    s->scales = (uint8_t *)malloc(s->host.scale_bytes);
    if (!s->codes || !s->scales)
        exit(1);
    fill(s, format);
    s->device_codes = upload(s->codes, s->host.bytes, shift);
    s->device_scales = upload(s->scales, s->host.scale_bytes, 0);
    s->device_global = (float *)upload(&s->global, sizeof s->global, 0);
    const bool scaled = format->scaling.scaled, global = format->scaling.global;
    s->host = decoder_matrix(id, ROWS, COLS, s->codes, scaled ? s->scales : NULL, global ? &s->global : NULL);
    s->device = decoder_matrix(id, ROWS, COLS, s->device_codes + shift, scaled ? s->device_scales : NULL,
                               global ? s->device_global : NULL);
}

static void close_subject(subject_t *s)
{
    cudaFree(s->device_codes);
    cudaFree(s->device_scales);
    cudaFree(s->device_global);
    free(s->codes);
    free(s->scales);
}

/* y [tokens, ROWS] of unit vectors [first, first + tokens), so y[t][row] is element (row, first + t). */
static void multiply_units(const subject_t *s, uint32_t first, uint32_t tokens, float *y)
{
    const size_t elems = (size_t)tokens * COLS, outs = (size_t)tokens * ROWS;
    float *x = (float *)calloc(elems, sizeof *x), *device_y;
    if (!x)
        exit(1);
    for (uint32_t t = 0; t < tokens; t++)
        x[(size_t)t * COLS + first + t] = 1;
    float *device_x = (float *)upload(x, elems * sizeof *x, 0);
    check(cudaMalloc((void **)&device_y, outs * sizeof *y), "cudaMalloc");
    check(enqueue_matmul(&s->device, device_x, tokens, device_y, ROWS, NULL), "matmul");
    check(cudaMemcpy(y, device_y, outs * sizeof *y, cudaMemcpyDeviceToHost), "download");
    cudaFree(device_x);
    cudaFree(device_y);
    free(x);
}

/* Elements that differ from the host's; 0 and -0 are equal, as sums make one of the other. */
static uint32_t count_wrong(const subject_t *s, uint32_t first, uint32_t tokens)
{
    uint32_t wrong = 0;
    float *y = (float *)malloc((size_t)tokens * ROWS * sizeof *y);
    if (!y)
        exit(1);
    multiply_units(s, first, tokens, y);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t row = 0; row < ROWS; row++) {
            const float expected = decoder_matrix_value(&s->host, row, first + t),
                        found = y[(size_t)t * ROWS + row];
            if (found == expected)
                continue;
            if (!wrong++)
                printf("FAIL %s: element (%u, %u) is %g, expected %g\n",
                       decoder_formats[s->host.format].scheme, row, first + t, found, expected);
        }
    free(y);
    return wrong;
}

/* All columns as one batch, some one by one; and by single elements, where addresses allow no load of 16
 * bytes. */
static uint32_t check_format(decoder_format_id_t id)
{
    uint32_t wrong = 0;
    for (size_t shift = 0; shift <= 4; shift += 4) {
        subject_t s;
        open_subject(&s, id, shift);
        wrong += count_wrong(&s, 0, COLS);
        for (uint32_t col = 0; col < COLS; col += 11)
            wrong += count_wrong(&s, col, 1);
        close_subject(&s);
    }
    printf("%s: %u wrong of %u\n", decoder_formats[id].scheme, wrong, 2 * ROWS * (COLS + (COLS + 10) / 11));
    return wrong;
}

int main(void)
{
    int gpus = 0;
    uint32_t wrong = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || !gpus) {
        fprintf(stderr, "skipped: no GPU\n");
        return 77;
    }
    for (uint32_t id = 0; id < DECODER_FORMAT_COUNT; id++)
        wrong += check_format((decoder_format_id_t)id);
    return wrong ? 1 : 0;
}
