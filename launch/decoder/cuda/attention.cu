/* Grouped-query attention over the cache. A row of `qkv` is [q heads; k heads; v heads] of this rank.
 *
 *     prepare   a block a head and token: norm, rotate; queries stay in `qkv`, keys and values go to the
 * cache attend    a block a query head and token: its warps share out the positions, each with a running
 * softmax, and at the end their sums are put on one scale and added
 *
 * 8 bytes read a position and dimension of a KV head, once for each of its query heads.
 */
#include <math.h>

#include "launch/decoder/cuda/launch.cuh"
#include "launch/decoder/cuda/matrix.cuh"
#include "launch/decoder/cuda/reduce.cuh"

constexpr uint32_t PREPARE_THREADS = 128;
constexpr uint32_t ATTEND_WARPS = 16;
constexpr uint32_t ATTEND_THREADS = ATTEND_WARPS * WARP;
constexpr uint32_t POSITIONS = 4; /* that a warp takes at a time */

/* Where the cache holds position 0 of a KV head. */
static __device__ __forceinline__ size_t cache_offset(const decoder_shape_t *shape, const buffers_t *on,
                                                      uint32_t token, uint32_t block, uint32_t kv_head)
{
    return (((size_t)token * shape->blocks + block) * shape->kv_heads + kv_head) * on->tokens_max *
           shape->head_dim;
}

/* out = the head normed by `norm` (where the model does that) and turned, pairs (i, i + half), by its
 * position. */
static __device__ void norm_and_rotate(const decoder_shape_t *shape, const decoder_matrix_t *norm,
                                       const float *head, const float *rope, float *out)
{
    const uint32_t dim = shape->head_dim, half = dim / 2;
    float factor = 1;
    if (shape->qk_norm) {
        float squares = 0;
        for (uint32_t i = threadIdx.x; i < dim; i += PREPARE_THREADS)
            squares = fmaf(head[i], head[i], squares);
        squares = block_reduce<PREPARE_THREADS>(squares, sum_t());
        factor = 1 / sqrtf(squares / (float)dim + shape->norm_eps);
    }
    for (uint32_t i = threadIdx.x; i < half; i += PREPARE_THREADS) {
        float low = head[i], high = head[half + i];
        if (shape->qk_norm) {
            low *= factor * decoder_matrix_value(norm, 0, i);
            high *= factor * decoder_matrix_value(norm, 0, half + i);
        }
        out[i] = low * rope[i] - high * rope[half + i];
        out[half + i] = high * rope[i] + low * rope[half + i];
    }
}

/* Grid: heads of q, k and v, tokens. */
static __global__ void __launch_bounds__(PREPARE_THREADS)
    prepare(const __grid_constant__ decoder_shape_t shape, const __grid_constant__ decoder_matrix_t q_norm,
            const __grid_constant__ decoder_matrix_t k_norm, uint32_t block,
            const __grid_constant__ buffers_t on)
{
    const uint32_t head = blockIdx.x, token = blockIdx.y, dim = shape.head_dim;
    const uint32_t position = on.sequences[token].position;
    const float *rope = on.rope + (size_t)position * dim;
    float *row = on.qkv + ((size_t)token * gridDim.x + head) * dim;
    if (head < shape.heads) {
        norm_and_rotate(&shape, &q_norm, row, rope, row);
        return;
    }
    const uint32_t kv_head = (head - shape.heads) % shape.kv_heads;
    const size_t place = cache_offset(&shape, &on, token, block, kv_head) + (size_t)position * dim;
    if (head < shape.heads + shape.kv_heads) {
        norm_and_rotate(&shape, &k_norm, row, rope, on.keys + place);
        return;
    }
    for (uint32_t i = threadIdx.x; i < dim; i += PREPARE_THREADS)
        on.values[place + i] = row[i];
}

/* A softmax on its way: weights are exp(score - largest), `out` their sum over values. A lane has dimensions
 * lane, lane + 32, ... of it. */
template <uint32_t DIMS> struct softmax_t {
    float largest, sum;
    float out[DIMS];
};

template <uint32_t DIMS>
static __device__ __forceinline__ void load_lane(const float *row, uint32_t dim, float *out)
{
#pragma unroll
    for (uint32_t i = 0; i < DIMS; i++) {
        const uint32_t at = threadIdx.x % WARP + i * WARP;
        out[i] = at < dim ? row[at] : 0;
    }
}

template <uint32_t DIMS> static __device__ __forceinline__ float dot_lanes(const float *a, const float *b)
{
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < DIMS; i++)
        sum = fmaf(a[i], b[i], sum);
    return warp_reduce(sum, sum_t());
}

