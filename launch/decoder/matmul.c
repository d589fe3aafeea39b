/* One token: dequantize a row, dot it. Many tokens: dequantize a panel once and use it for all of them.
 *
 *     x: 8 tokens x 256            panel: 256 x 32, the rows of the matrix as columns
 *     +-----------------+          +--------+
 *     |                 |          |        |        sum: 8 x 32, in registers
 *     +-----------------+    *     |        |   =    +--------+
 *                                  |        |        +--------+
 *                                  +--------+
 */
#include "launch/decoder/matmul.h"

#include <string.h>

#include "launch/decoder/clones.h"
#include "launch/decoder/vector.h"

#define ROW_CHUNK   1024 /* columns dequantized at a time for one token */
#define PANEL_ROWS  32   /* rows of the matrix in a panel */
#define PANEL_DEPTH 256  /* columns of the matrix in a panel: 32 KiB, so it stays in the first cache */
#define TILE_TOKENS 8

static void multiply_one(const float *x, const decoder_matrix_t *matrix, float *y)
{
    float row[ROW_CHUNK];
    for (uint32_t n = 0; n < matrix->rows; n++) {
        y[n] = 0;
        for (uint32_t k = 0; k < matrix->cols; k += ROW_CHUNK) {
            uint32_t depth = matrix->cols - k < ROW_CHUNK ? matrix->cols - k : ROW_CHUNK;
            decoder_dequantize(matrix, n, k, depth, row);
            y[n] += decoder_dot(x + k, row, depth);
        }
    }
}

#define EACH_TOKEN(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/* sum[t][n] = the product of x[t] and column n of the panel. The sums are eight arrays by name, because the
 * compiler keeps those in registers and a two-dimensional one in memory. */
DECODER_VECTOR_CLONES
static void multiply_tile(const float *const x[TILE_TOKENS], const float *restrict panel, uint32_t depth,
                          float (*restrict sum)[PANEL_ROWS])
{
#define X(t)                                                                                                 \
    const float *restrict x##t = x[t];                                                                       \
    float sum##t[PANEL_ROWS] = {0};
    EACH_TOKEN(X)
#undef X
    for (uint32_t k = 0; k < depth; k++) {
        const float *restrict column = panel + (size_t)k * PANEL_ROWS;
        for (uint32_t n = 0; n < PANEL_ROWS; n++) {
#define X(t) sum##t[n] += x##t[k] * column[n];
            EACH_TOKEN(X)
#undef X
        }
    }
#define X(t) memcpy(sum[t], sum##t, sizeof sum##t);
    EACH_TOKEN(X)
#undef X
}

/* Rows past the end of the matrix become zero columns of the panel. */
static void fill_panel(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t depth,
                       float *panel)
{
    float values[PANEL_DEPTH] = {0};
    for (uint32_t n = 0; n < PANEL_ROWS; n++) {
        if (row + n < matrix->rows)
            decoder_dequantize(matrix, row + n, col, depth, values);
        else
            memset(values, 0, sizeof values);
        for (uint32_t k = 0; k < depth; k++)
            panel[k * PANEL_ROWS + n] = values[k];
    }
}

/* y[:, row..] += x[:, col..col+depth] * panel. The last tile repeats its last token in the place of those it
 * lacks. */
static void multiply_panel(const float *x, uint32_t count, const decoder_matrix_t *matrix, uint32_t row,
                           uint32_t col, uint32_t depth, const float *panel, float *y)
{
    uint32_t rows = matrix->rows - row < PANEL_ROWS ? matrix->rows - row : PANEL_ROWS;
    for (uint32_t first = 0; first < count; first += TILE_TOKENS) {
        uint32_t tokens = count - first < TILE_TOKENS ? count - first : TILE_TOKENS;
        const float *inputs[TILE_TOKENS];
        float sum[TILE_TOKENS][PANEL_ROWS];
        for (uint32_t t = 0; t < TILE_TOKENS; t++)
            inputs[t] = x + (size_t)(first + (t < tokens ? t : tokens - 1)) * matrix->cols + col;
        multiply_tile(inputs, panel, depth, sum);
        for (uint32_t t = 0; t < tokens; t++) {
            float *out = y + (size_t)(first + t) * matrix->rows + row;
            for (uint32_t n = 0; n < rows; n++)
                out[n] += sum[t][n];
        }
    }
}

static void multiply_many(const float *x, uint32_t count, const decoder_matrix_t *matrix, float *y)
{
    float panel[PANEL_DEPTH * PANEL_ROWS];
    memset(y, 0, (size_t)count * matrix->rows * sizeof *y);
    for (uint32_t col = 0; col < matrix->cols; col += PANEL_DEPTH) {
        uint32_t depth = matrix->cols - col < PANEL_DEPTH ? matrix->cols - col : PANEL_DEPTH;
        for (uint32_t row = 0; row < matrix->rows; row += PANEL_ROWS) {
            fill_panel(matrix, row, col, depth, panel);
            multiply_panel(x, count, matrix, row, col, depth, panel, y);
        }
    }
}

void decoder_matmul(const float *x, uint32_t count, const decoder_matrix_t *matrix, float *y)
{
    if (count == 1)
        multiply_one(x, matrix, y);
    else
        multiply_many(x, count, matrix, y);
}
