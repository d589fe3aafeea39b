/* Bytes: after each update every rollout rank serves exactly what weft_quantize_offline makes of the version,
 * whatever the layouts, the scheme, the swap, the budget and the routes. Nobody steps. */
#include "tests/support/job.h"

#define VERSIONS JOB_CASES(3, 2)

static void check_stats(job_t *job, uint64_t version)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_stats_t stats;
        weft_rollout_status_t status;
        weft_digest_t expected = job_slot(job, version)->digest[i % job->tp];
        weft_rollout_get_stats(job_rollout(job, i)->rollout, &stats);
        weft_rollout_get_status(job_rollout(job, i)->rollout, &status);
        assert_int_equal(status.live_version, version);
        assert_int_equal(status.pending_version, 0);
        assert_int_equal(status.phase, WEFT_ROLLOUT_IDLE);
        assert_int_equal(status.layers_staged, status.num_layers);
        assert_int_equal(stats.version, version);
        assert_int_equal(stats.payload_bytes, stats.needed_bytes);
        assert_memory_equal(&stats.digest, &expected, sizeof expected);
        assert_true(stats.staging_bytes <= job->plan->options.budget_bytes);
    }
}

/* Versions rise, not by one. */
static void run_updates(job_t *job)
{
    job_open(job);
    for (uint64_t version = 1, n = 0; n < VERSIONS; n++, version += n) {
        job_update(job, version);
        job_check_live(job, version);
        check_stats(job, version);
    }
    job_close(job);
}

static void run_case(const checkpoint_t *cp, const job_config_t *config)
{
    job_t *job = job_create(cp, config);
    run_updates(job);
    job_destroy(job);
}

static const char *const schemes[] = {"bf16", "fp8-block", "fp8-channel"};
static const char *const all_schemes[] = {"bf16",  "fp8-block", "fp8-channel",   "int8-channel", "mxfp8",
                                          "mxfp4", "nvfp4",     "int4-group-32", "fp8-tensor",
                                          "fp8-channel; *proj=int8-channel; *.o_proj=fp8-tensor; layers.0.*=nvfp4"};

#define NUM_SCHEMES (sizeof all_schemes / sizeof all_schemes[0])

/* Every scheme, with every combination of swap, routes and budget spread over the three. */
static void run_layouts(const checkpoint_t *cp, const char *trainer, const char *rollout, unsigned turn)
{
    for (unsigned s = JOB_CASES(0, turn % 3); s < JOB_CASES(3, turn % 3 + 1); s++) {
        unsigned bits = (turn + s) * 3 + s;
        run_case(cp, &(job_config_t){.trainer = trainer,
                                     .rollout = rollout,
                                     .scheme = schemes[s],
                                     .swap = bits & 1 ? "copy" : "flip",
                                     .relay = (bits >> 1 & 1) != 0,
                                     .minimum = (bits >> 2 & 1) != 0});
    }
}

static void test_layouts(void **state)
{
    static const char *const layouts[][2] = {
        {"fsdp:1", "tp:1"},    {"fsdp:2", "tp:2"},        {"fsdp:3", "tp:2x2"}, {"tp:2", "tp:4"},
        {"tp:2,dp:2", "tp:2"}, {"fsdp:2,tp:2", "tp:1x3"}, {"fsdp:4", "tp:4"}};
    (void)state;
    for (unsigned i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        checkpoint_t cp = checkpoint_block(i % 2 ? WEFT_DTYPE_BF16 : WEFT_DTYPE_F32);
        run_layouts(&cp, layouts[i][0], layouts[i][1], i);
    }
}

static void test_experts(void **state)
{
    static const char *const layouts[][2] = {
        {"fsdp:2", "tp:2,ep"}, {"tp:2,dp:2", "tp:2"}, {"fsdp:3", "tp:2x2,ep"}, {"ep:2", "tp:2"}, {"pp:1,ep:3", "tp:2,ep"}};
    (void)state;
    for (unsigned i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        checkpoint_t cp = checkpoint_moe(WEFT_DTYPE_BF16);
        run_layouts(&cp, layouts[i][0], layouts[i][1], i + 1);
    }
}

/* All of swap, routes and budget, on a model that costs nothing. */
static void test_every_mode(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_F16);
    for (unsigned bits = 0; bits < 8; bits++)
        run_case(&cp, &(job_config_t){.trainer = "fsdp:3",
                                      .rollout = "tp:2x2",
                                      .scheme = "fp8-channel",
                                      .swap = bits & 1 ? "copy" : "flip",
                                      .relay = (bits & 2) != 0,
                                      .minimum = (bits & 4) != 0,
                                      .bucket_bytes = 1024});
}

