#include "tests/unit/control/recorder.h"

#include "src/control/rank_machine.h"

static weft_rank_machine_t m;
static weft_guard_t guard;
static uint64_t now;

static void tell(weft_message_type_t type, uint64_t ballot, uint64_t at_step)
{
    bool leader = type == WEFT_MESSAGE_ARM || type == WEFT_MESSAGE_FREEZE || type == WEFT_MESSAGE_COMMIT ||
                  type == WEFT_MESSAGE_ABORT;
    weft_message_t in = command(type, WEFT_ROLE_RANK, leader ? 2 : 0, 3, 1, 7);
    in.ballot = ballot;
    in.at_step = at_step;
    in.stop_round = (uint32_t)at_step;
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_rank_machine_handle(&m, &event, &sink);
}

static void happen(weft_event_type_t type, uint64_t version)
{
    weft_event_t event = {.type = type,
                          .now_us = ++now,
                          .version = version,
                          .round = 2,
                          .status = WEFT_ERR_NONFINITE,
                          .text = "NaN"};
    weft_rank_machine_handle(&m, &event, &sink);
}

static void run_step(uint64_t step)
{
    uint64_t version;
    assert_int_equal(weft_guard_step_begin(&guard, step, &version), WEFT_STEP_OK);
    assert_true(weft_guard_step_end(&guard));
}

/* Serving version 3 at step 10, prepared for version 7. */
static int prepare(void **state)
{
    (void)state;
    weft_control_config_t config = test_config();
    now = 1000000;
    weft_guard_init(&guard);
    weft_guard_load(&guard, 3);
    run_step(10);
    weft_rank_machine_init(&m, &config, 3, &guard);
    weft_rank_machine_loaded(&m, 3, (weft_digest_t){{1, 1}});
    forget();
    tell(WEFT_MESSAGE_BEGIN, 0, 0);
    assert_non_null(asked(WEFT_ACTION_START_TRANSFER));
    happen(WEFT_EVENT_TRANSFER_DONE, 7);
    assert_int_equal(m.state, WEFT_RANK_PREPARED);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 0)->state, WEFT_RANK_PREPARED);
    return 0;
}

static uint64_t ballot(uint64_t sequence)
{
    return weft_ballot(1, sequence);
}

static void commits_at_the_step_it_is_told(void **state)
{
    (void)state;
    uint64_t version, at_step;
    tell(WEFT_MESSAGE_ARM, ballot(1), 0);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 2)->limit, 14);
    tell(WEFT_MESSAGE_COMMIT, ballot(1), 12);
    run_step(11);
    forget();
    happen(WEFT_EVENT_TICK, 0);
    assert_non_null(asked(WEFT_ACTION_TRY_SWAP));
    assert_true(weft_guard_swap_begin(&guard, &version, &at_step));
    weft_guard_swap_end(&guard, true);
    happen(WEFT_EVENT_SWAPPED, 7);
    assert_int_equal(m.state, WEFT_RANK_IDLE);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 2)->live, 7);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 2)->at_step, 12);
}

static void a_commit_below_the_promise_is_not_obeyed(void **state)
{
    (void)state;
    tell(WEFT_MESSAGE_ARM, ballot(1), 0);
    tell(WEFT_MESSAGE_FREEZE, ballot(2), 0);
    assert_int_equal(m.state, WEFT_RANK_FROZEN);
    tell(WEFT_MESSAGE_COMMIT, ballot(1), 15);
    assert_int_equal(m.state, WEFT_RANK_FROZEN);
    tell(WEFT_MESSAGE_COMMIT, ballot(2), 11);
    assert_int_equal(m.state, WEFT_RANK_COMMITTED);
    tell(WEFT_MESSAGE_FREEZE, ballot(2), 0); /* repeated: must not freeze again */
    assert_int_equal(m.state, WEFT_RANK_COMMITTED);
}

static void a_freeze_behind_a_swap_reports_it(void **state)
{
    (void)state;
    uint64_t version, at_step;
    tell(WEFT_MESSAGE_ARM, ballot(1), 0);
    tell(WEFT_MESSAGE_COMMIT, ballot(1), 11);
    assert_true(weft_guard_swap_begin(&guard, &version, &at_step));
    tell(WEFT_MESSAGE_FREEZE, ballot(2), 0);
    assert_int_equal(m.state, WEFT_RANK_COMMITTED); /* under way: it stands */
    weft_guard_swap_end(&guard, true);
    tell(WEFT_MESSAGE_FREEZE, ballot(3), 0); /* before EVENT_SWAPPED */
    assert_int_equal(m.state, WEFT_RANK_IDLE);
    assert_int_equal(m.live, 7);
    assert_true(weft_guard_look(&guard).limit == WEFT_GUARD_NO_LIMIT);
}

