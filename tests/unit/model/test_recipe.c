#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/base/text.h"
#include "src/model/layer.h"

#define DEMO(name) WEFT_SOURCE_DIR "/launch/demo/" name

static weft_model_t *open_model(const char *path)
{
    weft_model_t *model = NULL;
    weft_error_t error;
    if (weft_model_open(path, &model, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return model;
}

static weft_layers_t *make_layers(const weft_model_t *model)
{
    weft_layers_t *layers = NULL;
    weft_error_t error;
    if (weft_layers_create(model, &layers, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return layers;
}

/* One line a layer, with every field, so that a list of layers can be compared as text. */
static void describe(const weft_model_t *model, const weft_layer_t *layer, weft_text_t *text)
{
    static const char *const splits[] = {"none", "rows", "cols", "heads", "kv_heads", "vocab", "first"};
    char name[WEFT_LAYER_NAME_BYTES];
    weft_text_add(text, "%s%s%s %s", weft_layer_full_name(layer, name), layer->quantize ? " quantized" : "",
                  layer->keep_f32 ? " kept" : "", weft_dtype_name(layer->dtype));
    if (layer->num_experts)
        weft_text_add(text, " x%u", layer->num_experts);
    for (uint32_t i = 0; i < layer->num_parts; i++) {
        const weft_part_t *part = &layer->parts[i];
        weft_text_add(text, " | %s %s %lux%lu%s", part->role, splits[part->split], (unsigned long)part->rows,
                      (unsigned long)part->cols, part->vector ? " vector" : "");
        if (part->head_rows)
            weft_text_add(text, " /%lu", (unsigned long)part->head_rows);
        if (part->slab_n != part->rows)
            weft_text_add(text, " at %lu of %lu", (unsigned long)part->first_row,
                          (unsigned long)part->slab_n);
        weft_text_add(text, "%s%s", part->stacked ? " stacked" : "", part->transposed ? " transposed" : "");
    }
    uint32_t count = (layer->num_experts ? layer->num_experts : 1) * layer->num_parts;
    weft_text_add(text, " < %s", weft_model_tensor(model, layer->tensors[count - 1])->name);
    weft_text_add(text, "\n");
}

static void expect_layers(const weft_model_t *model, const weft_layers_t *layers, uint32_t first,
                          uint32_t count, const char *expected)
{
    weft_text_t text = {0};
    assert_true(first + count <= layers->count);
    for (uint32_t i = first; i < first + count; i++)
        describe(model, &layers->items[i], &text);
    assert_string_equal(text.data, expected);
    weft_text_free(&text);
}

#define EMBEDDING "model.embed_tokens.weight BF16 | embed_tokens vocab 256x256 < model.embed_tokens.weight\n"
#define LAST(head)                                                                                           \
    "model.norm.weight BF16 | norm none 1x256 vector < model.norm.weight\n"                                  \
    "lm_head.weight BF16 | " head ".weight\n"
#define NORM(block, name)                                                                                    \
    "model.layers." block "." name "_layernorm.weight BF16 | " name                                          \
    "_layernorm none 1x256 vector < model.layers." block "." name "_layernorm.weight\n"
#define QKV(block)                                                                                           \
    "model.layers." block ".self_attn.qkv_proj.weight quantized BF16 | q_proj heads 512x256 /128"            \
    " | k_proj kv_heads 256x256 /128 | v_proj kv_heads 256x256 /128 < model.layers." block                   \
    ".self_attn.v_proj.weight\n"
#define HEAD_NORM(block, name)                                                                               \
    "model.layers." block ".self_attn." name ".weight BF16 | " name                                          \
    " none 1x128 vector < model.layers." block ".self_attn." name ".weight\n"
#define O(block)                                                                                             \
    "model.layers." block                                                                                    \
    ".self_attn.o_proj.weight quantized BF16 | o_proj cols 256x512 < model.layers." block                    \
    ".self_attn.o_proj.weight\n"
#define MLP(block)                                                                                           \
    "model.layers." block ".mlp.gate_up_proj.weight quantized BF16 | gate_proj rows 1024x256"                \
    " | up_proj rows 1024x256 < model.layers." block ".mlp.up_proj.weight\n"                                 \
    "model.layers." block                                                                                    \
    ".mlp.down_proj.weight quantized BF16 | down_proj cols 256x1024 < model.layers." block                   \
    ".mlp.down_proj.weight\n"
#define EXPERTS(block)                                                                                       \
    "model.layers." block ".mlp.gate.weight BF16 | gate none 8x256 < model.layers." block                    \
    ".mlp.gate.weight\n"                                                                                     \
    "model.layers." block ".mlp.experts.w13_weight quantized BF16 x8 | gate_proj rows 256x256"               \
    " | up_proj rows 256x256 < model.layers." block ".mlp.experts.7.up_proj.weight\n"                        \
    "model.layers." block ".mlp.experts.w2_weight quantized BF16 x8 | down_proj cols 256x256"                \
    " < model.layers." block ".mlp.experts.7.down_proj.weight\n"
#define BLOCK(block, mlp)                                                                                    \
    NORM(block, "input")                                                                                     \
    QKV(block)                                                                                               \
    HEAD_NORM(block, "q_norm") HEAD_NORM(block, "k_norm") O(block) NORM(block, "post_attention") mlp(block)

static void test_layers_of_qwen3(void **state)
{
    (void)state;
    weft_model_t *model = open_model(DEMO("tiny-qwen3/v1"));
    weft_layers_t *layers = make_layers(model);
    assert_int_equal(layers->count, 1 + 5 * 8 + 2);
    assert_int_equal(layers->num_ignored, 0);
    expect_layers(model, layers, 0, layers->count,
                  EMBEDDING BLOCK("0", MLP) BLOCK("1", MLP) BLOCK("2", MLP) BLOCK("3", MLP) BLOCK("4", MLP)
                      LAST("lm_head vocab 256x256 < lm_head"));
    assert_int_equal(layers->items[0].block, -1);
    assert_int_equal(layers->items[1].block, 0);
    assert_int_equal(layers->items[40].block, 4);
    assert_int_equal(layers->items[42].block, -1);
    assert_int_equal(layers->items[2].row, layers->items[10].row);
    assert_int_not_equal(layers->items[2].row, layers->items[3].row);
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void test_layers_of_qwen3_moe(void **state)
{
    (void)state;
    weft_model_t *model = open_model(DEMO("tiny-qwen3-moe/v1"));
    weft_layers_t *layers = make_layers(model);
    assert_int_equal(layers->count, 1 + 3 * 9 + 2);
    expect_layers(model, layers, 0, layers->count,
                  EMBEDDING BLOCK("0", EXPERTS) BLOCK("1", EXPERTS) BLOCK("2", EXPERTS)
                      LAST("lm_head vocab 256x256 < lm_head"));
    const weft_layer_t *w13 = &layers->items[8];
    for (uint32_t expert = 0; expert < 8; expert++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.0.mlp.experts.%u.gate_proj.weight", expert);
        assert_string_equal(weft_model_tensor(model, w13->tensors[2 * expert])->name, name);
        snprintf(name, sizeof name, "model.layers.0.mlp.experts.%u.up_proj.weight", expert);
        assert_string_equal(weft_model_tensor(model, w13->tensors[2 * expert + 1])->name, name);
    }
    weft_layers_destroy(layers);
    weft_layers_destroy(NULL);
    weft_model_close(model);
}

/* A one-block model whose tensors can be left out, added or bent. */
#define CONFIG(type, more)                                                                                   \
    "{\"model_type\":\"" type "\",\"num_hidden_layers\":1,\"hidden_size\":256,\"intermediate_size\":1024,"   \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":128,\"vocab_size\":256" more "}"

typedef struct spec {
    const char *name;
    uint64_t rows, cols; /* rows 0: one dimension */
} spec_t;

#define P "model.layers.0."

static const spec_t llama[] = {
    {"model.embed_tokens.weight", 256, 256},
    {P "input_layernorm.weight", 0, 256},
    {P "self_attn.q_proj.weight", 512, 256},
    {P "self_attn.k_proj.weight", 256, 256},
    {P "self_attn.v_proj.weight", 256, 256},
    {P "self_attn.o_proj.weight", 256, 512},
    {P "post_attention_layernorm.weight", 0, 256},
    {P "mlp.gate_proj.weight", 1024, 256},
    {P "mlp.up_proj.weight", 1024, 256},
    {P "mlp.down_proj.weight", 256, 1024},
    {"model.norm.weight", 0, 256},
    {"lm_head.weight", 256, 256},
};

#define NUM_LLAMA (sizeof llama / sizeof llama[0])

static void add(weft_model_t *model, weft_dtype_t dtype, const spec_t *spec)
{
    const uint64_t shape[2] = {spec->rows ? spec->rows : spec->cols, spec->cols};
    assert_int_equal(weft_model_add(model, spec->name, dtype, shape, spec->rows ? 2 : 1, NULL), WEFT_OK);
}

/* The Llama model, without the tensor `left_out` (NULL: whole). */
static weft_model_t *build(const char *config, const char *left_out)
{
    weft_model_t *model = NULL;
    assert_int_equal(weft_model_create(config, &model, NULL), WEFT_OK);
    for (size_t i = 0; i < NUM_LLAMA; i++) {
        if (!left_out || strcmp(left_out, llama[i].name) != 0)
            add(model, WEFT_DTYPE_BF16, &llama[i]);
    }
    return model;
}

/* Closes the model. */
static void expect_refused(weft_model_t *model, weft_status_t status, const char *message)
{
    weft_layers_t *layers = NULL;
    weft_error_t error = {0};
    assert_int_equal(weft_layers_create(model, &layers, &error), status);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, message))
        fail_msg("'%s' is not in '%s'", message, error.message);
    assert_null(layers);
    assert_int_equal(weft_layers_create(model, &layers, NULL), status);
    weft_model_close(model);
}

static void test_layers_of_a_built_llama(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("llama", ""), NULL);
    weft_layers_t *layers = make_layers(model);
    expect_layers(model, layers, 0, layers->count,
                  EMBEDDING NORM("0", "input") QKV("0") O("0") NORM("0", "post_attention") MLP("0")
                      LAST("lm_head vocab 256x256 < lm_head"));
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void test_layers_of_a_built_mistral(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("mistral", ",\"sliding_window\":4096"), NULL);
    weft_layers_t *layers = make_layers(model);
    expect_layers(model, layers, 0, layers->count,
                  EMBEDDING NORM("0", "input") QKV("0") O("0") NORM("0", "post_attention") MLP("0")
                      LAST("lm_head vocab 256x256 < lm_head"));
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void add_attention_biases(weft_model_t *model)
{
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.q_proj.bias", 0, 512});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.k_proj.bias", 0, 256});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.v_proj.bias", 0, 256});
}

#define QKV_BIAS                                                                                             \
    "model.layers.0.self_attn.qkv_proj.bias BF16 | q_proj heads 1x512 vector /128 | k_proj kv_heads "        \
    "1x256 vector /128 | v_proj kv_heads 1x256 vector /128 < model.layers.0.self_attn.v_proj.bias\n"

/* No field of the configuration says that q, k and v have biases. */
static void test_layers_of_a_built_qwen2(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("qwen2", ""), NULL);
    add_attention_biases(model);
    weft_layers_t *layers = make_layers(model);
    expect_layers(model, layers, 0, layers->count,
                  EMBEDDING NORM("0", "input") QKV("0") QKV_BIAS O("0") NORM("0", "post_attention") MLP("0")
                      LAST("lm_head vocab 256x256 < lm_head"));
    weft_layers_destroy(layers);
    weft_model_close(model);
    expect_refused(build(CONFIG("qwen2", ""), NULL), WEFT_ERR_MISSING_TENSOR,
                   "'model.layers.0.self_attn.q_proj.bias'");
    model = build(CONFIG("qwen2", ""), NULL);
    add_attention_biases(model);
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.o_proj.bias", 0, 256});
    expect_refused(model, WEFT_ERR_UNKNOWN_NAME, "o_proj.bias");
}