/* Models of any family and size, any layout that fits. */
static void test_random(void **state)
{
    (void)state;
    random_t random = random_begin("random");
    uint32_t found = 0, wanted = random_cases(JOB_CASES(12, 4));
    for (uint32_t i = 0; found < wanted; i++) {
        random_t one = random_case(&random, i);
        checkpoint_t cp;
        char trainer[32], rollout[32];
        checkpoint_random(&one, true, true, &cp);
        const char *const sides[] = {"fsdp:%u",      "tp:%u", "dp:%u",     "fsdp:2,tp:%u",
                                     "tp:2,fsdp:%u", "pp:%u", "tp:2,pp:%u"};
        snprintf(trainer, sizeof trainer, sides[random_in(&one, 0, 6)], random_in(&one, 1, 3));
        snprintf(rollout, sizeof rollout, "tp:%ux%u%s", RANDOM_OF(&one, 1, 2, 2, 3, 4), random_in(&one, 1, 2),
                 cp.experts && random_once_in(&one, 2) ? ",ep" : "");
        job_config_t config = {
            .trainer = trainer, .rollout = rollout, .scheme = all_schemes[i % NUM_SCHEMES]};
        if (strcmp(config.scheme, "fp8-block") == 0)
            config.profile = (const char *[]){"ieee", "vllm", "pow2", "vllm-pow2"}[random_in(&one, 0, 3)];
        config.swap = random_once_in(&one, 2) ? "copy" : "flip";
        config.relay = random_once_in(&one, 2);
        config.minimum = random_once_in(&one, 2);
        weft_error_t error;
        job_t *job = job_try(checkpoint_model(&cp), NULL, &config, &error);
        if (!job)
            continue; /* a misfit */
        found++;
        print_message("case %u: %s %s to %s, %s %s, %s%s%s\n", i, cp.type, trainer, rollout, config.scheme,
                      config.profile ? config.profile : "", config.swap, config.relay ? ", relays" : "",
                      config.minimum ? ", least budget" : "");
        job->seed = random_u64(&one);
        run_updates(job);
        job_destroy(job);
    }
}

static void test_demo(void **state)
{
    static const char *const names[] = {"tiny-qwen3/v1", "tiny-qwen3-moe/v1"};
    (void)state;
    for (unsigned i = JOB_CASES(0, 1); i < 2; i++) {
        weft_model_t *values, *model = demo_model(names[i], &values);
        weft_error_t error;
        if (!model) {
            print_message("no %s: skipped\n", names[i]);
            skip();
        }
        job_t *job = job_try(model, values,
                             &(job_config_t){.trainer = i ? "fsdp:3" : "tp:2",
                                             .rollout = i ? "tp:2,ep" : "tp:2",
                                             .scheme = "fp8-block",
                                             .minimum = true,
                                             .relay = i == 0},
                             &error);
        if (!job)
            fail_msg("%s", error.message);
        weft_model_close(values);
        run_updates(job);
        job_destroy(job);
    }
}

/* The engine's own memory is the live place of some tensors. */
static void test_bound_tensors(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(
        &cp,
        &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel", .swap = "copy"});
    weft_error_t error;
    void *memory[2 * MAX_OUTPUTS * 2] = {NULL};
    uint32_t count = 0;
    job_open(job);
    for (uint32_t r = 0; r < job->num_rollouts; r++)
        for (uint32_t i = 0; i < job->outputs[r].count; i += 2) {
            weft_rollout_t *rollout = job_rollout(job, r)->rollout;
            memory[count] = malloc(job->outputs[r].items[i].bytes);
            assert_int_equal(weft_rollout_bind(rollout, job->outputs[r].items[i].name, memory[count], &error),
                             WEFT_OK);
            assert_ptr_equal(weft_rollout_tensor(rollout, i).data, memory[count]);
            count++;
        }
    for (uint64_t version = 1; version <= VERSIONS; version++) {
        job_update(job, version);
        job_check_live(job, version);
    }
    job_close(job);
    while (count)
        free(memory[--count]);
    job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_mode), cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_experts),    cmocka_unit_test(test_random),
        cmocka_unit_test(test_demo),       cmocka_unit_test(test_bound_tensors),
    };
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
