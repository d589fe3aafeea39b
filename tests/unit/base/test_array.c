#include "src/base/array.h"
#include "tests/support/random.h"

typedef struct pair {
    uint32_t a, b;
} pair_t;

static void test_pushing_keeps_everything(void **state)
{
    (void)state;
    WEFT_ARRAY(pair_t) pairs = {0};
    for (uint32_t i = 0; i < 10000; i++) {
        assert_true(WEFT_ARRAY_PUSH(&pairs, (pair_t){i, i * 7}));
        assert_int_equal(pairs.count, i + 1);
        assert_true(pairs.capacity >= pairs.count);
    }
    for (uint32_t i = 0; i < 10000; i++)
        assert_true(pairs.items[i].a == i && pairs.items[i].b == i * 7);
    WEFT_ARRAY_FREE(&pairs);
    assert_null(pairs.items);
    assert_int_equal(pairs.count + pairs.capacity, 0);
}

static void test_reserving_moves_nothing_twice(void **state)
{
    (void)state;
    WEFT_ARRAY(uint64_t) numbers = {0};
    assert_true(WEFT_ARRAY_RESERVE(&numbers, 1000));
    const uint64_t *items = numbers.items;
    for (uint64_t i = 0; i < 1000; i++)
        assert_true(WEFT_ARRAY_PUSH(&numbers, i));
    assert_ptr_equal(numbers.items, items);
    assert_true(WEFT_ARRAY_RESERVE(&numbers, 10)); /* never shrinks */
    assert_true(numbers.capacity >= 1000);
    WEFT_ARRAY_FREE(&numbers);
}

static void test_impossible_sizes_change_nothing(void **state)
{
    (void)state;
    WEFT_ARRAY(pair_t) pairs = {0};
    assert_true(WEFT_ARRAY_PUSH(&pairs, (pair_t){1, 2}));
    const pair_t *items = pairs.items;
    size_t capacity = pairs.capacity;
    assert_false(WEFT_ARRAY_RESERVE(&pairs, SIZE_MAX));
    assert_false(WEFT_ARRAY_RESERVE(&pairs, SIZE_MAX / 2 + 2));
    assert_false(WEFT_ARRAY_RESERVE(&pairs, SIZE_MAX / sizeof(pair_t)));
    assert_ptr_equal(pairs.items, items);
    assert_int_equal(pairs.capacity, capacity);
    assert_int_equal(pairs.items[0].b, 2);
    WEFT_ARRAY_FREE(&pairs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pushing_keeps_everything),
        cmocka_unit_test(test_reserving_moves_nothing_twice),
        cmocka_unit_test(test_impossible_sizes_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
