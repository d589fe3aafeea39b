#include "tests/unit/control/recorder.h"

#include "src/control/coordinator.h"

static weft_coordinator_t c;
static uint64_t sequence, now;

static void tick(uint64_t later_us)
{
    weft_event_t event = {.type = WEFT_EVENT_TICK, .now_us = now += later_us};
    weft_coordinator_handle(&c, &event, &sink);
}

static weft_message_t report(uint32_t peer, unsigned state, uint64_t version)
{
    weft_message_t in = command(peer < 2 ? WEFT_MESSAGE_TRAINER_STATE : WEFT_MESSAGE_RANK_STATE,
                                WEFT_ROLE_COORDINATOR, peer, 0, c.term, version);
    in.state = (uint8_t)state;
    in.sequence = ++sequence;
    in.live = in.done = peer < 2 ? 0 : 3;
    in.digest.word[0] = peer < 2 ? 0 : peer % 2;
    return in;
}

static void hear(weft_message_t in)
{
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = ++now, .message = &in};
    weft_coordinator_handle(&c, &event, &sink);
}

static void hear_all(unsigned trainer_state, unsigned rank_state, uint64_t version)
{
    for (uint32_t peer = 0; peer < 6; peer++)
        hear(report(peer, peer < 2 ? trainer_state : rank_state, version));
}

static void hear_applied(uint32_t peer)
{
    weft_message_t in = report(peer, WEFT_RANK_IDLE, 0);
    in.live = in.done = 7;
    hear(in);
}

/* Serving version 3, version 7 begun. */
static int begin(void **state)
{
    (void)state;
    weft_control_config_t config = test_config();
    sequence = 0;
    now = 1000000;
    weft_coordinator_init(&c, &config, 0, 4, now);
    forget();
    tick(10);
    assert_int_equal(asked(WEFT_ACTION_STORE_TERM)->term, 5);
    hear_all(WEFT_TRAINER_IDLE, WEFT_RANK_IDLE, 0);
    tick(10);
    assert_int_equal(c.state, WEFT_COORDINATOR_IDLE);
    hear(report(0, WEFT_TRAINER_PUBLISHED, 7));
    assert_null(sent(WEFT_MESSAGE_BEGIN, UINT32_MAX));
    hear(report(1, WEFT_TRAINER_PUBLISHED, 7));
    for (uint32_t peer = 0; peer < 6; peer++)
        assert_int_equal(sent(WEFT_MESSAGE_BEGIN, peer)->members.word[0], 3);
    forget();
    return 0;
}

static void replicas_are_authorized_one_by_one(void **state)
{
    (void)state;
    hear(report(2, WEFT_RANK_PREPARED, 7));
    assert_null(sent(WEFT_MESSAGE_AUTHORIZE, 2));
    hear(report(3, WEFT_RANK_PREPARED, 7));
    assert_non_null(sent(WEFT_MESSAGE_AUTHORIZE, 2));
    assert_null(sent(WEFT_MESSAGE_AUTHORIZE, 4));
    hear_all(WEFT_TRAINER_SENT, WEFT_RANK_PREPARED, 7);
    assert_non_null(sent(WEFT_MESSAGE_AUTHORIZE, 4));
    for (uint32_t peer = 2; peer < 6; peer++)
        hear_applied(peer);
    assert_int_equal(sent(WEFT_MESSAGE_OUTCOME, 0)->outcome, WEFT_OUTCOME_APPLIED);
}

static void a_different_digest_drops_the_later_replica(void **state)
{
    (void)state;
    hear(report(2, WEFT_RANK_PREPARED, 7));
    hear(report(3, WEFT_RANK_PREPARED, 7));
    hear(report(4, WEFT_RANK_PREPARED, 7));
    weft_message_t in = report(5, WEFT_RANK_PREPARED, 7);
    in.digest.word[1] = 99;
    hear(in);
    assert_non_null(sent(WEFT_MESSAGE_DROP, 4));
    assert_null(sent(WEFT_MESSAGE_AUTHORIZE, 4));
    assert_null(sent(WEFT_MESSAGE_STOP, UINT32_MAX));
}