static void test_layers_of_a_built_mixtral(void **state)
{
    (void)state;
    weft_model_t *model = NULL;
    assert_int_equal(weft_model_create(CONFIG("mixtral", ",\"num_local_experts\":2"), &model, NULL), WEFT_OK);
    for (size_t i = 0; i < NUM_LLAMA; i++)
        if (!strstr(llama[i].name, ".mlp."))
            add(model, WEFT_DTYPE_BF16, &llama[i]);
    static const spec_t experts[] = {
        {P "block_sparse_moe.gate.weight", 2, 256},
        {P "block_sparse_moe.experts.0.w1.weight", 1024, 256},
        {P "block_sparse_moe.experts.0.w2.weight", 256, 1024},
        {P "block_sparse_moe.experts.0.w3.weight", 1024, 256},
        {P "block_sparse_moe.experts.1.w1.weight", 1024, 256},
        {P "block_sparse_moe.experts.1.w2.weight", 256, 1024},
        {P "block_sparse_moe.experts.1.w3.weight", 1024, 256},
    };
    for (size_t i = 0; i < sizeof experts / sizeof experts[0]; i++)
        add(model, WEFT_DTYPE_BF16, &experts[i]);
    weft_layers_t *layers = make_layers(model);
    expect_layers(
        model, layers, 0, layers->count,
        EMBEDDING NORM("0", "input") QKV("0") O("0") NORM(
            "0", "post_attention") "model.layers.0.block_sparse_moe.gate.weight BF16 | gate none 2x256 < "
                                   "model.layers.0.block_sparse_moe.gate.weight\n"
                                   "model.layers.0.block_sparse_moe.experts.w13_weight quantized BF16 x2 | "
                                   "w1 rows 1024x256 | w3 rows "
                                   "1024x256 < model.layers.0.block_sparse_moe.experts.1.w3.weight\n"
                                   "model.layers.0.block_sparse_moe.experts.w2_weight quantized BF16 x2 | w2 "
                                   "cols 256x1024 < "
                                   "model.layers.0.block_sparse_moe.experts.1.w2.weight\n" LAST(
                                       "lm_head vocab 256x256 < lm_head"));
    weft_layers_destroy(layers);
    weft_model_close(model);
    model = NULL;
    assert_int_equal(weft_model_create(CONFIG("mixtral", ""), &model, NULL), WEFT_OK);
    expect_refused(model, WEFT_ERR_FILE, "num_local_experts");
}

