/* Row maxima of a rectangle, by integer compares only: exact, and the same in any order.
 *
 *     data, ld_elems                     amax (folded into what is there)
 *     +----------------+                 +-+
 *     | row 0          |  ============>  | |  bits of bf16 or fp16
 *     +----------------+                 +-+
 *
 * Reads 2 or 4 bytes an element, 128 at a time. Column maxima are found row by row too, in a run of 128
 * columns.
 */
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

/* Return the amax of one row over its finite elements; *first is its first other one, `cols` if there is
 * none. */
static uint16_t row_amax(const char *data, uint32_t cols, weft_dtype_t dtype, uint32_t *first)
{
    size_t elem_bytes = weft_dtype_bytes(dtype);
    uint16_t inf = weft_values_inf(dtype), amax = 0;
    *first = cols;
    for (uint32_t col = 0; col < cols; col += WEFT_TILE) {
        uint16_t value[WEFT_TILE];
        uint32_t count = cols - col < WEFT_TILE ? cols - col : WEFT_TILE, place;
        weft_values_load(dtype, data + col * elem_bytes, count, value);
        memset(value + count, 0, (WEFT_TILE - count) * sizeof *value);
        uint16_t max = weft_values_max(value);
        if (max >= inf) {
            max = weft_values_finite_max(dtype, value, &place);
            *first = *first == cols ? col + place : *first;
        }
        amax = max > amax ? max : amax;
    }
    return amax;
}

bool weft_ref_amax(const void *data, size_t ld_elems, uint32_t rows, uint32_t cols, weft_dtype_t dtype,
                   uint16_t *amax, uint32_t *row, uint32_t *col)
{
    bool finite = true;
    size_t ld_bytes = ld_elems * weft_dtype_bytes(dtype);
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t first;
        uint16_t max = row_amax((const char *)data + i * ld_bytes, cols, dtype, &first);
        amax[i] = max > amax[i] ? max : amax[i];
        if (finite && first < cols) {
            finite = false;
            *row = i;
            *col = first;
        }
    }
    return finite;
}

/* Fold one row of at most 128 columns into their maxima. */
static void fold_row(const uint16_t value[WEFT_TILE], uint16_t inf, uint32_t count, uint16_t *amax)
{
    for (uint32_t i = 0; i < count; i++) {
        uint16_t magnitude = value[i] & 0x7FFF;
        magnitude = magnitude < inf ? magnitude : 0;
        amax[i] = magnitude > amax[i] ? magnitude : amax[i];
    }
}

void weft_amax_columns(const void *data, size_t ld_elems, uint32_t rows, uint32_t cols, weft_dtype_t dtype,
                       uint16_t *amax)
{
    size_t elem_bytes = weft_dtype_bytes(dtype);
    uint16_t inf = weft_values_inf(dtype), value[WEFT_TILE];
    for (uint32_t col = 0; col < cols; col += WEFT_TILE) {
        uint32_t count = cols - col < WEFT_TILE ? cols - col : WEFT_TILE;
        for (uint32_t row = 0; row < rows; row++) {
            weft_values_load(dtype, (const char *)data + (row * ld_elems + col) * elem_bytes, count, value);
            fold_row(value, inf, count, amax + col);
        }
    }
}
