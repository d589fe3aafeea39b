/* Key files: what was written can be read, and nothing that others could have read or written is. */
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

#include "src/service/keys.h"

static char dir[64];

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/weft-keys-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static const char *path_of(const char *file)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return path;
}

static mode_t mode_of(const char *file)
{
    struct stat info;
    assert_int_equal(stat(path_of(file), &info), 0);
    return info.st_mode & 07777;
}

static void write_key(const char *name)
{
    weft_error_t error = {.message = ""};
    if (weft_keys_write(dir, name, &error) != WEFT_OK)
        fail_msg("%s", error.message);
}

static void test_round_trip(void **state)
{
    (void)state;
    umask(0);
    weft_key_pair_t pair = {0}, other = {0};
    char public[WEFT_KEY_TEXT_BYTES];
    write_key("server");
    write_key("client");
    assert_int_equal(mode_of("server.key"), 0600);
    assert_int_equal(mode_of("server.pub"), 0644);
    assert_int_equal(weft_keys_read(dir, "server", &pair, NULL), WEFT_OK);
    assert_int_equal(weft_keys_read_public(dir, "server", public, NULL), WEFT_OK);
    assert_string_equal(pair.public, public);
    assert_int_equal(weft_keys_read(dir, "client", &other, NULL), WEFT_OK);
    assert_string_not_equal(pair.secret, other.secret);
    weft_keys_wipe(&pair);
    for (size_t i = 0; i < sizeof pair; i++)
        assert_int_equal(((const char *)&pair)[i], 0);
}

static void test_nothing_is_written_over(void **state)
{
    (void)state;
    weft_key_pair_t before, after;
    weft_error_t error;
    write_key("client");
    assert_int_equal(weft_keys_read(dir, "client", &before, NULL), WEFT_OK);
    assert_int_equal(weft_keys_write(dir, "client", &error), WEFT_ERR_IO);
    assert_non_null(strstr(error.message, "never written over"));
    assert_int_equal(weft_keys_read(dir, "client", &after, NULL), WEFT_OK);
    assert_memory_equal(&before, &after, sizeof before);
}

static void test_secret_that_others_can_read(void **state)
{
    (void)state;
    static const mode_t modes[] = {0640, 0604, 0620, 0602, 0610, 0601, 0666};
    weft_key_pair_t pair;
    weft_error_t error;
    write_key("client");
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        assert_int_equal(chmod(path_of("client.key"), modes[i]), 0);
        assert_int_equal(weft_keys_read(dir, "client", &pair, &error), WEFT_ERR_IO);
        assert_non_null(strstr(error.message, "chmod 600"));
    }
    assert_int_equal(chmod(path_of("client.key"), 0400), 0);
    assert_int_equal(weft_keys_read(dir, "client", &pair, NULL), WEFT_OK);
}

/* Root alone can give a file away. */
static void test_secret_of_another_user(void **state)
{
    (void)state;
    weft_key_pair_t pair;
    weft_error_t error;
    if (geteuid() != 0)
        skip();
    write_key("client");
    assert_int_equal(chown(path_of("client.key"), 65534, 65534), 0);
    assert_int_equal(weft_keys_read(dir, "client", &pair, &error), WEFT_ERR_IO);
    assert_non_null(strstr(error.message, "belongs to user 65534"));
}

static void test_public_that_others_can_write(void **state)
{
    (void)state;
    char key[WEFT_KEY_TEXT_BYTES];
    write_key("client");
    assert_int_equal(chmod(path_of("client.pub"), 0664), 0);
    assert_int_equal(weft_keys_read_public(dir, "client", key, NULL), WEFT_ERR_IO);
}

static void write_text(const char *file, const char *text, size_t length)
{
    FILE *out = fopen(path_of(file), "w");
    assert_non_null(out);
    assert_int_equal(fwrite(text, 1, length, out), length);
    fclose(out);
    assert_int_equal(chmod(path_of(file), 0600), 0);
}

static void test_malformed(void **state)
{
    (void)state;
    char text[2048], changed[2048];
    write_key("client");
    FILE *in = fopen(path_of("client.key"), "r");
    assert_non_null(in);
    size_t length = fread(text, 1, sizeof text, in);
    fclose(in);
    weft_key_pair_t pair;
    for (size_t cut = 0; cut + 1 < length; cut++) { /* the last line's end may be missing */
        write_text("client.key", text, cut);
        assert_int_equal(weft_keys_read(dir, "client", &pair, NULL), WEFT_ERR_FILE);
    }
    for (size_t at = 0; at < length; at++) {
        memcpy(changed, text, length);
        changed[at] = '"'; /* stands in no key */
        write_text("client.key", changed, length);
        assert_int_equal(weft_keys_read(dir, "client", &pair, NULL), WEFT_ERR_FILE);
    }
    memset(changed, 'x', sizeof changed);
    write_text("client.key", changed, sizeof changed);
    assert_int_equal(weft_keys_read(dir, "client", &pair, NULL), WEFT_ERR_FILE);
    write_text("client.key", text, length);
    assert_int_equal(weft_keys_read(dir, "client", &pair, NULL), WEFT_OK);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const refused[] = {
        "", "a/b", "..", "a.b", "a b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        assert_int_equal(weft_keys_write(dir, refused[i], NULL), WEFT_ERR_ARGUMENT);
    write_key("rollout-0_A");
}

static void test_clients(void **state)
{
    (void)state;
    weft_key_list_t list = {0};
    char key[WEFT_KEY_TEXT_BYTES];
    write_key("server");
    assert_int_equal(weft_keys_read_clients(dir, &list, NULL), WEFT_ERR_FILE);
    write_key("one");
    write_key("two");
    assert_int_equal(weft_keys_read_clients(dir, &list, NULL), WEFT_OK);
    assert_int_equal(list.count, 2);
    assert_int_equal(weft_keys_read_public(dir, "two", key, NULL), WEFT_OK);
    assert_true(weft_keys_have(&list, key));
    assert_int_equal(weft_keys_read_public(dir, "server", key, NULL), WEFT_OK);
    assert_false(weft_keys_have(&list, key));
    weft_keys_free(&list);
    assert_int_equal(weft_keys_read_clients("/nowhere", &list, NULL), WEFT_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_written_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_secret_that_others_can_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_secret_of_another_user, setup, teardown),
        cmocka_unit_test_setup_teardown(test_public_that_others_can_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clients, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