/* ---- Tensors that hold several matrices ---- */

static void add3(weft_model_t *model, const char *name, uint64_t a, uint64_t b, uint64_t c)
{
    const uint64_t shape[3] = {a, b, c};
    assert_int_equal(weft_model_add(model, name, WEFT_DTYPE_BF16, shape, 3, NULL), WEFT_OK);
}

static weft_model_t *build_without_mlp(const char *config)
{
    weft_model_t *model = NULL;
    assert_int_equal(weft_model_create(config, &model, NULL), WEFT_OK);
    for (size_t i = 0; i < NUM_LLAMA; i++)
        if (!strstr(llama[i].name, ".mlp."))
            add(model, WEFT_DTYPE_BF16, &llama[i]);
    return model;
}

#define STACKED_MOE CONFIG("qwen3_moe", ",\"moe_intermediate_size\":64,\"num_experts\":2")

/* As transformers 5 holds them in memory. */
static void test_experts_in_one_tensor(void **state)
{
    (void)state;
    weft_model_t *model = build_without_mlp(STACKED_MOE);
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.q_norm.weight", 0, 128});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.k_norm.weight", 0, 128});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.gate.weight", 2, 256});
    add3(model, P "mlp.experts.gate_up_proj", 2, 128, 256);
    add3(model, P "mlp.experts.down_proj", 2, 256, 64);
    weft_layers_t *layers = make_layers(model);
    expect_layers(model, layers, 8, 2,
                  P
                  "mlp.experts.w13_weight quantized BF16 x2 | gate_up_proj rows 64x256 at 0 of 128 stacked | "
                  "gate_up_proj rows 64x256 at 64 of 128 stacked < " P "mlp.experts.gate_up_proj\n" P
                  "mlp.experts.w2_weight quantized BF16 x2 | down_proj cols 256x64 stacked < " P
                  "mlp.experts.down_proj\n");
    weft_layers_destroy(layers);
    weft_model_close(model);
    model = build_without_mlp(STACKED_MOE);
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.q_norm.weight", 0, 128});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.k_norm.weight", 0, 128});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.gate.weight", 2, 256});
    add3(model, P "mlp.experts.gate_up_proj", 2, 256, 128);
    expect_refused(model, WEFT_ERR_SHAPE, "has shape [2, 256, 128], expected [2, 128, 256]");
}

