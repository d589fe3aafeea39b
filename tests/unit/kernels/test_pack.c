/* Packing rectangles with and without a gap between rows. */
#include "fixture.h"

static void rows_lie_behind_each_other(void **state)
{
    (void)state;
    random_begin("rows_lie_behind_each_other");
    unsigned char data[64 * 64], out[64 * 64 + 1];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)random_u64();
    for (int i = 0; i < 200; i++) {
        uint32_t rows = random_in(1, 64);
        size_t ld = random_in(1, 64), row_bytes = i % 4 == 0 ? ld : random_in(1, (uint32_t)ld);
        out[rows * row_bytes] = 0xA5;
        tested->pack(data, ld, rows, row_bytes, out);
        for (uint32_t row = 0; row < rows; row++)
            assert_memory_equal(out + row * row_bytes, data + row * ld, row_bytes);
        assert_int_equal(out[rows * row_bytes], 0xA5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_lie_behind_each_other)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
