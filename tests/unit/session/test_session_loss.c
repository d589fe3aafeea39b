/* Losses: a rank leaves, or stops answering, at any moment. All others hear of it before their deadlines, nobody hangs,
 * and no rank ever serves anything but a whole version.
 *
 * A rank is frozen, as by SIGSTOP, by holding its session's mutex, which its control thread and its progress thread take
 * on every turn. */
#include "tests/support/engine.h"

#define DEAD_US     UINT64_C(1500000)
#define TRANSFER_US UINT64_C(6000000)
#define COMMIT_US   UINT64_C(3000000)

/* Slow enough for a version to be on its way for a second or two. */
static const job_config_t slow = {.trainer = "fsdp:2",
                                  .rollout = "tp:2x2",
                                  .scheme = "fp8-block",
                                  .bucket_bytes = 8192,
                                  .rate = 180e3,
                                  .transport_us = 5000000,
                                  .dead_us = DEAD_US,
                                  .transfer_us = TRANSFER_US,
                                  .commit_us = COMMIT_US};

static void freeze(job_rank_t *r)
{
    pthread_mutex_lock(&r->session->mutex);
}

static void thaw(job_rank_t *r)
{
    pthread_mutex_unlock(&r->session->mutex);
}

static job_t *open_slow(const job_config_t *config)
{
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, config);
    job_open(job);
    job_update(job, 1);
    return job;
}

/* Publish version 2, and return when every rollout rank has something of it and none has all. */
static void get_under_way(job_t *job)
{
    uint64_t deadline = weft_now_us() + JOB_PATIENCE;
    job_expect(job, 2);
    job_publish(job, 2);
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_status_t status = {.received_bytes = 0};
        while (weft_now_us() < deadline && (status.pending_version != 2 || status.received_bytes == 0)) {
            weft_sleep_us(1000);
            weft_rollout_get_status(job_rollout(job, i)->rollout, &status);
        }
        assert_int_equal(status.phase, WEFT_ROLLOUT_RECEIVING);
        assert_in_range(status.received_bytes, 1, status.expected_bytes - 1);
    }
}

static bool says_lost(weft_status_t status)
{
    return status == WEFT_ERR_PEER_LOST || status == WEFT_ERR_TIMEOUT;
}

/* Every trainer but `lost` is told that version 2 is not served everywhere; nothing of it is read any more. */
static void check_trainers(job_t *job, uint32_t lost)
{
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[i];
        if (i == lost)
            continue;
        weft_status_t status = weft_trainer_wait(r->trainer, 2, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &r->error);
        print_message("trainer %u: %s: %s\n", i, weft_status_name(status), r->error.message);
        assert_true(says_lost(status));
        assert_false(weft_trainer_in_flight(r->trainer, 2));
        spoil_shards(r);
    }
}

/* No new version begins on a session that has lost a rank; the trainers hear that too. */
static void check_no_more(job_t *job, uint32_t lost)
{
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[i];
        if (i == lost)
            continue;
        weft_status_t status = weft_trainer_publish(r->trainer, 3, &r->error);
        if (status == WEFT_OK)
            status = weft_trainer_wait(r->trainer, 3, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &r->error);
        print_message("trainer %u, next version: %s: %s\n", i, weft_status_name(status), r->error.message);
        assert_true(says_lost(status));
    }
}

/* A replica that is whole goes on: with version 1, or with 2 if all of it had come. */
static void check_other_replica(job_t *job, uint32_t replica)
{
    uint64_t last = 1;
    weft_error_t error;
    for (uint64_t step = 1; step <= 100; step++) {
        uint64_t served[JOB_MAX_TP];
        for (uint32_t t = 0; t < job->tp; t++) {
            weft_rollout_t *rollout = job_rollout(job, replica * job->tp + t)->rollout;
            if (weft_rollout_step_begin(rollout, step, JOB_PATIENCE, &served[t], &error) != WEFT_OK)
                fail_msg("replica %u: %s", replica, error.message);
            job_serves(job, replica * job->tp + t, served[t]);
            assert_int_equal(served[t], served[0]);
            assert_int_equal(weft_rollout_step_end(rollout, step), WEFT_OK);
        }
        assert_true(served[0] >= last);
        last = served[0];
        weft_sleep_us(2000);
    }
    job_check_faults(job);
}