static void add_gpt_oss(weft_model_t *model)
{
    static const spec_t more[] = {
        {P "self_attn.q_proj.bias", 0, 512},
        {P "self_attn.k_proj.bias", 0, 256},
        {P "self_attn.v_proj.bias", 0, 256},
        {P "self_attn.o_proj.bias", 0, 256},
        {P "self_attn.sinks", 0, 4},
        {P "mlp.router.weight", 3, 256},
        {P "mlp.router.bias", 0, 3},
        {P "mlp.experts.gate_up_proj_bias", 3, 2048},
        {P "mlp.experts.down_proj_bias", 3, 256},
    };
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
        add(model, WEFT_DTYPE_BF16, &more[i]);
    add3(model, P "mlp.experts.gate_up_proj", 3, 256, 2048);
    add3(model, P "mlp.experts.down_proj", 3, 1024, 256);
}

static void test_layers_of_a_built_gpt_oss(void **state)
{
    (void)state;
    weft_model_t *model = build_without_mlp(CONFIG("gpt_oss", ",\"num_local_experts\":3"));
    add_gpt_oss(model);
    weft_layers_t *layers = make_layers(model);
    expect_layers(
        model, layers, 3, 10,
        P "attn.qkv_proj.bias BF16 | q_proj heads 1x512 vector /128 | k_proj kv_heads 1x256 vector /128 | "
          "v_proj kv_heads 1x256 vector /128 < " P "self_attn.v_proj.bias\n" P
          "attn.sinks BF16 | sinks heads 1x4 vector /1 < " P "self_attn.sinks\n" P
          "attn.o_proj.weight quantized BF16 | o_proj cols 256x512 < " P "self_attn.o_proj.weight\n" P
          "attn.o_proj.bias BF16 | o_proj none 1x256 vector < " P
          "self_attn.o_proj.bias\n" NORM("0", "post_attention") P
        "mlp.router.weight BF16 | router none 3x256 < " P "mlp.router.weight\n" P
        "mlp.router.bias BF16 | router none 1x3 vector < " P "mlp.router.bias\n" P
        "mlp.experts.w13_weight quantized BF16 x3 | gate_up_proj rows 2048x256 /2 stacked transposed < " P
        "mlp.experts.gate_up_proj\n" P
        "mlp.experts.w13_bias BF16 x3 | gate_up_proj_bias rows 1x2048 vector /2 stacked < " P
        "mlp.experts.gate_up_proj_bias\n" P
        "mlp.experts.w2_weight quantized BF16 x3 | down_proj cols 256x1024 stacked transposed < " P
        "mlp.experts.down_proj\n");
    expect_layers(model, layers, 13, 1,
                  P "mlp.experts.w2_bias BF16 x3 | down_proj_bias first 1x256 vector stacked < " P
                    "mlp.experts.down_proj_bias\n");
    weft_layers_destroy(layers);
    weft_model_close(model);
}

