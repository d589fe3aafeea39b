/* Refusals: a call that is wrong changes nothing. After each, the right call works and the next version is whole. */
#include "tests/support/job.h"

static job_t *open_tiny(const char *trainer, const char *rollout, const char *swap)
{
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = trainer, .rollout = rollout, .scheme = "fp8-channel", .swap = swap});
    job_open(job);
    return job;
}

static void close_after(job_t *job, uint64_t version)
{
    job_update(job, version);
    job_check_live(job, version);
    job_close(job);
    job_destroy(job);
}

static void check_text(const weft_error_t *error, const char *part)
{
    if (!strstr(error->message, part))
        fail_msg("\"%s\" does not say \"%s\"", error->message, part);
}

/* ---- Versions ---- */

static void test_version_order(void **state)
{
    (void)state;
    job_t *job = open_tiny("fsdp:2", "tp:2", "flip");
    weft_error_t error;
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(weft_trainer_publish(job->ranks[i].trainer, 0, &error), WEFT_ERR_VERSION_ORDER);
    job_update(job, 7);
    for (uint32_t i = 0; i < 2; i++)
        for (uint64_t version = 0; version <= 7; version++) {
            assert_int_equal(weft_trainer_publish(job->ranks[i].trainer, version, &error), WEFT_ERR_VERSION_ORDER);
            assert_int_equal(error.status, WEFT_ERR_VERSION_ORDER);
            check_text(&error, i ? "rank 1" : "rank 0");
        }
    job_check_live(job, 7);
    close_after(job, UINT64_C(1) << 40);
}

/* One trainer leaves a version out: the others are told, and all go on with the next. */
static void test_version_left_out(void **state)
{
    (void)state;
    job_t *job = open_tiny("fsdp:2", "tp:1", "flip");
    weft_error_t error;
    job_update(job, 1);
    job_expect(job, 3);
    fill_shards(&job->ranks[0], 3);
    fill_shards(&job->ranks[1], 3);
    assert_int_equal(weft_trainer_publish(job->ranks[0].trainer, 2, &error), WEFT_OK);
    assert_int_equal(weft_trainer_publish(job->ranks[1].trainer, 3, &error), WEFT_OK);
    assert_int_equal(weft_trainer_wait(job->ranks[0].trainer, 2, WEFT_PUBLISH_APPLIED, JOB_PATIENCE, &error), WEFT_ERR_VERSION_ORDER);
    check_text(&error, "3");
    assert_false(weft_trainer_in_flight(job->ranks[0].trainer, 2));
    job_check_live(job, 1);
    assert_int_equal(weft_trainer_wait(job->ranks[1].trainer, 3, WEFT_PUBLISH_APPLIED, 1000, &error), WEFT_ERR_TIMEOUT);
    assert_true(weft_trainer_in_flight(job->ranks[1].trainer, 3)); /* the wait is over, the version is not */
    assert_int_equal(weft_trainer_publish(job->ranks[0].trainer, 3, &error), WEFT_OK);
    job_wait(job, 3, WEFT_PUBLISH_APPLIED, WEFT_OK);
    assert_false(weft_trainer_in_flight(job->ranks[1].trainer, 3));
    job_check_live(job, 3);
    close_after(job, 4);
}