/* The replica of a lost rank serves nothing; its ranks say so in time. */
static void check_lost_replica(job_t *job, uint32_t replica, uint32_t lost_tp_rank)
{
    for (uint32_t t = 0; t < job->tp; t++) {
        weft_rollout_t *rollout = job_rollout(job, replica * job->tp + t)->rollout;
        weft_error_t error;
        uint64_t served, step = 1;
        if (t == lost_tp_rank || !rollout)
            continue;
        assert_int_equal(weft_rollout_wait(rollout, 2, JOB_PATIENCE, &error), WEFT_ERR_PEER_LOST);
        assert_int_equal(weft_rollout_step_begin(rollout, step, 0, &served, &error), WEFT_ERR_PEER_LOST);
        weft_rollout_status_t status;
        weft_rollout_get_status(rollout, &status);
        assert_int_equal(status.phase, WEFT_ROLLOUT_LOST);
        job_serves(job, replica * job->tp + t, 1); /* its bytes, at least, are whole */
    }
}

static void finish(job_t *job)
{
    job_check_faults(job);
    job_close(job);
    job_destroy(job);
}

/* ---- In the middle of a transfer ---- */

static void *leave(void *user)
{
    return close_rank(user);
}

static void leave_now(job_rank_t *r)
{
    assert_int_equal(pthread_create(&r->thread, NULL, leave, r), 0);
    join_in_time(r->thread, "a rank that leaves");
}

static void test_rollout_leaves(void **state)
{
    (void)state;
    for (uint32_t tp_rank = 0; tp_rank < 2; tp_rank++) { /* the leader, and another */
        job_t *job = open_slow(&slow);
        get_under_way(job);
        leave_now(job_rollout(job, tp_rank));
        check_trainers(job, UINT32_MAX);
        check_lost_replica(job, 0, tp_rank);
        check_other_replica(job, 1);
        check_no_more(job, UINT32_MAX);
        finish(job);
    }
}

static void test_rollout_freezes(void **state)
{
    (void)state;
    for (uint32_t relay = 0; relay < 2; relay++) {
        job_config_t config = slow;
        config.relay = relay != 0;
        job_t *job = open_slow(&config);
        weft_error_t error;
        uint64_t served;
        get_under_way(job);
        freeze(job_rollout(job, 1));
        check_trainers(job, UINT32_MAX);
        check_lost_replica(job, 0, 1);
        check_other_replica(job, 1);
        thaw(job_rollout(job, 1));
        /* It comes back to a world that has given it up, and is told. */
        weft_rollout_t *back = job_rollout(job, 1)->rollout;
        assert_int_equal(weft_rollout_wait(back, 2, JOB_PATIENCE, &error), WEFT_ERR_PEER_LOST);
        assert_int_equal(weft_rollout_step_begin(back, 1, 0, &served, &error), WEFT_ERR_PEER_LOST);
        job_serves(job, 1, 1);
        check_no_more(job, UINT32_MAX);
        finish(job);
    }
}

static void test_trainer_leaves(void **state)
{
    (void)state;
    job_t *job = open_slow(&slow);
    get_under_way(job);
    leave_now(&job->ranks[1]);
    check_trainers(job, 1);
    check_other_replica(job, 0);
    check_other_replica(job, 1);
    check_no_more(job, 1);
    finish(job);
}

static void test_trainer_freezes(void **state)
{
    (void)state;
    job_t *job = open_slow(&slow);
    weft_error_t error;
    get_under_way(job);
    freeze(&job->ranks[1]);
    check_trainers(job, 1);
    check_other_replica(job, 0);
    check_other_replica(job, 1);
    thaw(&job->ranks[1]);
    assert_true(says_lost(weft_trainer_wait(job->ranks[1].trainer, 2, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &error)));
    assert_false(weft_trainer_in_flight(job->ranks[1].trainer, 2)); /* it is fenced */
    check_no_more(job, UINT32_MAX);
    finish(job);
}

/* The coordinator's rank. Nobody is left who could decide; what serves goes on serving. */
static void test_coordinator_leaves(void **state)
{
    (void)state;
    job_t *job = open_slow(&slow);
    weft_error_t error;
    get_under_way(job);
    leave_now(&job->ranks[0]);
    assert_true(says_lost(weft_trainer_wait(job->ranks[1].trainer, 2, WEFT_PUBLISH_APPLIED, 5000000, &error)));
    check_other_replica(job, 0);
    check_other_replica(job, 1);
    finish(job);
}

