/* What is not a product: embedding, norm, SwiGLU, and the choice of experts. A block a token, or a thread an
 * element. */
#include "launch/decoder/cuda/launch.cuh"
#include "launch/decoder/cuda/matrix.cuh"
#include "launch/decoder/cuda/reduce.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t NORM_THREADS = 512;

/* Each token's row comes from the one rank that holds it. Grid: tokens. */
static __global__ void __launch_bounds__(THREADS)
    embed_tokens(const __grid_constant__ decoder_shape_t shape,
                 const __grid_constant__ decoder_matrix_t embed, const __grid_constant__ buffers_t on)
{
    const uint32_t row = on.sequences[blockIdx.x].token - shape.vocab_begin;
    float *out = on.hidden + (size_t)blockIdx.x * shape.hidden;
    for (uint32_t i = threadIdx.x; i < shape.hidden; i += THREADS)
        out[i] = row < shape.vocab_rows ? decoder_matrix_value(&embed, row, i) : 0;
}

/* Grid: tokens. */
static __global__ void __launch_bounds__(NORM_THREADS)
    norm(const __grid_constant__ decoder_shape_t shape, const __grid_constant__ decoder_matrix_t weight,
         bool add, const __grid_constant__ buffers_t on)
{
    const size_t row = (size_t)blockIdx.x * shape.hidden;
    float *hidden = on.hidden + row, *out = on.normed + row;
    const float *delta = on.delta + row;
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < shape.hidden; i += NORM_THREADS) {
        const float value = add ? hidden[i] + delta[i] : hidden[i];
        hidden[i] = value;
        squares = fmaf(value, value, squares);
    }
    squares = block_reduce<NORM_THREADS>(squares, sum_t());
    const float factor = 1 / sqrtf(squares / (float)shape.hidden + shape.norm_eps);
    for (uint32_t i = threadIdx.x; i < shape.hidden; i += NORM_THREADS) /* what this thread wrote above */
        out[i] = hidden[i] * factor * decoder_matrix_value(&weight, 0, i);
}

static __global__ void __launch_bounds__(THREADS)
    swiglu(const float *wide, uint32_t width, size_t elems, float *activated)
{
    const size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= elems)
        return;
    const float *gate = wide + at / width * 2 * width + at % width;
    activated[at] = gate[0] / (1 + expf(-gate[0])) * gate[width];
}

/* shares = softmax(logits), by one warp. */
static __device__ __forceinline__ void softmax_warp(const float *logits, uint32_t count, float *shares)
{
    float largest = -INFINITY, total = 0;
    for (uint32_t i = threadIdx.x; i < count; i += WARP)
        largest = fmaxf(largest, logits[i]);
    largest = warp_reduce(largest, larger_t());
    for (uint32_t i = threadIdx.x; i < count; i += WARP) {
        shares[i] = expf(logits[i] - largest);
        total += shares[i];
    }
    total = warp_reduce(total, sum_t());
    for (uint32_t i = threadIdx.x; i < count; i += WARP)
        shares[i] /= total;
}

/* Softmax over all experts; the active ones, of equals the first, keep their shares (scaled to sum to 1 where
 * the model says so). Grid: tokens; one warp. */
static __global__ void __launch_bounds__(WARP)
    route(const __grid_constant__ decoder_shape_t shape, const __grid_constant__ buffers_t on)
{
    __shared__ float shares[EXPERTS_MAX];
    const uint32_t experts = shape.experts, active = shape.experts_active;
    choice_t *choices = on.choices + (size_t)blockIdx.x * active;
    float total = 0;
    softmax_warp(on.routes + (size_t)blockIdx.x * experts, experts, shares);
    for (uint32_t i = 0; i < active; i++) {
        __syncwarp();
        unsigned long long best = 0;
        for (uint32_t e = threadIdx.x; e < experts; e += WARP)
            best = max(best, rank_key(shares[e], e));
        const uint32_t expert = rank_index(warp_reduce(best, larger_t()));
        const float share = shares[expert];
        total += share;
        __syncwarp();
        if (threadIdx.x == 0) {
            choices[i] = {expert, share};
            shares[expert] = -1; /* below every share that is left */
        }
    }
    if (threadIdx.x == 0 && shape.norm_topk)
        for (uint32_t i = 0; i < active; i++)
            choices[i].share /= total;
}

cudaError_t enqueue_embed(const decoder_shape_t *shape, const decoder_matrix_t *embed, const buffers_t *on,
                          cudaStream_t stream)
{
    return launch(embed_tokens, dim3(on->batch), THREADS, stream, *shape, *embed, *on);
}

cudaError_t enqueue_norm(const decoder_shape_t *shape, const decoder_matrix_t *weight, bool add,
                         const buffers_t *on, cudaStream_t stream)
{
    return launch(norm, dim3(on->batch), NORM_THREADS, stream, *shape, *weight, add, *on);
}

cudaError_t enqueue_swiglu(const buffers_t *on, uint32_t count, uint32_t width, cudaStream_t stream)
{
    const size_t elems = (size_t)count * width;
    return launch(swiglu, dim3((uint32_t)((elems + THREADS - 1) / THREADS)), THREADS, stream, on->wide, width,
                  elems, on->activated);
}

cudaError_t enqueue_route(const decoder_shape_t *shape, const buffers_t *on, cudaStream_t stream)
{
    return launch(route, dim3(on->batch), WARP, stream, *shape, *on);
}
