/* Ways to publish: from a copy, so that the memory bound may be written at once, and in place of the version before. */
#include "src/assemble/selection.h"
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
    job->config.rate = rate_for(job, 0.4);
    job_open(job);
    job_expect(job, 1);
    publish(job, 1, with(true, false));
    assert_int_equal(outcome(job, 1), WEFT_OK);
    uint32_t superseded = 0;
    for (uint64_t version = 2; version <= 6; version += 2) {
        publish(job, version, with(true, false));
        usleep(version * 20000); /* some way into the transfer, mostly */
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

/* ---- Subsets ---- */

/* No one of two layers that share a tensor (tied embeddings): then which values a tensor has is not one question. */
static const char *const patterns[] = {"*.mlp.*",          "model.layers.0.*", "*norm*", "model.layers.0.self_attn.qkv_proj.weight",
                                       "*.mlp.experts.w2", "*",                "*.o_proj"};

/* What an update of a subset costs is what it carries, or little more: buckets may hold other layers too. */
static void check_cost(job_t *job, uint64_t whole_bytes)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_stats_t stats;
        weft_rollout_get_stats(job_rollout(job, i)->rollout, &stats);
        assert_int_equal(stats.payload_bytes, stats.needed_bytes);
        assert_true(stats.payload_bytes <= whole_bytes);
    }
}

static void run_subsets(const checkpoint_t *cp, const job_config_t *config, random_t *random)
{
    job_t *job = job_create(cp, config);
    job_open(job);
    uint64_t whole_bytes = 0;
    for (uint64_t version = 1; version <= JOB_CASES(9, 5); version++) {
        const char *first = patterns[random_in(random, 0, 6)], *second = patterns[random_in(random, 0, 6)];
        char layers[160];
        weft_publish_config_t publish_config = with(random_once_in(random, 2), false);
        bool whole = version == 1 || random_once_in(random, 4);
        snprintf(layers, sizeof layers, "%s,%s", first, second);
        publish_config.layers = whole ? NULL : layers;
        if (!whole && weft_selection_count(job->plan, layers) == 0)
            publish_config.layers = "*norm*";
        job_note_origin(job, whole ? "*" : publish_config.layers, version);
        job_expect(job, version);
        publish(job, version, publish_config);
        job_wait(job, version, WEFT_PUBLISH_APPLIED, WEFT_OK);
        job_check_live(job, version);
        if (version == 1) {
            weft_rollout_stats_t stats;
            weft_rollout_get_stats(job_rollout(job, 0)->rollout, &stats);
            whole_bytes = stats.payload_bytes;
        }
        check_cost(job, whole_bytes);
        for (uint32_t i = 0; i < job->num_rollouts; i++) {
            weft_rollout_stats_t stats;
            weft_rollout_get_stats(job_rollout(job, i)->rollout, &stats);
            assert_memory_equal(&stats.digest, &job_slot(job, version)->digest[i % job->tp], sizeof stats.digest);
        }
    }
    job_close(job);
    job_destroy(job);
}

static void test_subsets(void **state)
{
    (void)state;
    random_t random = random_begin("subsets");
    checkpoint_t block = checkpoint_block(WEFT_DTYPE_BF16), moe = checkpoint_moe(WEFT_DTYPE_BF16);
    run_subsets(&block, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block"}, &random);
    run_subsets(&block,
                &(job_config_t){.trainer = "fsdp:3", .rollout = "tp:2x2", .scheme = "fp8-channel", .swap = "copy", .minimum = true},
                &random);
    run_subsets(&moe, &(job_config_t){.trainer = "ep:2", .rollout = "tp:2,ep", .scheme = "bf16", .relay = true, .bucket_bytes = 4096},
                &random);
    run_subsets(&moe, &(job_config_t){.trainer = "tp:2", .rollout = "tp:2", .scheme = "fp8-channel", .minimum = true}, &random);
    run_subsets(&moe, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-tensor", .minimum = true}, &random);
    run_subsets(&block, &(job_config_t){.trainer = "tp:2", .rollout = "tp:2", .scheme = "int4-group-32", .swap = "copy"}, &random);
}

/* One small layer costs little. */
static void test_a_subset_is_cheap(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "bf16", .bucket_bytes = 4096});
    job_open(job);
    job_update(job, 1);
    weft_publish_config_t config = with(false, false);
    config.layers = "*.mlp.down_proj";
    publish(job, 2, config);
    job_wait(job, 2, WEFT_PUBLISH_APPLIED, WEFT_OK);
    weft_trainer_stats_t stats;
    weft_trainer_get_stats(job->ranks[0].trainer, &stats);
    uint64_t carried = 0, all = 0;
    for (uint32_t i = 0; i < job->num_tensors; i++) {
        const weft_tensor_t *tensor = weft_model_tensor(job->model, i);
        all += tensor->bytes;
        carried += strstr(tensor->name, "down_proj") ? tensor->bytes : 0;
    }
    print_message("%llu bytes sent for %llu wanted of %llu\n", (unsigned long long)stats.payload_bytes,
                  (unsigned long long)carried, (unsigned long long)all);
    assert_true(stats.payload_bytes >= carried && stats.payload_bytes < carried + 2 * 4096);
    job_close(job);
    job_destroy(job);
}

/* A subset over what is not served is refused, and the next whole version goes through. */
static void test_a_subset_needs_its_base(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "bf16"});
    weft_publish_config_t config = with(false, false);
    weft_error_t error;
    job_open(job);
    config.layers = "*norm*";
    fill_shards(&job->ranks[0], 1);
    assert_int_equal(weft_trainer_publish_with(job->ranks[0].trainer, 1, &config, &error), WEFT_ERR_BASE);
    job_update(job, 3);
    config.base = 2;
    publish(job, 4, config);
    job_wait(job, 4, WEFT_PUBLISH_APPLIED, WEFT_ERR_BASE);
    job_check_live(job, 3);
    config.layers = "nothing.*";
    assert_int_equal(weft_trainer_publish_with(job->ranks[0].trainer, 5, &config, &error), WEFT_ERR_MISSING_TENSOR);
    assert_non_null(strstr(error.message, "nothing.*"));
    job_update(job, 6);
    job_check_live(job, 6);
    job_close(job);
    job_destroy(job);
}

/* Trainers that name different layers are told so, all of them. */
static void test_contents_that_differ(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:1", .scheme = "bf16"});
    job_open(job);
    job_update(job, 1);
    for (uint32_t i = 0; i < 2; i++) {
        weft_publish_config_t config = with(false, false);
        config.layers = i ? "*norm*" : "*.mlp.*";
        fill_shards(&job->ranks[i], 2);
        assert_int_equal(weft_trainer_publish_with(job->ranks[i].trainer, 2, &config, NULL), WEFT_OK);
    }
    job_wait(job, 2, WEFT_PUBLISH_APPLIED, WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(job->ranks[0].error.message, "trainer 1 published layers"));
    job_update(job, 3);
    job_check_live(job, 3);
    job_close(job);
    job_destroy(job);
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
        cmocka_unit_test(test_subsets),
        cmocka_unit_test(test_a_subset_is_cheap),
        cmocka_unit_test(test_a_subset_needs_its_base),
        cmocka_unit_test(test_contents_that_differ),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
