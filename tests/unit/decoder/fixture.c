#include "tests/unit/decoder/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/base/array.h"
#include "src/model/safetensors.h"

weft_model_t *open_demo(const char *name)
{
    char path[512];
    weft_model_t *model = NULL;
    weft_error_t error;
    snprintf(path, sizeof path, "%s/launch/demo/%s", WEFT_SOURCE_DIR, name);
    if (weft_model_open(path, &model, &error) != WEFT_OK)
        fail_msg("%s: %s", path, error.message);
    return model;
}

char *read_demo(const char *name, size_t *bytes)
{
    char path[512];
    snprintf(path, sizeof path, "%s/launch/demo/%s", WEFT_SOURCE_DIR, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s cannot be opened", path);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(*bytes + 1, 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, *bytes, file), *bytes);
    fclose(file);
    return text;
}

/* Add a zeroed tensor and return its data. */
static void *add(kernel_rank_t *rank, const char *name, weft_dtype_t dtype, uint64_t d0, uint64_t d1,
                 uint64_t d2)
{
    kernel_tensor_t tensor = {.weight = {.dtype = dtype, .shape = {d0, d1, d2}}};
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    tensor.data = calloc(d0 * d1 * d2, weft_dtype_bytes(dtype));
    tensor.weight.data = tensor.data;
    assert_non_null(tensor.data);
    assert_true(WEFT_ARRAY_PUSH(&rank->tensors, tensor));
    return tensor.data;
}

static const weft_tensor_t *source(const weft_model_t *model, const char *prefix, const char *leaf)
{
    char name[160];
    snprintf(name, sizeof name, "%s%s", prefix, leaf);
    const weft_tensor_t *tensor = weft_model_find(model, name);
    if (!tensor)
        fail_msg("the checkpoint has no %s", name);
    return tensor;
}

/* Append rows [row, row + rows), columns [col, col + cols) of a bf16 tensor at `out`; returns what follows.
 */
static uint16_t *copy_box(uint16_t *out, const weft_tensor_t *tensor, uint64_t row, uint64_t rows,
                          uint64_t col, uint64_t cols)
{
    uint64_t stride = tensor->num_dims == 2 ? tensor->shape[1] : 1;
    for (uint64_t i = row; i < row + rows; i++, out += cols)
        memcpy(out, (const char *)tensor->data + (i * stride + col) * sizeof *out, cols * sizeof *out);
    return out;
}

/* The rank's share of `whole` things. */
static uint64_t share(kernel_place_t place, uint64_t whole)
{
    assert_int_equal(whole % place.ranks, 0);
    return whole / place.ranks;
}

static void add_copy(kernel_rank_t *rank, const weft_model_t *model, const char *prefix, const char *leaf)
{
    char name[96];
    const weft_tensor_t *tensor = source(model, prefix, leaf);
    uint64_t cols = tensor->num_dims == 2 ? tensor->shape[1] : 1;
    snprintf(name, sizeof name, "%s%s", prefix, leaf);
    copy_box(add(rank, name, WEFT_DTYPE_BF16, tensor->shape[0], cols, 1), tensor, 0, tensor->shape[0], 0,
             cols);
}

static void add_vocab(kernel_rank_t *rank, const weft_model_t *model, const char *name, kernel_place_t place)
{
    const weft_tensor_t *tensor = source(model, "", name);
    uint64_t vocab = place.vocab ? place.vocab : tensor->shape[0], cols = tensor->shape[1];
    uint64_t rows = ((vocab + 63) / 64 * 64 + place.ranks - 1) / place.ranks, begin = rows * place.rank;
    uint64_t real = begin >= vocab ? 0 : vocab - begin < rows ? vocab - begin : rows;
    copy_box(add(rank, name, WEFT_DTYPE_BF16, rows, cols, 1), tensor, begin, real, 0, cols);
}

/* A matrix of which every rank holds a run of columns. */
static void add_cols(kernel_rank_t *rank, const weft_model_t *model, const char *prefix, const char *leaf,
                     kernel_place_t place)
{
    char name[96];
    const weft_tensor_t *tensor = source(model, prefix, leaf);
    uint64_t cols = share(place, tensor->shape[1]);
    snprintf(name, sizeof name, "%s%s", prefix, leaf);
    copy_box(add(rank, name, WEFT_DTYPE_BF16, tensor->shape[0], cols, 1), tensor, 0, tensor->shape[0],
             cols * place.rank, cols);
}

static void add_qkv(kernel_rank_t *rank, const weft_model_t *model, const char *prefix, kernel_place_t place)
{
    char name[96];
    uint64_t dim = (uint64_t)weft_model_config_number(model, "head_dim", 0);
    const weft_tensor_t *q = source(model, prefix, "self_attn.q_proj.weight");
    const weft_tensor_t *k = source(model, prefix, "self_attn.k_proj.weight");
    const weft_tensor_t *v = source(model, prefix, "self_attn.v_proj.weight");
    uint64_t kv_heads = k->shape[0] / dim, cols = q->shape[1], q_rows = share(place, q->shape[0]);
    uint64_t held = kv_heads >= place.ranks ? kv_heads / place.ranks : 1;
    uint64_t first = kv_heads >= place.ranks ? held * place.rank : place.rank / (place.ranks / kv_heads);
    snprintf(name, sizeof name, "%sself_attn.qkv_proj.weight", prefix);
    uint16_t *out = add(rank, name, WEFT_DTYPE_BF16, q_rows + 2 * held * dim, cols, 1);
    out = copy_box(out, q, q_rows * place.rank, q_rows, 0, cols);
    out = copy_box(out, k, first * dim, held * dim, 0, cols);
    copy_box(out, v, first * dim, held * dim, 0, cols);
}

static void add_dense(kernel_rank_t *rank, const weft_model_t *model, const char *prefix,
                      kernel_place_t place)
{
    char name[96];
    const weft_tensor_t *gate = source(model, prefix, "mlp.gate_proj.weight");
    const weft_tensor_t *up = source(model, prefix, "mlp.up_proj.weight");
    uint64_t rows = share(place, gate->shape[0]), cols = gate->shape[1];
    snprintf(name, sizeof name, "%smlp.gate_up_proj.weight", prefix);
    uint16_t *out = add(rank, name, WEFT_DTYPE_BF16, 2 * rows, cols, 1);
    out = copy_box(out, gate, rows * place.rank, rows, 0, cols);
    copy_box(out, up, rows * place.rank, rows, 0, cols);
    add_cols(rank, model, prefix, "mlp.down_proj.weight", place);
}

static const weft_tensor_t *expert_source(const weft_model_t *model, const char *prefix, uint64_t expert,
                                          const char *part)
{
    char leaf[64];
    snprintf(leaf, sizeof leaf, "mlp.experts.%llu.%s.weight", (unsigned long long)expert, part);
    return source(model, prefix, leaf);
}

static void add_sparse(kernel_rank_t *rank, const weft_model_t *model, const char *prefix,
                       kernel_place_t place)
{
    char w13_name[96], w2_name[96];
    uint64_t experts = source(model, prefix, "mlp.gate.weight")->shape[0], first = 0, held = experts;
    kernel_place_t cut = place; /* how each expert is cut: not at all under expert parallelism */
    if (place.expert_parallel) {
        uint64_t more = experts % place.ranks;
        held = experts / place.ranks + (place.rank < more);
        first = experts / place.ranks * place.rank + (place.rank < more ? place.rank : more);
        cut = (kernel_place_t){.ranks = 1};
    }
    const weft_tensor_t *gate = expert_source(model, prefix, 0, "gate_proj");
    uint64_t width = share(cut, gate->shape[0]), hidden = gate->shape[1];
    snprintf(w13_name, sizeof w13_name, "%smlp.experts.w13_weight", prefix);
    snprintf(w2_name, sizeof w2_name, "%smlp.experts.w2_weight", prefix);
    uint16_t *w13 = add(rank, w13_name, WEFT_DTYPE_BF16, held, 2 * width, hidden);
    uint16_t *w2 = add(rank, w2_name, WEFT_DTYPE_BF16, held, hidden, width);
    for (uint64_t e = first; e < first + held; e++) {
        w13 = copy_box(w13, expert_source(model, prefix, e, "gate_proj"), width * cut.rank, width, 0, hidden);
        w13 = copy_box(w13, expert_source(model, prefix, e, "up_proj"), width * cut.rank, width, 0, hidden);
        w2 = copy_box(w2, expert_source(model, prefix, e, "down_proj"), 0, hidden, width * cut.rank, width);
    }
    add_copy(rank, model, prefix, "mlp.gate.weight");
}

void kernel_rank_build(kernel_rank_t *rank, const weft_model_t *model, kernel_place_t place)
{
    *rank = (kernel_rank_t){0};
    bool sparse = strcmp(weft_model_type(model), "qwen3_moe") == 0;
    uint32_t blocks = (uint32_t)weft_model_config_number(model, "num_hidden_layers", 0);
    add_vocab(rank, model, "model.embed_tokens.weight", place);
    add_vocab(rank, model, "lm_head.weight", place);
    add_copy(rank, model, "", "model.norm.weight");
    for (uint32_t i = 0; i < blocks; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "model.layers.%u.", i);
        add_copy(rank, model, prefix, "input_layernorm.weight");
        add_qkv(rank, model, prefix, place);
        add_copy(rank, model, prefix, "self_attn.q_norm.weight");
        add_copy(rank, model, prefix, "self_attn.k_norm.weight");
        add_cols(rank, model, prefix, "self_attn.o_proj.weight", place);
        add_copy(rank, model, prefix, "post_attention_layernorm.weight");
        if (sparse)
            add_sparse(rank, model, prefix, place);
        else
            add_dense(rank, model, prefix, place);
    }
}

