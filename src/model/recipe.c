#include "src/model/recipe.h"

#include <inttypes.h>
#include <string.h>

#include "src/base/error.h"
#include "src/base/text.h"

static const weft_recipe_t *const recipes[] = {
    &weft_recipe_deepseek_v3, &weft_recipe_gpt_oss, &weft_recipe_kimi_k2,
    &weft_recipe_llama,       &weft_recipe_mistral, &weft_recipe_mixtral,
    &weft_recipe_qwen2,       &weft_recipe_qwen3,   &weft_recipe_qwen3_moe,
};

#define NUM_RECIPES (sizeof recipes / sizeof recipes[0])

weft_status_t weft_recipe_find(const char *model_type, const weft_recipe_t **recipe, weft_error_t *error)
{
    weft_text_t known = {0};
    for (size_t i = 0; i < NUM_RECIPES; i++) {
        if (strcmp(recipes[i]->model_type, model_type) == 0) {
            *recipe = recipes[i];
            weft_text_free(&known);
            return WEFT_OK;
        }
        weft_text_add(&known, "%s%s", i ? ", " : "", recipes[i]->model_type);
    }
    weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "no recipe for model_type '%.100s'; there are recipes for %s",
              model_type, known.data ? known.data : "others");
    weft_text_free(&known);
    return WEFT_ERR_UNKNOWN_NAME;
}

static weft_status_t read_attention(const weft_config_t *config, weft_recipe_dims_t *dims,
                                    weft_error_t *error)
{
    uint64_t heads, kv_heads, head, hidden = dims->of[WEFT_DIM_HIDDEN];
    WEFT_TRY(weft_config_extent(config, "num_attention_heads", 0, &heads, error));
    WEFT_TRY(weft_config_extent(config, "num_key_value_heads", heads, &kv_heads, error));
    WEFT_TRY(weft_config_extent(config, "head_dim", hidden / heads, &head, error));
    if (heads % kv_heads != 0)
        return weft_fail(error, WEFT_ERR_FILE,
                         "the configuration has num_attention_heads %" PRIu64 ", expected a multiple of its "
                         "num_key_value_heads %" PRIu64,
                         heads, kv_heads);
    dims->of[WEFT_DIM_HEAD] = head;
    dims->of[WEFT_DIM_HEADS] = heads;
    dims->of[WEFT_DIM_Q] = heads * head;
    dims->of[WEFT_DIM_KV] = kv_heads * head;
    return WEFT_OK;
}

weft_status_t weft_recipe_dims_frame(const weft_config_t *config, weft_recipe_dims_t *dims,
                                     weft_error_t *error)
{
    uint64_t num_blocks;
    WEFT_TRY(weft_config_extent(config, "num_hidden_layers", 0, &num_blocks, error));
    WEFT_TRY(weft_config_extent(config, "hidden_size", 0, &dims->of[WEFT_DIM_HIDDEN], error));
    WEFT_TRY(weft_config_extent(config, "vocab_size", 0, &dims->of[WEFT_DIM_VOCAB], error));
    WEFT_TRY(weft_config_extent(config, "intermediate_size", 0, &dims->of[WEFT_DIM_MLP], error));
    dims->num_blocks = (uint32_t)num_blocks;
    dims->of[WEFT_DIM_ONE] = 1;
    dims->of[WEFT_DIM_PAIR] = 2;
    return WEFT_OK;
}

weft_status_t weft_recipe_dims_dense(const weft_config_t *config, weft_recipe_dims_t *dims,
                                     weft_error_t *error)
{
    WEFT_TRY(weft_recipe_dims_frame(config, dims, error));
    return read_attention(config, dims, error);
}

weft_status_t weft_recipe_dims_experts(const weft_config_t *config, weft_recipe_dims_t *dims,
                                       weft_error_t *error)
{
    uint64_t num_experts;
    WEFT_TRY(weft_recipe_dims_dense(config, dims, error));
    WEFT_TRY(weft_config_extent(config, "moe_intermediate_size", 0, &dims->of[WEFT_DIM_EXPERT_MLP], error));
    /* Transformers 5 writes num_local_experts where earlier ones wrote num_experts. */
    const char *key = weft_config_has(config, "num_experts") ? "num_experts" : "num_local_experts";
    WEFT_TRY(weft_config_extent(config, key, 0, &num_experts, error));
    dims->of[WEFT_DIM_EXPERTS] = num_experts;
    dims->num_experts = (uint32_t)num_experts;
    return WEFT_OK;
}
