#include "src/plan/scheme_map.h"
#include "tests/support/world.h"

static weft_scheme_map_t parse(const char *text, const char *profile)
{
    weft_scheme_map_t map;
    weft_error_t error;
    if (weft_scheme_map_parse(text, profile, NULL, &map, &error) != WEFT_OK)
        fail_msg("%s: %s", text, error.message);
    return map;
}

static void refuse(const char *text, const char *profile, weft_status_t expected, const char *word)
{
    weft_scheme_map_t map = {.count = 99};
    weft_error_t error;
    if (weft_scheme_map_parse(text, profile, NULL, &map, &error) != expected)
        fail_msg("\"%s\" is not refused by %s", text, weft_status_name(expected));
    if (!strstr(error.message, word))
        fail_msg("\"%s\": \"%s\" does not say \"%s\"", text, error.message, word);
    assert_int_equal(map.count, 99); /* written on success alone */
}

/* ---- reading ---- */

static void test_one_scheme_is_a_map(void **state)
{
    (void)state;
    weft_scheme_map_t map = parse("fp8-block", NULL);
    assert_int_equal(map.count, 1);
    assert_null(map.entries[0].glob);
    assert_string_equal(map.entries[0].scheme->name, "fp8-block");
    assert_int_equal(map.entries[0].profile, WEFT_PROFILE_IEEE);
    assert_string_equal(map.text, "fp8-block");
    weft_scheme_map_free(&map);
    assert_null(map.entries);
}

static void test_entries(void **state)
{
    (void)state;
    weft_scheme_map_t map = parse("  fp8-block:vllm;lm_head=bf16 ;\t*.experts.*  =  nvfp4:modelopt ", NULL);
    static const char *const globs[] = {NULL, "lm_head", "*.experts.*"};
    static const char *const names[] = {"fp8-block", "bf16", "nvfp4"};
    static const weft_profile_t profiles[] = {WEFT_PROFILE_VLLM, WEFT_PROFILE_DEFAULT, WEFT_PROFILE_MODELOPT};
    assert_int_equal(map.count, 3);
    for (unsigned i = 0; i < 3; i++) {
        if (i)
            assert_string_equal(map.entries[i].glob, globs[i]);
        assert_string_equal(map.entries[i].scheme->name, names[i]);
        assert_int_equal(map.entries[i].profile, profiles[i]);
    }
    assert_string_equal(map.text, "fp8-block; lm_head=bf16; *.experts.*=nvfp4:modelopt");
    weft_scheme_map_free(&map);
}

/* What weft writes reads as the same map, with the default's profile beside it. */
static void test_text_reads_back(void **state)
{
    (void)state;
    weft_scheme_map_t map = parse("int8-channel:ct; a*=fp8-block ; b?=bf16;[cd]=int4-group-64:qat;e=int8-channel", "vllm");
    weft_scheme_map_t again;
    assert_int_equal(weft_scheme_map_read(map.text, "ct", &again, NULL), WEFT_OK);
    assert_string_equal(map.text, "int8-channel; a*=fp8-block:vllm; b?=bf16; [cd]=int4-group-64:qat; e=int8-channel:vllm");
    assert_string_equal(again.text, map.text);
    for (uint32_t i = 0; i < map.count; i++) {
        assert_ptr_equal(again.entries[i].scheme, map.entries[i].scheme);
        assert_int_equal(again.entries[i].profile, map.entries[i].profile);
        if (i)
            assert_string_equal(again.entries[i].glob, map.entries[i].glob);
    }
    weft_scheme_map_free(&map);
    weft_scheme_map_free(&again);
    map = parse("fp8-block:pow2@deepgemm; a=nvfp4@128x4; b=fp32", NULL); /* an arrangement of that profile alone */
    assert_string_equal(map.text, "fp8-block@deepgemm; a=nvfp4@128x4; b=fp32");
    assert_int_equal(weft_scheme_map_read(map.text, "pow2", &again, NULL), WEFT_OK);
    assert_string_equal(again.text, map.text);
    weft_scheme_map_free(&map);
    weft_scheme_map_free(&again);
}

/* The option is for every entry whose scheme has it and that names none. */
static void test_profile_for_all(void **state)
{
    (void)state;
    weft_scheme_map_t map = parse("bf16; a=fp8-block; b=int8-channel; c=fp8-block:pow2; d=nvfp4", "vllm");
    static const weft_profile_t expected[] = {WEFT_PROFILE_DEFAULT, WEFT_PROFILE_VLLM, WEFT_PROFILE_VLLM, WEFT_PROFILE_POW2,
                                              WEFT_PROFILE_DEFAULT};
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(map.entries[i].profile, expected[i]);
    weft_scheme_map_free(&map);
}

