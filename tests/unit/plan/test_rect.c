/* All rectangles of a small grid, cell by cell. */
#include "src/plan/rect.h"
#include "tests/support/random.h"

#define GRID 5u

/* The cells of a rectangle as bits. */
static uint32_t cells(weft_rect_t rect)
{
    uint32_t bits = 0;
    for (uint32_t r = 0; r < rect.rows; r++)
        for (uint32_t c = 0; c < rect.cols; c++)
            bits |= 1u << ((rect.row + r) * GRID + rect.col + c);
    return bits;
}

/* Rectangle `index` of the grid, empty ones among them; false past the last. */
static bool nth_rect(uint32_t index, weft_rect_t *rect)
{
    uint32_t sides = GRID + 1;
    if (index >= sides * sides * sides * sides)
        return false;
    uint32_t top = index % sides, left = index / sides % sides, bottom = index / sides / sides % sides,
             right = index / sides / sides / sides;
    *rect = (weft_rect_t){top, left, bottom > top ? bottom - top : 0, right > left ? right - left : 0};
    return true;
}

static void test_intersection_by_cells(void **state)
{
    (void)state;
    weft_rect_t a, b;
    for (uint32_t i = 0; nth_rect(i, &a); i++)
        for (uint32_t j = 0; nth_rect(j, &b); j++) {
            weft_rect_t both = weft_rect_intersect(a, b);
            assert_int_equal(weft_rect_empty(both) ? 0 : cells(both), cells(a) & cells(b));
        }
}

static void check_rest(weft_rect_t a, weft_rect_t b)
{
    weft_rect_t left[4];
    uint32_t seen = 0;
    unsigned count = weft_rect_subtract(a, b, left);
    assert_true(count <= 4);
    for (unsigned i = 0; i < count; i++) {
        assert_false(weft_rect_empty(left[i]));
        assert_int_equal(seen & cells(left[i]), 0);
        seen |= cells(left[i]);
    }
    assert_int_equal(seen, cells(a) & ~cells(b));
}

static void test_subtraction_by_cells(void **state)
{
    (void)state;
    weft_rect_t a, b;
    for (uint32_t i = 0; nth_rect(i, &a); i++)
        for (uint32_t j = 0; nth_rect(j, &b); j++)
            if (!weft_rect_empty(b) && weft_rect_equal(weft_rect_intersect(a, b), b))
                check_rest(a, b);
}

static void test_area_of_large_rects(void **state)
{
    (void)state;
    weft_rect_t large = {0, 0, 200000, 100000};
    assert_true(weft_rect_area(large) == 20000000000u);
    assert_true(weft_rect_empty((weft_rect_t){3, 3, 0, 7}) && weft_rect_empty((weft_rect_t){3, 3, 7, 0}));
    assert_false(weft_rect_equal((weft_rect_t){0, 0, 1, 2}, (weft_rect_t){0, 0, 2, 1}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intersection_by_cells),
        cmocka_unit_test(test_subtraction_by_cells),
        cmocka_unit_test(test_area_of_large_rects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
