/* Steps: engines decode, at any pace and parking whenever they like, while versions come. All ranks of a replica run a
 * step on one version, whole from its first byte to its last, and never on an older one than the step before. */
#include "tests/support/engine.h"

#define MAX_REPLICAS 3

/* Publish `count` versions one after the other while every replica steps at its own pace. */
static void run_engines(const job_config_t *config, const engine_pace_t *paces, uint32_t count, random_t *random)
{
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, config);
    engine_t *engines[MAX_REPLICAS];
    uint32_t replicas = job->num_rollouts / job->tp;
    bool early = random_once_in(random, 2); /* before there is a version */
    job_open(job);
    for (uint32_t i = 0; early && i < replicas; i++)
        engines[i] = engine_start(job, i, &paces[i], random);
    for (uint64_t version = 1; version <= count; version++) {
        job_update(job, version);
        for (uint32_t i = 0; !early && version == 1 && i < replicas; i++)
            engines[i] = engine_start(job, i, &paces[i], random);
        if (random_once_in(random, 4))
            weft_sleep_us(random_in(random, 0, 20000));
    }
    for (uint32_t i = 0; i < replicas; i++) {
        engine_stop(engines[i]);
        uint64_t steps = engine_check(engines[i]);
        print_message("replica %u: %llu steps on %u versions; rank 0 was told to call again %llu times\n", i, (unsigned long long)steps,
                      count, (unsigned long long)engines[i]->ranks[0].refusals);
        engine_destroy(engines[i]);
    }
    job_check_live(job, count);
    job_close(job);
    job_destroy(job);
}

static void test_continuous(void **state)
{
    (void)state;
    random_t random = random_begin("continuous");
    run_engines(&(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel"},
                &(engine_pace_t){.step_us = 300}, 120, &random);
}

/* Steps so quick that ranks stand at their limit before the commit comes. */
static void test_limit(void **state)
{
    (void)state;
    random_t random = random_begin("limit");
    run_engines(&(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel", .margin = 1},
                &(engine_pace_t){.step_us = 0}, 150, &random);
}

/* In copy mode a swap under a reader would show as a torn version. */
static void test_copy(void **state)
{
    (void)state;
    random_t random = random_begin("copy");
    run_engines(&(job_config_t){.trainer = "fsdp:1", .rollout = "tp:4", .scheme = "bf16", .swap = "copy", .relay = true, .margin = 1},
                &(engine_pace_t){.step_us = 100, .inside_us = 500}, 40, &random);
}

static void test_parking(void **state)
{
    (void)state;
    random_t random = random_begin("parking");
    run_engines(&(job_config_t){.trainer = "tp:2", .rollout = "tp:2", .scheme = "fp8-channel"},
                &(engine_pace_t){.step_us = 500, .park_once_in = 12, .park_us = 90000}, 60, &random);
}

/* A step longer than the time after which a rank counts as parked, and parks as long as a step. */
static void test_slow_steps(void **state)
{
    (void)state;
    random_t random = random_begin("slow steps");
    run_engines(&(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "bf16", .margin = 2},
                &(engine_pace_t){.step_us = 45000, .inside_us = 20000}, 12, &random);
}

static void test_different_paces(void **state)
{
    (void)state;
    random_t random = random_begin("paces");
    const engine_pace_t paces[MAX_REPLICAS] = {
        {.step_us = 200}, {.step_us = 3000, .inside_us = 2000}, {.step_us = 400, .park_once_in = 6, .park_us = 60000}};
    run_engines(&(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2x3", .scheme = "fp8-channel", .swap = "copy"}, paces, 40,
                &random);
}

/* Synchronous RL: no step is open, or ever was; then some steps, and parked again. */
static void test_parked(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2x2", .scheme = "fp8-channel"});
    weft_error_t error;
    uint64_t step = 100, served;
    job_open(job);
    for (uint64_t version = 1; version <= 30; version++) {
        job_update(job, version);
        job_check_live(job, version);
        for (uint32_t n = 0; n < version % 3; n++, step++)
            for (uint32_t i = 0; i < job->num_rollouts; i++) {
                weft_rollout_t *rollout = job_rollout(job, i)->rollout;
                assert_int_equal(weft_rollout_step_begin(rollout, step, JOB_PATIENCE, &served, &error), WEFT_OK);
                assert_int_equal(served, version);
                assert_int_equal(weft_rollout_step_end(rollout, step), WEFT_OK);
            }
    }
    job_close(job);
    job_destroy(job);
}

/* ---- Back to back ---- */

typedef struct publisher {
    job_rank_t *rank;
    uint64_t count;
    pthread_t thread;
} publisher_t;

/* Write and publish the next version the moment the one before is released, while that is still being committed. */
static void *publish_back_to_back(void *user)
{
    publisher_t *p = user;
    job_rank_t *r = p->rank;
    for (uint64_t version = 1; version <= p->count && !r->job->faulty; version++) {
        fill_shards(r, version);
        weft_status_t status = weft_trainer_publish(r->trainer, version, &r->error);
        if (status == WEFT_OK)
            status = weft_trainer_wait(r->trainer, version, WEFT_PUBLISH_RELEASED, JOB_PATIENCE, &r->error);
        if (status != WEFT_OK)
            job_fault(r->job, "trainer %u, version %llu: %s", r->rank, (unsigned long long)version, r->error.message);
        spoil_shards(r);
    }
    return NULL;
}

static void run_back_to_back(const job_config_t *config, const engine_pace_t *pace, uint32_t count, random_t *random)
{
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, config);
    publisher_t publishers[4];
    engine_t *engines[MAX_REPLICAS];
    uint32_t replicas = job->num_rollouts / job->tp;
    assert_true(count < JOB_SLOTS && job->num_trainers <= 4);
    job_open(job);
    for (uint64_t version = 1; version <= count; version++)
        job_expect(job, version);
    for (uint32_t i = 0; i < replicas; i++)
        engines[i] = engine_start(job, i, pace, random);
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        publishers[i] = (publisher_t){.rank = &job->ranks[i], .count = count};
        assert_int_equal(pthread_create(&publishers[i].thread, NULL, publish_back_to_back, &publishers[i]), 0);
    }
    for (uint32_t i = 0; i < job->num_trainers; i++)
        join_in_time(publishers[i].thread, "a publisher");
    job_check_faults(job);
    job_wait(job, count, WEFT_PUBLISH_APPLIED, WEFT_OK);
    for (uint32_t i = 0; i < replicas; i++) {
        engine_stop(engines[i]);
        engine_check(engines[i]);
        engine_destroy(engines[i]);
    }
    job_check_live(job, count);
    job_close(job);
    job_destroy(job);
}

static void test_back_to_back(void **state)
{
    (void)state;
    random_t random = random_begin("back to back");
    run_back_to_back(&(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2x2", .scheme = "fp8-channel", .minimum = true},
                     &(engine_pace_t){.step_us = 300}, 50, &random);
    run_back_to_back(&(job_config_t){.trainer = "tp:2,dp:2", .rollout = "tp:2", .scheme = "bf16", .swap = "copy", .relay = true},
                     &(engine_pace_t){.step_us = 2000, .inside_us = 2000, .park_once_in = 20, .park_us = 50000}, 40, &random);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continuous), cmocka_unit_test(test_limit), cmocka_unit_test(test_copy),   cmocka_unit_test(test_parking),
        cmocka_unit_test(test_slow_steps), cmocka_unit_test(test_different_paces),
        cmocka_unit_test(test_parked),     cmocka_unit_test(test_back_to_back),
    };
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
