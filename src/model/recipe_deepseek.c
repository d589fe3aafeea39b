/* DeepSeek-V3 and what shares its layers: multi-head latent attention, shared experts, dense blocks first. */
#include "src/base/error.h"
#include "src/model/recipe_rows.h"

static bool sparse(const weft_config_t *config, uint32_t block)
{
    double first = weft_config_number(config, "first_k_dense_replace", 0);
    double step = weft_config_number(config, "moe_layer_freq", 1);
    return block >= first && step >= 1 && step <= INT32_MAX && block % (uint32_t)step == 0;
}

static bool dense(const weft_config_t *config, uint32_t block)
{
    return !sparse(config, block);
}

/* What engines run as one: queries and keys by way of their low ranks. Every rank holds both whole. kv_b_proj
 * is multiplied into the queries and outputs, so it stays in high precision. */
static const weft_recipe_row_t rows[] = {
    ROW_EMBEDDING,
    ROW_VECTOR(BLOCK "input_layernorm", WEFT_DIM_HIDDEN),
    {.layer = ATTENTION "fused_qkv_a_proj",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE,
     .parts = {{ATTENTION "q_a_proj", WEFT_SPLIT_NONE, WEFT_DIM_Q_RANK, WEFT_DIM_HIDDEN},
               {ATTENTION "kv_a_proj_with_mqa", WEFT_SPLIT_NONE, WEFT_DIM_KV_A, WEFT_DIM_HIDDEN}}},
    ROW_VECTOR(ATTENTION "q_a_layernorm", WEFT_DIM_Q_RANK),
    {.layer = ATTENTION "q_b_proj",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE,
     .parts = {{ATTENTION "q_b_proj", WEFT_SPLIT_HEADS, WEFT_DIM_Q_B, WEFT_DIM_Q_RANK, WEFT_DIM_Q_B_HEAD}}},
    ROW_VECTOR(ATTENTION "kv_a_layernorm", WEFT_DIM_KV_RANK),
    {.layer = ATTENTION "kv_b_proj",
     .leaf = "weight",
     .parts = {{ATTENTION "kv_b_proj", WEFT_SPLIT_HEADS, WEFT_DIM_KV_B, WEFT_DIM_KV_RANK,
                WEFT_DIM_KV_B_HEAD}}},
    {.layer = ATTENTION "o_proj",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE,
     .parts = {{ATTENTION "o_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN, WEFT_DIM_VALUES}}},
    ROW_VECTOR(BLOCK "post_attention_layernorm", WEFT_DIM_HIDDEN),
    ROWS_MLP(dense),
    {.layer = BLOCK "mlp.gate",
     .leaf = "weight",
     .when = sparse,
     .parts = {{BLOCK "mlp.gate", WEFT_SPLIT_NONE, WEFT_DIM_EXPERTS, WEFT_DIM_HIDDEN}}},
    {.layer = BLOCK "mlp.gate",
     .leaf = "e_score_correction_bias",
     .flags = WEFT_ROW_KEEP_F32,
     .when = sparse,
     .parts = {{BLOCK "mlp.gate", WEFT_SPLIT_NONE, WEFT_DIM_VECTOR, WEFT_DIM_EXPERTS}}},
    {.layer = BLOCK "mlp.shared_experts.gate_up_proj",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE,
     .when = sparse,
     .parts = {{BLOCK "mlp.shared_experts.gate_proj", WEFT_SPLIT_ROWS, WEFT_DIM_SHARED_MLP, WEFT_DIM_HIDDEN},
               {BLOCK "mlp.shared_experts.up_proj", WEFT_SPLIT_ROWS, WEFT_DIM_SHARED_MLP, WEFT_DIM_HIDDEN}}},
    {.layer = BLOCK "mlp.shared_experts.down_proj",
     .leaf = "weight",
     .flags = WEFT_ROW_QUANTIZE,
     .when = sparse,
     .parts = {{BLOCK "mlp.shared_experts.down_proj", WEFT_SPLIT_COLS, WEFT_DIM_HIDDEN,
                WEFT_DIM_SHARED_MLP}}},
    ROWS_EXPERTS(sparse),
    ROW_VECTOR("model.norm", WEFT_DIM_HIDDEN),
    ROW_HEAD,
};

static const char *const ignore[] = {"*.rotary_emb.inv_freq", NULL};

static weft_status_t read_attention(const weft_config_t *config, weft_recipe_dims_t *dims,
                                    weft_error_t *error)
{
    uint64_t heads, nope, rope, value;
    WEFT_TRY(weft_config_extent(config, "num_attention_heads", 0, &heads, error));
    WEFT_TRY(weft_config_extent(config, "q_lora_rank", 0, &dims->of[WEFT_DIM_Q_RANK], error));
    WEFT_TRY(weft_config_extent(config, "kv_lora_rank", 0, &dims->of[WEFT_DIM_KV_RANK], error));
    WEFT_TRY(weft_config_extent(config, "qk_nope_head_dim", 0, &nope, error));
    WEFT_TRY(weft_config_extent(config, "qk_rope_head_dim", 0, &rope, error));
    WEFT_TRY(weft_config_extent(config, "v_head_dim", 0, &value, error));
    dims->of[WEFT_DIM_KV_A] = dims->of[WEFT_DIM_KV_RANK] + rope;
    dims->of[WEFT_DIM_Q_B_HEAD] = nope + rope;
    dims->of[WEFT_DIM_Q_B] = heads * (nope + rope);
    dims->of[WEFT_DIM_KV_B_HEAD] = nope + value;
    dims->of[WEFT_DIM_KV_B] = heads * (nope + value);
    dims->of[WEFT_DIM_VALUES] = heads * value;
    return WEFT_OK;
}

static weft_status_t read_dims(const weft_config_t *config, weft_recipe_dims_t *dims, weft_error_t *error)
{
    uint64_t experts, shared;
    WEFT_TRY(weft_recipe_dims_frame(config, dims, error));
    WEFT_TRY(read_attention(config, dims, error));
    WEFT_TRY(weft_config_extent(config, "n_routed_experts", 0, &experts, error));
    WEFT_TRY(weft_config_extent(config, "n_shared_experts", 0, &shared, error));
    WEFT_TRY(weft_config_extent(config, "moe_intermediate_size", 0, &dims->of[WEFT_DIM_EXPERT_MLP], error));
    dims->of[WEFT_DIM_SHARED_MLP] = shared * dims->of[WEFT_DIM_EXPERT_MLP];
    dims->of[WEFT_DIM_EXPERTS] = experts;
    dims->num_experts = (uint32_t)experts;
    return WEFT_OK;
}

const weft_recipe_t weft_recipe_deepseek_v3 = {
    .model_type = "deepseek_v3",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .ignore_mtp = true,
    .read_dims = read_dims,
};

const weft_recipe_t weft_recipe_kimi_k2 = {
    .model_type = "kimi_k2",
    .rows = rows,
    .num_rows = sizeof rows / sizeof rows[0],
    .ignore = ignore,
    .ignore_mtp = true,
    .read_dims = read_dims,
};