static void stop_is_at_the_highest_round_and_spares_the_authorized(void **state)
{
    (void)state;
    hear(report(2, WEFT_RANK_PREPARED, 7));
    hear(report(3, WEFT_RANK_PREPARED, 7));
    weft_message_t in = report(4, WEFT_RANK_REFUSED, 7);
    in.status = WEFT_ERR_NONFINITE;
    weft_copy_text(in.text, "NaN in layers.0");
    hear(in);
    assert_non_null(sent(WEFT_MESSAGE_STOP, 0));
    assert_null(sent(WEFT_MESSAGE_STOP, 2));
    const uint32_t peers[] = {0, 1, 4, 5}, rounds[] = {3, 6, 2, 4};
    for (int i = 0; i < 4; i++) {
        assert_null(sent(WEFT_MESSAGE_STOP_AT, UINT32_MAX));
        in = report(peers[i], peers[i] < 2 ? (unsigned)WEFT_TRAINER_STOPPING : (unsigned)WEFT_RANK_STOPPING,
                    7);
        in.flags = WEFT_FLAG_POSTED;
        in.round = rounds[i];
        hear(in);
    }
    assert_int_equal(sent(WEFT_MESSAGE_STOP_AT, 5)->stop_round, 6);
    hear(report(0, WEFT_TRAINER_DRAINED, 7));
    hear(report(1, WEFT_TRAINER_DRAINED, 7));
    for (uint32_t peer = 4; peer < 6; peer++) {
        in = report(peer, WEFT_RANK_IDLE, 0);
        in.done = 7;
        hear(in);
    }
    hear_applied(2);
    hear_applied(3);
    assert_int_equal(sent(WEFT_MESSAGE_OUTCOME, 1)->outcome, WEFT_OUTCOME_PARTIAL);
    assert_int_equal(sent(WEFT_MESSAGE_OUTCOME, 1)->status, WEFT_ERR_NONFINITE);
    assert_non_null(strstr(sent(WEFT_MESSAGE_OUTCOME, 1)->text, "rank 4: NaN in layers.0"));
}

static void a_death_in_transfer_breaks_it_off(void **state)
{
    (void)state;
    for (int beat = 0; beat < 8; beat++) {
        tick(250000);
        for (uint32_t peer = 0; peer < 5; peer++)
            hear(report(peer, peer < 2 ? (unsigned)WEFT_TRAINER_SENDING : (unsigned)WEFT_RANK_RECEIVING, 7));
    }
    assert_int_equal(c.state, WEFT_COORDINATOR_BREAKING);
    assert_non_null(sent(WEFT_MESSAGE_ABORT_TRANSFER, 0));
    assert_non_null(sent(WEFT_MESSAGE_ABORT_TRANSFER, 2));
    assert_non_null(sent(WEFT_MESSAGE_FENCE, 4)); /* the other rank of the dead one's replica */
    hear(report(5, WEFT_RANK_RECEIVING, 7));      /* a zombie */
    assert_non_null(sent(WEFT_MESSAGE_FENCE, 5));
}

static void its_own_stand_still_kills_nobody(void **state)
{
    (void)state;
    tick(10000000);
    assert_int_equal(c.state, WEFT_COORDINATOR_TRANSFER);
    for (uint32_t peer = 0; peer < 6; peer++)
        assert_false(c.peer[peer].dead);
}

/* Each step is shorter than a stand-still of its own. */
static void be_silent(uint64_t us)
{
    for (uint64_t spent = 0; spent < us; spent += c.config.dead_us / 4)
        tick(c.config.dead_us / 4);
}