/* Two versions may be on their way; the other trainer comes later. */
static void test_third_in_flight(void **state)
{
    (void)state;
    job_t *job = open_tiny("dp:2", "tp:2", "copy");
    weft_error_t error;
    weft_trainer_t *first = job->ranks[0].trainer, *second = job->ranks[1].trainer;
    job_expect(job, 5);
    fill_shards(&job->ranks[0], 5);
    fill_shards(&job->ranks[1], 5);
    assert_int_equal(weft_trainer_publish(first, 4, &error), WEFT_OK);
    assert_int_equal(weft_trainer_publish(first, 5, &error), WEFT_OK);
    assert_int_equal(weft_trainer_publish(first, 6, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_trainer_wait(first, 6, WEFT_PUBLISH_RELEASED, 0, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_trainer_wait(first, 4, WEFT_PUBLISH_RELEASED, 10000, &error), WEFT_ERR_TIMEOUT);
    assert_int_equal(weft_trainer_publish(second, 4, &error), WEFT_OK);
    assert_int_equal(weft_trainer_publish(second, 5, &error), WEFT_OK);
    assert_int_equal(weft_trainer_publish(second, 6, &error), WEFT_ERR_ARGUMENT);
    job_wait(job, 4, WEFT_PUBLISH_APPLIED, WEFT_OK);
    job_wait(job, 5, WEFT_PUBLISH_APPLIED, WEFT_OK);
    job_check_live(job, 5);
    close_after(job, 6); /* the refusals have not used the number up */
}

static void test_unknown_version(void **state)
{
    (void)state;
    job_t *job = open_tiny("fsdp:1", "tp:1", "flip");
    weft_error_t error;
    assert_int_equal(weft_trainer_wait(job->ranks[0].trainer, 1, WEFT_PUBLISH_APPLIED, 1000, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_trainer_wait(job->ranks[0].trainer, 0, WEFT_PUBLISH_APPLIED, 1000, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_rollout_wait(job_rollout(job, 0)->rollout, 1, 20000, &error), WEFT_ERR_TIMEOUT);
    close_after(job, 1);
}

/* ---- Bindings ---- */

static void test_bind(void **state)
{
    (void)state;
    job_t *job = open_tiny("fsdp:2", "tp:2", "flip");
    weft_error_t error;
    job_rank_t *r = &job->ranks[1];
    const char *name = "model.layers.0.mlp.up_proj.weight";
    uint32_t index = 0;
    while (strcmp(weft_model_tensor(job->model, index)->name, name) != 0)
        index++;
    job_shard_t *shard = &r->shards[index];
    weft_box_t box;
    assert_int_equal(weft_trainer_bind(r->trainer, "model.layers.1.mlp.up_proj.weight", shard->memory, 0, &error), WEFT_ERR_MISSING_TENSOR);
    check_text(&error, "model.layers.1.mlp.up_proj.weight");
    assert_int_equal(weft_trainer_box(r->trainer, "model.layers.1.mlp.up_proj.weight", &box), WEFT_ERR_MISSING_TENSOR);
    assert_int_equal(weft_trainer_bind(r->trainer, name, shard->memory + 1, 0, &error), WEFT_ERR_ARGUMENT);
    check_text(&error, name);
    assert_int_equal(weft_trainer_bind(r->trainer, name, shard->memory, shard->cols - 1, &error), WEFT_ERR_ARGUMENT);
    check_text(&error, name);
    job_update(job, 1); /* the bindings before stand */
    job_check_live(job, 1);

    assert_int_equal(weft_trainer_bind(r->trainer, name, NULL, 0, &error), WEFT_OK);
    fill_shards(r, 2);
    assert_int_equal(weft_trainer_publish(r->trainer, 2, &error), WEFT_ERR_ARGUMENT);
    check_text(&error, name);
    check_text(&error, "rank 1");
    job_check_live(job, 1);
    assert_int_equal(weft_trainer_bind(r->trainer, name, shard->memory, shard->ld_elems, &error), WEFT_OK);
    close_after(job, 2);
}

/* Rows much further apart than they are long, and other memory for each version. */
static void test_leading_dimension(void **state)
{
    (void)state;
    job_t *job = open_tiny("fsdp:2", "tp:2", "flip");
    weft_error_t error;
    for (uint64_t version = 1; version <= 3; version++) {
        for (uint32_t t = 0; t < job->num_trainers; t++)
            for (uint32_t i = 0; i < job->num_tensors; i++) {
                job_shard_t *shard = &job->ranks[t].shards[i];
                const weft_tensor_t *tensor = weft_model_tensor(job->model, i);
                free(shard->memory);
                shard->ld_elems = shard->cols + version * 37 - (version == 3 ? 111 : 0);
                shard->memory = malloc(shard->rows * shard->ld_elems * 2 + 1);
                assert_int_equal(weft_trainer_bind(job->ranks[t].trainer, tensor->name, shard->memory, shard->ld_elems, &error), WEFT_OK);
            }
        job_update(job, version);
        job_check_live(job, version);
    }
    close_after(job, 4);
}

static void test_rollout_bind(void **state)
{
    (void)state;
    weft_error_t error;
    for (uint32_t copy = 0; copy < 2; copy++) {
        job_t *job = open_tiny("fsdp:1", "tp:2", copy ? "copy" : "flip");
        weft_rollout_t *rollout = job_rollout(job, 0)->rollout;
        weft_tensor_t tensor;
        const char *name = "model.layers.0.self_attn.qkv_proj.weight";
        assert_int_equal(weft_rollout_get(rollout, name, &tensor), WEFT_OK);
        void *memory = calloc(1, tensor.bytes);
        assert_int_equal(weft_rollout_bind(rollout, "model.layers.0.self_attn.q_proj.weight", memory, &error), WEFT_ERR_MISSING_TENSOR);
        assert_int_equal(weft_rollout_get(rollout, "model.layers.0.self_attn.q_proj.weight", &tensor), WEFT_ERR_MISSING_TENSOR);
        assert_int_equal(weft_rollout_bind(rollout, name, memory, &error), copy ? WEFT_OK : WEFT_ERR_ARGUMENT);
        job_update(job, 1);
        job_check_live(job, 1);
        close_after(job, 2);
        free(memory);
    }
}

/* The live place of a tensor never changes once it serves. */
static void test_rollout_bind_late(void **state)
{
    (void)state;
    weft_error_t error;
    job_t *job = open_tiny("fsdp:1", "tp:1", "copy");
    weft_rollout_t *rollout = job_rollout(job, 0)->rollout;
    weft_tensor_t tensor = weft_rollout_tensor(rollout, 2);
    void *memory = calloc(1, tensor.bytes);
    job_update(job, 1);
    assert_int_equal(weft_rollout_bind(rollout, tensor.name, memory, &error), WEFT_ERR_ARGUMENT);
    assert_ptr_equal(weft_rollout_tensor(rollout, 2).data, tensor.data);
    job_check_live(job, 1);
    close_after(job, 2);
    free(memory);
}

/* ---- Steps ---- */

static void test_step_order(void **state)
{
    (void)state;
    job_t *job = open_tiny("fsdp:1", "tp:1", "flip");
    weft_rollout_t *r = job_rollout(job, 0)->rollout;
    weft_error_t error;
    uint64_t version = 99;
    assert_int_equal(weft_rollout_step_end(r, 1), WEFT_ERR_STEP_ORDER);
    assert_int_equal(weft_rollout_step_begin(r, 1, 0, &version, &error), WEFT_ERR_NOT_READY);
    job_update(job, 1);
    assert_int_equal(weft_rollout_step_begin(r, 0, 0, &version, &error), WEFT_ERR_STEP_ORDER);
    assert_int_equal(version, 99); /* outputs are written on success only */
    assert_int_equal(weft_rollout_step_begin(r, 50, 0, &version, &error), WEFT_OK);
    assert_int_equal(version, 1);
    assert_int_equal(weft_rollout_step_begin(r, 51, 0, &version, &error), WEFT_ERR_STEP_ORDER);
    assert_int_equal(weft_rollout_step_begin(r, 50, 0, &version, &error), WEFT_ERR_STEP_ORDER);
    check_text(&error, "50");
    assert_int_equal(weft_rollout_step_end(r, 51), WEFT_ERR_STEP_ORDER);
    assert_int_equal(weft_rollout_step_end(r, 49), WEFT_ERR_STEP_ORDER);
    assert_int_equal(weft_rollout_step_end(r, 50), WEFT_OK);
    assert_int_equal(weft_rollout_step_end(r, 50), WEFT_ERR_STEP_ORDER);
    for (uint64_t wrong = 48; wrong <= 53; wrong++)
        if (wrong != 51)
            assert_int_equal(weft_rollout_step_begin(r, wrong, 0, &version, &error), WEFT_ERR_STEP_ORDER);
    check_text(&error, "53");
    check_text(&error, "51");
    job_update(job, 2); /* nothing is open: it swaps */
    assert_int_equal(weft_rollout_step_begin(r, 51, 0, &version, &error), WEFT_OK);
    assert_int_equal(version, 2);
    assert_int_equal(weft_rollout_step_end(r, 51), WEFT_OK);
    close_after(job, 3);
}

/* A step that stays open holds the swap back, not the transfer; the version comes with the next step. */
static void test_open_step_holds(void **state)
{
    (void)state;
    job_t *job = open_tiny("fsdp:2", "tp:1", "flip");
    weft_rollout_t *r = job_rollout(job, 0)->rollout;
    weft_error_t error;
    uint64_t served;
    job_update(job, 1);
    assert_int_equal(weft_rollout_step_begin(r, 9, 0, &served, &error), WEFT_OK);
    job_expect(job, 2);
    job_publish(job, 2);
    job_wait(job, 2, WEFT_PUBLISH_RELEASED, WEFT_OK);
    assert_int_equal(weft_trainer_wait(job->ranks[0].trainer, 2, WEFT_PUBLISH_APPLIED, 100000, &error), WEFT_ERR_TIMEOUT);
    job_check_live(job, 1);
    assert_int_equal(weft_rollout_step_end(r, 9), WEFT_OK);
    job_wait(job, 2, WEFT_PUBLISH_APPLIED, WEFT_OK);
    job_check_live(job, 2);
    close_after(job, 3);
}

/* ---- Sessions ---- */

static void *open_only_session(void *user)
{
    job_rank_t *r = user;
    r->status = open_session(r);
    return NULL;
}

static void test_wrong_role(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "bf16"});
    job_each(job, open_only_session);
    for (uint32_t i = 0; i < job->num_ranks; i++) {
        job_rank_t *r = &job->ranks[i];
        char rank[16];
        weft_rollout_config_t config = WEFT_ROLLOUT_CONFIG;
        assert_int_equal(r->status, WEFT_OK);
        assert_int_equal(weft_session_rank(r->session), i);
        snprintf(rank, sizeof rank, "rank %u", i);
        if (weft_session_is_trainer(r->session)) {
            assert_int_equal(weft_rollout_create(r->session, &config, &r->rollout, &r->error), WEFT_ERR_ARGUMENT);
        } else {
            assert_int_equal(weft_trainer_create(r->session, &r->trainer, &r->error), WEFT_ERR_ARGUMENT);
            config.struct_size--;
            assert_int_equal(weft_rollout_create(r->session, &config, &r->rollout, &r->error), WEFT_ERR_ARGUMENT);
            config = WEFT_ROLLOUT_CONFIG;
            config.swap = "flop";
            assert_int_equal(weft_rollout_create(r->session, &config, &r->rollout, &r->error), WEFT_ERR_UNKNOWN_NAME);
            check_text(&r->error, "flip");
            strcpy(r->error.message, rank);
        }
        check_text(&r->error, rank);
        assert_null(r->trainer);
        assert_null(r->rollout);
        assert_int_equal(open_role(r), WEFT_OK);
    }
    close_after(job, 1);
}

/* Rank `odd` has another plan: everyone is told so, and by the first rank that differs from its own. */
static void run_mismatch(uint32_t odd)
{
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "bf16"});
    weft_error_t error;
    weft_plan_t *other = job_plan(job, least_budget(job->plan), &error);
    assert_non_null(other);
    job->ranks[odd].plan = other;
    job_each(job, open_only_session);
    for (uint32_t i = 0; i < job->num_ranks; i++) {
        char first[32];
        snprintf(first, sizeof first, "rank %u has plan", i != odd ? odd : odd == 0 ? 1 : 0);
        assert_int_equal(job->ranks[i].status, WEFT_ERR_PLAN_MISMATCH);
        assert_int_equal(job->ranks[i].error.status, WEFT_ERR_PLAN_MISMATCH);
        check_text(&job->ranks[i].error, first);
        assert_null(job->ranks[i].session);
    }
    job_close(job);
    job->ranks[odd].plan = job->plan; /* the same hub, once all have left */
    job_open(job);
    close_after(job, 1);
    weft_plan_destroy(other);
}