static void armed_ranks_do_not_stop(void **state)
{
    (void)state;
    tell(WEFT_MESSAGE_ARM, ballot(1), 0);
    tell(WEFT_MESSAGE_STOP, 0, 0);
    tell(WEFT_MESSAGE_DROP, 0, 0);
    tell(WEFT_MESSAGE_ABORT_TRANSFER, 0, 0);
    assert_int_equal(m.state, WEFT_RANK_ARMED);
    tell(WEFT_MESSAGE_ABORT, ballot(1), 0);
    assert_int_equal(m.state, WEFT_RANK_IDLE);
    assert_int_equal(m.live, 3);
    assert_int_equal(m.done, 7);
    assert_non_null(asked(WEFT_ACTION_DISCARD_STAGE));
    run_step(11);
}

static void a_stop_drains_and_leaves_the_old_version(void **state)
{
    (void)state;
    tell(WEFT_MESSAGE_STOP, 0, 0);
    assert_non_null(asked(WEFT_ACTION_REPORT_POSTED));
    tell(WEFT_MESSAGE_STOP_AT, 0, 4); /* before it has said how far it is: not obeyed */
    assert_int_equal(m.state, WEFT_RANK_STOPPING);
    happen(WEFT_EVENT_POSTED, 7);
    tell(WEFT_MESSAGE_STOP_AT, 0, 4);
    assert_int_equal(asked(WEFT_ACTION_STOP_TRANSFER_AT)->round, 4);
    happen(WEFT_EVENT_DRAINED, 7);
    assert_int_equal(m.state, WEFT_RANK_IDLE);
    assert_int_equal(m.live, 3);
    tell(WEFT_MESSAGE_BEGIN, 0, 0); /* late: it is through with version 7 */
    assert_int_equal(m.state, WEFT_RANK_IDLE);
}

static void lower_terms_other_epochs_and_other_lives_are_not_heard(void **state)
{
    (void)state;
    weft_message_t in = command(WEFT_MESSAGE_WELCOME, WEFT_ROLE_RANK, 0, 3, 5, 0);
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_rank_machine_handle(&m, &event, &sink);
    tell(WEFT_MESSAGE_ARM, ballot(1), 0);
    tell(WEFT_MESSAGE_STOP, 0, 0);
    assert_int_equal(m.state, WEFT_RANK_PREPARED);
    in = command(WEFT_MESSAGE_STOP, WEFT_ROLE_RANK, 0, 3, 9, 7);
    in.epoch = 2;
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(m.state, WEFT_RANK_PREPARED);
    in = command(WEFT_MESSAGE_FENCE, WEFT_ROLE_RANK, 0, 3, 9, 0);
    in.incarnation = 2;
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(m.state, WEFT_RANK_PREPARED);
    in.incarnation = 1;
    in.epoch = 2; /* opened since this rank was lost */
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(m.state, WEFT_RANK_FENCED);
}

static void a_later_life_waits_until_it_is_admitted(void **state)
{
    (void)state;
    weft_control_config_t config = test_config();
    config.incarnation = 2;
    weft_rank_machine_init(&m, &config, 3, &guard);
    weft_message_t in = command(WEFT_MESSAGE_WELCOME, WEFT_ROLE_RANK, 0, 3, 9, 0);
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    in.epoch = 4;
    in.incarnation = 0; /* to whoever is there */
    weft_rank_machine_handle(&m, &event, &sink);
    in.incarnation = 2;
    in.flags = WEFT_FLAG_JOINS; /* you still wait */
    weft_rank_machine_handle(&m, &event, &sink);
    assert_true(sent(WEFT_MESSAGE_RANK_STATE, 0)->flags & WEFT_FLAG_JOINS);
    assert_null(asked(WEFT_ACTION_ENTER_EPOCH));
    in.flags = 0;
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(asked(WEFT_ACTION_ENTER_EPOCH)->epoch, 4);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 0)->epoch, 4);
    assert_false(sent(WEFT_MESSAGE_RANK_STATE, 0)->flags & WEFT_FLAG_JOINS);
}

