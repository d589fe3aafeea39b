#include "src/plan/rect.h"

static void overlap(uint32_t a, uint32_t a_len, uint32_t b, uint32_t b_len, uint32_t *start, uint32_t *length)
{
    uint32_t low = a > b ? a : b;
    uint32_t a_end = a + a_len, b_end = b + b_len;
    uint32_t high = a_end < b_end ? a_end : b_end;
    *start = low;
    *length = high > low ? high - low : 0;
}

weft_rect_t weft_rect_intersect(weft_rect_t a, weft_rect_t b)
{
    weft_rect_t both;
    overlap(a.row, a.rows, b.row, b.rows, &both.row, &both.rows);
    overlap(a.col, a.cols, b.col, b.cols, &both.col, &both.cols);
    return both;
}

unsigned weft_rect_subtract(weft_rect_t a, weft_rect_t b, weft_rect_t left[4])
{
    const weft_rect_t sides[4] = {
        {a.row, a.col, b.row - a.row, a.cols},                            /* above */
        {b.row, a.col, b.rows, b.col - a.col},                            /* left */
        {b.row, b.col + b.cols, b.rows, a.col + a.cols - b.col - b.cols}, /* right */
        {b.row + b.rows, a.col, a.row + a.rows - b.row - b.rows, a.cols}, /* below */
    };
    unsigned count = 0;
    for (unsigned i = 0; i < 4; i++)
        if (!weft_rect_empty(sides[i]))
            left[count++] = sides[i];
    return count;
}
