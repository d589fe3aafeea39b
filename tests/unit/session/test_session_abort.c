/* Aborts: one NaN or Inf anywhere in a version, and no rank ever serves it. What serves goes on serving, untouched; every
 * trainer is told tensor, index and rank; the next version goes through. */
#include "tests/support/engine.h"

/* NaN, quiet or signalling, or Inf, of either sign. */
static uint32_t bad_bits(random_t *random, weft_dtype_t dtype)
{
    uint32_t sign = random_once_in(random, 2);
    if (dtype == WEFT_DTYPE_F32)
        return sign << 31 | 0x7F800000 | RANDOM_OF(random, 0, 0x400000, 1, 0x7FFFFF);
    if (dtype == WEFT_DTYPE_F16)
        return sign << 15 | 0x7C00 | RANDOM_OF(random, 0, 0x200, 1, 0x3FF);
    return sign << 15 | 0x7F80 | RANDOM_OF(random, 0, 0x40, 1, 0x7F);
}

/* Spoil one element of `version`: often in the first or last place of a tensor. */
static void plant(job_t *job, uint64_t version, random_t *random)
{
    uint32_t index = random_in(random, 0, job->num_tensors - 1);
    const weft_tensor_t *tensor = weft_model_tensor(job->model, index);
    uint32_t last = (uint32_t)(tensor->bytes / weft_dtype_bytes(tensor->dtype)) - 1;
    job->plant = (job_plant_t){.version = version, .tensor = index, .bits = bad_bits(random, tensor->dtype)};
    job->plant.flat = random_once_in(random, 3) ? RANDOM_OF(random, 0, last) : random_in(random, 0, last);
}

/* The message says which element, and who found it. */
static void check_message(const job_t *job, const weft_error_t *error)
{
    char expected[160];
    snprintf(expected, sizeof expected, "tensor %s holds NaN or Inf at flat index %llu",
             weft_model_tensor(job->model, job->plant.tensor)->name, (unsigned long long)job->plant.flat);
    const char *found = strstr(error->message, expected), *rank = strstr(error->message, "; rank ");
    if (!found || (found[strlen(expected)] >= '0' && found[strlen(expected)] <= '9'))
        fail_msg("\"%s\" does not say \"%s\"", error->message, expected);
    assert_non_null(rank);
    unsigned long number = strtoul(rank + strlen("; rank "), NULL, 10);
    assert_in_range(number, job->num_trainers, job->num_ranks - 1);
}

/* Publish a version that cannot be used. */
static void publish_bad(job_t *job, uint64_t version)
{
    job_publish(job, version);
    job_wait(job, version, WEFT_PUBLISH_APPLIED, WEFT_ERR_NONFINITE);
    for (uint32_t i = 0; i < job->num_trainers; i++) {
        check_message(job, &job->ranks[i].error);
        weft_status_t released = weft_trainer_wait(job->ranks[i].trainer, version, WEFT_PUBLISH_RELEASED, 0, &job->ranks[i].error);
        assert_true(released == WEFT_OK || released == WEFT_ERR_NONFINITE);
        spoil_shards(&job->ranks[i]);
    }
}

static void check_idle(const job_t *job, uint64_t live)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_status_t status;
        weft_rollout_get_status(job_rollout(job, i)->rollout, &status);
        assert_int_equal(status.live_version, live);
    }
}

/* Before the first version all bytes are zero, and no step begins. */
static void check_unready(const job_t *job)
{
    for (uint32_t i = 0; i < job->num_rollouts; i++) {
        weft_rollout_t *rollout = job_rollout(job, i)->rollout;
        uint64_t version = 77;
        weft_error_t error;
        assert_int_equal(weft_rollout_step_begin(rollout, 1, 0, &version, &error), WEFT_ERR_NOT_READY);
        assert_int_equal(version, 77);
        for (uint32_t t = 0; t < weft_rollout_num_tensors(rollout); t++) {
            weft_tensor_t tensor = weft_rollout_tensor(rollout, t);
            for (uint64_t b = 0; b < tensor.bytes; b++)
                assert_int_equal(((const uint8_t *)tensor.data)[b], 0);
        }
        assert_int_equal(weft_rollout_version_log(rollout, NULL, 0), 0);
    }
}

/* `count` versions, every second one bad, sometimes several in a row; engines step, or nobody does. */
static void run_aborts(const checkpoint_t *cp, const job_config_t *config, const engine_pace_t *pace, uint32_t count,
                       random_t *random)
{
    job_t *job = job_create(cp, config);
    engine_t *engine = NULL;
    uint64_t live = 0;
    job_open(job);
    for (uint64_t version = 1; version <= count; version++) {
        if (version == 1 || (version < count && random_once_in(random, 2))) {
            plant(job, version, random);
            publish_bad(job, version);
        } else {
            job_update(job, version);
            live = version;
        }
        check_idle(job, live);
        if (live == 0)
            check_unready(job);
        else
            job_check_live(job, live);
        if (pace && !engine && live)
            engine = engine_start(job, 0, pace, random);
    }
    if (engine) {
        engine_stop(engine);
        engine_check(engine);
        engine_destroy(engine);
    }
    job_close(job);
    job_destroy(job);
}