static void test_bad_maps(void **state)
{
    (void)state;
    const struct {
        const char *text;
        weft_status_t status;
        const char *word;
    } bad[] = {
        {"", WEFT_ERR_ARGUMENT, "empty"},
        {"  ", WEFT_ERR_UNKNOWN_NAME, "fp8-block"},
        {"fp9", WEFT_ERR_UNKNOWN_NAME, "bf16, fp16, fp32, fp8-block"},
        {"fp8-block;", WEFT_ERR_ARGUMENT, "entry 2"},
        {"fp8-block;;lm_head=bf16", WEFT_ERR_ARGUMENT, "entry 2"},
        {";fp8-block", WEFT_ERR_UNKNOWN_NAME, "bf16, fp16, fp32, fp8-block"},
        {"lm_head=bf16", WEFT_ERR_ARGUMENT, "fp8-block; lm_head=bf16"},
        {"*=bf16; fp8-block", WEFT_ERR_ARGUMENT, "default"},
        {"fp8-block; bf16", WEFT_ERR_ARGUMENT, "layers=scheme"},
        {"fp8-block; lm_head", WEFT_ERR_ARGUMENT, "layers=scheme"},
        {"fp8-block, lm_head=bf16", WEFT_ERR_ARGUMENT, "default"},
        {"fp8-block; =bf16", WEFT_ERR_ARGUMENT, "entry 2"},
        {"fp8-block; lm_head=", WEFT_ERR_UNKNOWN_NAME, "bf16, fp16, fp32, fp8-block"},
        {"fp8-block; a=bf16; b=fp9", WEFT_ERR_UNKNOWN_NAME, "entry 3 of the scheme map, \"b=fp9\""},
        {"fp8-block; a==bf16", WEFT_ERR_UNKNOWN_NAME, "\"=bf16\""},
        {"fp8-block:exact", WEFT_ERR_UNKNOWN_NAME, "vllm-pow2"},
        {"fp8-block:", WEFT_ERR_UNKNOWN_NAME, "vllm-pow2"},
        {"fp8-block; a=nvfp4:vllm", WEFT_ERR_UNKNOWN_NAME, "modelopt"},
        {"fp8-block; a\"=bf16", WEFT_ERR_ARGUMENT, "quote"},
        {"fp8-block; a\\*=bf16", WEFT_ERR_ARGUMENT, "backslash"},
        {"fp8-block; a\nb=bf16", WEFT_ERR_ARGUMENT, "control"},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(bad[i].text, NULL, bad[i].status, bad[i].word);
}

static void test_profile_that_nothing_has(void **state)
{
    (void)state;
    refuse("fp8-channel", "vllm", WEFT_ERR_UNKNOWN_NAME, "scheme fp8-channel has no profile \"vllm\"");
    refuse("bf16; a=fp8-block", "ct", WEFT_ERR_UNKNOWN_NAME, "bf16, fp8-block");
    refuse("bf16; a=fp8-block", "exact", WEFT_ERR_UNKNOWN_NAME, "\"exact\"");
    refuse("fp8-block:ieee", "vllm", WEFT_ERR_UNKNOWN_NAME, "names its own");
    refuse("bf16; a=fp8-block:ieee", "vllm", WEFT_ERR_UNKNOWN_NAME, "none has it of bf16");
}

/* ---- layers ---- */

typedef struct bench {
    checkpoint_t cp;
    weft_model_t *model;
    weft_layers_t *layers;
} bench_t;

static bench_t open_bench(const char *type)
{
    bench_t b = {.cp = {.type = type, .dtype = WEFT_DTYPE_BF16, .hidden = 128, .blocks = 3, .heads = 4, .kv_heads = 2,
                        .head_dim = 128, .mlp = 256, .vocab = 100}};
    if (strcmp(type, "qwen3_moe") == 0)
        b.cp.experts = 4, b.cp.expert_mlp = 256;
    checkpoint_describe(&b.cp);
    b.model = checkpoint_model(&b.cp);
    assert_int_equal(weft_layers_create(b.model, &b.layers, NULL), WEFT_OK);
    return b;
}

static void close_bench(bench_t *b)
{
    weft_layers_destroy(b->layers);
    weft_model_close(b->model);
}

static weft_status_t assign(const bench_t *b, const char *text, uint32_t *entries, weft_error_t *error)
{
    weft_scheme_map_t map = parse(text, NULL);
    weft_status_t status = weft_scheme_map_assign(&map, b->model, b->layers, entries, error);
    weft_scheme_map_free(&map);
    return status;
}

/* The entry of a layer, which the map gives also to its bias. */
static uint32_t entry_of(const bench_t *b, const char *text, const char *layer)
{
    uint32_t entries[256];
    weft_error_t error;
    assert_true(b->layers->count < 256);
    if (assign(b, text, entries, &error) != WEFT_OK)
        fail_msg("%s: %s", text, error.message);
    for (uint32_t i = 0; i < b->layers->count; i++)
        if (strcmp(b->layers->items[i].name, layer) == 0)
            return entries[i];
    fail_msg("no layer %s", layer);
    return 0;
}

#define QKV "model.layers.1.self_attn.qkv_proj"
#define W13 "model.layers.1.mlp.experts.w13"

static void test_names_that_match(void **state)
{
    (void)state;
    bench_t b = open_bench("qwen3_moe");
    static const char *const yes[] = {QKV, QKV ".weight", "layers.1.self_attn.qkv_proj", "*.qkv_proj", "*qkv*", "layers.1.*", "model.layers.1.*",
                                      "*.layers.1.*", "*", "layers.?.self_attn.*", "layers.[13].*", "*.q[kx]v_proj.weight"};
    static const char *const no[] = {"layers.2.*", "layers.1?self_attn.o_proj", "*.o_proj", "layers.[!1].self_attn.qkv_proj"};
    for (unsigned i = 0; i < sizeof yes / sizeof *yes; i++) {
        char text[200];
        snprintf(text, sizeof text, "bf16; %s=fp8-block", yes[i]);
        if (entry_of(&b, text, QKV) != 1)
            fail_msg("%s does not match", yes[i]);
    }
    for (unsigned i = 0; i < sizeof no / sizeof *no; i++) {
        char text[200];
        snprintf(text, sizeof text, "bf16; %s=fp8-block", no[i]);
        if (entry_of(&b, text, QKV) != 0)
            fail_msg("%s matches", no[i]);
    }
    close_bench(&b);
}

static void test_last_match_decides(void **state)
{
    (void)state;
    bench_t b = open_bench("qwen3_moe");
    assert_int_equal(entry_of(&b, "bf16; *=fp8-block; *.qkv_proj=mxfp8; layers.1.*=nvfp4", QKV), 3);
    assert_int_equal(entry_of(&b, "bf16; layers.1.*=nvfp4; *=fp8-block; *.o_proj=mxfp8", QKV), 2);
    assert_int_equal(entry_of(&b, "bf16; *=fp8-block; *.qkv_proj=mxfp8; layers.1.*=nvfp4", W13), 3);
    assert_int_equal(entry_of(&b, "fp8-block; layers.1.*=bf16; *.experts.*=nvfp4", W13), 2);
    assert_int_equal(entry_of(&b, "fp8-block; *.experts.*=nvfp4; layers.1.*=bf16", W13), 2);
    assert_int_equal(entry_of(&b, "fp8-block; *.experts.*=nvfp4; layers.1.*=bf16", QKV), 2);
    assert_int_equal(entry_of(&b, "fp8-block; *.experts.*=nvfp4; layers.1.*=bf16", "model.layers.2.self_attn.qkv_proj"), 0);
    close_bench(&b);
}

/* The checkpoint's names are as good, when all parts of a layer agree. */
static void test_names_of_tensors(void **state)
{
    (void)state;
    bench_t b = open_bench("qwen3_moe");
    assert_int_equal(entry_of(&b, "bf16; *.[qkv]_proj=fp8-block", QKV), 1);
    assert_int_equal(entry_of(&b, "bf16; *.experts.*.weight=fp8-block", W13), 1);
    assert_int_equal(entry_of(&b, "bf16; layers.1.mlp.experts.*.down_proj=fp8-block", "model.layers.1.mlp.experts.w2"), 1);
    assert_int_equal(entry_of(&b, "bf16; layers.1.mlp.experts.*.down_proj=fp8-block", W13), 0);
    assert_int_equal(entry_of(&b, "bf16; *.q_proj=fp8-block; *.k_proj=fp8-block; *.v_proj=fp8-block", QKV), 1);
    /* a later entry for the layer outdoes an earlier one for a part */
    assert_int_equal(entry_of(&b, "bf16; *.q_proj=fp8-block; *.qkv_proj=mxfp8", QKV), 2);
    close_bench(&b);
}

static void refuse_assign(const bench_t *b, const char *text, weft_status_t expected, const char *first, const char *second)
{
    uint32_t entries[256];
    weft_error_t error;
    if (assign(b, text, entries, &error) != expected)
        fail_msg("\"%s\" is not refused by %s", text, weft_status_name(expected));
    if (!strstr(error.message, first) || !strstr(error.message, second))
        fail_msg("\"%s\": \"%s\" does not say \"%s\" and \"%s\"", text, error.message, first, second);
}

static void test_refused_on_a_model(void **state)
{
    (void)state;
    bench_t b = open_bench("qwen3_moe");
    refuse_assign(&b, "bf16; nope=fp8-block", WEFT_ERR_UNKNOWN_NAME, "nope=fp8-block", "no layer");
    refuse_assign(&b, "bf16; *=fp8-block; layers.3.*=bf16", WEFT_ERR_UNKNOWN_NAME, "layers.3.*", "no layer");
    refuse_assign(&b, "bf16; ayers.1.*=fp8-block", WEFT_ERR_UNKNOWN_NAME, "ayers.1.*", "no layer");
    refuse_assign(&b, "bf16; lm_head=fp8-block", WEFT_ERR_MISFIT, "lm_head=fp8-block", "never quantized");
    refuse_assign(&b, "bf16; *.mlp.gate=fp8-block", WEFT_ERR_MISFIT, "model.layers.0.mlp.gate", "never quantized");
    refuse_assign(&b, "bf16; *norm*=fp8-block", WEFT_ERR_MISFIT, "norm", "never quantized");
    refuse_assign(&b, "bf16; *.q_proj=fp8-block", WEFT_ERR_MISFIT, "layers.0.self_attn.q_proj.weight is fp8-block (*.q_proj)",
                  "layers.0.self_attn.k_proj.weight is bf16 (the default)");
    refuse_assign(&b, "bf16; *=fp8-block; *.v_proj=fp8-block:vllm", WEFT_ERR_MISFIT, "(*)", "(*.v_proj)");
    refuse_assign(&b, "bf16; *.experts.3.*=fp8-block", WEFT_ERR_MISFIT, "experts.w13", "experts.3.");
    refuse_assign(&b, "bf16; *.up_proj=fp8-block", WEFT_ERR_MISFIT, "gate_proj", "up_proj");
    refuse_assign(&b, "bf16; *.q_proj=fp32", WEFT_ERR_MISFIT, "layers.0.self_attn.q_proj.weight is fp32 (*.q_proj)",
                  "layers.0.self_attn.k_proj.weight is bf16 (the default)");
    close_bench(&b);
    bench_t biased = open_bench("qwen2");
    refuse_assign(&biased, "fp8-block; *.k_proj.bias=fp16", WEFT_ERR_MISFIT, "q_proj.bias is fp8-block (the default)", "k_proj.bias is fp16");
    assert_int_equal(entry_of(&biased, "fp8-block; *.k_proj.bias=bf16", QKV), 0); /* as it is anyway */
    refuse_assign(&biased, "bf16; *.bias=fp8-block", WEFT_ERR_MISFIT, "qkv_proj.bias", "never quantized");
    refuse_assign(&biased, "bf16; *.experts.*=nvfp4", WEFT_ERR_UNKNOWN_NAME, "*.experts.*", "no layer");
    close_bench(&biased);
}

/* What a glob matches besides and cannot change stays as it is, and what can be bf16 already may be called so. */
static void test_harmless_entries(void **state)
{
    (void)state;
    bench_t b = open_bench("qwen3_moe");
    assert_int_equal(entry_of(&b, "fp8-block; lm_head=bf16; *norm*=bf16; *.mlp.gate=bf16; *.q_norm=bf16", QKV), 0);
    assert_int_equal(entry_of(&b, "bf16; layers.1.*=fp8-block", QKV), 1);
    assert_int_equal(entry_of(&b, "bf16; layers.1.*=fp8-block; *=mxfp8", QKV), 2); /* matches, though it decides nothing */
    close_bench(&b);
}

/* ---- plans ---- */

static bool same_plan(const char *a, const char *b)
{
    bench_t bench = open_bench("qwen3_moe");
    const checkpoint_t *cp = &bench.cp;
    world_t *x = world_create(cp, "fsdp:2", "tp:2", a, NULL), *y = world_create(cp, "fsdp:2", "tp:2", b, NULL);
    weft_digest_t of_x = weft_plan_hash(x->plan), of_y = weft_plan_hash(y->plan);
    bool agree = weft_scheme_maps_agree(&x->plan->map, x->plan->layer_entry, &y->plan->map, y->plan->layer_entry, x->plan->layers);
    bool same = memcmp(&of_x, &of_y, sizeof of_x) == 0;
    world_destroy(x);
    world_destroy(y);
    close_bench(&bench);
    assert_int_equal(agree, same);
    return same;
}

static void test_hash_is_of_what_layers_get(void **state)
{
    (void)state;
    assert_true(same_plan("fp8-block; layers.1.*=bf16", "fp8-block;model.layers.1.*=bf16; lm_head=bf16"));
    assert_true(same_plan("fp8-block; *.q_proj=fp8-block:ieee", "fp8-block"));
    assert_false(same_plan("fp8-block; layers.1.*=bf16", "fp8-block; layers.2.*=bf16"));
    assert_false(same_plan("fp8-block; layers.1.*=bf16", "fp8-block"));
    assert_false(same_plan("fp8-block; *.experts.*=nvfp4", "fp8-block; *.experts.*=nvfp4:modelopt"));
    assert_false(same_plan("fp8-block; *.experts.*=int4-group-32", "fp8-block; *.experts.*=int4-group-64"));
    assert_false(same_plan("fp8-block; *=fp8-channel", "fp8-channel"));
    assert_false(same_plan("fp16", "bf16"));
    assert_false(same_plan("fp16", "fp32"));
    assert_false(same_plan("fp8-block; lm_head=fp32", "fp8-block"));
    assert_false(same_plan("fp8-block; lm_head=fp32", "fp8-block; lm_head=fp16"));
    assert_false(same_plan("fp8-block; layers.1.*norm*=fp32", "fp8-block; layers.2.*norm*=fp32"));
    assert_true(same_plan("fp16; lm_head=fp16", "fp16"));
}

static void assert_output(const world_t *w, const char *map, const char *name, weft_dtype_t dtype)
{
    for (uint32_t o = 0; o < w->outputs[1].count; o++)
        if (strcmp(w->outputs[1].items[o].name, name) == 0) {
            if (w->outputs[1].items[o].dtype != dtype)
                fail_msg("%s: %s is %s", map, name, weft_dtype_name(w->outputs[1].items[o].dtype));
            return;
        }
    fail_msg("%s: no output %s", map, name);
}

/* Casts are for every layer, and what no entry casts follows the default if that is one. */
static void test_casts(void **state)
{
    (void)state;
    static const struct {
        const char *map;
        weft_dtype_t source, norm0, qkv0, norm1, qkv1, head;
    } cases[] = {
#define D(name) WEFT_DTYPE_##name
        {"fp16", D(BF16), D(F16), D(F16), D(F16), D(F16), D(F16)},
        {"fp32", D(F16), D(F32), D(F32), D(F32), D(F32), D(F32)},
        {"bf16", D(F16), D(BF16), D(BF16), D(BF16), D(BF16), D(BF16)},
        {"fp8-block; layers.0.*=fp16; lm_head=fp32", D(BF16), D(F16), D(F16), D(BF16), D(F8_E4M3), D(F32)},
        {"fp8-block; layers.0.*=bf16; lm_head=fp32", D(F16), D(F16), D(F16), D(F16), D(F8_E4M3), D(F32)},
        {"fp16; layers.1.*=fp8-block; lm_head=bf16", D(BF16), D(F16), D(F16), D(F16), D(F8_E4M3), D(BF16)},
        {"fp16; layers.1.*=bf16", D(F16), D(F16), D(F16), D(BF16), D(BF16), D(F16)},
        {"fp8-block; layers.*=fp16; layers.1.*_proj=fp8-block", D(F32), D(F16), D(F16), D(F16), D(F8_E4M3), D(BF16)},
#undef D
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench_t b = open_bench("qwen3");
        b.cp.dtype = cases[i].source;
        checkpoint_describe(&b.cp);
        world_t *w = world_create(&b.cp, "fsdp:2", "tp:2", cases[i].map, NULL);
        const struct {
            const char *name;
            weft_dtype_t dtype;
        } expected[] = {
            {"model.layers.0.input_layernorm.weight", cases[i].norm0}, {"model.layers.0.self_attn.qkv_proj.weight", cases[i].qkv0},
            {"model.layers.1.input_layernorm.weight", cases[i].norm1}, {"model.layers.1.self_attn.qkv_proj.weight", cases[i].qkv1},
            {"lm_head.weight", cases[i].head},
        };
        for (size_t e = 0; e < sizeof expected / sizeof *expected; e++)
            assert_output(w, cases[i].map, expected[e].name, expected[e].dtype);
        world_destroy(w);
        close_bench(&b);
    }
}

/* Each layer has the outputs of its own scheme, and fp16 stays where the default quantizes. */
static void test_outputs_of_a_mixed_plan(void **state)
{
    (void)state;
    bench_t b = open_bench("qwen3_moe");
    b.cp.dtype = WEFT_DTYPE_F16;
    checkpoint_describe(&b.cp);
    world_t *w = world_create(&b.cp, "fsdp:2", "tp:2", "fp8-block; *.experts.*=nvfp4; *.w2=int8-channel; layers.1.*=bf16", NULL);
    const struct {
        const char *name;
        weft_dtype_t dtype;
    } expected[] = {
        {"model.layers.0.self_attn.qkv_proj.weight", WEFT_DTYPE_F8_E4M3},
        {"model.layers.0.self_attn.qkv_proj.weight_scale_inv", WEFT_DTYPE_F32},
        {"model.layers.0.mlp.experts.w13_weight", WEFT_DTYPE_U8},
        {"model.layers.0.mlp.experts.w13_weight_scale", WEFT_DTYPE_F8_E4M3},
        {"model.layers.0.mlp.experts.w13_weight_scale_2", WEFT_DTYPE_F32},
        {"model.layers.0.mlp.experts.w2_weight", WEFT_DTYPE_I8},
        {"model.layers.0.mlp.experts.w2_weight_scale", WEFT_DTYPE_F32},
        {"model.layers.1.self_attn.qkv_proj.weight", WEFT_DTYPE_F16},
        {"model.layers.1.mlp.experts.w13_weight", WEFT_DTYPE_F16},
        {"lm_head.weight", WEFT_DTYPE_F16},
    };
    for (unsigned i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_output(w, "the map", expected[i].name, expected[i].dtype);
    assert_string_equal(weft_plan_scheme(w->plan), "fp8-block; *.experts.*=nvfp4; *.w2=int8-channel:ieee; layers.1.*=bf16");
    assert_string_equal(weft_plan_profile(w->plan), "ieee");
    world_destroy(w);
    close_bench(&b);
}

/* The layout is judged by each layer's own scheme. */
static void test_misfit_names_the_scheme(void **state)
{
    (void)state;
    bench_t b = open_bench("qwen3_moe");
    weft_error_t error;
    b.cp.expert_mlp = 192; /* two ranks would cut a block of 128 */
    checkpoint_describe(&b.cp);
    world_t *w = world_try(&b.cp, "fsdp:2", "tp:2", "fp8-channel; *.experts.*=fp8-block; layers.0.*=bf16", NULL, &error);
    assert_null(w);
    assert_non_null(strstr(error.message, "tp:2 with fp8-block does not fit: layer model.layers.1.mlp.experts.w13"));
    assert_non_null(strstr(error.message, "fp8-channel instead of fp8-block"));
    w = world_try(&b.cp, "fsdp:2", "tp:2", "fp8-block; *.experts.*=fp8-channel", NULL, &error);
    assert_non_null(w);
    world_destroy(w);
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_scheme_is_a_map),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_text_reads_back),
        cmocka_unit_test(test_profile_for_all),
        cmocka_unit_test(test_bad_maps),
        cmocka_unit_test(test_profile_that_nothing_has),
        cmocka_unit_test(test_names_that_match),
        cmocka_unit_test(test_last_match_decides),
        cmocka_unit_test(test_names_of_tensors),
        cmocka_unit_test(test_refused_on_a_model),
        cmocka_unit_test(test_harmless_entries),
        cmocka_unit_test(test_hash_is_of_what_layers_get),
        cmocka_unit_test(test_casts),
        cmocka_unit_test(test_outputs_of_a_mixed_plan),
        cmocka_unit_test(test_misfit_names_the_scheme),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
