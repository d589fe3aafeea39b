#include "tests/unit/control/recorder.h"

#include "src/control/leader_machine.h"

static weft_leader_machine_t m; /* of ranks 2 and 3 */
static uint64_t sequence, now;

static void authorize(uint64_t term, uint32_t flags)
{
    weft_message_t in = command(WEFT_MESSAGE_AUTHORIZE, WEFT_ROLE_LEADER, 0, 2, term, 7);
    in.flags = flags;
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_leader_machine_handle(&m, &event, &sink);
}

static int start(void **state)
{
    (void)state;
    weft_control_config_t config = test_config();
    weft_leader_machine_init(&m, &config, 2);
    sequence = now = 0;
    forget();
    return 0;
}

typedef struct told {
    weft_rank_state_t state;
    uint32_t flags;
    uint64_t version, live, done, step, limit, at_step;
} told_t;

static void tell(uint32_t rank, told_t told)
{
    weft_message_t in = command(WEFT_MESSAGE_RANK_STATE, WEFT_ROLE_LEADER, rank, 2, 1, told.version);
    in.state = (uint8_t)told.state;
    in.flags = told.flags;
    in.live = told.live;
    in.done = told.done;
    in.step = told.step;
    in.limit = told.limit;
    in.at_step = told.at_step;
    in.ballot = m.ballot;
    in.sequence = ++sequence;
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_leader_machine_handle(&m, &event, &sink);
}

static void armed(uint32_t rank, uint64_t step, uint32_t flags)
{
    tell(rank, (told_t){WEFT_RANK_ARMED, flags | WEFT_FLAG_STARTED, 7, 3, 3, step, step + 4, 0});
}

static void frozen(uint32_t rank, uint64_t step, uint64_t at_step)
{
    tell(rank, (told_t){WEFT_RANK_FROZEN, WEFT_FLAG_STARTED, 7, 3, 3, step, step, at_step});
}

static void applied(uint32_t rank, uint64_t at_step)
{
    tell(rank, (told_t){WEFT_RANK_IDLE, 0, 0, 7, 7, at_step, 0, at_step});
}

static void commits_above_every_limit(void **state)
{
    (void)state;
    authorize(1, 0);
    assert_non_null(sent(WEFT_MESSAGE_ARM, 2));
    armed(2, 10, 0);
    assert_null(sent(WEFT_MESSAGE_COMMIT, 2));
    armed(3, 12, 0);
    assert_int_equal(sent(WEFT_MESSAGE_COMMIT, 2)->at_step, 17);
    assert_int_equal(sent(WEFT_MESSAGE_COMMIT, 3)->at_step, 17);
    applied(2, 17);
    applied(3, 17);
    assert_int_equal(m.state, WEFT_LEADER_IDLE);
}

static void a_parked_replica_is_frozen_and_swapped_at_once(void **state)
{
    (void)state;
    authorize(1, 0);
    armed(2, 10, WEFT_FLAG_PARKED);
    armed(3, 10, WEFT_FLAG_PARKED);
    assert_null(sent(WEFT_MESSAGE_COMMIT, 2));
    assert_true(sent(WEFT_MESSAGE_FREEZE, 3)->ballot > sent(WEFT_MESSAGE_ARM, 3)->ballot);
    frozen(2, 10, 0);
    frozen(3, 11, 0); /* it woke before the FREEZE came */
    assert_int_equal(sent(WEFT_MESSAGE_COMMIT, 2)->at_step, 12);
}

static void commit_two_and_park(void)
{
    authorize(1, 0);
    armed(2, 10, 0);
    armed(3, 10, 0);
    told_t parked = {WEFT_RANK_COMMITTED, WEFT_FLAG_PARKED | WEFT_FLAG_STARTED, 7, 3, 3, 11, 14, 15};
    tell(2, parked);
    assert_int_equal(m.state, WEFT_LEADER_COMMITTING);
    tell(3, parked);
    assert_int_equal(m.state, WEFT_LEADER_FREEZING);
}

static void a_replica_that_parks_is_lowered_after_all_are_frozen(void **state)
{
    (void)state;
    commit_two_and_park();
    forget();
    frozen(2, 11, 15);
    assert_null(sent(WEFT_MESSAGE_COMMIT, 2));
    frozen(3, 12, 15);
    assert_int_equal(sent(WEFT_MESSAGE_COMMIT, 2)->at_step, 13);
}

static void what_one_rank_has_applied_stands(void **state)
{
    (void)state;
    commit_two_and_park();
    forget();
    applied(2, 15);
    frozen(3, 12, 15);
    assert_int_equal(sent(WEFT_MESSAGE_COMMIT, 3)->at_step, 15);
    assert_null(sent(WEFT_MESSAGE_COMMIT, 2));
}

static void an_appointment_after_a_restart_freezes_first(void **state)
{
    (void)state;
    authorize(2, WEFT_FLAG_RECOVER);
    assert_null(sent(WEFT_MESSAGE_ARM, UINT32_MAX));
    frozen(2, 10, 0);
    tell(3, (told_t){WEFT_RANK_IDLE, 0, 0, 3, 7, 10, 0, 1}); /* an earlier leader's ABORT reached it */
    assert_non_null(sent(WEFT_MESSAGE_ABORT, 2));
    assert_null(sent(WEFT_MESSAGE_COMMIT, UINT32_MAX));
    authorize(1, 0); /* late */
    assert_int_equal(m.term, 2);
}

static void ranks_that_number_differently_are_refused(void **state)
{
    (void)state;
    authorize(1, 0);
    armed(2, 10, 0);
    armed(3, 900000, 0);
    assert_int_equal(sent(WEFT_MESSAGE_ABORT, 2)->status, WEFT_ERR_STEP_ORDER);
    assert_non_null(strstr(sent(WEFT_MESSAGE_ABORT, 2)->text, "rank 3 at step 900000"));
}

static void unanswered_commands_are_repeated(void **state)
{
    (void)state;
    authorize(1, 0);
    armed(2, 10, 0);
    forget();
    weft_event_t tick = {.type = WEFT_EVENT_TICK, .now_us = now + 250000};
    weft_leader_machine_handle(&m, &tick, &sink);
    assert_null(sent(WEFT_MESSAGE_ARM, 2));
    assert_non_null(sent(WEFT_MESSAGE_ARM, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(commits_above_every_limit, start),
        cmocka_unit_test_setup(a_parked_replica_is_frozen_and_swapped_at_once, start),
        cmocka_unit_test_setup(a_replica_that_parks_is_lowered_after_all_are_frozen, start),
        cmocka_unit_test_setup(what_one_rank_has_applied_stands, start),
        cmocka_unit_test_setup(an_appointment_after_a_restart_freezes_first, start),
        cmocka_unit_test_setup(ranks_that_number_differently_are_refused, start),
        cmocka_unit_test_setup(unanswered_commands_are_repeated, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
