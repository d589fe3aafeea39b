/* What a JSON text from outside may not be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/model/json.h"
#include "src/model/safetensors.h"

static void expect(const char *text, const char *message)
{
    cJSON *root = NULL;
    weft_error_t error = {.message = ""};
    weft_status_t status = weft_json_parse_whole(text, strlen(text), &root, &error);
    if (!message) {
        if (status != WEFT_OK)
            fail_msg("%s: %s", text, error.message);
        cJSON_Delete(root);
        return;
    }
    assert_int_equal(status, WEFT_ERR_FILE);
    assert_null(root);
    if (!strstr(error.message, message))
        fail_msg("'%s' is not in '%s'", message, error.message);
}

static void test_characters(void **state)
{
    (void)state;
    expect("[\"\xc3\xa9\xe2\x82\xac\xf0\x9f\xa7\xb6\xed\x9f\xbf\xf4\x8f\xbf\xbf\"]", NULL);
    expect("[\"\xc3\"]", "not UTF-8: byte 2 of 5, 0xc3");
    expect("[\"\x80\"]", "not UTF-8: byte 2");
    expect("[\"a\xff\"]", "not UTF-8: byte 3");
    expect("[\"\xc0\xaf\"]", "not UTF-8: byte 2");         /* overlong */
    expect("[\"\xe0\x9f\xbf\"]", "not UTF-8: byte 2");     /* overlong */
    expect("[\"\xf0\x8f\xbf\xbf\"]", "not UTF-8: byte 2"); /* overlong */
    expect("[\"\xed\xa0\x80\"]", "not UTF-8: byte 2");     /* a surrogate */
    expect("[\"\xf4\x90\x80\x80\"]", "not UTF-8: byte 2"); /* above U+10FFFF */
    expect("[\"\xf0\x9f\xa7", "not UTF-8: byte 2");        /* cut short by the end */
    expect("[\"\\u0000\"]", "NUL");
}

static void test_names(void **state)
{
    (void)state;
    expect("{\"a\":1,\"A\":2,\"b\":{\"a\":1}}", NULL);
    expect("{\"a\":1,\"b\":2,\"a\":3}", "member 'a' is there twice");
    expect("{\"a\":1,\"\\u0061\":3}", "member 'a' is there twice");
    expect("[[{\"b\":{\"c\":[0,{\"d\":1,\"d\":1}]}}]]", "member 'd' is there twice");
    expect("{\"0\":0,\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"9\":0}", NULL);
    expect("{\"0\":0,\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"0\":0}",
           "member '0' is there twice");
}

static void test_control_characters_stay_out_of_messages(void **state)
{
    (void)state;
    expect("{\"\\u001b[2J\\n\":1,\"\\u001b[2J\\n\":2}", "member '?[2J?' is there twice");
}

/* cJSON is told where the text ends, and nothing behind it is looked at. */
static void test_every_end(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[1.5e3,true,null,\"\\u00e9\\n\"],\"b\":{\"c\":-2}}";
    for (size_t length = 0; length < sizeof text; length++) {
        char *exact = malloc(length ? length : 1);
        cJSON *root = NULL;
        assert_non_null(exact);
        memcpy(exact, text, length);
        weft_status_t status = weft_json_parse_whole(exact, length, &root, NULL);
        assert_int_equal(status, length + 1 == sizeof text ? WEFT_OK : WEFT_ERR_FILE);
        cJSON_Delete(root);
        free(exact);
    }
}

/* Nobody writes into it: reading does not wait for that. */
static void test_a_pipe_is_no_file(void **state)
{
    (void)state;
    char path[64];
    cJSON *root = NULL;
    weft_safetensors_t *file = NULL;
    weft_error_t error = {.message = ""};
    snprintf(path, sizeof path, "/tmp/weft_json_%d", (int)getpid());
    assert_int_equal(mkfifo(path, 0600), 0);
    weft_status_t json = weft_json_read(path, 1024, &root, &error);
    assert_non_null(strstr(error.message, "not a regular file"));
    weft_status_t shard = weft_safetensors_open(path, &file, &error);
    assert_non_null(strstr(error.message, "not a regular file"));
    unlink(path);
    assert_int_equal(json, WEFT_ERR_IO);
    assert_int_equal(shard, WEFT_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_control_characters_stay_out_of_messages),
        cmocka_unit_test(test_every_end),
        cmocka_unit_test(test_a_pipe_is_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