static void test_plan_mismatch(void **state)
{
    (void)state;
    for (uint32_t odd = 0; odd < 4; odd++)
        run_mismatch(odd);
}

static void test_session_config(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:1", .rollout = "tp:1", .scheme = "bf16"});
    weft_loopback_t *hub;
    weft_transport_config_t transport = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *opened = NULL;
    weft_session_t *session = NULL;
    weft_error_t error;
    assert_int_equal(weft_loopback_create(3, &hub), WEFT_OK);
    transport.loopback = hub;
    transport.struct_size++;
    assert_int_equal(weft_transport_open("loopback", &transport, &opened, &error), WEFT_ERR_ARGUMENT);
    transport.struct_size--;
    assert_int_equal(weft_transport_open("loopback", &transport, &opened, &error), WEFT_OK);
    weft_session_config_t config = WEFT_SESSION_CONFIG;
    assert_int_equal(weft_session_open(&config, &session, &error), WEFT_ERR_ARGUMENT);
    config.plan = job->plan;
    config.transport = opened;
    assert_int_equal(weft_session_open(&config, &session, &error), WEFT_ERR_ARGUMENT); /* three ranks, a plan for two */
    check_text(&error, "3");
    config.struct_size = 0;
    assert_int_equal(weft_session_open(&config, &session, &error), WEFT_ERR_ARGUMENT);
    check_text(&error, "WEFT_SESSION_CONFIG");
    assert_null(session);
    weft_transport_close(opened);
    weft_loopback_destroy(hub);
    job_destroy(job);
}

