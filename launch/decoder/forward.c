#include "launch/decoder/forward.h"

#include <string.h>

#include "launch/decoder/matmul.h"
#include "launch/decoder/vector.h"
#include "src/base/error.h"

static weft_status_t sum_over_ranks(const decoder_t *decoder, float *data, size_t count)
{
    const decoder_config_t *config = &decoder->config;
    if (config->tp_size == 1 || config->all_reduce(config->user, data, count))
        return WEFT_OK;
    return WEFT_ERR_PEER_LOST;
}

void decoder_norm(const decoder_matrix_t *weight, float eps, const float *x, uint32_t count, uint32_t stride,
                  decoder_run_t *run, float *out)
{
    decoder_dequantize(weight, 0, 0, weight->cols, run->norm_weight);
    for (uint32_t t = 0; t < count; t++)
        decoder_rms_norm(x + (size_t)t * stride, run->norm_weight, eps, weight->cols,
                         out + (size_t)t * stride);
}

/* Each token's row comes from the one rank that holds it. */
static weft_status_t embed(const decoder_t *decoder, decoder_run_t *run, const uint32_t *tokens,
                           uint32_t count)
{
    const decoder_shape_t *shape = &decoder->shape;
    for (uint32_t t = 0; t < count; t++) {
        float *row = run->hidden + (size_t)t * shape->hidden;
        if (tokens[t] >= shape->vocab_begin && tokens[t] - shape->vocab_begin < shape->vocab_rows)
            decoder_dequantize(&decoder->weights.embed, tokens[t] - shape->vocab_begin, 0, shape->hidden,
                               row);
        else
            memset(row, 0, shape->hidden * sizeof *row);
    }
    return sum_over_ranks(decoder, run->hidden, (size_t)count * shape->hidden);
}

static weft_status_t add_delta(const decoder_t *decoder, decoder_run_t *run, uint32_t count)
{
    size_t elems = (size_t)count * decoder->shape.hidden;
    WEFT_TRY(sum_over_ranks(decoder, run->delta, elems));
    for (size_t i = 0; i < elems; i++)
        run->hidden[i] += run->delta[i];
    return WEFT_OK;
}

static weft_status_t forward_block(const decoder_t *decoder, uint32_t index, decoder_run_t *run,
                                   uint32_t count)
{
    const decoder_block_t *block = &decoder->weights.blocks[index];
    uint32_t hidden = decoder->shape.hidden;
    float eps = decoder->shape.norm_eps;
    decoder_norm(&block->input_norm, eps, run->hidden, count, hidden, run, run->normed);
    decoder_attention(decoder, index, run, count);
    WEFT_TRY(add_delta(decoder, run, count));
    decoder_norm(&block->post_norm, eps, run->hidden, count, hidden, run, run->normed);
    if (block->sparse)
        decoder_moe(decoder, index, run, count);
    else
        decoder_mlp(decoder, index, run, count);
    return add_delta(decoder, run, count);
}

weft_status_t decoder_forward(const decoder_t *decoder, decoder_run_t *run, const uint32_t *tokens,
                              uint32_t count)
{
    const decoder_shape_t *shape = &decoder->shape;
    WEFT_TRY(embed(decoder, run, tokens, count));
    for (uint32_t i = 0; i < shape->blocks; i++)
        WEFT_TRY(forward_block(decoder, i, run, count));
    decoder_norm(&decoder->weights.norm, shape->norm_eps, run->hidden, count, shape->hidden, run,
                 run->normed);
    run->position += count;
    return WEFT_OK;
}

/* A rank fills its columns of a zeroed row, and the sum gathers them; rows of padding are left out. */
weft_status_t decoder_logits(const decoder_t *decoder, decoder_run_t *run, uint32_t first, uint32_t count,
                             float *logits)
{
    const decoder_shape_t *shape = &decoder->shape;
    size_t elems = (size_t)count * shape->vocab;
    uint32_t real = shape->vocab_begin < shape->vocab ? shape->vocab - shape->vocab_begin : 0;
    if (real > shape->vocab_rows)
        real = shape->vocab_rows;
    decoder_matmul(run->normed + (size_t)first * shape->hidden, count, &decoder->weights.head, run->head);
    memset(logits, 0, elems * sizeof *logits);
    for (uint32_t t = 0; real && t < count; t++)
        memcpy(logits + (size_t)t * shape->vocab + shape->vocab_begin,
               run->head + (size_t)t * shape->vocab_rows, real * sizeof *logits);
    return sum_over_ranks(decoder, logits, elems);
}
