#include "src/base/error.h"
#include "src/model/recipe_rows.h"

#define MOE BLOCK "block_sparse_moe."

/* Of an expert w1 is the gate, w3 the up projection, w2 the down projection. */
static const weft_recipe_row_t rows[] = {
    ROW_EMBEDDING,
    ROW_VECTOR(BLOCK "input_layernorm", WEFT_DIM_HIDDEN),
    ROW_QKV,
    ROW_O,
    ROW_VECTOR(BLOCK "post_attention_layernorm", WEFT_DIM_HIDDEN),
    {.layer = MOE "gate",
     .leaf = "weight",
     .parts = {{MOE "gate", WEFT_SPLIT_NONE, WEFT_DIM_EXPERTS, WEFT_DIM_HIDDEN}}},
    {.layer = MOE "experts.w13",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE | WEFT_ROW_EXPERTS,
     .parts = {{MOE "experts.{E}.w1", WEFT_SPLIT_ROWS, WEFT_DIM_EXPERT_MLP, WEFT_DIM_HIDDEN},
               {MOE "experts.{E}.w3", WEFT_SPLIT_ROWS, WEFT_DIM_EXPERT_MLP, WEFT_DIM_HIDDEN}}},
    {.layer = MOE "experts.w2",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE | WEFT_ROW_EXPERTS,
     .parts = {{MOE "experts.{E}.w2", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_EXPERT_MLP}}},
    ROW_VECTOR("model.norm", WEFT_DIM_HIDDEN),
    ROW_HEAD,
};

static const char *const ignore[] = {"*.rotary_emb.inv_freq", NULL};

/* intermediate_size is an expert's. */
static weft_status_t read_dims(const weft_config_t *config, weft_recipe_dims_t *dims, weft_error_t *error)
{
    uint64_t num_experts;
    WEFT_TRY(weft_recipe_dims_dense(config, dims, error));
    WEFT_TRY(weft_config_extent(config, "num_local_experts", 0, &num_experts, error));
    dims->of[WEFT_DIM_EXPERT_MLP] = dims->of[WEFT_DIM_MLP];
    dims->of[WEFT_DIM_EXPERTS] = num_experts;
    dims->num_experts = (uint32_t)num_experts;
    return WEFT_OK;
}

const weft_recipe_t weft_recipe_mixtral = {
    .model_type = "mixtral",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .read_dims = read_dims,
};
