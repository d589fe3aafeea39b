/* The forward pass: a batch of consecutive tokens of one sequence through every block.
 *
 *     tokens > embed > [ norm > attention > + > norm > mlp or moe > + ] x blocks > norm > head > logits
 *                                  sum over TP               sum over TP            gather over TP
 *
 * A run is one sequence on its way: its KV cache, its position and the room that a batch needs. Stepping
 * keeps one run with a batch of 1; scoring makes its own with a batch of a whole window. What follows a sum
 * over the ranks is computed by every rank alike, from the same bits, so all ranks hold the same logits.
 */
#ifndef WEFT_LAUNCH_DECODER_FORWARD_H
#define WEFT_LAUNCH_DECODER_FORWARD_H

#include "launch/decoder/backend.h"
#include "launch/decoder/shape.h"
#include "launch/decoder/weights.h"

#define DECODER_LOGITS_BATCH 64 /* tokens whose logits are made at once: a vocabulary is wide */

typedef struct decoder_run {
    uint32_t batch_max, tokens_max;
    uint32_t position;     /* tokens already in the cache */
    float *keys, *values;  /* [blocks, kv_heads, tokens_max, head_dim] */
    float *rope;           /* [tokens_max, head_dim]: the cosines of a position, then its sines */
    float *norm_weight;    /* [max(hidden, head_dim)], a norm's weight as floats */
    float *hidden;         /* [batch, hidden], the residual stream */
    float *normed, *delta; /* [batch, hidden], what a half block reads and what it adds */
    float *qkv;            /* [batch, (heads + 2 kv_heads) * head_dim] */
    float *attended;       /* [batch, heads * head_dim] */
    float *scores;         /* [tokens_max], one query's attention */
    float *wide;           /* [batch, 2 * width], gate and up */
    float *routes;         /* [batch, experts], each expert's share in a token */
    float *gathered;       /* [batch, hidden], the tokens of one expert */
    float *expert_delta;   /* [batch, hidden], what it makes of them */
    float *head;           /* [min(batch, DECODER_LOGITS_BATCH), vocab_rows] */
} decoder_run_t;

struct decoder {
    decoder_config_t config; /* `model` is not read after create */
    decoder_shape_t shape;
    decoder_weights_t weights;
    decoder_run_t run; /* of decoder_step; a GPU keeps its own, and only the position here */
    const decoder_backend_t *backend;
    void *engine; /* the backend's own */
};

/* Make room for batches of `batch_max` tokens in a sequence of `tokens_max`.
 * **Returns** WEFT_OK or WEFT_ERR_NO_MEMORY. **Ownership** free with decoder_run_free. */
weft_status_t decoder_run_create(const decoder_shape_t *shape, uint32_t batch_max, uint32_t tokens_max,
                                 decoder_run_t *run);
void decoder_run_free(decoder_run_t *run);

/* Write the cosines and sines of positions [0, tokens) to `rope` [tokens, head_dim], as in decoder_run_t. */
void decoder_rope_fill(const decoder_shape_t *shape, uint32_t tokens, float *rope);

/* Take `count` tokens from the run's position on; `run->normed` then holds their final states and the
 * position has moved.
 * **Returns** WEFT_OK, WEFT_ERR_PEER_LOST. **Collective** over the TP ranks, with the same arguments. */
weft_status_t decoder_forward(const decoder_t *decoder, decoder_run_t *run, const uint32_t *tokens,
                              uint32_t count);

/* Write the logits [count, vocab] of tokens [first, first + count) of the last batch; count <=
 * DECODER_LOGITS_BATCH.
 * **Returns** and **Collective** as above. */
weft_status_t decoder_logits(const decoder_t *decoder, decoder_run_t *run, uint32_t first, uint32_t count,
                             float *logits);

/* The halves of a block: read `run->normed` [count, hidden], write this rank's share of the sum to
 * `run->delta`. */
void decoder_attention(const decoder_t *decoder, uint32_t block, decoder_run_t *run, uint32_t count);
void decoder_mlp(const decoder_t *decoder, uint32_t block, decoder_run_t *run, uint32_t count);
void decoder_moe(const decoder_t *decoder, uint32_t block, decoder_run_t *run, uint32_t count);

/* decoder_score on the host. */
weft_status_t decoder_host_score(decoder_t *decoder, const uint8_t *text, size_t bytes, uint32_t window,
                                 double *bits_per_byte);

/* Normalize `count` rows of `x` by a live weight; rows of `x` and `out` are `stride` floats apart; `out` may
 * be `x`. */
void decoder_norm(const decoder_matrix_t *weight, float eps, const float *x, uint32_t count, uint32_t stride,
                  decoder_run_t *run, float *out);

#endif