/* ---- Before and after ---- */

static void test_leaves_between_versions(void **state)
{
    (void)state;
    job_config_t config = slow;
    config.rate = 0;
    job_t *job = open_slow(&config);
    leave_now(job_rollout(job, 3));
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        fill_shards(&job->ranks[i], 2);
        weft_trainer_publish(job->ranks[i].trainer, 2, &job->ranks[i].error);
    }
    check_trainers(job, UINT32_MAX);
    check_lost_replica(job, 1, 1);
    check_other_replica(job, 0);
    finish(job);
}

/* A stall shorter than what counts as death costs time and nothing else. */
static void test_stall(void **state)
{
    (void)state;
    random_t random = random_begin("stall");
    job_config_t config = slow;
    config.rate = 4e6;
    config.dead_us = 20000000;
    job_t *job = open_slow(&config);
    for (uint64_t version = 2; version <= 12; version++) {
        job_rank_t *r = &job->ranks[random_in(&random, 0, job->num_ranks - 1)];
        job_expect(job, version);
        job_publish(job, version);
        weft_sleep_us(random_in(&random, 0, 250000));
        freeze(r);
        weft_sleep_us(random_in(&random, 10000, 150000));
        thaw(r);
        job_wait(job, version, WEFT_PUBLISH_APPLIED, WEFT_OK);
        job_check_live(job, version);
    }
    finish(job);
}

/* ---- At any moment, while engines step ---- */

/* A rank freezes somewhere between publish and applied, or after; its replica may be lost, with or without the new
 * version, but no step of any replica runs on two versions or on half of one. */
static void run_random_freeze(random_t *random)
{
    job_config_t config = slow;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    config.scheme = "fp8-channel";
    config.rate = 0;
    config.swap = random_once_in(random, 2) ? "copy" : "flip";
    config.margin = RANDOM_OF(random, 1, 4);
    const engine_pace_t pace = {.step_us = 400, .park_once_in = random_once_in(random, 2) ? 10 : 0, .park_us = 40000, .may_be_lost = true};
    job_t *job = job_create(&cp, &config);
    engine_t *engines[2];
    job_open(job);
    for (uint64_t version = 1; version <= 3; version++)
        job_update(job, version);
    job_expect(job, 4);
    for (uint32_t i = 0; i < 2; i++)
        engines[i] = engine_start(job, i, &pace, random);
    weft_sleep_us(random_in(random, 0, 50000));
    job_rank_t *victim = job_rollout(job, random_in(random, 0, job->num_rollouts - 1));
    job_publish(job, 4);
    weft_sleep_us(random_in(random, 0, 6000));
    freeze(victim);
    weft_status_t status[2];
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[i];
        status[i] = weft_trainer_wait(r->trainer, 4, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &r->error);
    }
    weft_sleep_us(DEAD_US + 500000);
    thaw(victim);
    print_message("rank %u froze; trainers: %s, %s\n", victim->rank, weft_status_name(status[0]), weft_status_name(status[1]));
    uint32_t replica = (victim->rank - job->num_trainers) / job->tp;
    uint64_t deadline = weft_now_us() + JOB_PATIENCE;
    while (!engines[replica]->lost && !job->faulty && weft_now_us() < deadline)
        weft_sleep_us(10000);
    assert_true(engines[replica]->lost || job->faulty);
    for (uint32_t i = 0; i < 2; i++) {
        engine_stop(engines[i]);
        assert_int_equal(engines[i]->lost, i == replica);
        if (i != replica)
            engine_check(engines[i]);
        engine_destroy(engines[i]);
    }
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_status_t now;
        weft_rollout_get_status(job_rollout(job, i)->rollout, &now);
        job_serves(job, i, now.live_version);
    }
    finish(job);
}

static void test_random_freezes(void **state)
{
    (void)state;
    random_t random = random_begin("random freezes");
    for (uint32_t i = 0; i < random_cases(6); i++)
        run_random_freeze(&random);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rollout_leaves),          cmocka_unit_test(test_rollout_freezes),
        cmocka_unit_test(test_trainer_leaves),          cmocka_unit_test(test_trainer_freezes),
        cmocka_unit_test(test_coordinator_leaves),      cmocka_unit_test(test_stall),
        cmocka_unit_test(test_leaves_between_versions), cmocka_unit_test(test_random_freezes),
    };
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
