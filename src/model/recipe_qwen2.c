#include "src/model/recipe_rows.h"

/* Biases of q, k and v always, of nothing else: no field of the configuration says so. */
static const weft_recipe_row_t rows[] = {
    ROW_EMBEDDING,
    ROW_VECTOR(BLOCK "input_layernorm", WEFT_DIM_HIDDEN),
    ROW_QKV,
    ROW_QKV_BIAS(0, NULL),
    ROW_O,
    ROW_VECTOR(BLOCK "post_attention_layernorm", WEFT_DIM_HIDDEN),
    ROWS_MLP(NULL),
    ROW_VECTOR("model.norm", WEFT_DIM_HIDDEN),
    ROW_HEAD,
};

static const char *const ignore[] = {"*.rotary_emb.inv_freq", NULL};

const weft_recipe_t weft_recipe_qwen2 = {
    .model_type = "qwen2",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .read_dims = weft_recipe_dims_dense,
};
