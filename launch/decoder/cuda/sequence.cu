/* Where sequences begin and what ends a step: the next token of a decoded one, the score of a known one. */
#include <math.h>

#include "launch/decoder/cuda/launch.cuh"
#include "launch/decoder/cuda/reduce.cuh"
#include "launch/decoder/cuda/engine.cuh"

constexpr uint32_t CHOOSE_THREADS = 1024;
constexpr uint32_t SCORE_THREADS = 256;

static __global__ void place(const __grid_constant__ buffers_t on, uint32_t token, uint32_t position)
{
    on.sequences[0] = {token, position};
}

/* Grid: windows; one thread. */
static __global__ void start_window(const __grid_constant__ buffers_t on, size_t bytes)
{
    const uint32_t index = blockIdx.x;
    const size_t begin = (size_t)index * on.window;
    const size_t left = begin < bytes ? bytes - begin : 0;
    on.lengths[index] = left < on.window ? (uint32_t)left : on.window;
    on.sequences[index] = {left ? on.text[begin] : 0u, 0u};
    on.bits[index] = 0;
}

/* The likeliest token, of equals the first, becomes the next. Grid: one block. */
static __global__ void __launch_bounds__(CHOOSE_THREADS)
    choose_next(uint32_t vocab, const __grid_constant__ buffers_t on)
{
    unsigned long long best = 0;
    for (uint32_t i = threadIdx.x; i < vocab; i += CHOOSE_THREADS)
        best = max(best, rank_key(on.logits[i], i));
    best = block_reduce<CHOOSE_THREADS>(best, larger_t());
    if (threadIdx.x == 0) {
        const uint32_t token = rank_index(best), position = on.sequences[0].position;
        on.produced[position] = token;
        on.sequences[0] = {token, position + 1};
    }
}

/* -log2 of the probability that softmax(logits) gives `token`; every thread gets it. */
static __device__ double bits_of(const float *logits, uint32_t vocab, uint32_t token)
{
    float largest = -INFINITY;
    double total = 0;
    for (uint32_t i = threadIdx.x; i < vocab; i += SCORE_THREADS)
        largest = fmaxf(largest, logits[i]);
    largest = block_reduce<SCORE_THREADS>(largest, larger_t());
    for (uint32_t i = threadIdx.x; i < vocab; i += SCORE_THREADS)
        total += exp((double)logits[i] - largest);
    total = block_reduce<SCORE_THREADS>(total, sum_t());
    return (log(total) + largest - logits[token]) / log(2.0);
}

/* Add the bits of the byte that follows, and go on to it; a window at its end only goes on. Grid: windows. */
static __global__ void __launch_bounds__(SCORE_THREADS)
    score_next(uint32_t vocab, const __grid_constant__ buffers_t on)
{
    const uint32_t index = blockIdx.x, position = on.sequences[index].position + 1;
    const bool scored = position < on.lengths[index];
    const uint32_t token = scored ? on.text[(size_t)index * on.window + position] : 0;
    if (scored) {
        const double bits = bits_of(on.logits + (size_t)index * vocab, vocab, token);
        if (threadIdx.x == 0)
            on.bits[index] += bits;
    }
    __syncthreads(); /* all have read the position */
    if (threadIdx.x == 0)
        on.sequences[index] = {token, position};
}

cudaError_t enqueue_place(const buffers_t *on, uint32_t token, uint32_t position, cudaStream_t stream)
{
    return launch(place, dim3(1), 1, stream, *on, token, position);
}

cudaError_t enqueue_windows(const buffers_t *on, size_t bytes, cudaStream_t stream)
{
    return launch(start_window, dim3(on->batch), 1, stream, *on, bytes);
}

cudaError_t enqueue_tail(const decoder_shape_t *shape, const buffers_t *on, cudaStream_t stream)
{
    if (on->text)
        return launch(score_next, dim3(on->batch), SCORE_THREADS, stream, shape->vocab, *on);
    return launch(choose_next, dim3(1), CHOOSE_THREADS, stream, shape->vocab, *on);
}
