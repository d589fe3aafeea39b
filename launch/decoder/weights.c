#include "launch/decoder/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

#define NAME_BYTES 128

/* What the finding functions hand down. */
typedef struct search {
    const decoder_config_t *config;
    const char *prefix; /* "model.layers.3.", or "" */
    weft_error_t *error;
} search_t;

static uint32_t blocks_of(uint32_t elems)
{
    return (elems + DECODER_BLOCK - 1) / DECODER_BLOCK;
}

static bool find(const search_t *search, const char *name, decoder_weight_t *weight)
{
    return search->config->find(search->config->user, name, weight);
}

static weft_status_t fail_missing(const search_t *search, const char *name)
{
    return weft_fail(search->error, WEFT_ERR_MISSING_TENSOR, "rollout rank %u: %s is missing",
                     search->config->tp_rank, name);
}

/* `expected` has three extents like decoder_weight_t. */
static weft_status_t check(const search_t *search, const char *name, const decoder_weight_t *weight,
                           const uint64_t expected[3])
{
    uint32_t rank = search->config->tp_rank;
    if (memcmp(weight->shape, expected, sizeof weight->shape) != 0)
        return weft_fail(
            search->error, WEFT_ERR_SHAPE,
            "rollout rank %u: %s is [%llu, %llu, %llu], expected [%llu, %llu, %llu] (unused extents are 1)",
            rank, name, (unsigned long long)weight->shape[0], (unsigned long long)weight->shape[1],
            (unsigned long long)weight->shape[2], (unsigned long long)expected[0],
            (unsigned long long)expected[1], (unsigned long long)expected[2]);
    if (!weight->data || (uintptr_t)weight->data % weft_dtype_bytes(weight->dtype))
        return weft_fail(search->error, WEFT_ERR_SHAPE,
                         "rollout rank %u: %s has no address aligned to its %s elements", rank, name,
                         weft_dtype_name(weight->dtype));
    return WEFT_OK;
}

/* Find `<name>_scale_inv` or `<name>_scale`; the first that exists decides the scheme. `count` is 0 for a
 * plain matrix. */
static weft_status_t find_scale(const search_t *search, const char *name, uint32_t count,
                                decoder_matrix_t *matrix)
{
    char scale_name[NAME_BYTES + 16];
    decoder_weight_t scale;
    uint64_t rows = matrix->rows, cols = 1;
    snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
    if (find(search, scale_name, &scale)) {
        matrix->scaling = DECODER_SCALING_BLOCK;
        rows = blocks_of(matrix->rows);
        cols = blocks_of(matrix->cols);
    } else {
        matrix->scaling = DECODER_SCALING_CHANNEL;
        snprintf(scale_name, sizeof scale_name, "%s_scale", name);
        if (!find(search, scale_name, &scale))
            return weft_fail(search->error, WEFT_ERR_MISSING_TENSOR,
                             "rollout rank %u: %s is F8_E4M3 and has neither a _scale_inv nor a _scale",
                             search->config->tp_rank, name);
    }
    if (scale.dtype != WEFT_DTYPE_F32)
        return weft_fail(search->error, WEFT_ERR_SHAPE, "rollout rank %u: %s is %s, expected F32",
                         search->config->tp_rank, scale_name, weft_dtype_name(scale.dtype));
    const uint64_t plain[3] = {rows, cols, 1}, stacked[3] = {count, rows, cols};
    WEFT_TRY(check(search, scale_name, &scale, count ? stacked : plain));
    matrix->scale = scale.data;
    return WEFT_OK;
}

/* Find prefix + `leaf` as `count` stacked matrices (0: one plain matrix) and its scale where its dtype needs
 * one. */
static weft_status_t find_stack(const search_t *search, const char *leaf, uint32_t count, uint32_t rows,
                                uint32_t cols, decoder_matrix_t *matrix)
{
    char name[NAME_BYTES];
    decoder_weight_t weight;
    snprintf(name, sizeof name, "%s%s", search->prefix, leaf);
    if (!find(search, name, &weight))
        return fail_missing(search, name);
    const uint64_t plain[3] = {rows, cols, 1}, stacked[3] = {count, rows, cols};
    WEFT_TRY(check(search, name, &weight, count ? stacked : plain));
    *matrix = (decoder_matrix_t){.data = weight.data, .dtype = weight.dtype, .rows = rows, .cols = cols};
    switch (weight.dtype) {
    case WEFT_DTYPE_BF16:
    case WEFT_DTYPE_F16:
        return WEFT_OK;
    case WEFT_DTYPE_F8_E4M3:
        return find_scale(search, name, count, matrix);
    default:
        return weft_fail(search->error, WEFT_ERR_SHAPE,
                         "rollout rank %u: %s is %s, expected BF16, F16 or F8_E4M3", search->config->tp_rank,
                         name, weft_dtype_name(weight.dtype));
    }
}

static weft_status_t find_matrix(const search_t *search, const char *leaf, uint32_t rows, uint32_t cols,
                                 decoder_matrix_t *matrix)
{
    return find_stack(search, leaf, 0, rows, cols, matrix);
}