/* ---- Multi-head latent attention ---- */

#define LATENT(more)                                                                                         \
    "{\"model_type\":\"deepseek_v3\",\"num_hidden_layers\":1,\"hidden_size\":256,\"intermediate_size\":"     \
    "1024,"                                                                                                  \
    "\"num_attention_heads\":4,\"q_lora_rank\":96,\"kv_lora_rank\":64,\"qk_nope_head_dim\":48,"              \
    "\"qk_rope_head_dim\":16,\"v_head_dim\":32,\"n_routed_experts\":2,\"n_shared_experts\":3,"               \
    "\"moe_intermediate_size\":64,\"vocab_size\":256" more "}"

static weft_model_t *build_latent(const char *config)
{
    static const spec_t tensors[] = {
        {"model.embed_tokens.weight", 256, 256},
        {P "input_layernorm.weight", 0, 256},
        {P "self_attn.q_a_proj.weight", 96, 256},
        {P "self_attn.q_a_layernorm.weight", 0, 96},
        {P "self_attn.q_b_proj.weight", 4 * (48 + 16), 96},
        {P "self_attn.kv_a_proj_with_mqa.weight", 64 + 16, 256},
        {P "self_attn.kv_a_layernorm.weight", 0, 64},
        {P "self_attn.kv_b_proj.weight", 4 * (48 + 32), 64},
        {P "self_attn.o_proj.weight", 256, 4 * 32},
        {P "post_attention_layernorm.weight", 0, 256},
        {"model.norm.weight", 0, 256},
        {"lm_head.weight", 256, 256},
    };
    weft_model_t *model = NULL;
    assert_int_equal(weft_model_create(config, &model, NULL), WEFT_OK);
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        add(model, WEFT_DTYPE_BF16, &tensors[i]);
    return model;
}

static void add_latent_experts(weft_model_t *model)
{
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.gate.weight", 2, 256});
    add(model, WEFT_DTYPE_F32, &(spec_t){P "mlp.gate.e_score_correction_bias", 0, 2});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.shared_experts.gate_proj.weight", 192, 256});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.shared_experts.up_proj.weight", 192, 256});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.shared_experts.down_proj.weight", 256, 192});
    for (int e = 0; e < 2; e++) {
        static const char *const names[] = {"gate_proj", "up_proj", "down_proj"};
        for (int i = 0; i < 3; i++) {
            char name[80];
            snprintf(name, sizeof name, P "mlp.experts.%d.%s.weight", e, names[i]);
            add(model, WEFT_DTYPE_BF16, &(spec_t){name, i == 2 ? 256 : 64, i == 2 ? 64 : 256});
        }
    }
}

#define LATENT_ATTENTION                                                                                     \
    P "self_attn.fused_qkv_a_proj.weight quantized BF16 | q_a_proj none 96x256 | kv_a_proj_with_mqa none "   \
      "80x256 < " P "self_attn.kv_a_proj_with_mqa.weight\n" P                                                \
      "self_attn.q_a_layernorm.weight BF16 | q_a_layernorm none 1x96 vector < " P                            \
      "self_attn.q_a_layernorm.weight\n" P                                                                   \
      "self_attn.q_b_proj.weight quantized BF16 | q_b_proj heads 256x96 /64 < " P                            \
      "self_attn.q_b_proj.weight\n" P                                                                        \
      "self_attn.kv_a_layernorm.weight BF16 | kv_a_layernorm none 1x64 vector < " P                          \
      "self_attn.kv_a_layernorm.weight\n" P                                                                  \
      "self_attn.kv_b_proj.weight BF16 | kv_b_proj heads 320x64 /80 < " P "self_attn.kv_b_proj.weight\n" P   \
      "self_attn.o_proj.weight quantized BF16 | o_proj cols 256x128 < " P "self_attn.o_proj.weight\n"