static void one_that_hears_nobody_kills_nobody(void **state)
{
    (void)state;
    c.config.rejoins = true;
    uint64_t deadline_us = c.deadline_us;
    be_silent(5 * c.config.dead_us);
    for (uint32_t peer = 0; peer < 6; peer++)
        assert_false(c.peer[peer].dead);
    hear(report(2, WEFT_RANK_RECEIVING, 7)); /* some are heard again: those that are not have died */
    assert_true(c.deadline_us >= deadline_us + 5 * c.config.dead_us);
    for (unsigned quarter = 1; quarter <= 4; quarter++) {
        for (uint32_t peer = 0; peer < 6; peer++)
            assert_false(c.peer[peer].dead);
        be_silent(c.config.dead_us / 4);
        hear(report(2, WEFT_RANK_RECEIVING, 7));
    }
    for (uint32_t peer = 0; peer < 6; peer++)
        assert_int_equal(c.peer[peer].dead, peer != 2);
    assert_int_equal(c.replica[0], WEFT_REPLICA_LOST);
}

static void one_that_lives_in_a_rank_does_not_wait(void **state)
{
    (void)state;
    be_silent(2 * c.config.dead_us);
    for (uint32_t peer = 0; peer < 6; peer++)
        assert_true(c.peer[peer].dead);
}

static void a_newer_coordinator_deposes_it(void **state)
{
    (void)state;
    weft_message_t in = report(2, WEFT_RANK_RECEIVING, 7);
    in.term = c.term + 1;
    hear(in);
    assert_int_equal(c.state, WEFT_COORDINATOR_DEPOSED);
}

static void deadlines_name_who_is_missing(void **state)
{
    (void)state;
    hear_all(WEFT_TRAINER_SENT, WEFT_RANK_PREPARED, 7);
    hear(report(3, WEFT_RANK_ARMED, 7));
    for (uint32_t peer = 4; peer < 6; peer++)
        hear_applied(peer);
    hear_applied(2);
    for (int i = 0; i < 125; i++) {
        tick(250000);
        hear_applied(2);
        hear_applied(4);
        hear_applied(5);
        hear(report(3, WEFT_RANK_ARMED, 7));
        hear(report(0, WEFT_TRAINER_SENT, 7));
        hear(report(1, WEFT_TRAINER_SENT, 7));
        if (i < 124)
            forget();
    }
    assert_int_equal(c.outcome, WEFT_OUTCOME_PARTIAL);
    assert_int_equal(c.outcome_status, WEFT_ERR_TIMEOUT);
    assert_non_null(strstr(c.outcome_text, "rank 3 (ARMED)"));
}

/* Term 6 finds version 7 armed on replica 0 and prepared on replica 1, and carries on. */
static void a_restart_carries_on(void **state)
{
    (void)state;
    weft_control_config_t config = test_config();
    weft_coordinator_init(&c, &config, 0, 5, now);
    tick(10);
    assert_int_equal(c.term, 6);
    hear(report(0, WEFT_TRAINER_SENT, 7));
    hear(report(1, WEFT_TRAINER_SENT, 7));
    hear(report(2, WEFT_RANK_ARMED, 7));
    for (uint32_t peer = 3; peer < 6; peer++)
        hear(report(peer, WEFT_RANK_PREPARED, 7));
    tick(10);
    assert_int_equal(c.state, WEFT_COORDINATOR_TRANSFER);
    assert_int_equal(sent(WEFT_MESSAGE_AUTHORIZE, 2)->flags, WEFT_FLAG_RECOVER);
    assert_int_equal(sent(WEFT_MESSAGE_AUTHORIZE, 4)->flags, WEFT_FLAG_RECOVER);
}

/* ---- membership ---- */

static weft_message_t joiner(uint32_t peer)
{
    weft_message_t in = report(peer, 0, 0);
    in.incarnation = 2;
    in.epoch = 0;
    in.flags = WEFT_FLAG_JOINS;
    in.term = 0;
    in.live = in.done = 0;
    return in;
}

static int be_idle(void **state);

