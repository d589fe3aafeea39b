/* The window of swap layerwise: every way through its picture, and none beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "src/swap/window.h"

static void test_a_version(void **state)
{
    (void)state;
    weft_window_t w = {0};
    assert_false(weft_window_write(&w, 2, true, false)); /* steps run */
    assert_true(weft_window_pause(&w));
    assert_true(weft_window_write(&w, 2, false, false));
    assert_int_equal(w.state, WEFT_WINDOW_WRITTEN);
    assert_false(weft_window_resume(&w));
    assert_true(weft_window_pause(&w));
    assert_int_equal(w.state, WEFT_WINDOW_WRITTEN);
    weft_window_applied(&w);
    assert_int_equal(w.state, WEFT_WINDOW_RUNNING);
}

static void test_the_first_needs_no_pause(void **state)
{
    (void)state;
    weft_window_t w = {0};
    assert_true(weft_window_write(&w, 1, true, true));
    assert_int_equal(w.state, WEFT_WINDOW_WRITTEN);
}

static void test_resume(void **state)
{
    (void)state;
    weft_window_t w = {0};
    weft_window_pause(&w);
    weft_window_given_up(&w, 9); /* nothing was written */
    assert_int_equal(w.state, WEFT_WINDOW_PAUSED);
    assert_true(weft_window_resume(&w));
    assert_true(weft_window_resume(&w));
}

static void test_tainted(void **state)
{
    (void)state;
    weft_window_t w = {0};
    weft_window_pause(&w);
    weft_window_write(&w, 5, true, false);
    weft_window_given_up(&w, 4); /* an older one */
    assert_int_equal(w.state, WEFT_WINDOW_WRITTEN);
    weft_window_given_up(&w, 5);
    assert_int_equal(w.state, WEFT_WINDOW_TAINTED);
    assert_false(weft_window_resume(&w));
    assert_false(weft_window_write(&w, 6, false, false)); /* a subset mends nothing */
    assert_true(weft_window_write(&w, 6, true, false));
    weft_window_given_up(&w, 5);
    assert_int_equal(w.state, WEFT_WINDOW_WRITTEN);
    weft_window_applied(&w);
    assert_true(weft_window_resume(&w));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_version), cmocka_unit_test(test_the_first_needs_no_pause),
                                       cmocka_unit_test(test_resume), cmocka_unit_test(test_tainted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
