/* The demo checkpoints, quantized from their files for one rank and for several. */
#include <unistd.h>

#include "src/quantize/offline.h"
#include "tests/support/reference.h"

#define DEMO WEFT_SOURCE_DIR "/launch/demo/"

static uint32_t number(const weft_model_t *model, const char *key)
{
    return (uint32_t)weft_model_config_number(model, key, 0);
}

/* Open a demo checkpoint and describe it from its configuration; skips the test where there is none. */
static weft_model_t *open_demo(const char *name, checkpoint_t *cp)
{
    char path[512];
    weft_model_t *model;
    weft_error_t error;
    snprintf(path, sizeof path, "%s%s", DEMO, name);
    if (access(path, R_OK) != 0) {
        print_message("no %s: skipped\n", path);
        skip();
    }
    if (weft_model_open(path, &model, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    *cp = (checkpoint_t){.type = strstr(name, "moe") ? "qwen3_moe" : "qwen3",
                         .dtype = weft_model_find(model, "model.norm.weight")->dtype,
                         .hidden = number(model, "hidden_size"),
                         .blocks = number(model, "num_hidden_layers"),
                         .heads = number(model, "num_attention_heads"),
                         .kv_heads = number(model, "num_key_value_heads"),
                         .head_dim = number(model, "head_dim"),
                         .mlp = number(model, "intermediate_size"),
                         .vocab = number(model, "vocab_size"),
                         .experts = number(model, "num_local_experts"),
                         .expert_mlp = number(model, "moe_intermediate_size"),
                         .tied = number(model, "tie_word_embeddings") != 0};
    checkpoint_describe(cp);
    return model;
}

typedef struct files {
    const checkpoint_t *cp;
    const weft_model_t *model;
    uint8_t *aligned; /* the tensor asked for last */
} files_t;

static const uint8_t *file_tensor(void *user, uint32_t index)
{
    files_t *files = user;
    const weft_tensor_t *tensor = weft_model_find(files->model, files->cp->sources[index].name);
    assert_non_null(tensor);
    free(files->aligned);
    files->aligned = malloc(tensor->bytes);
    memcpy(files->aligned, tensor->data, tensor->bytes);
    return files->aligned;
}

static weft_plan_t *plan_of(const weft_model_t *model, const char *trainer, const char *rollout,
                            const char *scheme, const char *profile)
{
    weft_layout_t *from = parse_layout(trainer, WEFT_SIDE_TRAINER),
                  *to = parse_layout(rollout, WEFT_SIDE_ROLLOUT);
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_plan_t *plan;
    weft_error_t error;
    options.profile = profile;
    if (weft_plan_create(model, from, to, scheme, &options, &plan, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    weft_layout_destroy(from);
    weft_layout_destroy(to);
    return plan;
}

typedef struct range {
    weft_outputs_t outputs;
    uint8_t *memory;
    weft_digest_t digest;
} range_t;

static range_t quantize_rank(const weft_plan_t *plan, uint32_t tp_rank)
{
    range_t range;
    weft_program_t *program;
    weft_error_t error;
    assert_int_equal(weft_outputs_create(plan, tp_rank, &range.outputs), WEFT_OK);
    assert_int_equal(
        weft_program_create(plan, weft_plan_rollout_rank(plan, 0, tp_rank), &range.outputs, &program),
        WEFT_OK);
    range.memory = malloc(range.outputs.bytes);
    memset(range.memory, 0xA5, range.outputs.bytes);
    if (weft_quantize_offline(program, &range.outputs, range.memory, &range.digest,
                              &error) != WEFT_OK)
        fail_msg("%s", error.message);
    weft_program_destroy(program);
    return range;
}

static void free_range(range_t *range)
{
    weft_outputs_destroy(&range->outputs);
    free(range->memory);
}

/* Plan, quantize and compare every rank with slices of whole tensors. */
static void check_demo(const char *name, const char *rollout, const char *scheme, const char *profile)
{
    checkpoint_t cp;
    weft_model_t *model = open_demo(name, &cp);
    weft_plan_t *plan = plan_of(model, "fsdp:1", rollout, scheme, profile);
    files_t files = {&cp, model, NULL};
    for (uint32_t t = 0; t < weft_plan_tp(plan); t++) {
        range_t range = quantize_rank(plan, t);
        compare_stage(&cp, plan, profile, t, &range.outputs, range.memory, file_tensor, &files);
        free_range(&range);
    }
    free(files.aligned);
    weft_plan_destroy(plan);
    weft_model_close(model);
}

static void test_dense_demo(void **state)
{
    (void)state;
    check_demo("tiny-qwen3/v1", "tp:1", "fp8-block", NULL);
    check_demo("tiny-qwen3/v1", "tp:2", "fp8-block", "vllm-pow2");
    check_demo("tiny-qwen3/v3", "tp:2", "fp8-channel", NULL);
    check_demo("tiny-qwen3/v3", "tp:2", "int8-channel", "ct");
    check_demo("tiny-qwen3/v1", "tp:4", "bf16", NULL);
}

static void test_experts_demo(void **state)
{
    (void)state;
    check_demo("tiny-qwen3-moe/v1", "tp:2", "fp8-block", NULL);
    check_demo("tiny-qwen3-moe/v1", "tp:2,ep", "fp8-block", "vllm");
    check_demo("tiny-qwen3-moe/v1", "tp:2", "fp8-channel", NULL);
}

/* How the trainer cuts its shards is nothing to the result. */
static void test_trainer_layout_does_not_matter(void **state)
{
    (void)state;
    const char *trainers[] = {"fsdp:1", "fsdp:3", "tp:2,fsdp:2", "dp:2"};
    checkpoint_t cp;
    weft_model_t *model = open_demo("tiny-qwen3/v1", &cp);
    weft_digest_t first = {{0, 0}};
    for (unsigned i = 0; i < 4; i++) {
        weft_plan_t *plan = plan_of(model, trainers[i], "tp:2", "fp8-channel", NULL);
        range_t range = quantize_rank(plan, 1);
        first = i ? first : range.digest;
        assert_memory_equal(&first, &range.digest, sizeof first);
        free_range(&range);
        weft_plan_destroy(plan);
    }
    weft_model_close(model);
}

static void test_versions_differ(void **state)
{
    (void)state;
    checkpoint_t cp;
    weft_model_t *models[2] = {open_demo("tiny-qwen3/v1", &cp), open_demo("tiny-qwen3/v3", &cp)};
    weft_digest_t digests[2];
    for (unsigned i = 0; i < 2; i++) {
        weft_plan_t *plan = plan_of(models[i], "fsdp:1", "tp:1", "fp8-block", NULL);
        range_t range = quantize_rank(plan, 0);
        digests[i] = range.digest;
        free_range(&range);
        weft_plan_destroy(plan);
        weft_model_close(models[i]);
    }
    assert_memory_not_equal(&digests[0], &digests[1], sizeof digests[0]);
}

/* Layer by layer, in any order, each into memory of its own: the plan of one checkpoint and the values of another. */
static void run_layers(const char *scheme, const char *rollout)
{
    checkpoint_t cp;
    weft_model_t *model = open_demo("tiny-qwen3/v1", &cp), *values = open_demo("tiny-qwen3/v3", &cp);
    weft_plan_t *plan = plan_of(model, "fsdp:2", rollout, scheme, NULL), *same = plan_of(values, "fsdp:1", rollout, scheme, NULL);
    range_t expected = quantize_rank(same, 1);
    weft_program_t *program;
    weft_offline_t *offline;
    weft_error_t error;
    assert_int_equal(weft_program_create(plan, 2 + 1, &expected.outputs, &program), WEFT_OK);
    assert_int_equal(weft_offline_create(program, &expected.outputs, values, &offline, &error), WEFT_OK);
    for (uint32_t layer = plan->layers->count; layer-- > 0;) {
        uint64_t begin = weft_offline_layer_offset(&expected.outputs, layer), bytes = weft_offline_layer_bytes(&expected.outputs, layer);
        uint8_t *memory = aligned_alloc(WEFT_OUTPUT_ALIGN, (bytes / WEFT_OUTPUT_ALIGN + 1) * WEFT_OUTPUT_ALIGN);
        assert_int_equal(weft_offline_layer(offline, layer, memory, &error), WEFT_OK);
        const weft_layer_outputs_t *of = &expected.outputs.layers[layer];
        for (uint32_t o = of->weight; o < of->weight + of->count; o++) {
            const weft_output_t *output = &expected.outputs.items[o];
            assert_memory_equal(memory + (output->offset - begin), expected.memory + output->offset, output->bytes);
        }
        free(memory);
    }
    weft_offline_destroy(offline);
    weft_program_destroy(program);
    free_range(&expected);
    weft_plan_destroy(plan);
    weft_plan_destroy(same);
    weft_model_close(model);
    weft_model_close(values);
}

static void test_layer_by_layer(void **state)
{
    (void)state;
    run_layers("fp8-block", "tp:2");
    run_layers("fp8-channel", "tp:4");
    run_layers("bf16", "tp:2");
    run_layers("int4-group-32", "tp:2");
    run_layers("fp8-tensor", "tp:4");
    run_layers("nvfp4", "tp:2");
}

static void test_models_without_bytes_are_refused(void **state)
{
    (void)state;
    checkpoint_t cp = {.type = "qwen3",
                       .dtype = WEFT_DTYPE_BF16,
                       .hidden = 8,
                       .blocks = 1,
                       .heads = 2,
                       .kv_heads = 2,
                       .head_dim = 4,
                       .mlp = 8,
                       .vocab = 10,
                       .expert_mlp = 1};
    checkpoint_describe(&cp);
    world_t *w = world_create(&cp, "fsdp:1", "tp:1", "bf16", NULL);
    uint8_t *memory = calloc(w->outputs[0].bytes, 1);
    weft_digest_t digest;
    weft_error_t error;
    assert_int_equal(
        weft_quantize_offline(w->programs[1], &w->outputs[0], memory, &digest, &error),
        WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "no bytes"));
    free(memory);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_demo),
        cmocka_unit_test(test_experts_demo),
        cmocka_unit_test(test_trainer_layout_does_not_matter),
        cmocka_unit_test(test_versions_differ),
        cmocka_unit_test(test_layer_by_layer),
        cmocka_unit_test(test_models_without_bytes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
