/* Swap layerwise: versions written over the weights that serve, while the engine pauses. */
#include "src/rollout_private.h"
#include "tests/support/job.h"

typedef struct scene {
    job_t *job;
    uint64_t step;
} scene_t;

static scene_t open_scene(const checkpoint_t *cp, job_config_t config)
{
    config.swap = "layerwise";
    scene_t scene = {job_create(cp, &config), 0};
    job_open(scene.job);
    return scene;
}

static void close_scene(scene_t *scene)
{
    job_close(scene->job);
    job_destroy(scene->job);
}

static weft_rollout_t *rollout_of(const scene_t *scene, uint32_t i)
{
    return job_rollout(scene->job, i)->rollout;
}

/* Steps on all ranks, each on `version`, byte for byte. */
static void run_steps(scene_t *scene, uint32_t count, uint64_t version)
{
    for (uint32_t s = 0; s < count; s++) {
        scene->step++;
        for (uint32_t i = 0; i < scene->job->num_rollouts; i++) {
            uint64_t found;
            weft_error_t error;
            if (weft_rollout_step_begin(rollout_of(scene, i), scene->step, JOB_PATIENCE, &found, &error) != WEFT_OK)
                fail_msg("%s", error.message);
            assert_int_equal(found, version);
            job_serves(scene->job, i, version);
            assert_int_equal(weft_rollout_step_end(rollout_of(scene, i), scene->step), WEFT_OK);
        }
        job_check_faults(scene->job);
    }
}

static void pause_all(scene_t *scene)
{
    for (uint32_t i = 0; i < scene->job->num_rollouts; i++)
        assert_int_equal(weft_rollout_pause(rollout_of(scene, i), NULL), WEFT_OK);
}

/* The next step does not begin, for this reason. */
static void refuse_step(scene_t *scene, weft_status_t expected, const char *text)
{
    for (uint32_t i = 0; i < scene->job->num_rollouts; i++) {
        uint64_t found;
        weft_error_t error;
        assert_int_equal(weft_rollout_step_begin(rollout_of(scene, i), scene->step + 1, 1000, &found, &error), expected);
        if (!strstr(error.message, text))
            fail_msg("\"%s\" does not say \"%s\"", error.message, text);
    }
}

static void expect_phase(const scene_t *scene, weft_rollout_phase_t phase, uint64_t live)
{
    for (uint32_t i = 0; i < scene->job->num_rollouts; i++) {
        weft_rollout_status_t status;
        weft_rollout_get_status(rollout_of(scene, i), &status);
        assert_int_equal(status.phase, phase);
        assert_int_equal(status.live_version, live);
    }
}

static void publish_layers(scene_t *scene, uint64_t version, const char *layers, bool supersede, uint64_t base)
{
    weft_publish_config_t config = WEFT_PUBLISH_CONFIG;
    config.layers = layers;
    config.base = base;
    config.snapshot = config.supersede = supersede;
    for (uint32_t i = 0; i < scene->job->num_trainers; i++) {
        job_rank_t *r = &scene->job->ranks[i];
        fill_shards(r, version);
        if (weft_trainer_publish_with(r->trainer, version, &config, &r->error) != WEFT_OK)
            fail_msg("%s", r->error.message);
    }
}

static void run_versions(const checkpoint_t *cp, job_config_t config)
{
    scene_t scene = open_scene(cp, config);
    job_update(scene.job, 1); /* nothing serves: needs no pause */
    run_steps(&scene, 3, 1);
    for (uint64_t version = 2; version <= 6; version++) {
        const char *layers = version % 2 ? NULL : "*norm*,*.mlp.*";
        job_note_origin(scene.job, version == 2 ? "*" : "nothing", 1);
        job_note_origin(scene.job, layers ? layers : "*", version);
        job_expect(scene.job, version);
        pause_all(&scene);
        publish_layers(&scene, version, layers, false, 0);
        job_wait(scene.job, version, WEFT_PUBLISH_APPLIED, WEFT_OK);
        job_check_live(scene.job, version);
        run_steps(&scene, 3, version);
    }
    close_scene(&scene);
}