static void test_layers_of_a_built_deepseek(void **state)
{
    (void)state;
    weft_model_t *model = build_latent(LATENT(""));
    add_latent_experts(model);
    weft_layers_t *layers = make_layers(model);
    expect_layers(
        model, layers, 0, layers->count,
        EMBEDDING NORM("0", "input") LATENT_ATTENTION NORM("0", "post_attention") P
        "mlp.gate.weight BF16 | gate none 2x256 < " P "mlp.gate.weight\n" P
        "mlp.gate.e_score_correction_bias kept F32 | gate none 1x2 vector < " P
        "mlp.gate.e_score_correction_bias\n" P "mlp.shared_experts.gate_up_proj.weight quantized BF16 | "
                                               "gate_proj rows 192x256 | up_proj rows 192x256 < " P
        "mlp.shared_experts.up_proj.weight\n" P
        "mlp.shared_experts.down_proj.weight quantized BF16 | down_proj cols 256x192 < " P
        "mlp.shared_experts.down_proj.weight\n" P
        "mlp.experts.w13_weight quantized BF16 x2 | gate_proj rows 64x256 | up_proj rows 64x256 < " P
        "mlp.experts.1.up_proj.weight\n" P
        "mlp.experts.w2_weight quantized BF16 x2 | down_proj cols 256x64 < " P
        "mlp.experts.1.down_proj.weight\n" LAST("lm_head vocab 256x256 < lm_head"));
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void test_dense_blocks_come_first(void **state)
{
    (void)state;
    weft_model_t *model = build_latent(LATENT(",\"first_k_dense_replace\":1"));
    for (size_t i = 0; i < NUM_LLAMA; i++)
        if (strstr(llama[i].name, ".mlp."))
            add(model, WEFT_DTYPE_BF16, &llama[i]);
    weft_layers_t *layers = make_layers(model);
    expect_layers(model, layers, 0, layers->count,
                  EMBEDDING NORM("0", "input") LATENT_ATTENTION NORM("0", "post_attention") MLP("0")
                      LAST("lm_head vocab 256x256 < lm_head"));
    weft_layers_destroy(layers);
    weft_model_close(model);
}

/* Only as many blocks behind the last as the configuration says. */
static void test_predicting_blocks_are_ignored(void **state)
{
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        weft_model_t *model = build_latent(extra ? LATENT(",\"num_nextn_predict_layers\":1") : LATENT(""));
        add_latent_experts(model);
        add(model, WEFT_DTYPE_BF16, &(spec_t){"model.layers.1.enorm.weight", 0, 256});
        if (extra == 0) {
            expect_refused(model, WEFT_ERR_UNKNOWN_NAME, "'model.layers.1.enorm.weight'");
            continue;
        }
        weft_layers_t *layers = make_layers(model);
        assert_int_equal(layers->num_ignored, 1);
        weft_layers_destroy(layers);
        add(model, WEFT_DTYPE_BF16, &(spec_t){"model.layers.2.enorm.weight", 0, 256});
        expect_refused(model, WEFT_ERR_UNKNOWN_NAME, "'model.layers.2.enorm.weight'");
    }
}

static void test_head_dim_defaults_to_hidden_by_heads(void **state)
{
    (void)state;
    weft_model_t *model = NULL;
    assert_int_equal(
        weft_model_create("{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":512,"
                          "\"intermediate_size\":64,\"num_attention_heads\":4,\"vocab_size\":8}",
                          &model, NULL),
        WEFT_OK);
    const spec_t square = {P "self_attn.q_proj.weight", 512, 512};
    add(model, WEFT_DTYPE_F32, &(spec_t){"model.embed_tokens.weight", 8, 512});
    add(model, WEFT_DTYPE_F32, &(spec_t){P "input_layernorm.weight", 0, 512});
    add(model, WEFT_DTYPE_F32, &square);
    /* Without num_key_value_heads there are as many as heads, so k_proj is expected square as well. */
    add(model, WEFT_DTYPE_F32, &(spec_t){P "self_attn.k_proj.weight", 256, 512});
    expect_refused(model, WEFT_ERR_SHAPE, "k_proj.weight' has shape [256, 512], expected [512, 512]");
}

static void test_tied_embeddings_feed_both_outputs(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("llama", ",\"tie_word_embeddings\":true"), "lm_head.weight");
    weft_layers_t *layers = make_layers(model);
    assert_int_equal(layers->num_ignored, 0);
    const weft_layer_t *head = &layers->items[layers->count - 1];
    assert_int_equal(head->tensors[0], layers->items[0].tensors[0]);
    expect_layers(model, layers, layers->count - 2, 2,
                  LAST("embed_tokens vocab 256x256 < model.embed_tokens"));
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void test_tied_embeddings_ignore_a_shipped_head(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("llama", ",\"tie_word_embeddings\":true"), NULL);
    weft_layers_t *layers = make_layers(model);
    assert_int_equal(layers->num_ignored, 1);
    assert_int_equal(layers->items[layers->count - 1].tensors[0], layers->items[0].tensors[0]);
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void test_biases_are_layers_when_they_are_there(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("llama", ""), NULL);
    add_attention_biases(model);
    weft_layers_t *layers = make_layers(model);
    assert_int_equal(layers->count, NUM_LLAMA - 3 + 1);
    expect_layers(model, layers, 3, 1, QKV_BIAS);
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void test_biases_are_missed(void **state)
{
    (void)state;
    expect_refused(build(CONFIG("llama", ",\"attention_bias\":true"), NULL), WEFT_ERR_MISSING_TENSOR,
                   "tensor 'model.layers.0.self_attn.q_proj.bias' is not in the checkpoint");
    weft_model_t *model = build(CONFIG("llama", ",\"attention_bias\":true"), NULL);
    add_attention_biases(model);
    expect_refused(model, WEFT_ERR_MISSING_TENSOR, "'model.layers.0.self_attn.o_proj.bias'");
    model = build(CONFIG("llama", ""), NULL);
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.k_proj.bias", 0, 256});
    expect_refused(model, WEFT_ERR_MISSING_TENSOR, "'model.layers.0.self_attn.q_proj.bias'");
}

