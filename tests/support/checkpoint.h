/* A checkpoint made up for a test, and what an engine makes of it: which tensors exist, how tensor
 * parallelism slices each, which of them lie below each other in which kernel-format output. Written from the
 * description of the formats, independently of recipes, layers and plans, so that it can judge them.
 *
 *     sources   q_proj  k_proj  v_proj  o_proj ...        (tensors of the checkpoint)
 *                  \      |      /        |
 *     outputs       qkv_proj.weight    o_proj.weight ...  (tensors of the engine)
 */
#ifndef WEFT_TESTS_SUPPORT_CHECKPOINT_H
#define WEFT_TESTS_SUPPORT_CHECKPOINT_H

#include <stdbool.h>

#include "src/plan/plan.h"
#include "tests/support/random.h"

#define MAX_SOURCES 256
#define MAX_OUTPUTS 96

typedef enum slice {
    SLICE_NONE,
    SLICE_ROWS,
    SLICE_COLS,
    SLICE_HEADS,
    SLICE_KV_HEADS,
    SLICE_VOCAB,
} slice_t;

typedef struct source {
    char name[80];
    weft_dtype_t dtype;
    slice_t slice;
    bool vector; /* one dimension, seen as one row */
    uint32_t rows, cols, heads;
    uint32_t block, blocks;   /* of the model; block `blocks`: behind them, UINT32_MAX: before them */
    uint32_t expert, experts; /* experts 0: it is of none */
} source_t;

typedef struct output {
    char name[80];
    bool quantized;
    uint32_t num_experts; /* 0: none */
    uint32_t num_parts;
    uint32_t first_source; /* of [expert][part] */
} output_t;

typedef struct checkpoint {
    const char *type;
    uint32_t hidden, blocks, heads, kv_heads, head_dim, mlp, vocab, experts, expert_mlp;
    uint32_t dense_blocks; /* leading blocks without experts, 0 or 1 */
    bool tied, biased, norms_f32;
    weft_dtype_t dtype;
    source_t sources[MAX_SOURCES];
    uint32_t num_sources;
    output_t outputs[MAX_OUTPUTS];
    uint32_t num_outputs;
} checkpoint_t;

/* ---- The tables ---- */

