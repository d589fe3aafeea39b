#include "tests/unit/control/recorder.h"

#include "src/control/trainer_machine.h"

static weft_trainer_machine_t m;
static uint64_t now;

static int start(void **state)
{
    (void)state;
    weft_control_config_t config = test_config();
    now = 0;
    weft_trainer_machine_init(&m, &config, 1);
    forget();
    return 0;
}

static void happen(weft_event_type_t type, uint64_t version)
{
    weft_event_t event = {.type = type,
                          .now_us = ++now,
                          .version = version,
                          .round = 3,
                          .status = WEFT_ERR_NONFINITE,
                          .text = "NaN"};
    weft_trainer_machine_handle(&m, &event, &sink);
}

static void tell(weft_message_type_t type, uint64_t version)
{
    weft_message_t in = command(type, WEFT_ROLE_TRAINER, 0, 1, 1, version);
    in.outcome = type == WEFT_MESSAGE_OUTCOME ? WEFT_OUTCOME_APPLIED : 0;
    in.stop_round = 4;
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_trainer_machine_handle(&m, &event, &sink);
}

static void a_version_is_released_then_applied(void **state)
{
    (void)state;
    happen(WEFT_EVENT_PUBLISH, 5);
    tell(WEFT_MESSAGE_BEGIN, 5);
    assert_int_equal(asked(WEFT_ACTION_START_TRANSFER)->members.word[0], 3);
    happen(WEFT_EVENT_SENT, 5);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->outcome, WEFT_OUTCOME_RELEASED);
    tell(WEFT_MESSAGE_OUTCOME, 5);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->outcome, WEFT_OUTCOME_APPLIED);
    assert_int_equal(m.state, WEFT_TRAINER_IDLE);
    forget();
    tell(WEFT_MESSAGE_OUTCOME, 5); /* repeated */
    assert_null(asked(WEFT_ACTION_NOTIFY));
}

static void one_version_waits_a_third_is_refused(void **state)
{
    (void)state;
    happen(WEFT_EVENT_PUBLISH, 5);
    happen(WEFT_EVENT_PUBLISH, 6);
    assert_false(weft_trainer_machine_has_room(&m));
    happen(WEFT_EVENT_PUBLISH, 7);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->status, WEFT_ERR_ARGUMENT);
    tell(WEFT_MESSAGE_OUTCOME, 5);
    assert_int_equal(m.version, 6);
    assert_int_equal(m.state, WEFT_TRAINER_PUBLISHED);
}

static void versions_must_rise(void **state)
{
    (void)state;
    happen(WEFT_EVENT_PUBLISH, 5);
    happen(WEFT_EVENT_PUBLISH, 5);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->status, WEFT_ERR_VERSION_ORDER);
}

static void a_stop_without_begin_takes_part(void **state)
{
    (void)state;
    happen(WEFT_EVENT_PUBLISH, 5);
    tell(WEFT_MESSAGE_STOP, 5);
    assert_non_null(asked(WEFT_ACTION_START_TRANSFER));
    assert_non_null(asked(WEFT_ACTION_REPORT_POSTED));
    happen(WEFT_EVENT_POSTED, 5);
    assert_int_equal(sent(WEFT_MESSAGE_TRAINER_STATE, 0)->round, 3);
    tell(WEFT_MESSAGE_STOP_AT, 5);
    assert_int_equal(asked(WEFT_ACTION_STOP_TRANSFER_AT)->round, 4);
    happen(WEFT_EVENT_DRAINED, 5);
    assert_int_equal(m.state, WEFT_TRAINER_DRAINED);
}

static void silence_ends_in_a_timeout_that_names_the_coordinator(void **state)
{
    (void)state;
    happen(WEFT_EVENT_PUBLISH, 5);
    now = m.deadline_us;
    happen(WEFT_EVENT_TICK, 0);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->status, WEFT_ERR_TIMEOUT);
    assert_non_null(strstr(asked_text(WEFT_ACTION_NOTIFY), "coordinator 0"));
}

static void a_fence_ends_everything(void **state)
{
    (void)state;
    happen(WEFT_EVENT_PUBLISH, 5);
    tell(WEFT_MESSAGE_BEGIN, 5);
    tell(WEFT_MESSAGE_FENCE, 0);
    assert_non_null(asked(WEFT_ACTION_ABORT_TRANSFER));
    assert_non_null(asked(WEFT_ACTION_FENCE));
    happen(WEFT_EVENT_PUBLISH, 9);
    assert_int_equal(asked(WEFT_ACTION_NOTIFY)->status, WEFT_ERR_PEER_LOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_version_is_released_then_applied, start),
        cmocka_unit_test_setup(one_version_waits_a_third_is_refused, start),
        cmocka_unit_test_setup(versions_must_rise, start),
        cmocka_unit_test_setup(a_stop_without_begin_takes_part, start),
        cmocka_unit_test_setup(silence_ends_in_a_timeout_that_names_the_coordinator, start),
        cmocka_unit_test_setup(a_fence_ends_everything, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
