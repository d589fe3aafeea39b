/* The decoder's step on a GPU: what its sources share.
 *
 * A batch is one or more sequences on their way, a token of each in every step, with their KV caches and the
 * room that a step needs. Decoding keeps a batch of one sequence; scoring one of many windows. Tokens and
 * positions are in device memory and the step moves them on, so that the same captured graph serves every
 * step:
 *
 *     segment 0    1           2       3 ..              2 blocks + 1    2 blocks + 2
 *     embed        attention   mlp     of each block     norm, head      tail: next token, or score; position
 * + 1 ^ sum        ^ sum       ^ sum           ^ sum           ^ gather
 *
 * At tp_size 1 all segments are one graph. Above it each is its own, and between them the host sums what the
 * ranks made, in pinned memory. Weights are read where they live: a kernel is given addresses, and
 * dequantizes what it finds there.
 */
#ifndef WEFT_LAUNCH_DECODER_CUDA_ENGINE_CUH
#define WEFT_LAUNCH_DECODER_CUDA_ENGINE_CUH

#include <cuda_runtime.h>
#include <stdint.h>

extern "C" {
#include "launch/decoder/backend.h"
#include "launch/decoder/forward.h"
#include "src/base/error.h"
}

#define DECODER_TRY_CUDA(call)                                                                               \
    do {                                                                                                     \
        cudaError_t decoder_error_ = (call);                                                                 \
        if (decoder_error_ != cudaSuccess)                                                                   \
            return decoder_error_;                                                                           \
    } while (0)

constexpr uint32_t HEAD_DIM_MAX = 256;
constexpr uint32_t EXPERTS_MAX = 1024;

/* Where a sequence is: the token that the next step takes, and that token's position. */
typedef struct sequence {
    uint32_t token, position;
} sequence_t;

/* One of a token's experts, and its share in the sum. */
typedef struct choice {
    uint32_t expert;
    float share;
} choice_t;

/* What kernels work on; everything is device memory. Handed to them by value, so part of a captured graph. */
typedef struct buffers {
    uint32_t batch, tokens_max, window;
    sequence_t *sequences; /* [batch] */
    float *keys, *values;  /* [batch, blocks, kv_heads, tokens_max, head_dim] */
    float *rope;           /* [tokens_max, head_dim]: the cosines of a position, then its sines */
    float *hidden, *normed,
        *delta;         /* [batch, hidden]: residual stream, what a half block reads, what it adds */
    float *qkv;         /* [batch, (heads + 2 kv_heads) * head_dim] */
    float *attended;    /* [batch, heads * head_dim] */
    float *wide;        /* [batch, lanes, 2 * width], gate and up; lanes: 1, or the active experts */
    float *activated;   /* [batch, lanes, width] */
    float *routes;      /* [batch, experts], router logits */
    choice_t *choices;  /* [batch, experts_active] */
    float *logits;      /* [batch, vocab] */
    uint32_t *produced; /* decoding: [tokens_max], the likeliest token after each position */
    uint8_t *text;      /* scoring: [batch, window]; NULL when decoding */
    uint32_t *lengths;  /* scoring: [batch], bytes of each window */
    double *bits;       /* scoring: [batch], sum over the bytes of each window */
} buffers_t;

typedef struct batch {
    buffers_t on;
    void *arena;     /* all buffers are parts of it */
    float *exchange; /* pinned: what the ranks sum; and the logits, on their way to the host */
    cudaGraphExec_t *graphs;
    uint32_t num_graphs;
} batch_t;

typedef struct cuda_engine {
    const decoder_t *decoder;
    int device;
    cudaStream_t stream;
    cudaEvent_t arrived; /* what was last copied to `exchange` is there */
    batch_t decoding;
    batch_t scoring;     /* made by the first decoder_score */
    bool logits_on_host; /* the last step's are in `exchange`, or on their way */
} cuda_engine_t;

/* ---- batch.cu ---- */

/* Make room for `sequences` sequences of up to `tokens_max` tokens; window != 0: to score windows of that
 * size.
 * **Ownership** free with batch_free, also after a failure. */
cudaError_t batch_create(cuda_engine_t *engine, uint32_t sequences, uint32_t tokens_max, uint32_t window,
                         batch_t *batch);
void batch_free(cuda_engine_t *engine, batch_t *batch);

/* Device bytes that the KV cache of one sequence takes. */
size_t batch_cache_bytes(const decoder_shape_t *shape, uint32_t tokens_max);

/* ---- segments.cu ---- */

/* Record the batch's step as graphs. */
cudaError_t batch_capture(const cuda_engine_t *engine, batch_t *batch);

/* Enqueue a step of the batch; at tp_size > 1 return when all but its tail is done.
 * **Returns** WEFT_OK, WEFT_ERR_PEER_LOST, WEFT_ERR_SYSTEM. **Collective** over the TP ranks. */
weft_status_t batch_step(const cuda_engine_t *engine, const batch_t *batch);

/* ---- score.cu ---- */

weft_status_t cuda_score(decoder_t *decoder, const uint8_t *text, size_t bytes, uint32_t window,
                         double *bits_per_byte);

/* ---- kernels: each enqueues on `stream` ---- */

/* matmul.cu: y [batch, rows] = x [batch, cols] times the transposed matrix; rows of y are `stride` floats
 * apart. */
cudaError_t enqueue_matmul(const decoder_matrix_t *matrix, const float *x, uint32_t batch, float *y,
                           uint32_t stride, cudaStream_t stream);
/* Every chosen expert's w13 into `wide`; of experts that another rank holds nothing is written. */
cudaError_t enqueue_experts_up(const decoder_shape_t *shape, const decoder_matrix_t *w13, const buffers_t *on,
                               cudaStream_t stream);
/* delta = the sum over a token's experts held here of share * w2 * activated. */
cudaError_t enqueue_experts_down(const decoder_shape_t *shape, const decoder_matrix_t *w2,
                                 const buffers_t *on, cudaStream_t stream);

/* attention.cu: from `qkv` and the cache to `attended`; keys and values are appended to the cache. */
cudaError_t enqueue_attention(const decoder_shape_t *shape, const decoder_block_t *weights, uint32_t block,
                              const buffers_t *on, cudaStream_t stream);

/* pointwise.cu. */
cudaError_t enqueue_embed(const decoder_shape_t *shape, const decoder_matrix_t *embed, const buffers_t *on,
                          cudaStream_t stream);
/* hidden += delta (where `add`), then normed = rms_norm(hidden). */
cudaError_t enqueue_norm(const decoder_shape_t *shape, const decoder_matrix_t *weight, bool add,
                         const buffers_t *on, cudaStream_t stream);
/* activated [count, width] = silu(gate) * up of `wide` [count, 2 * width]. */
cudaError_t enqueue_swiglu(const buffers_t *on, uint32_t count, uint32_t width, cudaStream_t stream);
/* From `routes` to `choices`. */
cudaError_t enqueue_route(const decoder_shape_t *shape, const buffers_t *on, cudaStream_t stream);

/* sequence.cu: set a decoding batch's token and position; start the windows of a text of `bytes`; end a step.
 */
cudaError_t enqueue_place(const buffers_t *on, uint32_t token, uint32_t position, cudaStream_t stream);
cudaError_t enqueue_windows(const buffers_t *on, size_t bytes, cudaStream_t stream);
cudaError_t enqueue_tail(const decoder_shape_t *shape, const buffers_t *on, cudaStream_t stream);

#endif
