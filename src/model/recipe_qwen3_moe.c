#include "src/model/recipe_rows.h"

/* Every decoder_sparse_step-th block has experts, except those that mlp_only_layers lists. */
static bool sparse(const weft_config_t *config, uint32_t block)
{
    double step = weft_config_number(config, "decoder_sparse_step", 1);
    if (!(step >= 1 && step <= INT32_MAX) || (block + 1) % (uint32_t)step != 0)
        return false;
    return !weft_config_array_has(config, "mlp_only_layers", block);
}

static bool dense(const weft_config_t *config, uint32_t block)
{
    return !sparse(config, block);
}

static const weft_recipe_row_t rows[] = {
    ROW_EMBEDDING,
    ROW_VECTOR(BLOCK "input_layernorm", WEFT_DIM_HIDDEN),
    ROWS_QKV,
    ROW_VECTOR(ATTENTION "q_norm", WEFT_DIM_HEAD),
    ROW_VECTOR(ATTENTION "k_norm", WEFT_DIM_HEAD),
    ROWS_O,
    ROW_VECTOR(BLOCK "post_attention_layernorm", WEFT_DIM_HIDDEN),
    ROWS_MLP(dense),
    {.layer = BLOCK "mlp.gate",
     .leaf = "weight",
     .when = sparse,
     .parts = {{BLOCK "mlp.gate", WEFT_SPLIT_NONE, WEFT_DIM_EXPERTS, WEFT_DIM_HIDDEN}}},
    ROWS_EXPERTS(sparse),
    ROW_VECTOR("model.norm", WEFT_DIM_HIDDEN),
    ROW_HEAD,
};

static const char *const ignore[] = {"*.rotary_emb.inv_freq", NULL};

const weft_recipe_t weft_recipe_qwen3_moe = {
    .model_type = "qwen3_moe",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .read_dims = weft_recipe_dims_experts,
};