/* Rank 5 comes back; its replica is lost until rank 4 does too. */
static void a_replica_joins_as_a_whole_at_the_next_epoch(void **state)
{
    be_idle(state);
    c.config.rejoins = true;
    hear(joiner(5));
    assert_int_equal(c.replica[1], WEFT_REPLICA_LOST);
    assert_int_equal(sent(WEFT_MESSAGE_WELCOME, 5)->incarnation, 2);
    assert_true(sent(WEFT_MESSAGE_WELCOME, 5)->flags & WEFT_FLAG_JOINS);
    assert_int_equal(sent(WEFT_MESSAGE_FENCE, 4)->incarnation, 1);
    assert_int_equal(c.epoch, 1);
    hear(joiner(4));
    assert_int_equal(c.epoch, 2);
    assert_int_equal(asked(WEFT_ACTION_STORE_TERM)->epoch, 2);
    assert_int_equal(c.replica[1], WEFT_REPLICA_IDLE);
    hear(report(0, WEFT_TRAINER_PUBLISHED, 9));
    hear(report(1, WEFT_TRAINER_PUBLISHED, 9));
    assert_null(sent(WEFT_MESSAGE_BEGIN, UINT32_MAX)); /* before all have heard of the epoch */
    for (uint32_t peer = 0; peer < 6; peer++) {
        weft_message_t in = peer < 2 ? report(peer, WEFT_TRAINER_PUBLISHED, 9) : report(peer, WEFT_RANK_IDLE, 0);
        in.incarnation = peer < 4 ? 1 : 2;
        in.epoch = 2;
        in.done = in.live = peer < 2 || peer > 3 ? 0 : 7;
        if (peer == 4) { /* those who were in have heard: now those who join do */
            tick(300000);
            assert_int_equal(sent(WEFT_MESSAGE_WELCOME, 4)->epoch, 2);
            assert_int_equal(sent(WEFT_MESSAGE_WELCOME, 4)->flags, 0);
        }
        hear(in);
    }
    assert_int_equal(sent(WEFT_MESSAGE_BEGIN, 5)->members.word[0], 3);
    assert_int_equal(sent(WEFT_MESSAGE_BEGIN, 5)->epoch, 2);
}

static void without_rejoins_a_later_life_is_fenced(void **state)
{
    be_idle(state);
    hear(joiner(5));
    assert_int_equal(sent(WEFT_MESSAGE_FENCE, 5)->incarnation, 2);
    assert_int_equal(c.replica[1], WEFT_REPLICA_LOST);
}

static void what_an_earlier_life_said_is_not_heard(void **state)
{
    be_idle(state);
    c.config.rejoins = true;
    hear(joiner(5));
    weft_message_t in = report(5, WEFT_RANK_RECEIVING, 7);
    hear(in);
    assert_int_equal(c.peer[5].state, WEFT_RANK_IDLE);
    assert_true(c.peer[5].joins);
}

static void a_trainer_that_comes_back_makes_the_session_whole(void **state)
{
    be_idle(state);
    c.config.rejoins = true;
    hear(joiner(1));
    assert_int_equal(c.epoch, 2); /* admitted at once: nobody has a version in hand */
    assert_false(c.broken);
}

static void a_replica_leaves_between_versions(void **state)
{
    be_idle(state);
    weft_message_t in = report(4, WEFT_RANK_IDLE, 0);
    in.live = in.done = 7;
    in.flags = WEFT_FLAG_LEAVES;
    hear(in);
    assert_int_equal(c.replica[1], WEFT_REPLICA_LOST);
    assert_non_null(strstr(sent(WEFT_MESSAGE_FENCE, 5)->text, "left"));
    assert_false(c.broken);
}

/* ---- loads ---- */

static weft_message_t wish(uint32_t peer, uint64_t version)
{
    weft_message_t in = report(peer, WEFT_RANK_IDLE, 0);
    in.wants = version;
    return in;
}

