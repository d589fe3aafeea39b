#include "src/model/recipe_rows.h"

static const weft_recipe_row_t rows[] = {
    ROW_EMBEDDING,
    ROW_VECTOR(BLOCK "input_layernorm", WEFT_DIM_HIDDEN),
    ROWS_QKV,
    ROW_VECTOR(ATTENTION "q_norm", WEFT_DIM_HEAD),
    ROW_VECTOR(ATTENTION "k_norm", WEFT_DIM_HEAD),
    ROWS_O,
    ROW_VECTOR(BLOCK "post_attention_layernorm", WEFT_DIM_HIDDEN),
    ROWS_MLP(NULL),
    ROW_VECTOR("model.norm", WEFT_DIM_HIDDEN),
    ROW_HEAD,
};

static const char *const ignore[] = {"*.rotary_emb.inv_freq", NULL};

const weft_recipe_t weft_recipe_qwen3 = {
    .model_type = "qwen3",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .read_dims = weft_recipe_dims_dense,
};
