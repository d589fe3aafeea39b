/* The reference decoder: Qwen3, Qwen3-MoE and Llama, on the host or on a GPU, reading the live kernel-format
 * weights.
 *
 * It is there to prove that a rollout continues across a swap and that what was installed is right; small and
 * clear before fast. It never copies a weight: every step reads the bytes that are live when the step runs,
 * so a swap between two steps is all it takes to change the model. Tokens are bytes.
 *
 *     decoder_create(&config, &decoder, &error);
 *     decoder_step(decoder, token, logits);              one token for one sequence, KV cache inside
 *     decoder_score(decoder, text, bytes, &bits);        a file as windows, one batch, no cache
 *
 * On a GPU a step is work on the decoder's stream, and weights may be exchanged once that work has ended:
 *
 *     decoder_step_start(decoder, token);                enqueued; reads weights until the stream is past it
 *     ... the end of the step is recorded on decoder_stream(decoder) ...
 *     decoder_step_finish(decoder, logits);              waited for
 */
#ifndef WEFT_LAUNCH_DECODER_H
#define WEFT_LAUNCH_DECODER_H

#include <weft/model.h>

/* A kernel-format tensor of this rank by its name; NULL when the rank has none of that name. `shape` has 3
 * entries, unused ones 1. The address must stay valid and constant for the decoder's life; the bytes may
 * change between steps. */
typedef struct decoder_weight {
    const void *data;
    weft_dtype_t dtype;
    uint64_t shape[3];
} decoder_weight_t;

typedef struct decoder_config {
    const weft_model_t *model; /* only its configuration is read, during create */
    uint32_t tp_rank, tp_size;
    bool expert_parallel; /* experts are whole, split over the ranks: the first E mod tp hold one more */
    uint32_t max_tokens;  /* KV cache length of decoder_step */
    bool (*find)(void *user, const char *name, decoder_weight_t *weight);
    /* Sum `count` floats over the TP ranks in place, the same bits on every rank; NULL at tp_size 1.
     * Returns false when a peer is gone. */
    bool (*all_reduce)(void *user, float *data, size_t count);
    void *user;
    /* NULL or "host": weights are host memory. "cuda": weights are memory of the calling thread's current
     * GPU, and steps run there; `all_reduce` is given host memory all the same. */
    const char *device;
} decoder_config_t;

typedef struct decoder decoder_t;

/* Look every weight up once and check dtype and shape; a missing or odd one is named.
 * A weight may have any of the formats of launch/decoder/matrix.h, decided tensor by tensor: by the name it is
 * found under, its dtype, and the name, dtype and shape of its scale.
 * **Returns** also WEFT_ERR_UNKNOWN_NAME (no such device) and WEFT_ERR_UNSUPPORTED (a build without CUDA, a
 * machine without a GPU, a model that the GPU's kernels have no room for). */
weft_status_t decoder_create(const decoder_config_t *config, decoder_t **decoder, weft_error_t *error);
void decoder_destroy(decoder_t *decoder);

/* Forget the sequence: the next step is position 0. */
void decoder_reset(decoder_t *decoder);
uint32_t decoder_position(const decoder_t *decoder);

/* Feed one token; on return `logits` [vocab] (the same on every TP rank) predict the next.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT when the cache is full, WEFT_ERR_PEER_LOST (all_reduce failed). */
weft_status_t decoder_step(decoder_t *decoder, uint32_t token, float *logits);
uint32_t decoder_vocab(const decoder_t *decoder);

/* The halves of decoder_step. `logits` may be NULL; finish may be left out where nobody asks for them.
 * **Returns** as decoder_step, and WEFT_ERR_SYSTEM (the GPU failed).
 * **Blocks** start: on the host and at tp_size > 1 for the whole step, else not. finish: until the step has
 * ended.
 * **Stream** start enqueues one step on decoder_stream; nothing reads weights after it. */
weft_status_t decoder_step_start(decoder_t *decoder, uint32_t token);
weft_status_t decoder_step_finish(decoder_t *decoder, float *logits);

/* Start a step whose token is the likeliest after the step before it, without the host having to know that
 * token: a decode loop then runs as fast as the device can.
 * **Returns** as decoder_step_start; WEFT_ERR_ARGUMENT also at position 0. */
weft_status_t decoder_step_next(decoder_t *decoder);

/* Wait, then write the likeliest token after each of the last `count` steps, oldest first; count <= position.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT, WEFT_ERR_SYSTEM. */
weft_status_t decoder_tokens(decoder_t *decoder, uint32_t *tokens, uint32_t count);

/* The cudaStream_t that steps and scoring run on; NULL on the host. */
void *decoder_stream(const decoder_t *decoder);

/* Mean bits per byte over `text` cut into windows of `window` bytes, the first byte of each not scored; a
 * shorter last window counts too. Does not touch the KV cache of decoder_step.
 * **Blocks** until all of it is done, on a GPU too. */
weft_status_t decoder_score(decoder_t *decoder, const uint8_t *text, size_t bytes, uint32_t window,
                            double *bits_per_byte);

#endif