void kernel_rank_read(kernel_rank_t *rank, const char *path)
{
    weft_safetensors_t *file;
    weft_error_t error;
    *rank = (kernel_rank_t){0};
    if (weft_safetensors_open(path, &file, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    for (uint32_t i = 0; i < weft_safetensors_count(file); i++) {
        const weft_tensor_t *tensor = weft_safetensors_tensor(file, i);
        uint64_t shape[3] = {1, 1, 1};
        assert_in_range(tensor->num_dims, 1, 3);
        for (uint32_t d = 0; d < tensor->num_dims; d++)
            shape[d] = tensor->shape[d];
        memcpy(add(rank, tensor->name, tensor->dtype, shape[0], shape[1], shape[2]), tensor->data,
               tensor->bytes);
    }
    weft_safetensors_close(file);
}

void kernel_rank_free(kernel_rank_t *rank)
{
    for (size_t i = 0; i < rank->tensors.count; i++)
        free(rank->tensors.items[i].data);
    WEFT_ARRAY_FREE(&rank->tensors);
}

kernel_tensor_t *kernel_rank_tensor(kernel_rank_t *rank, const char *name)
{
    for (size_t i = 0; i < rank->tensors.count; i++)
        if (strcmp(rank->tensors.items[i].name, name) == 0)
            return &rank->tensors.items[i];
    return NULL;
}

bool kernel_rank_find(void *user, const char *name, decoder_weight_t *weight)
{
    const kernel_tensor_t *tensor = kernel_rank_tensor(user, name);
    if (tensor)
        *weight = tensor->weight;
    return tensor != NULL;
}