/* A rank that never comes: the others give up at the transport's deadline. */
static void *open_but_last(void *user)
{
    job_rank_t *r = user;
    r->status = r->rank + 1 < r->job->num_ranks ? open_session(r) : WEFT_ERR_CLOSED;
    return NULL;
}

static void test_absent_rank(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    job_t *job = job_create(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:1", .scheme = "bf16", .transport_us = 200000});
    job_each(job, open_but_last);
    for (uint32_t i = 0; i + 1 < job->num_ranks; i++)
        assert_true(job->ranks[i].status == WEFT_ERR_TIMEOUT || job->ranks[i].status == WEFT_ERR_PEER_LOST);
    job_close(job);
    job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_order),     cmocka_unit_test(test_version_left_out),
        cmocka_unit_test(test_third_in_flight),   cmocka_unit_test(test_unknown_version),
        cmocka_unit_test(test_bind),              cmocka_unit_test(test_leading_dimension),
        cmocka_unit_test(test_rollout_bind),      cmocka_unit_test(test_rollout_bind_late),
        cmocka_unit_test(test_step_order),        cmocka_unit_test(test_open_step_holds),
        cmocka_unit_test(test_wrong_role),        cmocka_unit_test(test_plan_mismatch),
        cmocka_unit_test(test_session_config),    cmocka_unit_test(test_absent_rank),
    };
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
