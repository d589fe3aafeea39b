/* src/transfer.c: which commands a transfer takes, and which it leaves to whoever comes after it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/transfer.h"

#define ROUNDS 8

/* A session of which nothing works but its two queues. */
static weft_session_t *session_of_queues(void)
{
    weft_session_t *s = calloc(1, sizeof *s);
    weft_mailbox_config_t config = {.rank = 0};
    weft_error_t error;
    pthread_mutex_init(&s->mutex, NULL);
    weft_condition_init(&s->command_cond);
    if (weft_mailbox_open(&config, &s->mailbox, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return s;
}

static void session_end(weft_session_t *s)
{
    weft_mailbox_close(s->mailbox);
    pthread_cond_destroy(&s->command_cond);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static void check_command(weft_session_t *s, weft_action_type_t type, uint64_t version)
{
    weft_command_t command;
    assert_true(weft_session_next_command(s, 0, &command));
    assert_int_equal(command.type, type);
    assert_int_equal(command.version, version);
}

static void check_event(weft_session_t *s, weft_event_type_t type, uint64_t version, uint32_t round)
{
    assert_true(s->num_events > 0);
    const weft_event_t *event = &s->events[s->first_event++].event;
    s->num_events--;
    assert_int_equal(event->type, type);
    assert_int_equal(event->version, version);
    assert_int_equal(event->round, round);
}

/* A rank that was told to abort is idle for the protocol at once, and the next version, a load too, may begin before its
 * progress thread has looked. */
static void test_next_version_waits_behind_abort(void **state)
{
    (void)state;
    weft_session_t *s = session_of_queues();
    weft_transfer_t transfer;
    weft_transfer_begin(&transfer, 5, ROUNDS);
    weft_session_command(s, WEFT_ACTION_ABORT_TRANSFER, 5, 0);
    weft_session_command(s, WEFT_ACTION_START_TRANSFER, 6, 0);
    weft_session_command(s, WEFT_ACTION_REPORT_POSTED, 6, 0);
    weft_transfer_obey_all(s, &transfer);
    assert_true(transfer.aborted);
    weft_transfer_obey_all(s, &transfer); /* however often it looks */
    check_command(s, WEFT_ACTION_START_TRANSFER, 6);
    check_command(s, WEFT_ACTION_REPORT_POSTED, 6);
    session_end(s);
}

/* What was said of an earlier version comes too late, and stands in nobody's way. */
static void test_old_commands_are_dropped(void **state)
{
    (void)state;
    weft_session_t *s = session_of_queues();
    weft_transfer_t transfer;
    weft_transfer_begin(&transfer, 5, ROUNDS);
    weft_session_command(s, WEFT_ACTION_ABORT_TRANSFER, 4, 0);
    weft_session_command(s, WEFT_ACTION_TRY_SWAP, 4, 0);
    weft_session_command(s, WEFT_ACTION_REPORT_POSTED, 5, 0);
    transfer.posted = 3;
    weft_transfer_obey_all(s, &transfer);
    assert_false(transfer.aborted);
    assert_true(transfer.held);
    assert_int_equal(weft_transfer_limit(&transfer), 3);
    check_event(s, WEFT_EVENT_POSTED, 5, 3);
    session_end(s);
}

static void test_stop(void **state)
{
    (void)state;
    weft_session_t *s = session_of_queues();
    weft_transfer_t transfer;
    weft_transfer_begin(&transfer, 5, ROUNDS);
    assert_int_equal(weft_transfer_limit(&transfer), ROUNDS);
    weft_session_command(s, WEFT_ACTION_STOP_TRANSFER_AT, 5, ROUNDS + 1); /* no round that there is not */
    weft_transfer_obey_all(s, &transfer);
    assert_int_equal(weft_transfer_limit(&transfer), ROUNDS);
    assert_int_equal(s->num_events, 0); /* whoever moves it says DRAINED */
    transfer.active = false;
    weft_session_command(s, WEFT_ACTION_STOP_TRANSFER_AT, 5, 2);
    weft_transfer_obey_all(s, &transfer);
    assert_int_equal(weft_transfer_limit(&transfer), 2);
    check_event(s, WEFT_EVENT_DRAINED, 5, 0);
    session_end(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_version_waits_behind_abort),
        cmocka_unit_test(test_old_commands_are_dropped),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