static void test_inverse_frequencies_are_ignored(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("llama", ""), NULL);
    add(model, WEFT_DTYPE_F32, &(spec_t){P "self_attn.rotary_emb.inv_freq", 0, 64});
    weft_layers_t *layers = make_layers(model);
    assert_int_equal(layers->num_ignored, 1);
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void test_every_tensor_is_missed(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_LLAMA; i++)
        expect_refused(build(CONFIG("llama", ""), llama[i].name), WEFT_ERR_MISSING_TENSOR, llama[i].name);
    /* What a Qwen3 has beyond a Llama. */
    expect_refused(build(CONFIG("qwen3", ""), NULL), WEFT_ERR_MISSING_TENSOR,
                   "'model.layers.0.self_attn.q_norm.weight'");
}

static void test_every_shape_is_checked(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_LLAMA; i++) {
        spec_t bent = llama[i];
        bent.cols++;
        weft_model_t *model = build(CONFIG("llama", ""), bent.name);
        add(model, WEFT_DTYPE_BF16, &bent);
        expect_refused(model, WEFT_ERR_SHAPE, bent.name);
    }
    weft_model_t *model = build(CONFIG("llama", ""), P "self_attn.o_proj.weight");
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.o_proj.weight", 512, 256});
    expect_refused(
        model, WEFT_ERR_SHAPE,
        "layer 'model.layers.0.self_attn.o_proj': tensor 'model.layers.0.self_attn.o_proj.weight' has "
        "shape [512, 256], expected [256, 512] by the configuration");
    model = build(CONFIG("llama", ""), "model.norm.weight");
    add(model, WEFT_DTYPE_BF16, &(spec_t){"model.norm.weight", 1, 256});
    expect_refused(model, WEFT_ERR_SHAPE, "has shape [1, 256], expected [256]");
}

static void test_dtypes_are_checked(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("llama", ""), P "self_attn.k_proj.weight");
    add(model, WEFT_DTYPE_F32, &(spec_t){P "self_attn.k_proj.weight", 256, 256});
    expect_refused(model, WEFT_ERR_SHAPE, "k_proj.weight' has dtype F32, expected BF16 as the others have");
    model = build(CONFIG("llama", ""), P "self_attn.o_proj.weight");
    add(model, WEFT_DTYPE_F8_E4M3, &(spec_t){P "self_attn.o_proj.weight", 256, 512});
    expect_refused(model, WEFT_ERR_SHAPE, "has dtype F8_E4M3, expected F32, F16 or BF16");
}

static void test_unknown_tensors_are_named(void **state)
{
    (void)state;
    weft_model_t *model = build(CONFIG("llama", ""), NULL);
    add(model, WEFT_DTYPE_BF16, &(spec_t){"extra.0", 2, 2});
    expect_refused(model, WEFT_ERR_UNKNOWN_NAME,
                   "1 tensor of the checkpoint is not known to the recipe for llama: 'extra.0'");
    model = build(CONFIG("llama", ""), NULL);
    for (int i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "extra.%d", i);
        add(model, WEFT_DTYPE_BF16, &(spec_t){name, 2, 2});
    }
    expect_refused(model, WEFT_ERR_UNKNOWN_NAME,
                   "5 tensors of the checkpoint are not known to the recipe for llama: 'extra.0', 'extra.1', "
                   "'extra.2', ...");
}

static void test_unknown_architectures_list_the_known_ones(void **state)
{
    (void)state;
    expect_refused(
        build(CONFIG("gpt2", ""), NULL), WEFT_ERR_UNKNOWN_NAME,
        "no recipe for model_type 'gpt2'; there are recipes for deepseek_v3, gpt_oss, kimi_k2, llama, "
        "mistral, mixtral, qwen2, qwen3, qwen3_moe");
    expect_refused(build("{}", NULL), WEFT_ERR_UNKNOWN_NAME, "model_type ''");
}

