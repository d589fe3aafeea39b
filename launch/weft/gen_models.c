/* Sizes are from the published configurations. */
#include "launch/weft/gen_models.h"

#include <stddef.h>
#include <string.h>

/* Grouped-query attention. */
#define DECODER(type, blocks, hidden, width, heads, kv_heads, head, vocabulary, more)                        \
    "{\"model_type\":\"" type "\",\"num_hidden_layers\":" #blocks ",\"hidden_size\":" #hidden                \
    ",\"intermediate_size\":" #width ",\"num_attention_heads\":" #heads                                      \
    ",\"num_key_value_heads\":" #kv_heads ",\"head_dim\":" #head ",\"vocab_size\":" #vocabulary              \
    ",\"tie_word_embeddings\":" more "}"

#define EXPERTS(count, active, width)                                                                        \
    "false,\"num_experts\":" #count ",\"num_experts_per_tok\":" #active ",\"moe_intermediate_size\":" #width

/* Multi-head latent attention. */
#define LATENT(type, dense, experts, heads, vocabulary)                                                      \
    "{\"model_type\":\"" type                                                                                \
    "\",\"num_hidden_layers\":61,\"hidden_size\":7168,\"intermediate_size\":18432,"                          \
    "\"moe_intermediate_size\":2048,\"n_routed_experts\":" #experts                                          \
    ",\"n_shared_experts\":1,\"num_experts_per_tok\":8,\"first_k_dense_replace\":" #dense                    \
    ",\"num_attention_heads\":" #heads ",\"q_lora_rank\":1536,\"kv_lora_rank\":512,"                         \
    "\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"vocab_size\":" #vocabulary        \
    ",\"tie_word_embeddings\":false}"

static const gen_model_t models[] = {
    {"qwen3-0.6b", DECODER("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, "true"), true},
    {"qwen3-8b", DECODER("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, "false"), false},
    {"qwen2.5-7b", DECODER("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, "false"), false},
    {"llama-3-8b", DECODER("llama", 32, 4096, 14336, 32, 8, 128, 128256, "false"), false},
    {"llama-3-70b", DECODER("llama", 80, 8192, 28672, 64, 8, 128, 128256, "false"), false},
    {"mixtral-8x7b", DECODER("mixtral", 32, 4096, 14336, 32, 8, 128, 32000, "false,\"num_local_experts\":8"),
     false},
    {"qwen3-30b-a3b", DECODER("qwen3_moe", 48, 2048, 6144, 32, 4, 128, 151936, EXPERTS(128, 8, 768)), false},
    {"qwen3-235b-a22b", DECODER("qwen3_moe", 94, 4096, 12288, 64, 4, 128, 151936, EXPERTS(128, 8, 1536)),
     false},
    {"deepseek-v3", LATENT("deepseek_v3", 3, 256, 128, 129280), false},
    {"kimi-k2", LATENT("kimi_k2", 1, 384, 64, 163840), false},
    {"gpt-oss-20b", DECODER("gpt_oss", 24, 2880, 2880, 64, 8, 64, 201088, "false,\"num_local_experts\":32"),
     false},
    {"gpt-oss-120b", DECODER("gpt_oss", 36, 2880, 2880, 64, 8, 64, 201088, "false,\"num_local_experts\":128"),
     false},
};

#define NUM_MODELS (sizeof models / sizeof models[0])

const gen_model_t *gen_model_find(const char *name)
{
    for (size_t i = 0; i < NUM_MODELS; i++)
        if (strcmp(models[i].name, name) == 0)
            return &models[i];
    return NULL;
}

const gen_model_t *gen_model_at(unsigned index)
{
    return index < NUM_MODELS ? &models[index] : NULL;
}