/* Take positions [first, first + POSITIONS), as far as there are that many; there is at least one. */
template <uint32_t DIMS>
static __device__ __forceinline__ void take_positions(const float *query, const float *keys,
                                                      const float *values, uint32_t first, uint32_t seen,
                                                      uint32_t dim, softmax_t<DIMS> *softmax)
{
    float rows[POSITIONS][DIMS], scores[POSITIONS], largest = softmax->largest;
#pragma unroll
    for (uint32_t p = 0; p < POSITIONS; p++)
        load_lane<DIMS>(keys + (size_t)min(first + p, seen - 1) * dim, dim, rows[p]);
#pragma unroll
    for (uint32_t p = 0; p < POSITIONS; p++) {
        const float score = dot_lanes<DIMS>(query, rows[p]);
        scores[p] = first + p < seen ? score : -INFINITY;
        largest = fmaxf(largest, scores[p]);
        load_lane<DIMS>(values + (size_t)min(first + p, seen - 1) * dim, dim, rows[p]);
    }
    const float keep = expf(softmax->largest - largest);
    softmax->largest = largest;
    softmax->sum *= keep;
#pragma unroll
    for (uint32_t i = 0; i < DIMS; i++)
        softmax->out[i] *= keep;
#pragma unroll
    for (uint32_t p = 0; p < POSITIONS; p++) {
        const float weight = expf(scores[p] - largest);
        softmax->sum += weight;
#pragma unroll
        for (uint32_t i = 0; i < DIMS; i++)
            softmax->out[i] = fmaf(weight, rows[p][i], softmax->out[i]);
    }
}

/* Add the warps' softmaxes and write the result. */
template <uint32_t DIMS>
static __device__ __forceinline__ void merge_warps(const softmax_t<DIMS> *softmax, uint32_t dim, float *out)
{
    __shared__ float largests[ATTEND_WARPS], sums[ATTEND_WARPS], outs[ATTEND_WARPS][DIMS * WARP];
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (lane == 0) { /* every lane has the same */
        largests[warp] = softmax->largest;
        sums[warp] = softmax->sum;
    }
#pragma unroll
    for (uint32_t i = 0; i < DIMS; i++)
        outs[warp][i * WARP + lane] = softmax->out[i];
    __syncthreads();
    float largest = largests[0]; /* warp 0 has taken position 0 */
    for (uint32_t w = 1; w < ATTEND_WARPS; w++)
        largest = fmaxf(largest, largests[w]);
    for (uint32_t d = threadIdx.x; d < dim; d += ATTEND_THREADS) {
        float sum = 0, total = 0;
        for (uint32_t w = 0; w < ATTEND_WARPS; w++) {
            const float factor = expf(largests[w] - largest);
            sum = fmaf(factor, sums[w], sum);
            total = fmaf(factor, outs[w][d], total);
        }
        out[d] = total / sum;
    }
}

/* Grid: query heads, tokens. DIMS * 32 >= head_dim. */
template <uint32_t DIMS>
static __global__ void __launch_bounds__(ATTEND_THREADS)
    attend(const __grid_constant__ decoder_shape_t shape, uint32_t block,
           const __grid_constant__ buffers_t on)
{
    const uint32_t head = blockIdx.x, token = blockIdx.y, dim = shape.head_dim;
    const uint32_t seen = on.sequences[token].position + 1;
    const size_t cache = cache_offset(&shape, &on, token, block, head / (shape.heads / shape.kv_heads));
    const size_t row = (size_t)token * (shape.heads + 2 * shape.kv_heads) + head;
    const float factor = 1 / sqrtf((float)dim);
    float query[DIMS];
    load_lane<DIMS>(on.qkv + row * dim, dim, query);
    softmax_t<DIMS> softmax = {-INFINITY, 0, {}};
#pragma unroll
    for (uint32_t i = 0; i < DIMS; i++)
        query[i] *= factor;
    for (uint32_t first = threadIdx.x / WARP * POSITIONS; first < seen; first += ATTEND_WARPS * POSITIONS)
        take_positions<DIMS>(query, on.keys + cache, on.values + cache, first, seen, dim, &softmax);
    merge_warps<DIMS>(&softmax, dim, on.attended + ((size_t)token * shape.heads + head) * dim);
}

cudaError_t enqueue_attention(const decoder_shape_t *shape, const decoder_block_t *weights, uint32_t block,
                              const buffers_t *on, cudaStream_t stream)
{
    const dim3 all_heads(shape->heads + 2 * shape->kv_heads, on->batch), heads(shape->heads, on->batch);
    DECODER_TRY_CUDA(launch(prepare, all_heads, PREPARE_THREADS, stream, *shape, weights->q_norm,
                            weights->k_norm, block, *on));
    if (shape->head_dim <= HEAD_DIM_MAX / 2)
        return launch(attend<HEAD_DIM_MAX / 2 / WARP>, heads, ATTEND_THREADS, stream, *shape, block, *on);
    return launch(attend<HEAD_DIM_MAX / WARP>, heads, ATTEND_THREADS, stream, *shape, block, *on);
}
