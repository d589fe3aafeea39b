#include <math.h>
#include <stdlib.h>

#include "launch/decoder/forward.h"

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* cos and sin of position * theta^(-2i / head_dim), the pairs (i, i + head_dim/2) of a head. */
void decoder_rope_fill(const decoder_shape_t *shape, uint32_t tokens, float *rope)
{
    uint32_t half = shape->head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        float frequency = 1 / powf(shape->rope_theta, (float)(2 * i) / (float)shape->head_dim);
        for (uint32_t position = 0; position < tokens; position++) {
            float *row = rope + (size_t)position * shape->head_dim;
            row[i] = cosf((float)position * frequency);
            row[half + i] = sinf((float)position * frequency);
        }
    }
}

weft_status_t decoder_run_create(const decoder_shape_t *shape, uint32_t batch_max, uint32_t tokens_max,
                                 decoder_run_t *run)
{
    decoder_run_t made = {.batch_max = batch_max, .tokens_max = tokens_max};
    uint32_t q_cols = shape->heads * shape->head_dim, kv_cols = shape->kv_heads * shape->head_dim;
    size_t batch = batch_max, cache = (size_t)shape->blocks * kv_cols * tokens_max;
    size_t head_batch = batch < DECODER_LOGITS_BATCH ? batch : DECODER_LOGITS_BATCH;
    const struct {
        float **buffer;
        size_t elems;
    } wants[] = {
        {&made.keys, cache},
        {&made.values, cache},
        {&made.rope, (size_t)tokens_max * shape->head_dim},
        {&made.norm_weight, larger(shape->hidden, shape->head_dim)},
        {&made.hidden, batch * shape->hidden},
        {&made.normed, batch * shape->hidden},
        {&made.delta, batch * shape->hidden},
        {&made.qkv, batch * (q_cols + 2 * kv_cols)},
        {&made.attended, batch * q_cols},
        {&made.scores, tokens_max},
        {&made.wide, batch * 2 * larger(shape->mlp_width, shape->expert_width)},
        {&made.routes, batch * shape->experts},
        {&made.gathered, shape->experts ? batch * shape->hidden : 0},
        {&made.expert_delta, shape->experts ? batch * shape->hidden : 0},
        {&made.head, head_batch * shape->vocab_rows},
    };
    for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++) {
        *wants[i].buffer = calloc(wants[i].elems + 1, sizeof(float)); /* + 1: calloc(0) may return NULL */
        if (!*wants[i].buffer) {
            decoder_run_free(&made);
            return WEFT_ERR_NO_MEMORY;
        }
    }
    decoder_rope_fill(shape, tokens_max, made.rope);
    *run = made;
    return WEFT_OK;
}

void decoder_run_free(decoder_run_t *run)
{
    float *buffers[] = {run->keys,   run->values, run->rope,     run->norm_weight,  run->hidden,
                        run->normed, run->delta,  run->qkv,      run->attended,     run->scores,
                        run->wide,   run->routes, run->gathered, run->expert_delta, run->head};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        free(buffers[i]);
    *run = (decoder_run_t){0};
}
