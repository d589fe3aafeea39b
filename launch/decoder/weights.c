#include "launch/decoder/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/decoder/search.h"
#include "src/base/error.h"

static weft_status_t find_matrix(const decoder_search_t *search, const char *leaf, uint32_t rows,
                                 uint32_t cols, decoder_matrix_t *matrix)
{
    return decoder_search(search, leaf, 0, rows, cols, matrix);
}

/* A norm: [elems], seen as a matrix of one row. */
static weft_status_t find_vector(const decoder_search_t *search, const char *leaf, uint32_t elems,
                                 decoder_matrix_t *matrix)
{
    WEFT_TRY(find_matrix(search, leaf, elems, 1, matrix));
    if (decoder_formats[matrix->format].scaling.scaled)
        return weft_fail(search->error, WEFT_ERR_SHAPE,
                         "rollout rank %u: %s%s is quantized, expected BF16 or F16", search->config->tp_rank,
                         search->prefix, leaf);
    matrix->rows = 1;
    matrix->cols = elems;
    return WEFT_OK;
}

static weft_status_t find_attention(const decoder_search_t *search, const decoder_shape_t *shape,
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

static weft_status_t find_dense(const decoder_search_t *search, const decoder_shape_t *shape,
                                decoder_block_t *block)
{
    WEFT_TRY(
        find_matrix(search, "mlp.gate_up_proj.weight", 2 * shape->mlp_width, shape->hidden, &block->gate_up));
    return find_matrix(search, "mlp.down_proj.weight", shape->hidden, shape->mlp_width, &block->down);
}

static weft_status_t find_sparse(const decoder_search_t *search, const decoder_shape_t *shape,
                                 decoder_block_t *block)
{
    block->sparse = true;
    WEFT_TRY(find_matrix(search, "mlp.gate.weight", shape->experts, shape->hidden, &block->router));
    if (!shape->experts_held)
        return WEFT_OK;
    WEFT_TRY(decoder_search(search, "mlp.experts.w13_weight", shape->experts_held, 2 * shape->expert_width,
                            shape->hidden, &block->w13));
    return decoder_search(search, "mlp.experts.w2_weight", shape->experts_held, shape->hidden,
                          shape->expert_width, &block->w2);
}

/* Some blocks of a sparse model may be dense: they are the ones that have a gate_up_proj. */
static weft_status_t find_block(const decoder_config_t *config, const decoder_shape_t *shape, uint32_t index,
                                decoder_block_t *block, weft_error_t *error)
{
    char prefix[32];
    snprintf(prefix, sizeof prefix, "model.layers.%u.", index);
    decoder_search_t search = {config, prefix, error};
    WEFT_TRY(find_attention(&search, shape, block));
    if (!shape->experts || decoder_search_has(&search, "mlp.gate_up_proj.weight"))
        return find_dense(&search, shape, block);
    return find_sparse(&search, shape, block);
}

static weft_status_t find_ends(const decoder_search_t *search, const decoder_shape_t *shape,
                               decoder_weights_t *weights)
{
    WEFT_TRY(
        find_matrix(search, "model.embed_tokens.weight", shape->vocab_rows, shape->hidden, &weights->embed));
    WEFT_TRY(find_vector(search, "model.norm.weight", shape->hidden, &weights->norm));
    if (shape->tied && !decoder_search_has(search, "lm_head.weight")) {
        weights->head = weights->embed;
        return WEFT_OK;
    }
    return find_matrix(search, "lm_head.weight", shape->vocab_rows, shape->hidden, &weights->head);
}

weft_status_t decoder_weights_find(const decoder_config_t *config, const decoder_shape_t *shape,
                                   decoder_weights_t *weights, weft_error_t *error)
{
    decoder_search_t search = {config, "", error};
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