static inline void begin_output(checkpoint_t *cp, bool quantized, uint32_t experts, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static inline void add_part(checkpoint_t *cp, slice_t slice, uint32_t rows, uint32_t cols, const char *format,
                            ...) __attribute__((format(printf, 5, 6)));

static inline void begin_output(checkpoint_t *cp, bool quantized, uint32_t experts, const char *format, ...)
{
    assert_true(cp->num_outputs < MAX_OUTPUTS);
    output_t *output = &cp->outputs[cp->num_outputs++];
    *output = (output_t){.quantized = quantized, .num_experts = experts, .first_source = cp->num_sources};
    va_list args;
    va_start(args, format);
    vsnprintf(output->name, sizeof output->name, format, args);
    va_end(args);
}

/* Add a tensor to the output begun last; rows 0: a vector. */
static inline void add_part(checkpoint_t *cp, slice_t slice, uint32_t rows, uint32_t cols, const char *format,
                            ...)
{
    assert_true(cp->num_sources < MAX_SOURCES);
    source_t *source = &cp->sources[cp->num_sources++];
    *source = (source_t){.dtype = rows == 0 && cp->norms_f32 ? WEFT_DTYPE_F32 : cp->dtype,
                         .slice = slice,
                         .vector = rows == 0,
                         .rows = rows ? rows : 1,
                         .cols = cols};
    source->heads = slice == SLICE_HEADS ? cp->heads : slice == SLICE_KV_HEADS ? cp->kv_heads : 0;
    cp->outputs[cp->num_outputs - 1].num_parts++;
    va_list args;
    va_start(args, format);
    vsnprintf(source->name, sizeof source->name, format, args);
    va_end(args);
    source->blocks = cp->blocks;
    if (sscanf(source->name, "model.layers.%u.", &source->block) != 1)
        source->block = strncmp(source->name, "model.embed", 11) == 0 ? UINT32_MAX : cp->blocks;
    const char *expert = strstr(source->name, ".experts.");
    if (expert && sscanf(expert, ".experts.%u.", &source->expert) == 1)
        source->experts = cp->experts;
}

static inline void add_norm(checkpoint_t *cp, uint32_t block, const char *name, uint32_t cols)
{
    begin_output(cp, false, 0, "model.layers.%u.%s.weight", block, name);
    add_part(cp, SLICE_NONE, 0, cols, "model.layers.%u.%s.weight", block, name);
}

static inline void add_qkv(checkpoint_t *cp, uint32_t b, bool bias)
{
    const char *leaf = bias ? "bias" : "weight";
    uint32_t q = cp->heads * cp->head_dim, kv = cp->kv_heads * cp->head_dim;
    begin_output(cp, !bias, 0, "model.layers.%u.self_attn.qkv_proj.%s", b, leaf);
    add_part(cp, SLICE_HEADS, bias ? 0 : q, bias ? q : cp->hidden, "model.layers.%u.self_attn.q_proj.%s", b,
             leaf);
    add_part(cp, SLICE_KV_HEADS, bias ? 0 : kv, bias ? kv : cp->hidden, "model.layers.%u.self_attn.k_proj.%s",
             b, leaf);
    add_part(cp, SLICE_KV_HEADS, bias ? 0 : kv, bias ? kv : cp->hidden, "model.layers.%u.self_attn.v_proj.%s",
             b, leaf);
}

static inline bool is_type(const checkpoint_t *cp, const char *type)
{
    return strcmp(cp->type, type) == 0;
}

static inline void add_attention(checkpoint_t *cp, uint32_t b)
{
    add_norm(cp, b, "input_layernorm", cp->hidden);
    add_qkv(cp, b, false);
    if (cp->biased || is_type(cp, "qwen2"))
        add_qkv(cp, b, true);
    if (strncmp(cp->type, "qwen3", 5) == 0) {
        add_norm(cp, b, "self_attn.q_norm", cp->head_dim);
        add_norm(cp, b, "self_attn.k_norm", cp->head_dim);
    }
    begin_output(cp, true, 0, "model.layers.%u.self_attn.o_proj.weight", b);
    add_part(cp, SLICE_COLS, cp->hidden, cp->heads * cp->head_dim, "model.layers.%u.self_attn.o_proj.weight",
             b);
    if (cp->biased) {
        begin_output(cp, false, 0, "model.layers.%u.self_attn.o_proj.bias", b);
        add_part(cp, SLICE_NONE, 0, cp->hidden, "model.layers.%u.self_attn.o_proj.bias", b);
    }
    add_norm(cp, b, "post_attention_layernorm", cp->hidden);
}

static inline void add_mlp(checkpoint_t *cp, uint32_t b)
{
    begin_output(cp, true, 0, "model.layers.%u.mlp.gate_up_proj.weight", b);
    add_part(cp, SLICE_ROWS, cp->mlp, cp->hidden, "model.layers.%u.mlp.gate_proj.weight", b);
    add_part(cp, SLICE_ROWS, cp->mlp, cp->hidden, "model.layers.%u.mlp.up_proj.weight", b);
    begin_output(cp, true, 0, "model.layers.%u.mlp.down_proj.weight", b);
    add_part(cp, SLICE_COLS, cp->hidden, cp->mlp, "model.layers.%u.mlp.down_proj.weight", b);
    if (!cp->biased || !(is_type(cp, "llama") || is_type(cp, "mistral")))
        return;
    begin_output(cp, false, 0, "model.layers.%u.mlp.gate_up_proj.bias", b);
    add_part(cp, SLICE_ROWS, 0, cp->mlp, "model.layers.%u.mlp.gate_proj.bias", b);
    add_part(cp, SLICE_ROWS, 0, cp->mlp, "model.layers.%u.mlp.up_proj.bias", b);
    begin_output(cp, false, 0, "model.layers.%u.mlp.down_proj.bias", b);
    add_part(cp, SLICE_NONE, 0, cp->hidden, "model.layers.%u.mlp.down_proj.bias", b);
}

static inline void add_experts(checkpoint_t *cp, uint32_t b)
{
    bool mixtral = is_type(cp, "mixtral");
    const char *moe = mixtral ? "block_sparse_moe" : "mlp";
    const char *gate = mixtral ? "w1" : "gate_proj", *up = mixtral ? "w3" : "up_proj",
               *down = mixtral ? "w2" : "down_proj";
    begin_output(cp, false, 0, "model.layers.%u.%s.gate.weight", b, moe);
    add_part(cp, SLICE_NONE, cp->experts, cp->hidden, "model.layers.%u.%s.gate.weight", b, moe);
    begin_output(cp, true, cp->experts, "model.layers.%u.%s.experts.w13_weight", b, moe);
    for (uint32_t e = 0; e < cp->experts; e++) {
        add_part(cp, SLICE_ROWS, cp->expert_mlp, cp->hidden, "model.layers.%u.%s.experts.%u.%s.weight", b,
                 moe, e, gate);
        add_part(cp, SLICE_ROWS, cp->expert_mlp, cp->hidden, "model.layers.%u.%s.experts.%u.%s.weight", b,
                 moe, e, up);
    }
    cp->outputs[cp->num_outputs - 1].num_parts = 2;
    begin_output(cp, true, cp->experts, "model.layers.%u.%s.experts.w2_weight", b, moe);
    for (uint32_t e = 0; e < cp->experts; e++)
        add_part(cp, SLICE_COLS, cp->hidden, cp->expert_mlp, "model.layers.%u.%s.experts.%u.%s.weight", b,
                 moe, e, down);
    cp->outputs[cp->num_outputs - 1].num_parts = 1;
}

/* Fill the tables from the numbers at the top of `cp`. */
static inline void checkpoint_describe(checkpoint_t *cp)
{
    cp->num_sources = cp->num_outputs = 0;
    begin_output(cp, false, 0, "model.embed_tokens.weight");
    add_part(cp, SLICE_VOCAB, cp->vocab, cp->hidden, "model.embed_tokens.weight");
    for (uint32_t b = 0; b < cp->blocks; b++) {
        add_attention(cp, b);
        if (cp->experts && b >= cp->dense_blocks)
            add_experts(cp, b);
        else
            add_mlp(cp, b);
    }
    begin_output(cp, false, 0, "model.norm.weight");
    add_part(cp, SLICE_NONE, 0, cp->hidden, "model.norm.weight");
    begin_output(cp, false, 0, "lm_head.weight");
    if (cp->tied) {
        cp->outputs[cp->num_outputs - 1].first_source = 0;
        cp->outputs[cp->num_outputs - 1].num_parts = 1;
    } else {
        add_part(cp, SLICE_VOCAB, cp->vocab, cp->hidden, "lm_head.weight");
    }
}

#define CHECKPOINT_CONFIG_BYTES 512

static inline void checkpoint_config(const checkpoint_t *cp, char config[CHECKPOINT_CONFIG_BYTES])
{
    const char *bias = cp->biased ? "true" : "false";
    snprintf(config, CHECKPOINT_CONFIG_BYTES,
             "{\"model_type\": \"%s\", \"hidden_size\": %u, \"num_hidden_layers\": %u, "
             "\"num_attention_heads\": %u,"
             "\"num_key_value_heads\": %u, \"head_dim\": %u, \"intermediate_size\": %u, \"vocab_size\": %u,"
             "\"%s\": %u, \"moe_intermediate_size\": %u, \"tie_word_embeddings\": %s,"
             "\"attention_bias\": %s, \"mlp_bias\": %s, \"mlp_only_layers\": [%s]}",
             cp->type, cp->hidden, cp->blocks, cp->heads, cp->kv_heads, cp->head_dim,
             is_type(cp, "mixtral") ? cp->expert_mlp : cp->mlp, cp->vocab,
             is_type(cp, "mixtral") ? "num_local_experts" : "num_experts", cp->experts, cp->expert_mlp,
             cp->tied ? "true" : "false", bias, bias, cp->dense_blocks ? "0" : "");
}

static inline weft_model_t *checkpoint_model(const checkpoint_t *cp)
{
    char config[CHECKPOINT_CONFIG_BYTES];
    checkpoint_config(cp, config);
    weft_model_t *model;
    weft_error_t error;
    if (weft_model_create(config, &model, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    for (uint32_t i = 0; i < cp->num_sources; i++) {
        const source_t *s = &cp->sources[i];
        const uint64_t shape[2] = {s->vector ? s->cols : s->rows, s->cols};
        if (weft_model_add(model, s->name, s->dtype, shape, s->vector ? 1 : 2, &error) != WEFT_OK)
            fail_msg("%s", error.message);
    }
    return model;
}

/* ---- Random ones ---- */

/* A small checkpoint of any family. `aligned`: most extents in runs of 128. */
static inline void checkpoint_random(random_t *random, bool aligned, bool biased, checkpoint_t *cp)
{
    *cp = (checkpoint_t){.blocks = random_in(random, 1, 2), .vocab = random_in(random, 1, 300)};
    cp->type = (const char *[]){
        "llama", "qwen3", "qwen3_moe", "mistral", "qwen2", "mixtral"}[random_in(random, 0, 5)];
    cp->dtype = RANDOM_OF(random, WEFT_DTYPE_BF16, WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32);
    cp->norms_f32 = random_once_in(random, 4);
    cp->tied = random_once_in(random, 3);
    cp->biased = biased && random_once_in(random, 3) && !is_type(cp, "qwen2") && !is_type(cp, "mixtral");
    cp->kv_heads = RANDOM_OF(random, 1, 2, 2, 3, 4, 8);
    cp->heads = cp->kv_heads * RANDOM_OF(random, 1, 2, 4);
    if (aligned) {
        cp->hidden = RANDOM_OF(random, 128, 128, 256, 96, 200);
        cp->head_dim = RANDOM_OF(random, 32, 64, 128, 128);
        cp->mlp = RANDOM_OF(random, 128, 256, 512, 1024, 384, 192);
    } else {
        cp->hidden = random_in(random, 3, 160);
        cp->head_dim = random_in(random, 1, 40);
        cp->mlp = random_in(random, 1, 40) * RANDOM_OF(random, 1, 2, 6, 8, 24);
    }
    if (is_type(cp, "qwen3_moe") || is_type(cp, "mixtral")) {
        cp->experts = random_in(random, 1, 9);
        cp->dense_blocks = is_type(cp, "qwen3_moe") && random_once_in(random, 4);
        cp->expert_mlp = aligned ? RANDOM_OF(random, 128, 256, 192, 512)
                                 : random_in(random, 1, 20) * RANDOM_OF(random, 1, 4, 8);
    } else {
        cp->expert_mlp = 1;
    }
    checkpoint_describe(cp);
}

/* ---- Slices ---- */

/* The extent that a slice cuts. */
static inline uint32_t source_extent(const source_t *s)
{
    return s->vector || s->slice == SLICE_COLS ? s->cols : s->rows;
}

/* Whether `count` ranks can share the source as an engine slices it. A vocabulary is not padded here. */
static inline bool source_divides(const source_t *s, uint32_t count)
{
    switch (s->slice) {
    case SLICE_NONE:
        return true;
    case SLICE_HEADS:
        return s->heads % count == 0;
    case SLICE_KV_HEADS:
        return s->heads % count == 0 || count % s->heads == 0;
    default:
        return source_extent(s) % count == 0;
    }
}

static inline weft_rect_t source_run(const source_t *s, uint32_t start, uint32_t length)
{
    if (s->vector || s->slice == SLICE_COLS)
        return (weft_rect_t){0, start, s->rows, length};
    return (weft_rect_t){start, 0, length, s->cols};
}

/* What rank `rank` of `count` holds of a source that divides; a vocabulary without padding. */
static inline weft_rect_t source_slice(const source_t *s, uint32_t count, uint32_t rank)
{
    uint32_t extent = source_extent(s);
    if (s->slice == SLICE_NONE)
        return (weft_rect_t){0, 0, s->rows, s->cols};
    if (s->heads && s->heads < count) /* each head on count / heads neighbours */
        return source_run(s, rank / (count / s->heads) * (extent / s->heads), extent / s->heads);
    return source_run(s, extent / count * rank, extent / count);
}

/* What TP rank `rank` of an engine needs, and how many rows that is with padding. */
static inline weft_rect_t engine_slice(const source_t *s, uint32_t tp, uint32_t rank, bool whole,
                                       uint32_t *padded_rows)
{
    weft_rect_t box = {0, 0, s->rows, s->cols};
    if (!whole && s->slice == SLICE_VOCAB) {
        uint32_t share = ((s->rows + 63) / 64 * 64 + tp - 1) / tp;
        uint32_t start = share * rank < s->rows ? share * rank : s->rows;
        box.row = start;
        box.rows = s->rows - start < share ? s->rows - start : share;
        *padded_rows = share;
        return box;
    }
    if (!whole)
        box = source_slice(s, tp, rank);
    *padded_rows = box.rows;
    return box;
}

/* Experts of an engine's rank when whole experts are dealt out: the first ones hold one more. */
static inline uint32_t engine_experts(const output_t *output, uint32_t tp, uint32_t rank, bool ep,
                                      uint32_t *first)
{
    *first = 0;
    if (!ep || !output->num_experts)
        return output->num_experts ? output->num_experts : 1;
    uint32_t count = 0;
    for (uint32_t t = 0; t <= rank; t++) {
        *first += count;
        count = output->num_experts / tp + (t < output->num_experts % tp ? 1 : 0);
    }
    return count;
}

/* ---- Values ---- */

/* The element at `flat` of source `index`: different wherever it is looked for, never zero, NaN or Inf. */
static inline uint32_t element_id(uint32_t index, uint64_t flat, weft_dtype_t dtype)
{
    uint64_t z = mix64(((uint64_t)(index + 1) << 40) + flat);
    return dtype == WEFT_DTYPE_F32 ? (uint32_t)(z & 0xBFFFFFFF) | 1 : (uint32_t)(z & 0xBFFF) | 1;
}

/* The same with magnitudes between 2^-8 and 1, as weights have. */
static inline uint32_t element_weight(uint32_t index, uint64_t flat, weft_dtype_t dtype)
{
    uint64_t z = mix64(((uint64_t)(index + 1) << 40) + flat);
    uint32_t sign = (uint32_t)(z >> 63), exponent = (uint32_t)(z >> 60 & 7), mantissa = (uint32_t)z;
    if (dtype == WEFT_DTYPE_F16)
        return sign << 15 | (7 + exponent) << 10 | (mantissa & 0x3FF);
    uint32_t bits = sign << 31 | (119 + exponent) << 23 | (mantissa & 0x7FFFFF);
    return dtype == WEFT_DTYPE_F32 ? bits : bits >> 16;
}

/* The magnitude of an element as an amax carries it: bits of bf16, or of fp16 for an fp16 source. */
static inline uint16_t element_magnitude(uint32_t bits, weft_dtype_t dtype)
{
    if (dtype != WEFT_DTYPE_F32)
        return (uint16_t)(bits & 0x7FFF);
    uint32_t magnitude = bits & 0x7FFFFFFF, low = magnitude & 0xFFFF, high = magnitude >> 16;
    bool up = low > 0x8000 || (low == 0x8000 && (high & 1));
    return (uint16_t)(high + up);
}

/* 16k elements: any layout but for fp8-block. */
static inline checkpoint_t checkpoint_tiny(weft_dtype_t dtype)
{
    checkpoint_t cp = {.type = "llama", .hidden = 32, .blocks = 1, .heads = 4, .kv_heads = 2, .head_dim = 8,
                       .mlp = 64, .vocab = 100, .expert_mlp = 1, .dtype = dtype};
    checkpoint_describe(&cp);
    return cp;
}

/* 460k elements: for fp8-block on up to four ranks. */
static inline checkpoint_t checkpoint_block(weft_dtype_t dtype)
{
    checkpoint_t cp = {.type = "qwen3", .hidden = 128, .blocks = 1, .heads = 4, .kv_heads = 2, .head_dim = 128,
                       .mlp = 512, .vocab = 200, .expert_mlp = 1, .dtype = dtype, .norms_f32 = true};
    checkpoint_describe(&cp);
    return cp;
}

/* The same with five experts, which no two or four ranks share evenly. */
static inline checkpoint_t checkpoint_moe(weft_dtype_t dtype)
{
    checkpoint_t cp = {.type = "qwen3_moe", .hidden = 128, .blocks = 1, .heads = 4, .kv_heads = 2, .head_dim = 128,
                       .mlp = 512, .vocab = 200, .experts = 5, .expert_mlp = 512, .dtype = dtype, .tied = true};
    checkpoint_describe(&cp);
    return cp;
}

#endif
