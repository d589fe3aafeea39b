#include "src/base/text.h"
#include "tests/support/random.h"

static void test_appending(void **state)
{
    (void)state;
    weft_text_t text = {0};
    weft_text_add(&text, "%s %d", "layer", 7);
    weft_text_add(&text, "%s", "");
    weft_text_add(&text, ", %c", 'x');
    assert_string_equal(text.data, "layer 7, x");
    assert_int_equal(text.length, strlen(text.data));
    assert_false(text.failed);
    weft_text_free(&text);
    assert_null(text.data);
    assert_int_equal(text.length, 0);
}

static void test_growing(void **state)
{
    (void)state;
    weft_text_t text = {0};
    char expected[20001] = "";
    for (unsigned i = 0; i < 2000; i++) {
        weft_text_add(&text, "%010u", i);
        snprintf(expected + 10 * i, 11, "%010u", i);
    }
    assert_int_equal(text.length, 20000);
    assert_string_equal(text.data, expected);
    weft_text_free(&text);
}

static void expect_json(const char *value, const char *expected)
{
    weft_text_t text = {0};
    weft_text_add_json_string(&text, value);
    assert_string_equal(text.data, expected);
    weft_text_free(&text);
}

static void test_json_strings(void **state)
{
    (void)state;
    expect_json("", "\"\"");
    expect_json("model.norm", "\"model.norm\"");
    expect_json("a\"b\\c", "\"a\\\"b\\\\c\"");
    expect_json("line\nend\t\x01\x1f", "\"line\\u000aend\\u0009\\u0001\\u001f\"");
    expect_json("100%s %n", "\"100%s %n\"");
    expect_json("\xc3\xa9", "\"\xc3\xa9\""); /* UTF-8 goes through */
}

static void expect_bytes(double bytes, const char *expected)
{
    char out[24];
    assert_string_equal(weft_text_bytes(bytes, out), expected);
}

static void test_bytes(void **state)
{
    (void)state;
    expect_bytes(0, "0 B");
    expect_bytes(1023, "1023 B");
    expect_bytes(1024, "1.0 KiB");
    expect_bytes(1536, "1.5 KiB");
    expect_bytes(256.0 * 1024 * 1024, "256.0 MiB");
    expect_bytes(1.5 * (1ull << 40), "1.5 TiB");
    expect_bytes(18446744073709551615.0, "16384.0 PiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appending),
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_json_strings),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
