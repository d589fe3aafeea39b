#include "src/plan/engine.h"
#include "tests/support/world.h"

static const weft_engine_t *find(const char *name)
{
    const weft_engine_t *engine = NULL;
    weft_error_t error;
    if (weft_engine_find(name, &engine, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_string_equal(engine->name, name);
    return engine;
}

static const char *const names[] = {"vllm-hopper", "vllm-blackwell", "sglang"};

/* Every row makes sense: its scheme is a map, its profiles are of schemes that have them, and it has one for its own. */
static void test_rows_of_the_table(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        const weft_engine_t *engine = find(names[i]);
        weft_scheme_map_t map;
        assert_int_equal(weft_scheme_map_parse(engine->scheme, NULL, engine, &map, NULL), WEFT_OK);
        assert_int_equal(map.entries[0].chosen_by, WEFT_CHOSEN_BY_ENGINE);
        weft_scheme_map_free(&map);
        for (unsigned p = 0; p < WEFT_ENGINE_PROFILES && engine->profiles[p].scheme; p++) {
            const weft_scheme_t *scheme;
            weft_profile_t profile;
            assert_int_equal(weft_scheme_find(engine->profiles[p].scheme, &scheme, NULL), WEFT_OK);
            assert_int_equal(weft_scheme_profile(scheme, engine->profiles[p].profile, &profile, NULL), WEFT_OK);
            assert_string_equal(weft_engine_profile(engine, scheme->name), engine->profiles[p].profile);
        }
        assert_null(weft_engine_profile(engine, "bf16"));
    }
    assert_null(weft_engine_profile(NULL, "fp8-block"));
}

static void test_unknown_engine_lists_those_there_are(void **state)
{
    (void)state;
    const weft_engine_t *engine = NULL;
    weft_error_t error;
    const char *wrong[] = {"", "vllm", "VLLM-HOPPER", "sglang "};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(weft_engine_find(wrong[i], &engine, &error), WEFT_ERR_UNKNOWN_NAME);
        assert_non_null(strstr(error.message, "vllm-hopper, vllm-blackwell, sglang"));
        assert_null(engine);
    }
}

static void test_names_of_parameters(void **state)
{
    (void)state;
    char name[80];
    assert_true(weft_engine_name(find("vllm-hopper"), "a.experts.w13_weight_scale", name, sizeof name));
    assert_string_equal(name, "a.experts.routed_experts.w13_weight_scale");
    assert_true(weft_engine_name(find("sglang"), "a.experts.w13_weight", name, sizeof name));
    assert_string_equal(name, "a.experts.w13_weight");
    assert_true(weft_engine_name(NULL, "w2_weight", name, sizeof name));
    assert_string_equal(name, "w2_weight");
    assert_true(weft_engine_name(find("vllm-hopper"), "w2_weight", name, sizeof "routed_experts.w2_weight"));
    assert_false(weft_engine_name(find("vllm-hopper"), "w2_weight", name, sizeof "routed_experts.w2_weight" - 1));
}

/* ---- plans ---- */

static checkpoint_t experts(void)
{
    checkpoint_t cp = {.type = "qwen3_moe", .dtype = WEFT_DTYPE_BF16, .hidden = 128, .blocks = 1, .heads = 4, .kv_heads = 2,
                       .head_dim = 128, .mlp = 256, .vocab = 100, .experts = 4, .expert_mlp = 256};
    checkpoint_describe(&cp);
    return cp;
}

static world_t *plan_for(const checkpoint_t *cp, const char *engine, const char *scheme, const char *profile)
{
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    options.engine = engine;
    options.profile = profile;
    return world_create(cp, "fsdp:2", "tp:2", scheme, &options);
}

