#include "src/model/recipe_rows.h"

static const weft_recipe_row_t rows[] = {
    ROW_EMBEDDING,
    ROW_VECTOR(BLOCK "input_layernorm", WEFT_DIM_HIDDEN),
    ROWS_QKV,
    ROWS_O,
    ROW_VECTOR(BLOCK "post_attention_layernorm", WEFT_DIM_HIDDEN),
    ROWS_MLP(NULL),
    {.layer = BLOCK "mlp.gate_up_proj",
     .leaf = "bias",
     .flags = WEFT_ROW_OPTIONAL,
     .required_by = "mlp_bias",
     .parts = {{BLOCK "mlp.gate_proj", WEFT_SPLIT_ROWS, WEFT_DIM_VECTOR, WEFT_DIM_MLP},
               {BLOCK "mlp.up_proj", WEFT_SPLIT_ROWS, WEFT_DIM_VECTOR, WEFT_DIM_MLP}}},
    {.layer = BLOCK "mlp.down_proj",
     .leaf = "bias",
     .flags = WEFT_ROW_OPTIONAL,
     .required_by = "mlp_bias",
     .parts = {{BLOCK "mlp.down_proj", WEFT_SPLIT_NONE, WEFT_DIM_VECTOR, WEFT_DIM_HIDDEN}}},
    ROW_VECTOR("model.norm", WEFT_DIM_HIDDEN),
    ROW_HEAD,
};

static const char *const ignore[] = {"*.rotary_emb.inv_freq", NULL};

const weft_recipe_t weft_recipe_llama = {
    .model_type = "llama",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .read_dims = weft_recipe_dims_dense,
};

/* Another attention mask, the same weights. */
const weft_recipe_t weft_recipe_mistral = {
    .model_type = "mistral",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .read_dims = weft_recipe_dims_dense,
};
