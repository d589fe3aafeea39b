/* Grouped-query attention. A row of `qkv` is [q heads; k heads; v heads] of this rank. */
#include <math.h>
#include <string.h>

#include "launch/decoder/forward.h"
#include "launch/decoder/matmul.h"
#include "launch/decoder/vector.h"

/* Turn the pairs (i, i + half) of a head by the angles of its position. */
static void rotate(const float *rope, uint32_t head_dim, float *head)
{
    uint32_t half = head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        float low = head[i], high = head[half + i];
        head[i] = low * rope[i] - high * rope[half + i];
        head[half + i] = high * rope[i] + low * rope[half + i];
    }
}

/* Norm (where the model has one) and rotate head number `head` of every token's row. */
static void prepare_head(const decoder_shape_t *shape, const decoder_matrix_t *norm, uint32_t head,
                         uint32_t count, decoder_run_t *run)
{
    uint32_t stride = (shape->heads + 2 * shape->kv_heads) * shape->head_dim;
    float *column = run->qkv + (size_t)head * shape->head_dim;
    if (shape->qk_norm)
        decoder_norm(norm, shape->norm_eps, column, count, stride, run, column);
    for (uint32_t t = 0; t < count; t++)
        rotate(run->rope + (size_t)(run->position + t) * shape->head_dim, shape->head_dim,
               column + (size_t)t * stride);
}

/* Where the cache holds position 0 of a KV head. */
static size_t cache_offset(const decoder_shape_t *shape, const decoder_run_t *run, uint32_t block,
                           uint32_t kv_head)
{
    return ((size_t)block * shape->kv_heads + kv_head) * run->tokens_max * shape->head_dim;
}

static void fill_cache(const decoder_shape_t *shape, uint32_t block, uint32_t kv_head, uint32_t count,
                       decoder_run_t *run)
{
    uint32_t dim = shape->head_dim;
    size_t stride = (size_t)(shape->heads + 2 * shape->kv_heads) * dim;
    size_t place = cache_offset(shape, run, block, kv_head) + (size_t)run->position * dim;
    const float *key = run->qkv + (size_t)(shape->heads + kv_head) * dim;
    const float *value = key + (size_t)shape->kv_heads * dim;
    for (uint32_t t = 0; t < count; t++) {
        memcpy(run->keys + place + (size_t)t * dim, key + t * stride, dim * sizeof *key);
        memcpy(run->values + place + (size_t)t * dim, value + t * stride, dim * sizeof *value);
    }
}

/* One query against positions [0, seen): out = softmax(q k / sqrt(dim)) v. */
static void attend(const float *query, const float *keys, const float *values, uint32_t seen, uint32_t dim,
                   float *scores, float *out)
{
    float factor = 1 / sqrtf((float)dim);
    for (uint32_t j = 0; j < seen; j++)
        scores[j] = decoder_dot(query, keys + (size_t)j * dim, dim) * factor;
    decoder_softmax(scores, seen);
    decoder_weighted_sum(scores, values, seen, dim, out);
}

static void attend_head(const decoder_shape_t *shape, uint32_t block, uint32_t head, uint32_t count,
                        decoder_run_t *run)
{
    uint32_t dim = shape->head_dim;
    size_t cache = cache_offset(shape, run, block, head / (shape->heads / shape->kv_heads));
    size_t stride = (size_t)(shape->heads + 2 * shape->kv_heads) * dim;
    for (uint32_t t = 0; t < count; t++)
        attend(run->qkv + t * stride + (size_t)head * dim, run->keys + cache, run->values + cache,
               run->position + t + 1, dim, run->scores,
               run->attended + ((size_t)t * shape->heads + head) * dim);
}

void decoder_attention(const decoder_t *decoder, uint32_t block, decoder_run_t *run, uint32_t count)
{
    const decoder_shape_t *shape = &decoder->shape;
    const decoder_block_t *weights = &decoder->weights.blocks[block];
    decoder_matmul(run->normed, count, &weights->qkv, run->qkv);
    for (uint32_t head = 0; head < shape->heads; head++)
        prepare_head(shape, &weights->q_norm, head, count, run);
    for (uint32_t head = 0; head < shape->kv_heads; head++) {
        prepare_head(shape, &weights->k_norm, shape->heads + head, count, run);
        fill_cache(shape, block, head, count, run);
    }
    for (uint32_t head = 0; head < shape->heads; head++)
        attend_head(shape, block, head, count, run);
    decoder_matmul(run->attended, count, &weights->o, run->delta);
}
