/* Rectangles of a matrix: rows [row, row + rows) by columns [col, col + cols). */
#ifndef WEFT_PLAN_RECT_H
#define WEFT_PLAN_RECT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct weft_rect {
    uint32_t row, col, rows, cols;
} weft_rect_t;

static inline bool weft_rect_empty(weft_rect_t a)
{
    return a.rows == 0 || a.cols == 0;
}

static inline uint64_t weft_rect_area(weft_rect_t a)
{
    return (uint64_t)a.rows * a.cols;
}

static inline bool weft_rect_equal(weft_rect_t a, weft_rect_t b)
{
    return a.row == b.row && a.col == b.col && a.rows == b.rows && a.cols == b.cols;
}

/* What both cover; empty (rows or cols 0) when nothing. */
weft_rect_t weft_rect_intersect(weft_rect_t a, weft_rect_t b);

/* Cut `b` (inside `a`, not empty) out of `a`: the up to four rectangles that are left, in `left`. Returns how
 * many. */
unsigned weft_rect_subtract(weft_rect_t a, weft_rect_t b, weft_rect_t left[4]);

#endif