static void a_failed_swap_fences(void **state)
{
    (void)state;
    uint64_t version, at_step;
    tell(WEFT_MESSAGE_ARM, ballot(1), 0);
    tell(WEFT_MESSAGE_COMMIT, ballot(1), 11);
    assert_true(weft_guard_swap_begin(&guard, &version, &at_step));
    weft_guard_swap_end(&guard, false);
    happen(WEFT_EVENT_SWAP_FAILED, 7);
    assert_int_equal(m.state, WEFT_RANK_FENCED);
    assert_non_null(asked(WEFT_ACTION_FENCE));
}

/* ---- loads ---- */

/* The wish is a level: it is in every report until its outcome. */
static void asks_until_it_has_heard(void **state)
{
    (void)state;
    happen(WEFT_EVENT_LOAD, 9);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 0)->wants, 9);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 0)->version, 7); /* it is prepared for that one meanwhile */
    happen(WEFT_EVENT_LOAD, 10);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->status, WEFT_ERR_ARGUMENT);
    forget();
    weft_message_t in = command(WEFT_MESSAGE_OUTCOME, WEFT_ROLE_RANK, 0, 3, 1, 8);
    in.status = WEFT_ERR_SHAPE;
    in.outcome = WEFT_OUTCOME_FAILED;
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_rank_machine_handle(&m, &event, &sink);
    assert_null(asked(WEFT_ACTION_NOTIFY)); /* of another version */
    in.version = 9;
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->status, WEFT_ERR_SHAPE);
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 0)->wants, 0);
}

/* A transport that was broken before, or a load that is broken off, is in no load's way. */
static void a_load_needs_no_transport(void **state)
{
    (void)state;
    tell(WEFT_MESSAGE_ABORT_TRANSFER, 0, 0);
    assert_true(m.broken);
    weft_message_t in = command(WEFT_MESSAGE_BEGIN, WEFT_ROLE_RANK, 0, 3, 1, 8);
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(m.state, WEFT_RANK_IDLE);
    in.content.load = 1;
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(m.state, WEFT_RANK_RECEIVING);
    m.broken = false;
    in.type = WEFT_MESSAGE_ABORT_TRANSFER;
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(m.state, WEFT_RANK_IDLE);
    in.version = 9; /* never begun here */
    weft_rank_machine_handle(&m, &event, &sink);
    assert_int_equal(m.done, 9);
    assert_false(m.broken);
}

static void others_that_are_ahead_are_told_of_once(void **state)
{
    (void)state;
    weft_message_t in = command(WEFT_MESSAGE_WELCOME, WEFT_ROLE_RANK, 0, 3, 1, 7);
    in.newest = 9;
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    forget();
    weft_rank_machine_handle(&m, &event, &sink);
    assert_non_null(asked(WEFT_ACTION_NOTE_NEWEST));
    assert_int_equal(sent(WEFT_MESSAGE_RANK_STATE, 0)->newest, 9);
    forget();
    in.newest = 8; /* overtaken */
    weft_rank_machine_handle(&m, &event, &sink);
    assert_null(asked(WEFT_ACTION_NOTE_NEWEST));
    assert_int_equal(m.newest, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(commits_at_the_step_it_is_told, prepare),
        cmocka_unit_test_setup(a_commit_below_the_promise_is_not_obeyed, prepare),
        cmocka_unit_test_setup(a_freeze_behind_a_swap_reports_it, prepare),
        cmocka_unit_test_setup(armed_ranks_do_not_stop, prepare),
        cmocka_unit_test_setup(a_stop_drains_and_leaves_the_old_version, prepare),
        cmocka_unit_test_setup(lower_terms_other_epochs_and_other_lives_are_not_heard, prepare),
        cmocka_unit_test_setup(a_later_life_waits_until_it_is_admitted, prepare),
        cmocka_unit_test_setup(a_failed_swap_fences, prepare),
        cmocka_unit_test_setup(asks_until_it_has_heard, prepare),
        cmocka_unit_test_setup(a_load_needs_no_transport, prepare),
        cmocka_unit_test_setup(others_that_are_ahead_are_told_of_once, prepare),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