/* Serving version 3, nothing begun. */
static int be_idle(void **state)
{
    begin(state);
    hear_all(WEFT_TRAINER_SENT, WEFT_RANK_PREPARED, 7);
    for (uint32_t peer = 2; peer < 6; peer++)
        hear_applied(peer);
    for (uint32_t peer = 0; peer < 2; peer++) {
        weft_message_t in = report(peer, WEFT_TRAINER_IDLE, 0);
        in.done = 7;
        hear(in);
    }
    assert_int_equal(c.state, WEFT_COORDINATOR_IDLE);
    forget();
    return 0;
}

static void a_load_begins_when_all_ranks_ask(void **state)
{
    (void)state;
    for (uint32_t peer = 2; peer < 5; peer++)
        hear(wish(peer, 9));
    assert_null(sent(WEFT_MESSAGE_BEGIN, UINT32_MAX));
    hear(wish(5, 9));
    assert_null(sent(WEFT_MESSAGE_BEGIN, 0));
    for (uint32_t peer = 2; peer < 6; peer++)
        assert_int_equal(sent(WEFT_MESSAGE_BEGIN, peer)->content.load, 1);
}

static void ranks_hear_why_a_load_failed_and_trainers_do_not(void **state)
{
    (void)state;
    for (uint32_t peer = 2; peer < 6; peer++)
        hear(wish(peer, 9));
    weft_message_t in = wish(4, 9);
    in.state = WEFT_RANK_REFUSED;
    in.version = 9;
    in.status = WEFT_ERR_SHAPE;
    weft_copy_text(in.text, "no such tensor");
    hear(in);
    assert_null(sent(WEFT_MESSAGE_STOP, 0));
    for (uint32_t peer = 2; peer < 6; peer++) {
        assert_non_null(sent(WEFT_MESSAGE_STOP, peer));
        in = wish(peer, 9);
        in.done = 9;
        hear(in);
    }
    for (uint32_t peer = 2; peer < 6; peer++) {
        assert_int_equal(sent(WEFT_MESSAGE_OUTCOME, peer)->status, WEFT_ERR_SHAPE);
        assert_non_null(strstr(sent(WEFT_MESSAGE_OUTCOME, peer)->text, "no such tensor"));
    }
    assert_null(sent(WEFT_MESSAGE_OUTCOME, 0));
}

static void the_lower_number_goes_first(void **state)
{
    (void)state;
    for (uint32_t peer = 2; peer < 6; peer++)
        hear(wish(peer, 8)); /* complete, and begun */
    assert_int_equal(c.version, 8);
    hear(report(0, WEFT_TRAINER_PUBLISHED, 8));
    hear(report(1, WEFT_TRAINER_PUBLISHED, 8));
    for (uint32_t peer = 2; peer < 6; peer++) {
        weft_message_t in = report(peer, WEFT_RANK_PREPARED, 8);
        in.wants = 8;
        hear(in);
    }
    for (uint32_t peer = 2; peer < 6; peer++) {
        weft_message_t in = report(peer, WEFT_RANK_IDLE, 0);
        in.live = in.done = 8;
        hear(in);
    }
    assert_int_equal(sent(WEFT_MESSAGE_OUTCOME, 0)->status, WEFT_ERR_VERSION_ORDER);
    assert_non_null(strstr(sent(WEFT_MESSAGE_OUTCOME, 0)->text, "loaded from disk"));
    for (uint32_t peer = 0; peer < 2; peer++)
        hear(report(peer, WEFT_TRAINER_IDLE, 0));
    forget();
    weft_message_t in = wish(2, 11);
    in.live = in.done = 8;
    hear(in);
    hear(report(0, WEFT_TRAINER_PUBLISHED, 10));
    hear(report(1, WEFT_TRAINER_PUBLISHED, 10));
    assert_int_equal(c.version, 10);
    assert_int_equal(sent(WEFT_MESSAGE_BEGIN, 2)->content.load, 0);
}