static void test_parked(void **state)
{
    (void)state;
    random_t random = random_begin("parked");
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_F32, WEFT_DTYPE_F16, WEFT_DTYPE_BF16};
    static const char *const schemes[] = {"fp8-channel", "bf16"};
    for (unsigned i = 0; i < 6; i++) {
        checkpoint_t cp = checkpoint_tiny(dtypes[i % 3]);
        run_aborts(&cp,
                   &(job_config_t){.trainer = i & 1 ? "fsdp:2" : "tp:2", .rollout = "tp:2x2", .scheme = schemes[i / 3], .swap = i & 1 ? "copy" : "flip", .relay = i % 3 == 1},
                   NULL, 10, &random);
    }
}

/* Many rounds, of which some never start: stop_at lies within the version. */
static void test_rounds(void **state)
{
    (void)state;
    random_t random = random_begin("rounds");
    checkpoint_t block = checkpoint_block(WEFT_DTYPE_BF16), moe = checkpoint_moe(WEFT_DTYPE_F16);
    run_aborts(&block, &(job_config_t){.trainer = "fsdp:3", .rollout = "tp:2", .scheme = "fp8-block", .minimum = true}, NULL, 12, &random);
    run_aborts(&moe, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2x2,ep", .scheme = "fp8-block", .minimum = true, .relay = true}, NULL, 8, &random);
    run_aborts(&block, &(job_config_t){.trainer = "tp:2", .rollout = "tp:4", .scheme = "fp8-channel", .minimum = true, .bucket_bytes = 4096, .swap = "copy"}, NULL, 8, &random);
}

static void test_stepping(void **state)
{
    (void)state;
    random_t random = random_begin("stepping");
    checkpoint_t cp = checkpoint_tiny(WEFT_DTYPE_BF16);
    run_aborts(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-channel"},
               &(engine_pace_t){.step_us = 300, .park_once_in = 30, .park_us = 50000}, 60, &random);
    run_aborts(&cp, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:2", .scheme = "bf16", .swap = "copy", .minimum = true, .bucket_bytes = 512},
               &(engine_pace_t){.step_us = 300}, 40, &random);
}

/* The names of a large model of experts: the message still ends with the index, on the trainers too. */
static void test_long_names(void **state)
{
    (void)state;
    static const char *const files[] = {"gate_proj", "up_proj", "down_proj"};
    const uint32_t blocks = 11, experts = 128, hidden = 16, mlp = 4;
    const uint64_t vector[1] = {hidden}, square[2] = {hidden, hidden}, in[2] = {mlp, hidden}, out[2] = {hidden, mlp},
                   router[2] = {experts, hidden};
    weft_model_t *model;
    weft_error_t error;
    char name[128];
    assert_int_equal(weft_model_create("{\"model_type\": \"qwen3_moe\", \"hidden_size\": 16, \"num_hidden_layers\": 11,"
                                       "\"num_attention_heads\": 1, \"num_key_value_heads\": 1, \"head_dim\": 16,"
                                       "\"num_experts\": 128, \"moe_intermediate_size\": 4, \"intermediate_size\": 4, \"vocab_size\": 16,"
                                       "\"tie_word_embeddings\": true}",
                                       &model, &error),
                     WEFT_OK);
    weft_model_add(model, "model.embed_tokens.weight", WEFT_DTYPE_BF16, square, 2, &error);
    weft_model_add(model, "model.norm.weight", WEFT_DTYPE_BF16, vector, 1, &error);
    for (uint32_t b = 0; b < blocks; b++) {
        static const char *const norms[] = {"input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"};
        static const char *const squares[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
        for (uint32_t i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", b, norms[i]);
            weft_model_add(model, name, WEFT_DTYPE_BF16, vector, 1, &error);
            snprintf(name, sizeof name, "model.layers.%u.self_attn.%s.weight", b, squares[i]);
            weft_model_add(model, name, WEFT_DTYPE_BF16, square, 2, &error);
        }
        snprintf(name, sizeof name, "model.layers.%u.mlp.gate.weight", b);
        weft_model_add(model, name, WEFT_DTYPE_BF16, router, 2, &error);
        for (uint32_t e = 0; e < experts; e++)
            for (uint32_t f = 0; f < 3; f++) {
                snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.%s.weight", b, e, files[f]);
                weft_model_add(model, name, WEFT_DTYPE_BF16, f == 2 ? out : in, 2, &error);
            }
    }
    job_t *job = job_try(model, NULL, &(job_config_t){.trainer = "fsdp:2", .rollout = "tp:1x2", .scheme = "fp8-channel"}, &error);
    if (!job)
        fail_msg("%s", error.message);
    job_open(job);
    for (uint32_t i = 0; i < job->num_tensors; i++)
        if (strcmp(weft_model_tensor(model, i)->name, "model.layers.10.mlp.experts.127.gate_proj.weight") == 0)
            job->plant = (job_plant_t){.version = 1, .tensor = i, .bits = 0x7FC0, .flat = 63};
    publish_bad(job, 1);
    job_close(job);
    job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parked), cmocka_unit_test(test_rounds), cmocka_unit_test(test_stepping), cmocka_unit_test(test_long_names),
    };
    cmocka_set_test_filter(getenv("WEFT_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
