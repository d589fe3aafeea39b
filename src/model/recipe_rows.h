/* Rows that several families share, for use inside a table of weft_recipe_row_t. */
#ifndef WEFT_MODEL_RECIPE_ROWS_H
#define WEFT_MODEL_RECIPE_ROWS_H

#include "src/model/recipe.h"

#define BLOCK     "model.layers.{L}."
#define ATTENTION BLOCK "self_attn."
#define EXPERT    BLOCK "mlp.experts.{E}."

/* clang-format off */

/* A vector that every rank holds whole. */
#define ROW_VECTOR(name, extent)                                                       \
    {.layer = name, .leaf = "weight",                                                  \
     .parts = {{name, WEFT_SPLIT_NONE, WEFT_DIM_VECTOR, extent}}}

#define ROW_EMBEDDING                                                                  \
    {.layer = "model.embed_tokens", .leaf = "weight",                                  \
     .parts = {{"model.embed_tokens", WEFT_SPLIT_VOCAB, WEFT_DIM_VOCAB, WEFT_DIM_HIDDEN}}}

#define ROW_HEAD                                                                       \
    {.layer = "lm_head", .leaf = "weight", .tied_to = "model.embed_tokens",            \
     .parts = {{"lm_head", WEFT_SPLIT_VOCAB, WEFT_DIM_VOCAB, WEFT_DIM_HIDDEN}}}

#define ROW_QKV                                                                        \
    {.layer = ATTENTION "qkv_proj", .leaf = "weight", .flags = WEFT_ROW_QUANTIZE,      \
     .parts = {{ATTENTION "q_proj", WEFT_SPLIT_HEADS, WEFT_DIM_Q, WEFT_DIM_HIDDEN},    \
               {ATTENTION "k_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_KV, WEFT_DIM_HIDDEN},\
               {ATTENTION "v_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_KV, WEFT_DIM_HIDDEN}}}

#define ROW_QKV_BIAS(row_flags, key)                                                   \
    {.layer = ATTENTION "qkv_proj", .leaf = "bias", .flags = row_flags,                \
     .required_by = key,                                                               \
     .parts = {{ATTENTION "q_proj", WEFT_SPLIT_HEADS, WEFT_DIM_VECTOR, WEFT_DIM_Q},    \
               {ATTENTION "k_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_VECTOR, WEFT_DIM_KV},\
               {ATTENTION "v_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_VECTOR, WEFT_DIM_KV}}}

/* With biases where the checkpoint has them. */
#define ROWS_QKV ROW_QKV, ROW_QKV_BIAS(WEFT_ROW_OPTIONAL, "attention_bias")

#define ROW_O                                                                          \
    {.layer = ATTENTION "o_proj", .leaf = "weight", .flags = WEFT_ROW_QUANTIZE,        \
     .parts = {{ATTENTION "o_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_Q}}}

/* The bias is added after the reduction over ranks, so each holds it whole. */
#define ROWS_O                                                                         \
    ROW_O,                                                                             \
    {.layer = ATTENTION "o_proj", .leaf = "bias", .flags = WEFT_ROW_OPTIONAL,          \
     .required_by = "attention_bias",                                                  \
     .parts = {{ATTENTION "o_proj", WEFT_SPLIT_NONE, WEFT_DIM_VECTOR, WEFT_DIM_HIDDEN}}}

/* The MLP of a block without experts; `condition` is the row's `when`. */
#define ROWS_MLP(condition)                                                            \
    {.layer = BLOCK "mlp.gate_up_proj", .leaf = "weight", .flags = WEFT_ROW_QUANTIZE,  \
     .when = condition,                                                                \
     .parts = {{BLOCK "mlp.gate_proj", WEFT_SPLIT_ROWS, WEFT_DIM_MLP, WEFT_DIM_HIDDEN},\
               {BLOCK "mlp.up_proj", WEFT_SPLIT_ROWS, WEFT_DIM_MLP, WEFT_DIM_HIDDEN}}},\
    {.layer = BLOCK "mlp.down_proj", .leaf = "weight", .flags = WEFT_ROW_QUANTIZE,     \
     .when = condition,                                                                \
     .parts = {{BLOCK "mlp.down_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_MLP}}}

/* Experts; `condition` is the row's `when`. All in one tensor, as transformers 5 holds them in memory, or by name. */
#define STACK BLOCK "mlp.experts."
#define ROWS_EXPERTS(condition)                                                        \
    {.layer = BLOCK "mlp.experts.w13", .leaf = "weight", .suffix = "",                 \
     .flags = WEFT_ROW_QUANTIZE | WEFT_ROW_EXPERTS | WEFT_ROW_STACKED | WEFT_ROW_OPTIONAL,\
     .when = condition,                                                                \
     .parts = {{STACK "gate_up_proj", WEFT_SPLIT_ROWS, WEFT_DIM_EXPERT_MLP, WEFT_DIM_HIDDEN},\
               {STACK "gate_up_proj", WEFT_SPLIT_ROWS, WEFT_DIM_EXPERT_MLP, WEFT_DIM_HIDDEN}}},\
    {.layer = BLOCK "mlp.experts.w2", .leaf = "weight", .suffix = "",                  \
     .flags = WEFT_ROW_QUANTIZE | WEFT_ROW_EXPERTS | WEFT_ROW_STACKED | WEFT_ROW_OPTIONAL,\
     .when = condition,                                                                \
     .parts = {{STACK "down_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_EXPERT_MLP}}},\
    {.layer = BLOCK "mlp.experts.w13", .leaf = "weight",                               \
     .flags = WEFT_ROW_QUANTIZE | WEFT_ROW_EXPERTS, .when = condition,                 \
     .parts = {{EXPERT "gate_proj", WEFT_SPLIT_ROWS, WEFT_DIM_EXPERT_MLP, WEFT_DIM_HIDDEN},\
               {EXPERT "up_proj", WEFT_SPLIT_ROWS, WEFT_DIM_EXPERT_MLP, WEFT_DIM_HIDDEN}}},\
    {.layer = BLOCK "mlp.experts.w2", .leaf = "weight",                                \
     .flags = WEFT_ROW_QUANTIZE | WEFT_ROW_EXPERTS, .when = condition,                 \
     .parts = {{EXPERT "down_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_EXPERT_MLP}}}

/* clang-format on */

#endif
