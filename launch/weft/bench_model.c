#include "launch/weft/bench_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/bench.h"
#include "launch/weft/options.h"
#include "src/base/error.h"

#define LARGEST_SIZE (1u << 22)
#define MOST_LAYERS  4096u

typedef struct sizes {
    uint32_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, tied;
} sizes_t;

static const struct {
    const char *name;
    sizes_t sizes;
} known[] = {
    {"qwen3-8b", {36, 4096, 32, 8, 128, 12288, 151936, 0}},
    {"qwen3-0.6b", {28, 1024, 16, 8, 128, 3072, 151936, 1}},
    {"tiny", {2, 256, 4, 2, 128, 512, 512, 0}},
};

/* ---- what was written ---- */

static bool find_name(const char *word, sizes_t *sizes)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, word) == 0) {
            *sizes = known[i].sizes;
            return true;
        }
    }
    return false;
}

static bool set_size(const char *word, sizes_t *s)
{
    const struct {
        const char *name;
        uint32_t *value, most;
    } fields[] = {{"layers", &s->layers, MOST_LAYERS},      {"hidden", &s->hidden, LARGEST_SIZE},
                  {"heads", &s->heads, LARGEST_SIZE},       {"kv_heads", &s->kv_heads, LARGEST_SIZE},
                  {"head_dim", &s->head_dim, LARGEST_SIZE}, {"intermediate", &s->intermediate, LARGEST_SIZE},
                  {"vocab", &s->vocab, LARGEST_SIZE},       {"tied", &s->tied, 1}};
    const char *equals = strchr(word, '=');
    for (size_t i = 0; equals && i < sizeof fields / sizeof fields[0]; i++) {
        uint32_t value;
        size_t length = strlen(fields[i].name);
        if (length != (size_t)(equals - word) || strncmp(word, fields[i].name, length) != 0)
            continue;
        if (!options_read_count(equals + 1, &value) || value > fields[i].most ||
            (value == 0 && fields[i].value != &s->tied))
            return false;
        *fields[i].value = value;
        return true;
    }
    return false;
}

static weft_status_t read_sizes(const char *text, sizes_t *sizes, weft_error_t *error)
{
    char word[64];
    *sizes = known[0].sizes;
    for (const char *list = text; bench_next_word(&list, word, sizeof word);)
        if (!find_name(word, sizes) && !set_size(word, sizes))
            return weft_fail(error, WEFT_ERR_ARGUMENT,
                             "--shape expects qwen3-8b, qwen3-0.6b, tiny, or one of them with sizes such as "
                             "qwen3-8b,layers=4,hidden=1024, found %s",
                             word);
    return WEFT_OK;
}

/* ---- the model ---- */

static weft_status_t begin_model(const sizes_t *s, weft_model_t **model, weft_error_t *error)
{
    char config[1024];
    snprintf(config, sizeof config,
             "{\"model_type\": \"qwen3\", \"num_hidden_layers\": %u, \"hidden_size\": %u, "
             "\"num_attention_heads\": %u, "
             "\"num_key_value_heads\": %u, \"head_dim\": %u, \"intermediate_size\": %u, \"vocab_size\": %u, "
             "\"tie_word_embeddings\": %s, \"rope_theta\": 1000000, \"rms_norm_eps\": 1e-06}",
             s->layers, s->hidden, s->heads, s->kv_heads, s->head_dim, s->intermediate, s->vocab,
             s->tied ? "true" : "false");
    return weft_model_create(config, model, error);
}

static weft_status_t add(weft_model_t *model, const char *name, uint64_t rows, uint64_t cols,
                         weft_error_t *error)
{
    const uint64_t shape[2] = {rows, cols};
    return weft_model_add(model, name, WEFT_DTYPE_BF16, shape, cols ? 2 : 1, error);
}

static weft_status_t add_block(weft_model_t *model, const sizes_t *s, uint32_t block, weft_error_t *error)
{
    const struct {
        const char *leaf;
        uint64_t rows, cols; /* cols 0: a vector */
    } tensors[] = {{"input_layernorm", s->hidden, 0},
                   {"post_attention_layernorm", s->hidden, 0},
                   {"self_attn.q_proj", (uint64_t)s->heads * s->head_dim, s->hidden},
                   {"self_attn.k_proj", (uint64_t)s->kv_heads * s->head_dim, s->hidden},
                   {"self_attn.v_proj", (uint64_t)s->kv_heads * s->head_dim, s->hidden},
                   {"self_attn.q_norm", s->head_dim, 0},
                   {"self_attn.k_norm", s->head_dim, 0},
                   {"self_attn.o_proj", s->hidden, (uint64_t)s->heads * s->head_dim},
                   {"mlp.gate_proj", s->intermediate, s->hidden},
                   {"mlp.up_proj", s->intermediate, s->hidden},
                   {"mlp.down_proj", s->hidden, s->intermediate}};
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", block, tensors[i].leaf);
        WEFT_TRY(add(model, name, tensors[i].rows, tensors[i].cols, error));
    }
    return WEFT_OK;
}

static weft_status_t add_all(weft_model_t *model, const sizes_t *s, weft_error_t *error)
{
    WEFT_TRY(add(model, "model.embed_tokens.weight", s->vocab, s->hidden, error));
    WEFT_TRY(add(model, "model.norm.weight", s->hidden, 0, error));
    if (!s->tied)
        WEFT_TRY(add(model, "lm_head.weight", s->vocab, s->hidden, error));
    for (uint32_t block = 0; block < s->layers; block++)
        WEFT_TRY(add_block(model, s, block, error));
    return WEFT_OK;
}

weft_status_t bench_model_create(const char *text, weft_model_t **model, weft_error_t *error)
{
    sizes_t sizes;
    weft_model_t *made;
    WEFT_TRY(read_sizes(text, &sizes, error));
    WEFT_TRY(begin_model(&sizes, &made, error));
    weft_status_t status = add_all(made, &sizes, error);
    if (status != WEFT_OK) {
        weft_model_close(made);
        return status;
    }
    *model = made;
    return WEFT_OK;
}

uint64_t bench_model_largest(const weft_model_t *model)
{
    uint64_t most = 1;
    for (uint32_t i = 0; i < weft_model_num_tensors(model); i++) {
        uint64_t elems = weft_model_tensor(model, i)->bytes / 2;
        most = elems > most ? elems : most;
    }
    return most;
}
