/* gpt-oss: all experts in one tensor, each [K, N], gate and up rows interleaved; biases everywhere; attention
 * sinks.
 *
 * Engines keep gate and up interleaved and hold an expert as [N, K]. Names are vLLM's (`attn` for
 * `self_attn`). */
#include "src/base/error.h"
#include "src/model/recipe_rows.h"

#define ATTN   BLOCK "attn."
#define ROUTER BLOCK "mlp.router"

#define FLAGS_MATRIX (WEFT_ROW_QUANTIZE | WEFT_ROW_EXPERTS | WEFT_ROW_STACKED | WEFT_ROW_TRANSPOSED)
#define FLAGS_BIAS   (WEFT_ROW_EXPERTS | WEFT_ROW_STACKED)

static const weft_recipe_row_t rows[] = {
    ROW_EMBEDDING,
    ROW_VECTOR(BLOCK "input_layernorm", WEFT_DIM_HIDDEN),
    {.layer = ATTN "qkv_proj",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE,
     .parts = {{ATTENTION "q_proj", WEFT_SPLIT_HEADS, WEFT_DIM_Q, WEFT_DIM_HIDDEN},
               {ATTENTION "k_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_KV, WEFT_DIM_HIDDEN},
               {ATTENTION "v_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_KV, WEFT_DIM_HIDDEN}}},
    {.layer = ATTN "qkv_proj",
     .leaf = "bias",
     .parts = {{ATTENTION "q_proj", WEFT_SPLIT_HEADS, WEFT_DIM_VECTOR, WEFT_DIM_Q},
               {ATTENTION "k_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_VECTOR, WEFT_DIM_KV},
               {ATTENTION "v_proj", WEFT_SPLIT_KV_HEADS, WEFT_DIM_VECTOR, WEFT_DIM_KV}}},
    {.layer = ATTN "sinks",
     .leaf = "",
     .suffix = "",
     .parts = {{ATTENTION "sinks", WEFT_SPLIT_HEADS, WEFT_DIM_VECTOR, WEFT_DIM_HEADS, WEFT_DIM_ONE}}},
    {.layer = ATTN "o_proj",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE,
     .parts = {{ATTENTION "o_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_Q}}},
    {.layer = ATTN "o_proj",
     .leaf = "bias",
     .parts = {{ATTENTION "o_proj", WEFT_SPLIT_NONE, WEFT_DIM_VECTOR, WEFT_DIM_HIDDEN}}},
    ROW_VECTOR(BLOCK "post_attention_layernorm", WEFT_DIM_HIDDEN),
    {.layer = ROUTER,
     .leaf = "weight",
     .parts = {{ROUTER, WEFT_SPLIT_NONE, WEFT_DIM_EXPERTS, WEFT_DIM_HIDDEN}}},
    {.layer = ROUTER,
     .leaf = "bias",
     .parts = {{ROUTER, WEFT_SPLIT_NONE, WEFT_DIM_VECTOR, WEFT_DIM_EXPERTS}}},
    {.layer = BLOCK "mlp.experts.w13",
     .leaf = "weight",
     .suffix = "",
     .flags = FLAGS_MATRIX,
     .parts = {{STACK "gate_up_proj", WEFT_SPLIT_ROWS, WEFT_DIM_GATE_UP, WEFT_DIM_HIDDEN, WEFT_DIM_PAIR}}},
    {.layer = BLOCK "mlp.experts.w13",
     .leaf = "bias",
     .suffix = "",
     .flags = FLAGS_BIAS,
     .parts = {{STACK "gate_up_proj_bias", WEFT_SPLIT_ROWS, WEFT_DIM_VECTOR, WEFT_DIM_GATE_UP,
                WEFT_DIM_PAIR}}},
    {.layer = BLOCK "mlp.experts.w2",
     .leaf = "weight",
     .suffix = "",
     .flags = FLAGS_MATRIX,
     .parts = {{STACK "down_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_EXPERT_MLP}}},
    {.layer = BLOCK "mlp.experts.w2",
     .leaf = "bias",
     .suffix = "",
     .flags = FLAGS_BIAS,
     .parts = {{STACK "down_proj_bias", WEFT_SPLIT_FIRST, WEFT_DIM_VECTOR, WEFT_DIM_HIDDEN}}},
    ROW_VECTOR("model.norm", WEFT_DIM_HIDDEN),
    ROW_HEAD,
};

static const char *const ignore[] = {"*.rotary_emb.inv_freq", NULL};

/* intermediate_size is an expert's. */
static weft_status_t read_dims(const weft_config_t *config, weft_recipe_dims_t *dims, weft_error_t *error)
{
    uint64_t experts;
    WEFT_TRY(weft_recipe_dims_dense(config, dims, error));
    WEFT_TRY(weft_config_extent(config, "num_local_experts", 0, &experts, error));
    dims->of[WEFT_DIM_EXPERT_MLP] = dims->of[WEFT_DIM_MLP];
    dims->of[WEFT_DIM_GATE_UP] = 2 * dims->of[WEFT_DIM_MLP];
    dims->of[WEFT_DIM_EXPERTS] = experts;
    dims->num_experts = (uint32_t)experts;
    return WEFT_OK;
}

const weft_recipe_t weft_recipe_gpt_oss = {
    .model_type = "gpt_oss",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .read_dims = read_dims,
};
