#include "launch/decoder/shape.h"

#include <math.h>
#include <string.h>

#include "src/base/error.h"

#define VOCAB_PADDING 64
#define LARGEST_SIZE                                                                                         \
    (1u << 24) /* of any one dimension: products of two then fit 64 bits with room to spare */

static const char *const architectures[] = {"qwen3", "qwen3_moe", "llama", "mistral"};

static weft_status_t check_architecture(const weft_model_t *model, weft_error_t *error)
{
    const char *type = weft_model_type(model);
    bool known = false;
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++)
        known |= strcmp(type, architectures[i]) == 0;
    if (!known)
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "the decoder runs model_type qwen3, qwen3_moe, llama and mistral; this one is \"%s\"", type);
    if (weft_model_config_number(model, "rope_parameters.factor", 1) != 1 ||
        weft_model_config_number(model, "rope_scaling.factor", 1) != 1)
        return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                         "the decoder has plain RoPE only; this model scales it");
    return WEFT_OK;
}

/* A size from the configuration; a negative fallback makes it mandatory. */
static weft_status_t read_size(const weft_model_t *model, const char *key, double fallback, uint32_t *size,
                               weft_error_t *error)
{
    double value = weft_model_config_number(model, key, fallback);
    if (!(value >= 0 && value <= LARGEST_SIZE) || value != floor(value))
        return weft_fail(error, WEFT_ERR_FILE, "config.json: %s must be a whole number in [0, %u]", key,
                         LARGEST_SIZE);
    *size = (uint32_t)value;
    return WEFT_OK;
}

static weft_status_t read_nonzero(const weft_model_t *model, const char *key, double fallback, uint32_t *size,
                                  weft_error_t *error)
{
    uint32_t value = 0;
    WEFT_TRY(read_size(model, key, fallback, &value, error));
    if (!value)
        return weft_fail(error, WEFT_ERR_FILE, "config.json: %s must not be 0", key);
    *size = value;
    return WEFT_OK;
}

/* The sizes of the whole model. */
static weft_status_t read_config(const weft_model_t *model, decoder_shape_t *shape, weft_error_t *error)
{
    WEFT_TRY(read_nonzero(model, "vocab_size", -1, &shape->vocab, error));
    WEFT_TRY(read_nonzero(model, "hidden_size", -1, &shape->hidden, error));
    WEFT_TRY(read_nonzero(model, "num_hidden_layers", -1, &shape->blocks, error));
    WEFT_TRY(read_nonzero(model, "num_attention_heads", -1, &shape->heads, error));
    WEFT_TRY(read_nonzero(model, "num_key_value_heads", shape->heads, &shape->kv_heads, error));
    WEFT_TRY(read_nonzero(model, "head_dim", shape->hidden / shape->heads, &shape->head_dim, error));
    WEFT_TRY(read_size(model, "intermediate_size", 0, &shape->mlp_width, error));
    WEFT_TRY(read_size(model, "num_local_experts", 0, &shape->experts, error));
    WEFT_TRY(read_size(model, "num_experts", shape->experts, &shape->experts, error));
    if (shape->experts) {
        WEFT_TRY(read_nonzero(model, "num_experts_per_tok", -1, &shape->experts_active, error));
        WEFT_TRY(read_nonzero(model, "moe_intermediate_size", -1, &shape->expert_width, error));
        if (shape->experts_active > shape->experts)
            return weft_fail(error, WEFT_ERR_FILE, "config.json: %u of %u experts cannot be active",
                             shape->experts_active, shape->experts);
    }
    if (shape->head_dim % 2 || shape->heads % shape->kv_heads)
        return weft_fail(error, WEFT_ERR_FILE,
                         "config.json: head_dim %u is odd or %u heads do not share %u KV heads",
                         shape->head_dim, shape->heads, shape->kv_heads);
    double theta = weft_model_config_number(model, "rope_theta", 10000);
    shape->rope_theta = (float)weft_model_config_number(model, "rope_parameters.rope_theta", theta);
    shape->norm_eps = (float)weft_model_config_number(model, "rms_norm_eps", 1e-6);
    shape->norm_topk = weft_model_config_number(model, "norm_topk_prob", 0) != 0;
    shape->tied = weft_model_config_number(model, "tie_word_embeddings", 0) != 0;
    shape->qk_norm = strncmp(weft_model_type(model), "qwen3", 5) == 0;
    return WEFT_OK;
}

static weft_status_t divide(const char *what, uint32_t by, uint32_t *count, weft_error_t *error)
{
    if (*count % by)
        return weft_fail(error, WEFT_ERR_MISFIT, "%u %s do not divide over %u tensor parallel ranks", *count,
                         what, by);
    *count /= by;
    return WEFT_OK;
}

/* The first E mod tp ranks hold one expert more. */
static void divide_experts(uint32_t rank, uint32_t ranks, decoder_shape_t *shape)
{
    uint32_t each = shape->experts / ranks, more = shape->experts % ranks;
    shape->experts_begin = rank * each + (rank < more ? rank : more);
    shape->experts_held = each + (rank < more);
}

static void divide_vocab(uint32_t rank, uint32_t ranks, decoder_shape_t *shape)
{
    uint64_t padded = (shape->vocab + VOCAB_PADDING - 1) / VOCAB_PADDING * (uint64_t)VOCAB_PADDING;
    shape->vocab_rows = (uint32_t)((padded + ranks - 1) / ranks);
    shape->vocab_begin = rank * shape->vocab_rows;
}

weft_status_t decoder_shape_read(const decoder_config_t *config, decoder_shape_t *shape, weft_error_t *error)
{
    decoder_shape_t found = {0};
    uint32_t ranks = config->tp_size;
    WEFT_TRY(check_architecture(config->model, error));
    WEFT_TRY(read_config(config->model, &found, error));
    divide_vocab(config->tp_rank, ranks, &found);
    WEFT_TRY(divide("attention heads", ranks, &found.heads, error));
    if (found.kv_heads >= ranks)
        WEFT_TRY(divide("KV heads", ranks, &found.kv_heads, error));
    else if (ranks % found.kv_heads)
        return weft_fail(error, WEFT_ERR_MISFIT,
                         "%u KV heads cannot be replicated evenly over %u tensor parallel ranks",
                         found.kv_heads, ranks);
    else
        found.kv_heads = 1;
    WEFT_TRY(divide("MLP columns", ranks, &found.mlp_width, error));
    found.experts_held = found.experts;
    if (config->expert_parallel)
        divide_experts(config->tp_rank, ranks, &found);
    else
        WEFT_TRY(divide("expert columns", ranks, &found.expert_width, error));
    *shape = found;
    return WEFT_OK;
}
