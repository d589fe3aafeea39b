/* Two ranges of memory, and how one becomes the other: addresses stay, contents go over. */
#include "src/swap/weights.h"
#include "tests/support/random.h"

#define BYTES (3u << 16)

static weft_queue_t *host_queue(void)
{
    static weft_queue_t *queue;
    weft_error_t error;
    if (!queue && weft_queue_open("host", -1, &queue, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return queue;
}

static weft_weights_t *make(const char *mode, uint64_t bytes)
{
    weft_weights_t *weights = NULL;
    weft_error_t error;
    if (weft_weights_create(host_queue(), mode, bytes, &weights, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_string_equal(weft_weights_mode(weights), mode);
    return weights;
}

static void swap(weft_weights_t *weights)
{
    weft_error_t error;
    if (weft_weights_swap(weights, NULL, &error) != WEFT_OK || weft_weights_settle(weights, &error) != WEFT_OK)
        fail_msg("%s", error.message);
}

/* Bytes that tell version and place. */
static void fill(uint8_t *range, size_t bytes, uint32_t version)
{
    for (size_t i = 0; i < bytes; i++)
        range[i] = (uint8_t)(mix64(i / 8 + 1) >> (i % 8 * 8)) ^ (uint8_t)(version * 37 + 1);
}

static void expect_version(const uint8_t *range, size_t bytes, uint32_t version)
{
    uint8_t *expected = malloc(bytes);
    fill(expected, bytes, version);
    assert_memory_equal(range, expected, bytes);
    free(expected);
}

/* Between a flip and its settling both ranges show what is live, and a second swap is refused. */
static void test_flip_settles_later(void **state)
{
    (void)state;
    weft_weights_t *w = make("flip", BYTES);
    weft_error_t error;
    fill(weft_weights_stage(w), BYTES, 1);
    swap(w);
    fill(weft_weights_stage(w), BYTES, 2);
    assert_int_equal(weft_weights_swap(w, NULL, &error), WEFT_OK);
    expect_version(weft_weights_live(w, 0), BYTES, 2);
    expect_version(weft_weights_stage(w), BYTES, 2);
    assert_int_equal(weft_weights_swap(w, NULL, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_weights_settle(w, &error), WEFT_OK);
    assert_int_equal(weft_weights_settle(w, &error), WEFT_OK);
    expect_version(weft_weights_live(w, 0), BYTES, 2);
    expect_version(weft_weights_stage(w), BYTES, 1);
    weft_weights_destroy(w);
}

static void test_both_ranges_begin_zeroed(void **state)
{
    const char *mode = *state;
    static const uint8_t zeros[BYTES];
    weft_weights_t *w = make(mode, BYTES);
    assert_memory_equal(weft_weights_live(w, 0), zeros, BYTES);
    assert_memory_equal(weft_weights_stage(w), zeros, BYTES);
    weft_weights_destroy(w);
}

static void test_many_swaps(void **state)
{
    const char *mode = *state;
    weft_weights_t *w = make(mode, BYTES);
    uint8_t *live = weft_weights_live(w, 0), *stage = weft_weights_stage(w);
    for (uint32_t version = 1; version <= 100; version++) {
        fill(stage, BYTES, version);
        if (version > 1)
            expect_version(live, BYTES, version - 1); /* staging does not touch what serves */
        swap(w);
        assert_ptr_equal(weft_weights_live(w, 0), live);
        assert_ptr_equal(weft_weights_stage(w), stage);
        expect_version(live, BYTES, version);
        if (version > 1 && strcmp(mode, "flip") == 0)
            expect_version(stage, BYTES, version - 1);
    }
    weft_weights_destroy(w);
}

static void test_offsets_are_addresses(void **state)
{
    const char *mode = *state;
    weft_weights_t *w = make(mode, BYTES);
    uint8_t *live = weft_weights_live(w, 0);
    const uint64_t offsets[] = {0, 1, 255, 4096, BYTES - 1};
    for (unsigned i = 0; i < 5; i++)
        assert_ptr_equal(weft_weights_live(w, offsets[i]), live + offsets[i]);
    weft_weights_destroy(w);
}

static void test_odd_sizes(void **state)
{
    const char *mode = *state;
    const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, 70000};
    for (unsigned i = 0; i < 6; i++) {
        weft_weights_t *w = make(mode, sizes[i]);
        fill(weft_weights_stage(w), sizes[i], 5);
        swap(w);
        expect_version(weft_weights_live(w, 0), sizes[i], 5);
        weft_weights_destroy(w);
    }
}

/* ---- Bound memory, mode copy ---- */

static void bind(weft_weights_t *w, uint64_t offset, uint64_t bytes, void *memory)
{
    weft_error_t error;
    if (weft_weights_bind(w, offset, bytes, memory, &error) != WEFT_OK)
        fail_msg("%s", error.message);
}

/* Some ranges are the caller's, the rest is weft's; bound in any order. */
static void test_bound_ranges(void **state)
{
    (void)state;
    weft_weights_t *w = make("copy", BYTES);
    uint8_t *a = calloc(1000, 1), *b = calloc(500, 1), *c = calloc(256, 1), *expected = malloc(BYTES);
    bind(w, 70000, 500, b);
    bind(w, 0, 256, c);
    bind(w, 4096, 1000, a);
    assert_ptr_equal(weft_weights_live(w, 4096 + 999), a + 999);
    assert_ptr_equal(weft_weights_live(w, 70000), b);
    assert_ptr_equal(weft_weights_live(w, 255), c + 255);
    uint8_t *own = (uint8_t *)weft_weights_live(w, 256) - 256;
    assert_ptr_equal(weft_weights_live(w, 5096), own + 5096);
    for (uint32_t version = 1; version <= 3; version++) {
        fill(weft_weights_stage(w), BYTES, version);
        swap(w);
        fill(expected, BYTES, version);
        assert_memory_equal(c, expected, 256);
        assert_memory_equal(a, expected + 4096, 1000);
        assert_memory_equal(b, expected + 70000, 500);
        assert_memory_equal(own + 256, expected + 256, 4096 - 256);
        assert_memory_equal(own + 5096, expected + 5096, 70000 - 5096);
        assert_memory_equal(own + 70500, expected + 70500, BYTES - 70500);
    }
    weft_weights_destroy(w);
    free(a);
    free(b);
    free(c);
    free(expected);
}

static void test_neighbours_and_the_whole_range(void **state)
{
    (void)state;
    weft_weights_t *w = make("copy", 8192);
    uint8_t *first = calloc(4096, 1), *second = calloc(4096, 1), expected[8192];
    bind(w, 4096, 4096, second);
    bind(w, 0, 4096, first);
    fill(weft_weights_stage(w), 8192, 9);
    swap(w);
    fill(expected, 8192, 9);
    assert_memory_equal(first, expected, 4096);
    assert_memory_equal(second, expected + 4096, 4096);
    weft_weights_destroy(w);
    free(first);
    free(second);
}

/* ---- Refusals ---- */

static void expect_no_bind(weft_weights_t *w, uint64_t offset, uint64_t bytes)
{
    static uint8_t memory[BYTES];
    weft_error_t error = {0};
    weft_status_t status = weft_weights_bind(w, offset, bytes, memory, &error);
    if (status != WEFT_ERR_ARGUMENT)
        fail_msg("a binding of %llu bytes at %llu was taken", (unsigned long long)bytes,
                 (unsigned long long)offset);
    assert_int_equal(error.status, WEFT_ERR_ARGUMENT);
}

static void test_bindings_outside_are_refused(void **state)
{
    (void)state;
    weft_weights_t *w = make("copy", BYTES);
    expect_no_bind(w, 2 * BYTES, 1);
    expect_no_bind(w, BYTES - 1, 2 * BYTES);
    expect_no_bind(w, 0, UINT64_MAX);
    expect_no_bind(w, UINT64_MAX, 1); /* the sum wraps to 0 */
    expect_no_bind(w, UINT64_MAX - 99, 100);
    weft_weights_destroy(w);
}

/* One byte past the end is outside, whatever weft rounds its own mapping to. */
static void test_bindings_past_the_end_are_refused(void **state)
{
    (void)state;
    weft_weights_t *w = make("copy", BYTES);
    expect_no_bind(w, BYTES - 1, 2);
    expect_no_bind(w, BYTES, 1);
    weft_weights_destroy(w);
}

/* Two owners of one byte: there is no right live address. */
static void test_overlapping_bindings_are_refused(void **state)
{
    (void)state;
    uint8_t memory[1000];
    weft_weights_t *w = make("copy", BYTES);
    bind(w, 1000, 1000, memory);
    expect_no_bind(w, 1500, 10);
    expect_no_bind(w, 999, 2);
    expect_no_bind(w, 1999, 2);
    expect_no_bind(w, 0, 5000);
    expect_no_bind(w, 1000, 1000);
    weft_weights_destroy(w);
}

static void test_flip_owns_its_memory(void **state)
{
    (void)state;
    weft_weights_t *w = make("flip", BYTES);
    expect_no_bind(w, 0, 16);
    weft_weights_destroy(w);
}

static void test_unknown_modes_are_listed(void **state)
{
    (void)state;
    const char *names[] = {"", "Copy", "layer-wise", "flip "};
    weft_weights_t *w = NULL;
    for (unsigned i = 0; i < 4; i++) {
        weft_error_t error = {0};
        assert_int_equal(weft_weights_create(host_queue(), names[i], BYTES, &w, &error), WEFT_ERR_UNKNOWN_NAME);
        assert_non_null(strstr(error.message, "copy, flip and layerwise"));
        assert_null(w);
    }
    weft_weights_destroy(NULL);
}

static void test_impossible_sizes_are_refused(void **state)
{
    const char *mode = *state;
    const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - 4095, UINT64_MAX - 4096, UINT64_MAX / 2, 1ull << 60};
    weft_weights_t *w = NULL;
    for (unsigned i = 0; i < 5; i++) {
        weft_error_t error = {0};
        if (weft_weights_create(host_queue(), mode, sizes[i], &w, &error) == WEFT_OK)
            fail_msg("%llu bytes were made", (unsigned long long)sizes[i]);
        assert_true(error.status == WEFT_ERR_NO_MEMORY || error.status == WEFT_ERR_SYSTEM);
        assert_null(w);
    }
}

int main(void)
{
    static char copy[] = "copy", flip[] = "flip";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flip_settles_later),
        cmocka_unit_test_prestate(test_both_ranges_begin_zeroed, copy),
        cmocka_unit_test_prestate(test_both_ranges_begin_zeroed, flip),
        cmocka_unit_test_prestate(test_many_swaps, copy),
        cmocka_unit_test_prestate(test_many_swaps, flip),
        cmocka_unit_test_prestate(test_offsets_are_addresses, copy),
        cmocka_unit_test_prestate(test_offsets_are_addresses, flip),
        cmocka_unit_test_prestate(test_odd_sizes, copy),
        cmocka_unit_test_prestate(test_odd_sizes, flip),
        cmocka_unit_test(test_bound_ranges),
        cmocka_unit_test(test_neighbours_and_the_whole_range),
        cmocka_unit_test(test_bindings_outside_are_refused),
        cmocka_unit_test(test_bindings_past_the_end_are_refused),
        cmocka_unit_test(test_overlapping_bindings_are_refused),
        cmocka_unit_test(test_flip_owns_its_memory),
        cmocka_unit_test(test_unknown_modes_are_listed),
        cmocka_unit_test_prestate(test_impossible_sizes_are_refused, copy),
        cmocka_unit_test_prestate(test_impossible_sizes_are_refused, flip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