static void test_bad_configurations(void **state)
{
    (void)state;
    expect_refused(build("{\"model_type\":\"llama\"}", NULL), WEFT_ERR_FILE, "no 'num_hidden_layers'");
    expect_refused(build("{\"model_type\":\"llama\",\"num_hidden_layers\":1.5}", NULL), WEFT_ERR_FILE,
                   "'num_hidden_layers' is not an integer");
    /* A thousand million blocks: the second is missed, before anything is sized by the number. */
    expect_refused(build("{\"model_type\":\"llama\",\"num_hidden_layers\":1000000000,\"hidden_size\":256,"
                         "\"intermediate_size\":1024,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                         "\"head_dim\":128,\"vocab_size\":256}",
                         NULL),
                   WEFT_ERR_MISSING_TENSOR, "'model.layers.1.input_layernorm.weight'");
    expect_refused(build("{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":256,"
                         "\"intermediate_size\":1024,\"num_attention_heads\":4,\"num_key_value_heads\":3,"
                         "\"vocab_size\":256}",
                         NULL),
                   WEFT_ERR_FILE, "num_attention_heads 4, expected a multiple of its num_key_value_heads 3");
}

#define MOE(more) CONFIG("qwen3_moe", ",\"moe_intermediate_size\":64" more)

static void add_norms(weft_model_t *model)
{
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.q_norm.weight", 0, 128});
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "self_attn.k_norm.weight", 0, 128});
}

static void test_blocks_without_experts(void **state)
{
    (void)state;
    static const char *const configs[] = {
        MOE(",\"num_experts\":2,\"mlp_only_layers\":[3,0]"),
        MOE(",\"num_experts\":2,\"decoder_sparse_step\":2"),
    };
    for (size_t i = 0; i < 2; i++) {
        weft_model_t *model = build(configs[i], NULL);
        add_norms(model);
        weft_layers_t *layers = make_layers(model);
        expect_layers(model, layers, 0, layers->count,
                      EMBEDDING BLOCK("0", MLP) LAST("lm_head vocab 256x256 < lm_head"));
        weft_layers_destroy(layers);
        weft_model_close(model);
    }
}

static void test_experts_are_counted(void **state)
{
    (void)state;
    static const char *const configs[] = {MOE(",\"num_experts\":2"), MOE(",\"num_local_experts\":2")};
    for (size_t i = 0; i < 2; i++) {
        weft_model_t *model = build(configs[i], NULL);
        add_norms(model);
        add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.gate.weight", 2, 256});
        add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.experts.0.gate_proj.weight", 64, 256});
        add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.experts.0.up_proj.weight", 64, 256});
        expect_refused(model, WEFT_ERR_MISSING_TENSOR, "'model.layers.0.mlp.experts.1.gate_proj.weight'");
    }
    expect_refused(build(MOE(""), NULL), WEFT_ERR_FILE, "no 'num_local_experts'");
    weft_model_t *model = build(MOE(",\"num_experts\":2000000000"), NULL);
    add_norms(model);
    add(model, WEFT_DTYPE_BF16, &(spec_t){P "mlp.gate.weight", 2000000000, 256});
    expect_refused(model, WEFT_ERR_MISSING_TENSOR, "2000000000 experts, the checkpoint only 15 tensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers_of_qwen3),
        cmocka_unit_test(test_layers_of_qwen3_moe),
        cmocka_unit_test(test_layers_of_a_built_llama),
        cmocka_unit_test(test_layers_of_a_built_mistral),
        cmocka_unit_test(test_layers_of_a_built_qwen2),
        cmocka_unit_test(test_layers_of_a_built_mixtral),
        cmocka_unit_test(test_experts_in_one_tensor),
        cmocka_unit_test(test_layers_of_a_built_gpt_oss),
        cmocka_unit_test(test_layers_of_a_built_deepseek),
        cmocka_unit_test(test_dense_blocks_come_first),
        cmocka_unit_test(test_predicting_blocks_are_ignored),
        cmocka_unit_test(test_head_dim_defaults_to_hidden_by_heads),
        cmocka_unit_test(test_tied_embeddings_feed_both_outputs),
        cmocka_unit_test(test_tied_embeddings_ignore_a_shipped_head),
        cmocka_unit_test(test_biases_are_layers_when_they_are_there),
        cmocka_unit_test(test_biases_are_missed),
        cmocka_unit_test(test_inverse_frequencies_are_ignored),
        cmocka_unit_test(test_every_tensor_is_missed),
        cmocka_unit_test(test_every_shape_is_checked),
        cmocka_unit_test(test_dtypes_are_checked),
        cmocka_unit_test(test_unknown_tensors_are_named),
        cmocka_unit_test(test_unknown_architectures_list_the_known_ones),
        cmocka_unit_test(test_bad_configurations),
        cmocka_unit_test(test_blocks_without_experts),
        cmocka_unit_test(test_experts_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