/* scheme and profile: given, or NULL; then what the plan has. */
static void test_what_is_given_outdoes_the_engine(void **state)
{
    (void)state;
    checkpoint_t cp = experts();
    const struct {
        const char *engine, *scheme, *profile, *has_scheme, *has_profile;
    } cases[] = {
        {"vllm-hopper", NULL, NULL, "fp8-block", "vllm-pow2"},
        {"vllm-blackwell", NULL, NULL, "fp8-block@deepgemm", "pow2"},
        {"sglang", NULL, NULL, "fp8-block", "ieee"},
        {"vllm-hopper", NULL, "ieee", "fp8-block", "ieee"},
        {"vllm-hopper", "int8-channel", NULL, "int8-channel", "vllm"},
        {"vllm-hopper", "int8-channel", "ct", "int8-channel", "ct"},
        {"vllm-hopper", "fp8-block:pow2", NULL, "fp8-block", "pow2"},
        {"sglang", "fp8-channel", NULL, "fp8-channel", "default"},
        {"vllm-blackwell", "nvfp4; *.qkv_proj=fp8-block; *.o_proj=int8-channel:ct", NULL,
         "nvfp4@128x4; *.qkv_proj=fp8-block:pow2@deepgemm; *.o_proj=int8-channel:ct", "modelopt"},
        {"vllm-blackwell", "nvfp4; *.qkv_proj=fp8-block", "vllm", "nvfp4@128x4; *.qkv_proj=fp8-block:vllm", "modelopt"},
        {"vllm-blackwell", "nvfp4@plain; *.qkv_proj=fp8-block:pow2@padded", NULL, "nvfp4; *.qkv_proj=fp8-block:pow2@padded", "modelopt"},
        {NULL, "fp8-block", NULL, "fp8-block", "ieee"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        world_t *w = plan_for(&cp, cases[i].engine, cases[i].scheme, cases[i].profile);
        assert_string_equal(weft_plan_scheme(w->plan), cases[i].has_scheme);
        assert_string_equal(weft_plan_profile(w->plan), cases[i].has_profile);
        if (cases[i].engine)
            assert_string_equal(weft_plan_engine(w->plan), cases[i].engine);
        else
            assert_null(weft_plan_engine(w->plan));
        world_destroy(w);
    }
}

static bool has_output(const world_t *w, const char *name)
{
    for (uint32_t i = 0; i < w->outputs[0].count; i++)
        if (strcmp(w->outputs[0].items[i].name, name) == 0)
            return true;
    return false;
}

/* Names are part of what ranks agree on; where an engine chooses what would be so without it, there is no difference. */
static void test_names_are_in_the_hash(void **state)
{
    (void)state;
    checkpoint_t cp = experts();
    world_t *plain = plan_for(&cp, NULL, "fp8-block", NULL), *sglang = plan_for(&cp, "sglang", NULL, NULL),
            *vllm = plan_for(&cp, "vllm-hopper", "fp8-block", "ieee");
    weft_digest_t of_plain = weft_plan_hash(plain->plan), of_sglang = weft_plan_hash(sglang->plan), of_vllm = weft_plan_hash(vllm->plan);
    assert_memory_equal(&of_plain, &of_sglang, sizeof of_plain);
    assert_memory_not_equal(&of_plain, &of_vllm, sizeof of_plain);
    assert_true(has_output(plain, "model.layers.0.mlp.experts.w13_weight_scale_inv"));
    assert_true(has_output(vllm, "model.layers.0.mlp.experts.routed_experts.w13_weight_scale_inv"));
    assert_true(has_output(vllm, "model.layers.0.mlp.experts.routed_experts.w2_weight"));
    assert_true(has_output(vllm, "model.layers.0.self_attn.qkv_proj.weight_scale_inv"));
    assert_true(has_output(vllm, "model.layers.0.mlp.gate.weight"));
    assert_false(has_output(vllm, "model.layers.0.mlp.experts.w2_weight"));
    assert_int_equal(plain->outputs[0].count, vllm->outputs[0].count);
    world_destroy(plain);
    world_destroy(sglang);
    world_destroy(vllm);
}

static void test_neither_scheme_nor_engine(void **state)
{
    (void)state;
    checkpoint_t cp = experts();
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_error_t error;
    assert_null(world_try(&cp, "fsdp:2", "tp:2", NULL, &options, &error));
    assert_int_equal(error.status, WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "fp8-block"));
    options.engine = "tensorrt";
    assert_null(world_try(&cp, "fsdp:2", "tp:2", "bf16", &options, &error));
    assert_int_equal(error.status, WEFT_ERR_UNKNOWN_NAME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_the_table),
        cmocka_unit_test(test_unknown_engine_lists_those_there_are),
        cmocka_unit_test(test_names_of_parameters),
        cmocka_unit_test(test_what_is_given_outdoes_the_engine),
        cmocka_unit_test(test_names_are_in_the_hash),
        cmocka_unit_test(test_neither_scheme_nor_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