static void test_versions(void **state)
{
    (void)state;
    checkpoint_t block = checkpoint_block(WEFT_DTYPE_BF16), moe = checkpoint_moe(WEFT_DTYPE_BF16);
    run_versions(&block, (job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block"});
    run_versions(&block, (job_config_t){.trainer = "tp:2", .rollout = "tp:2x2", .scheme = "fp8-channel", .minimum = true});
    run_versions(&moe, (job_config_t){.trainer = "ep:2", .rollout = "tp:2,ep", .scheme = "bf16", .relay = true});
}

static void test_there_is_no_stage(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    scene_t scene = open_scene(&cp, (job_config_t){.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "bf16"});
    weft_weights_t *weights = rollout_of(&scene, 0)->weights;
    assert_ptr_equal(weft_weights_stage(weights), weft_weights_live(weights, 0));
    close_scene(&scene);
}

/* A version waits for the pause, and steps go on until then. */
static void test_a_version_waits(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    scene_t scene = open_scene(&cp, (job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel"});
    job_update(scene.job, 1);
    job_expect(scene.job, 2);
    job_publish(scene.job, 2);
    for (uint32_t i = 0; i < 50; i++) {
        run_steps(&scene, 1, 1);
        usleep(2000);
    }
    expect_phase(&scene, WEFT_ROLLOUT_RECEIVING, 1);
    pause_all(&scene);
    job_wait(scene.job, 2, WEFT_PUBLISH_APPLIED, WEFT_OK);
    run_steps(&scene, 3, 2);
    close_scene(&scene);
}

static void test_pause_and_resume(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    uint64_t version;
    weft_error_t error;
    scene_t scene = open_scene(&cp, (job_config_t){.trainer = "fsdp:1", .rollout = "tp:2", .scheme = "bf16"});
    job_update(scene.job, 1);
    run_steps(&scene, 1, 1);
    assert_int_equal(weft_rollout_step_begin(rollout_of(&scene, 0), 2, 0, &version, &error), WEFT_OK);
    assert_int_equal(weft_rollout_pause(rollout_of(&scene, 0), &error), WEFT_ERR_STEP_ORDER);
    assert_int_equal(weft_rollout_step_end(rollout_of(&scene, 0), 2), WEFT_OK);
    assert_int_equal(weft_rollout_step_begin(rollout_of(&scene, 1), 2, 0, &version, &error), WEFT_OK);
    assert_int_equal(weft_rollout_step_end(rollout_of(&scene, 1), 2), WEFT_OK);
    scene.step = 2;
    pause_all(&scene);
    refuse_step(&scene, WEFT_ERR_FENCED, "paused");
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(weft_rollout_resume(rollout_of(&scene, i), &error), WEFT_OK);
    run_steps(&scene, 2, 1);
    close_scene(&scene);
}

/* A NaN is found when a part has been written: nothing serves until a whole version has come. */
static void test_tainted(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_block(WEFT_DTYPE_BF16);
    weft_error_t error;
    scene_t scene = open_scene(&cp, (job_config_t){.trainer = "fsdp:2", .rollout = "tp:2x2", .scheme = "fp8-block"});
    job_update(scene.job, 1);
    run_steps(&scene, 2, 1);
    pause_all(&scene);
    uint32_t tensor = scene.job->num_tensors - 1;
    while (weft_model_tensor(scene.job->model, tensor)->dtype != WEFT_DTYPE_BF16)
        tensor--;
    scene.job->plant = (job_plant_t){.version = 2, .tensor = tensor, .bits = 0x7F81, .flat = 3};
    job_publish(scene.job, 2);
    job_wait(scene.job, 2, WEFT_PUBLISH_APPLIED, WEFT_ERR_NONFINITE);
    refuse_step(&scene, WEFT_ERR_TAINTED, "publish a whole version");
    expect_phase(&scene, WEFT_ROLLOUT_TAINTED, 1);
    assert_int_equal(weft_rollout_resume(rollout_of(&scene, 0), &error), WEFT_ERR_TAINTED);
    publish_layers(&scene, 3, "*norm*", false, 1);
    job_wait(scene.job, 3, WEFT_PUBLISH_APPLIED, WEFT_ERR_TAINTED);
    refuse_step(&scene, WEFT_ERR_TAINTED, "version 2");
    job_update(scene.job, 4);
    expect_phase(&scene, WEFT_ROLLOUT_IDLE, 4);
    run_steps(&scene, 3, 4);
    close_scene(&scene);
}

/* What was never begun to be written leaves the weights whole. */
static void test_superseded_before_the_pause(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    scene_t scene = open_scene(&cp, (job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "bf16"});
    job_update(scene.job, 1);
    publish_layers(&scene, 2, NULL, true, 0);
    run_steps(&scene, 3, 1);
    job_expect(scene.job, 3);
    publish_layers(&scene, 3, NULL, true, 0);
    job_wait(scene.job, 2, WEFT_PUBLISH_APPLIED, WEFT_ERR_SUPERSEDED);
    run_steps(&scene, 3, 1);
    pause_all(&scene);
    job_wait(scene.job, 3, WEFT_PUBLISH_APPLIED, WEFT_OK);
    run_steps(&scene, 3, 3);
    close_scene(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),         cmocka_unit_test(test_there_is_no_stage),
        cmocka_unit_test(test_a_version_waits),  cmocka_unit_test(test_pause_and_resume),
        cmocka_unit_test(test_tainted),          cmocka_unit_test(test_superseded_before_the_pause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
