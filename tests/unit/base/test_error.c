#include "src/base/error.h"
#include "tests/support/random.h"

static const weft_status_t all[] = {
#define X(id, group, text) WEFT_##id,
    WEFT_STATUS_LIST(X)
#undef X
};

#define NUM_STATUSES (sizeof all / sizeof *all)

static void test_every_status_has_name_and_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_STATUSES; i++) {
        const char *text = weft_status_text(all[i]);
        assert_int_equal(all[i], i);
        assert_true(strlen(weft_status_name(all[i])) > 0 && strlen(text) > 0);
        assert_true(text[strlen(text) - 1] != '.');
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(weft_status_name(all[i]), weft_status_name(all[j]));
    }
    assert_string_equal(weft_status_name(WEFT_ERR_MISFIT), "ERR_MISFIT");
    assert_int_equal(weft_status_group(WEFT_OK), WEFT_STATUS_GROUP_NONE);
    assert_int_equal(weft_status_group(WEFT_ERR_NONFINITE), WEFT_STATUS_GROUP_VERSION);
    assert_int_equal(weft_status_group(WEFT_ERR_PEER_LOST), WEFT_STATUS_GROUP_SESSION);
    assert_int_equal(weft_status_group(WEFT_ERR_NO_MEMORY), WEFT_STATUS_GROUP_PROCESS);
}

static void test_statuses_from_elsewhere(void **state)
{
    (void)state;
    const int strangers[] = {-1, NUM_STATUSES, 1 << 20};
    for (unsigned i = 0; i < 3; i++) {
        assert_non_null(weft_status_name((weft_status_t)strangers[i]));
        assert_non_null(weft_status_text((weft_status_t)strangers[i]));
        assert_int_equal(weft_status_group((weft_status_t)strangers[i]), WEFT_STATUS_GROUP_PROCESS);
    }
}

static void test_failing_fills_the_record(void **state)
{
    (void)state;
    weft_error_t error;
    assert_int_equal(weft_fail(&error, WEFT_ERR_SHAPE, "rank %d: %s", 3, "layer 7"), WEFT_ERR_SHAPE);
    assert_int_equal(error.status, WEFT_ERR_SHAPE);
    assert_string_equal(error.message, "rank 3: layer 7");
    assert_int_equal(weft_fail(NULL, WEFT_ERR_IO, "nobody listens"), WEFT_ERR_IO);
}

static void test_prefixes(void **state)
{
    (void)state;
    weft_error_t error;
    weft_fail(&error, WEFT_ERR_FILE, "not JSON");
    assert_int_equal(weft_error_prefix(&error, "file %s", "a.json"), WEFT_ERR_FILE);
    assert_int_equal(weft_error_prefix(&error, "rank %d", 2), WEFT_ERR_FILE);
    assert_string_equal(error.message, "rank 2: file a.json: not JSON");
}

/* Long messages are cut, never written past their end. */
static void test_long_messages_are_cut(void **state)
{
    (void)state;
    char tale[3 * WEFT_ERROR_MESSAGE_BYTES];
    struct {
        weft_error_t error;
        char guard[8];
    } record = {.guard = "guarded"};
    memset(tale, 'x', sizeof tale);
    tale[sizeof tale - 1] = '\0';
    weft_fail(&record.error, WEFT_ERR_IO, "%s", tale);
    assert_int_equal(strlen(record.error.message), WEFT_ERROR_MESSAGE_BYTES - 1);
    for (size_t length = WEFT_ERROR_MESSAGE_BYTES - 8; length < WEFT_ERROR_MESSAGE_BYTES + 4; length++) {
        weft_error_prefix(&record.error, "%.*s", (int)length, tale);
        assert_true(strlen(record.error.message) < WEFT_ERROR_MESSAGE_BYTES);
    }
    assert_string_equal(record.guard, "guarded");
}

static weft_status_t forward(weft_status_t status, unsigned *after)
{
    WEFT_TRY(status);
    ++*after;
    return WEFT_OK;
}

static weft_status_t forward_through_a_label(weft_status_t inner, unsigned *undone)
{
    weft_status_t status;
    WEFT_TRY_GOTO(inner, undo);
    return status;
undo:
    ++*undone;
    return status;
}

static void test_forwarding(void **state)
{
    (void)state;
    unsigned after = 0, undone = 0;
    assert_int_equal(forward(WEFT_ERR_TIMEOUT, &after), WEFT_ERR_TIMEOUT);
    assert_int_equal(after, 0);
    assert_int_equal(forward(WEFT_OK, &after), WEFT_OK);
    assert_int_equal(after, 1);
    assert_int_equal(forward_through_a_label(WEFT_OK, &undone), WEFT_OK);
    assert_int_equal(undone, 0);
    assert_int_equal(forward_through_a_label(WEFT_ERR_IO, &undone), WEFT_ERR_IO);
    assert_int_equal(undone, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_status_has_name_and_text), cmocka_unit_test(test_statuses_from_elsewhere),
        cmocka_unit_test(test_failing_fills_the_record),       cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_long_messages_are_cut),          cmocka_unit_test(test_forwarding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
