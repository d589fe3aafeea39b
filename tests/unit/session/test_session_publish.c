/* Ways to publish: from a copy, so that the memory bound may be written at once, and in place of the version before. */
#include "tests/support/engine.h"

static void publish(job_t *job, uint64_t version, weft_publish_config_t config)
{
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[(i + version) % job->num_trainers];
        spoil_shards(r);
        fill_shards(r, version);
        if (weft_trainer_publish_with(r->trainer, version, &config, &r->error) != WEFT_OK)
            fail_msg("trainer %u, version %llu: %s", r->rank, (unsigned long long)version, r->error.message);
        if (config.snapshot)
            spoil_shards(r); /* NaNs: whoever reads the memory bound is found out */
    }
}

static weft_publish_config_t with(bool snapshot, bool supersede)
{
    weft_publish_config_t config = WEFT_PUBLISH_CONFIG;
    config.snapshot = snapshot;
    config.supersede = supersede;
    return config;
}

/* Let every trainer hold its tensors elsewhere. */
static void bind_anew(job_t *job)
{
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_free_shards(&job->ranks[i]);
        assert_int_equal(bind_shards(&job->ranks[i]), WEFT_OK);
    }
}

static void run_snapshots(const char *trainer, const char *rollout, const char *scheme, const char *swap)
{
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = trainer, .rollout = rollout, .scheme = scheme, .swap = swap});
    job_open(job);
    for (uint64_t version = 1; version <= 6; version++) {
        bool snapshot = version % 3 != 0;
        job_expect(job, version);
        publish(job, version, with(snapshot, false));
        if (snapshot)
            for (uint32_t i = 0; i < job->num_trainers; i++)
                assert_int_equal(weft_trainer_wait(job->ranks[i].trainer, version, WEFT_PUBLISH_RELEASED, 0, NULL), WEFT_OK);
        job_wait(job, version, WEFT_PUBLISH_APPLIED, WEFT_OK);
        job_check_live(job, version);
        if (version == 4)
            bind_anew(job);
    }
    job_close(job);
    job_destroy(job);
}

static void test_snapshots(void **state)
{
    (void)state;
    run_snapshots("fsdp:2", "tp:2", "fp8-block", "flip");
    run_snapshots("tp:2,dp:2", "tp:1x2", "fp8-channel", "copy");
}

/* Seconds that a version takes at this rate. */
static double rate_for(job_t *job, double seconds)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < job->num_tensors; i++)
        bytes += weft_model_tensor(job->model, i)->bytes;
    return (double)bytes / job->num_trainers / seconds;
}

/* How the version ended, the same on every trainer. */
static weft_status_t outcome(job_t *job, uint64_t version)
{
    weft_status_t first = WEFT_OK;
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        job_rank_t *r = &job->ranks[i];
        weft_status_t status = weft_trainer_wait(r->trainer, version, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &r->error);
        if (status != WEFT_OK && status != WEFT_ERR_SUPERSEDED)
            fail_msg("trainer %u, version %llu: %s", i, (unsigned long long)version, r->error.message);
        first = i == 0 ? status : first;
        assert_int_equal(status, first);
    }
    return first;
}

static void check_served(job_t *job, uint64_t version)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_status_t status;
        weft_rollout_get_status(job_rollout(job, i)->rollout, &status);
        assert_int_equal(status.live_version, version);
    }
    job_check_live(job, version);
}

/* A version in transfer gives way, and what serves is untouched until the later one is there. */
static void run_superseded(const char *trainer, const char *rollout, bool relay)
{
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_config_t config = {.trainer = trainer, .rollout = rollout, .scheme = "fp8-block", .relay = relay, .minimum = true};
    job_t *job = job_create(&cp, &config);
    job->config.rate = rate_for(job, 1.0);
    job_open(job);
    job_expect(job, 1);
    publish(job, 1, with(true, false));
    assert_int_equal(outcome(job, 1), WEFT_OK);
    uint32_t superseded = 0;
    for (uint64_t version = 2; version <= 6; version += 2) {
        publish(job, version, with(true, false));
        usleep(version * 50000); /* some way into the transfer, mostly */
        job_expect(job, version + 1);
        publish(job, version + 1, with(true, true));
        superseded += outcome(job, version) == WEFT_ERR_SUPERSEDED;
        assert_int_equal(outcome(job, version + 1), WEFT_OK);
        check_served(job, version + 1);
    }
    print_message("%u of 3 versions were superseded\n", superseded);
    assert_true(superseded > 0);
    job_close(job);
    job_destroy(job);
}

static void test_superseded(void **state)
{
    (void)state;
    run_superseded("fsdp:2", "tp:2", false);
    run_superseded("fsdp:3", "tp:2x2", true);
}

static void test_refusals(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "bf16"});
    job_open(job);
    weft_trainer_t *trainer = job->ranks[0].trainer;
    weft_publish_config_t config = with(true, false);
    weft_error_t error;
    job_update(job, 5);
    fill_shards(&job->ranks[0], 5);
    assert_int_equal(weft_trainer_publish_with(trainer, 5, &config, &error), WEFT_ERR_VERSION_ORDER);
    assert_int_equal(weft_trainer_publish_with(trainer, 4, &config, &error), WEFT_ERR_VERSION_ORDER);
    config.struct_size = 3;
    assert_int_equal(weft_trainer_publish_with(trainer, 6, &config, &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "WEFT_PUBLISH_CONFIG"));
    job_update(job, 6);
    job_check_live(job, 6);
    job_close(job);
    job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_superseded),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
