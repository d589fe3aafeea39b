/* Mixture of experts. Every rank routes every token alike and adds up what its experts, or its slices of
 * them, make. */
#include <string.h>

#include "launch/decoder/forward.h"
#include "launch/decoder/matmul.h"
#include "launch/decoder/vector.h"

/* The largest share not yet taken; of equals the first. Taken ones are marked by their sign. */
static uint32_t next_expert(const float *shares, uint32_t experts)
{
    uint32_t best = 0;
    for (uint32_t e = 1; e < experts; e++)
        if (shares[e] > shares[best])
            best = e;
    return best;
}

/* From router logits to shares: softmax over all experts, the active ones keep theirs (scaled to sum to 1
 * where the model says so), the others get 0. */
static void route(const decoder_shape_t *shape, float *shares)
{
    float sum = 0;
    decoder_softmax(shares, shape->experts);
    for (uint32_t i = 0; i < shape->experts_active; i++) {
        uint32_t best = next_expert(shares, shape->experts);
        sum += shares[best];
        shares[best] = -shares[best];
    }
    for (uint32_t e = 0; e < shape->experts; e++) {
        float share = shares[e] < 0 ? -shares[e] : 0;
        shares[e] = shape->norm_topk ? share / sum : share;
    }
}

/* Collect the tokens that go to an expert; returns how many. */
static uint32_t gather(const decoder_shape_t *shape, uint32_t expert, uint32_t count, decoder_run_t *run)
{
    uint32_t members = 0;
    for (uint32_t t = 0; t < count; t++)
        if (run->routes[(size_t)t * shape->experts + expert] > 0)
            memcpy(run->gathered + (size_t)members++ * shape->hidden, run->normed + (size_t)t * shape->hidden,
                   shape->hidden * sizeof *run->normed);
    return members;
}

/* Add the expert's rows back to the tokens they were gathered from, by their shares. */
static void scatter(const decoder_shape_t *shape, uint32_t expert, uint32_t count, decoder_run_t *run)
{
    const float *row = run->expert_delta;
    for (uint32_t t = 0; t < count; t++) {
        float share = run->routes[(size_t)t * shape->experts + expert];
        if (!(share > 0))
            continue;
        decoder_add_scaled(share, row, shape->hidden, run->delta + (size_t)t * shape->hidden);
        row += shape->hidden;
    }
}

void decoder_moe(const decoder_t *decoder, uint32_t block, decoder_run_t *run, uint32_t count)
{
    const decoder_shape_t *shape = &decoder->shape;
    const decoder_block_t *weights = &decoder->weights.blocks[block];
    decoder_matmul(run->normed, count, &weights->router, run->routes);
    for (uint32_t t = 0; t < count; t++)
        route(shape, run->routes + (size_t)t * shape->experts);
    memset(run->delta, 0, (size_t)count * shape->hidden * sizeof *run->delta);
    for (uint32_t held = 0; held < shape->experts_held; held++) {
        decoder_matrix_t w13 = decoder_matrix_expert(&weights->w13, held);
        decoder_matrix_t w2 = decoder_matrix_expert(&weights->w2, held);
        uint32_t expert = shape->experts_begin + held;
        uint32_t members = gather(shape, expert, count, run);
        if (!members)
            continue;
        decoder_matmul(run->gathered, members, &w13, run->wide);
        decoder_swiglu(run->wide, members, shape->expert_width);
        decoder_matmul(run->wide, members, &w2, run->expert_delta);
        scatter(shape, expert, count, run);
    }
}
