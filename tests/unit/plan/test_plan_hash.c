/* Two ranks that were told anything different must see it in the hash; told the same, they must not. */
#include "tests/support/world.h"

typedef struct input {
    checkpoint_t cp;
    const char *trainer, *rollout, *scheme;
    weft_plan_options_t options;
} input_t;

static input_t plain(void)
{
    input_t input = {
        .trainer = "fsdp:2", .rollout = "tp:2", .scheme = "fp8-block", .options = WEFT_PLAN_OPTIONS};
    input.cp = (checkpoint_t){.type = "qwen3_moe",
                              .dtype = WEFT_DTYPE_BF16,
                              .hidden = 128,
                              .blocks = 1,
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 128,
                              .mlp = 256,
                              .vocab = 100,
                              .experts = 4,
                              .expert_mlp = 256};
    return input;
}

static weft_digest_t hash_of(input_t *input)
{
    checkpoint_describe(&input->cp);
    world_t *w = world_create(&input->cp, input->trainer, input->rollout, input->scheme, &input->options);
    weft_digest_t hash = weft_plan_hash(w->plan);
    world_destroy(w);
    return hash;
}

static void more_words(input_t *input)
{
    input->cp.vocab++;
}
static void more_blocks(input_t *input)
{
    input->cp.blocks++;
}
static void more_experts(input_t *input)
{
    input->cp.experts++;
}
static void wider_experts(input_t *input)
{
    input->cp.expert_mlp = 512;
}
static void more_heads(input_t *input)
{
    input->cp.heads = 8;
}
static void tied(input_t *input)
{
    input->cp.tied = true;
}
static void fp16(input_t *input)
{
    input->cp.dtype = WEFT_DTYPE_F16;
}
static void fp32_norms(input_t *input)
{
    input->cp.norms_f32 = true;
}
static void other_trainer(input_t *input)
{
    input->trainer = "tp:2";
}
static void more_trainers(input_t *input)
{
    input->trainer = "fsdp:2,dp:2";
}
static void turned_trainers(input_t *input)
{
    input->trainer = "dp:2,fsdp:2";
}
static void other_rollout(input_t *input)
{
    input->rollout = "tp:1";
}
static void more_replicas(input_t *input)
{
    input->rollout = "tp:2x2";
}
static void whole_experts(input_t *input)
{
    input->rollout = "tp:2,ep";
}
static void other_scheme(input_t *input)
{
    input->scheme = "fp8-channel";
}
static void no_scheme(input_t *input)
{
    input->scheme = "bf16";
}
static void vllm(input_t *input)
{
    input->options.profile = "vllm";
}
static void pow2(input_t *input)
{
    input->options.profile = "pow2";
}
static void vllm_pow2(input_t *input)
{
    input->options.profile = "vllm-pow2";
}
static void small_budget(input_t *input)
{
    input->options.budget_bytes = 1u << 20;
}
static void small_buckets(input_t *input)
{
    input->options.max_bucket_bytes = 1u << 16;
}
static void relays(input_t *input)
{
    input->options.max_groups = 0;
}

static void (*const changes[])(input_t *) = {
    more_words,
    more_blocks,
    more_experts,
    wider_experts,
    more_heads,
    tied,
    fp16,
    fp32_norms,
    other_trainer,
    more_trainers,
    turned_trainers,
    other_rollout,
    more_replicas,
    whole_experts,
    other_scheme,
    no_scheme,
    vllm,
    pow2,
    vllm_pow2,
    small_budget,
    small_buckets,
    relays,
};

#define NUM_CHANGES (sizeof changes / sizeof *changes)

static void test_every_input_changes_the_hash(void **state)
{
    (void)state;
    weft_digest_t hashes[NUM_CHANGES + 1];
    input_t input = plain();
    hashes[NUM_CHANGES] = hash_of(&input);
    for (unsigned i = 0; i < NUM_CHANGES; i++) {
        input = plain();
        changes[i](&input);
        hashes[i] = hash_of(&input);
    }
    for (unsigned i = 0; i <= NUM_CHANGES; i++)
        for (unsigned j = 0; j < i; j++)
            if (memcmp(&hashes[i], &hashes[j], sizeof *hashes) == 0)
                fail_msg("inputs %u and %u have one hash", j, i);
}

static void test_same_inputs_have_the_same_hash(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NUM_CHANGES; i++) {
        input_t a = plain(), b = plain();
        changes[i](&a);
        changes[i](&b);
        weft_digest_t x = hash_of(&a), y = hash_of(&b);
        assert_memory_equal(&x, &y, sizeof x);
    }
}

/* A default and its name are one thing. */
static void test_default_profile_by_name(void **state)
{
    (void)state;
    input_t a = plain(), b = plain();
    b.options.profile = "ieee";
    weft_digest_t x = hash_of(&a), y = hash_of(&b);
    assert_memory_equal(&x, &y, sizeof x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_input_changes_the_hash),
        cmocka_unit_test(test_same_inputs_have_the_same_hash),
        cmocka_unit_test(test_default_profile_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