/* Nothing of a load needs the trainers, nor one rank another. */
static void a_load_outlives_a_trainer_and_a_replica(void **state)
{
    (void)state;
    for (uint32_t peer = 2; peer < 6; peer++)
        hear(wish(peer, 9));
    for (uint32_t waited = 0; waited < 20; waited++) { /* trainer 1 and rank 5 are silent */
        tick(100000);
        for (uint32_t peer = 2; peer < 5; peer++) {
            weft_message_t in = report(peer, WEFT_RANK_PREPARED, 9);
            in.wants = 9;
            hear(in);
        }
        hear(report(0, WEFT_TRAINER_IDLE, 0));
    }
    assert_true(c.peer[1].dead && c.peer[5].dead && c.broken);
    assert_int_equal(c.state, WEFT_COORDINATOR_TRANSFER);
    assert_null(sent(WEFT_MESSAGE_ABORT_TRANSFER, UINT32_MAX));
    assert_int_equal(c.replica[0], WEFT_REPLICA_AUTHORIZED);
    assert_int_equal(c.replica[1], WEFT_REPLICA_LOST);
    forget();
    for (uint32_t peer = 2; peer < 4; peer++) {
        weft_message_t in = report(peer, WEFT_RANK_IDLE, 0);
        in.live = in.done = 9;
        hear(in);
    }
    assert_int_equal(c.outcome, WEFT_OUTCOME_PARTIAL);
    hear(wish(2, 10));
    hear(wish(3, 10));
    assert_int_equal(sent(WEFT_MESSAGE_BEGIN, 2)->content.load, 1);
}

static void a_stale_rank_is_told(void **state)
{
    (void)state;
    weft_message_t in = report(5, WEFT_RANK_IDLE, 0);
    in.live = 3;
    in.done = 7; /* gave version 7 up, which the others serve */
    now += c.config.beat_us;
    hear(in);
    assert_int_equal(sent(WEFT_MESSAGE_WELCOME, 5)->newest, 7);
    forget();
    in.newest = 7;
    in.sequence = ++sequence;
    now += c.config.beat_us;
    hear(in);
    assert_null(sent(WEFT_MESSAGE_WELCOME, 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(replicas_are_authorized_one_by_one, begin),
        cmocka_unit_test_setup(a_different_digest_drops_the_later_replica, begin),
        cmocka_unit_test_setup(stop_is_at_the_highest_round_and_spares_the_authorized, begin),
        cmocka_unit_test_setup(a_death_in_transfer_breaks_it_off, begin),
        cmocka_unit_test_setup(its_own_stand_still_kills_nobody, begin),
        cmocka_unit_test_setup(one_that_hears_nobody_kills_nobody, begin),
        cmocka_unit_test_setup(one_that_lives_in_a_rank_does_not_wait, begin),
        cmocka_unit_test_setup(a_newer_coordinator_deposes_it, begin),
        cmocka_unit_test_setup(deadlines_name_who_is_missing, begin),
        cmocka_unit_test_setup(a_restart_carries_on, begin),
        cmocka_unit_test(a_replica_joins_as_a_whole_at_the_next_epoch),
        cmocka_unit_test(without_rejoins_a_later_life_is_fenced),
        cmocka_unit_test(what_an_earlier_life_said_is_not_heard),
        cmocka_unit_test(a_trainer_that_comes_back_makes_the_session_whole),
        cmocka_unit_test(a_replica_leaves_between_versions),
        cmocka_unit_test_setup(a_load_begins_when_all_ranks_ask, be_idle),
        cmocka_unit_test_setup(ranks_hear_why_a_load_failed_and_trainers_do_not, be_idle),
        cmocka_unit_test_setup(the_lower_number_goes_first, be_idle),
        cmocka_unit_test_setup(a_load_outlives_a_trainer_and_a_replica, be_idle),
        cmocka_unit_test_setup(a_stale_rank_is_told, be_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