/* A norm: [elems], seen as a matrix of one row. */
static weft_status_t find_vector(const search_t *search, const char *leaf, uint32_t elems,
                                 decoder_matrix_t *matrix)
{
    WEFT_TRY(find_matrix(search, leaf, elems, 1, matrix));
    if (matrix->scaling != DECODER_SCALING_NONE)
        return weft_fail(search->error, WEFT_ERR_SHAPE,
                         "rollout rank %u: %s%s is quantized, expected BF16 or F16", search->config->tp_rank,
                         search->prefix, leaf);
    matrix->rows = 1;
    matrix->cols = elems;
    return WEFT_OK;
}

static weft_status_t find_attention(const search_t *search, const decoder_shape_t *shape,
                                    decoder_block_t *block)
{
    uint32_t q_rows = shape->heads * shape->head_dim;
    uint32_t kv_rows = shape->kv_heads * shape->head_dim;
    WEFT_TRY(find_vector(search, "input_layernorm.weight", shape->hidden, &block->input_norm));
    WEFT_TRY(
        find_matrix(search, "self_attn.qkv_proj.weight", q_rows + 2 * kv_rows, shape->hidden, &block->qkv));
    WEFT_TRY(find_matrix(search, "self_attn.o_proj.weight", shape->hidden, q_rows, &block->o));
    WEFT_TRY(find_vector(search, "post_attention_layernorm.weight", shape->hidden, &block->post_norm));
    if (shape->qk_norm) {
        WEFT_TRY(find_vector(search, "self_attn.q_norm.weight", shape->head_dim, &block->q_norm));
        WEFT_TRY(find_vector(search, "self_attn.k_norm.weight", shape->head_dim, &block->k_norm));
    }
    return WEFT_OK;
}

static weft_status_t find_dense(const search_t *search, const decoder_shape_t *shape, decoder_block_t *block)
{
    WEFT_TRY(
        find_matrix(search, "mlp.gate_up_proj.weight", 2 * shape->mlp_width, shape->hidden, &block->gate_up));
    return find_matrix(search, "mlp.down_proj.weight", shape->hidden, shape->mlp_width, &block->down);
}

static weft_status_t find_sparse(const search_t *search, const decoder_shape_t *shape, decoder_block_t *block)
{
    block->sparse = true;
    WEFT_TRY(find_matrix(search, "mlp.gate.weight", shape->experts, shape->hidden, &block->router));
    if (!shape->experts_held)
        return WEFT_OK;
    WEFT_TRY(find_stack(search, "mlp.experts.w13_weight", shape->experts_held, 2 * shape->expert_width,
                        shape->hidden, &block->w13));
    return find_stack(search, "mlp.experts.w2_weight", shape->experts_held, shape->hidden,
                      shape->expert_width, &block->w2);
}

/* Some blocks of a sparse model may be dense: they are the ones that have a gate_up_proj. */
static weft_status_t find_block(const decoder_config_t *config, const decoder_shape_t *shape, uint32_t index,
                                decoder_block_t *block, weft_error_t *error)
{
    char prefix[32], gate_up[NAME_BYTES];
    decoder_weight_t ignored;
    snprintf(prefix, sizeof prefix, "model.layers.%u.", index);
    snprintf(gate_up, sizeof gate_up, "%smlp.gate_up_proj.weight", prefix);
    search_t search = {config, prefix, error};
    WEFT_TRY(find_attention(&search, shape, block));
    if (!shape->experts || find(&search, gate_up, &ignored))
        return find_dense(&search, shape, block);
    return find_sparse(&search, shape, block);
}

static weft_status_t find_ends(const search_t *search, const decoder_shape_t *shape,
                               decoder_weights_t *weights)
{
    decoder_weight_t ignored;
    WEFT_TRY(
        find_matrix(search, "model.embed_tokens.weight", shape->vocab_rows, shape->hidden, &weights->embed));
    WEFT_TRY(find_vector(search, "model.norm.weight", shape->hidden, &weights->norm));
    if (shape->tied && !find(search, "lm_head.weight", &ignored)) {
        weights->head = weights->embed;
        return WEFT_OK;
    }
    return find_matrix(search, "lm_head.weight", shape->vocab_rows, shape->hidden, &weights->head);
}

weft_status_t decoder_weights_find(const decoder_config_t *config, const decoder_shape_t *shape,
                                   decoder_weights_t *weights, weft_error_t *error)
{
    search_t search = {config, "", error};
    decoder_weights_t found = {.blocks = calloc(shape->blocks, sizeof *found.blocks)};
    if (!found.blocks)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "out of memory for %u blocks", shape->blocks);
    weft_status_t status;
    WEFT_TRY_GOTO(find_ends(&search, shape, &found), free_blocks);
    for (uint32_t i = 0; i < shape->blocks; i++)
        WEFT_TRY_GOTO(find_block(config, shape, i, &found.blocks[i], error), free_blocks);
    *weights = found;
    return WEFT_OK;
free_blocks:
    decoder_weights_free(&found);
    return status;
}

void decoder_weights_free(decoder_weights_t *weights)
{
    free(weights->blocks);
    weights->blocks = NULL;
}

decoder_matrix_t decoder_matrix_expert(const decoder_matrix_t *stack, uint32_t expert)
{
    decoder_matrix_t one = *stack;
    size_t scales = stack->scaling == DECODER_SCALING_BLOCK
                        ? (size_t)blocks_of(stack->rows) * blocks_of(stack->cols)
                        : stack->rows;
    one.data = (const char *)stack->data +
               (size_t)expert * stack->rows * stack->cols * weft_dtype_bytes(stack->dtype);
    if (stack->scale)
        one.scale = stack->scale + expert * scales;
    return one;
}
