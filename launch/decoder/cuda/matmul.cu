/* Floats times live weights. A warp takes two rows of the matrix for one token, or for eight of a batch: it
 * reads the rows once in loads of 16 bytes, lane by lane, dequantizes them in registers and adds up in fp32.
 *
 *     lane     0         1         2             31        0
 *     row  n   [16 B    ][16 B    ][16 B    ] .. [16 B    ][16 B ..
 *     row n+1  [16 B    ][16 B    ][16 B    ] .. [16 B    ][16 B ..
 *
 * half a byte to 2 bytes read an element and, of what stays in the caches, 4 of x for every two. Rows that do
 * not allow loads of 16 bytes are read element by element.
 */
#include "launch/decoder/cuda/launch.cuh"
#include "launch/decoder/cuda/matrix.cuh"
#include "launch/decoder/cuda/reduce.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t ROWS = 2; /* of a warp */
constexpr uint32_t BLOCK_ROWS = THREADS / WARP * ROWS;
constexpr uint32_t TILE = 8; /* tokens, where a batch has more than one */

static __device__ __forceinline__ uint32_t first_row(void)
{
    return (blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP) * ROWS;
}

/* Row `index` of the warp's; past the end of the matrix the last row stands in, and its sums are not used. */
static __device__ __forceinline__ uint32_t row_of(const decoder_matrix_t *matrix, uint32_t row,
                                                  uint32_t index)
{
    return min(row + index, matrix->rows - 1);
}

template <uint32_t COUNT> static __device__ __forceinline__ void load_floats(const float *from, float *out)
{
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i += 4) {
        const float4 four = *(const float4 *)(from + i);
        out[i] = four.x;
        out[i + 1] = four.y;
        out[i + 2] = four.z;
        out[i + 3] = four.w;
    }
}

/* sums[r][t] += the elements of one load of each row times those of x[t]. */
template <decoder_format_id_t F, uint32_t TOKENS>
static __device__ __forceinline__ void add_load(const decoder_matrix_t *matrix, uint32_t row, uint32_t col,
                                                const uint4 *codes, const float *const *x,
                                                float (*sums)[TOKENS])
{
    typedef format_traits<F> traits;
    constexpr uint32_t COUNT = traits::COUNT, EACH = traits::EACH, RUNS = COUNT / EACH;
    float weights[ROWS][COUNT], scales[ROWS][RUNS], inputs[COUNT];
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) {
        unpack<F>(codes[r], weights[r]);
#pragma unroll
        for (uint32_t run = 0; run < RUNS; run++)
            scales[r][run] =
                traits::BY_RUN ? scale_at<F>(matrix, row_of(matrix, row, r), col + run * EACH) : 1.0f;
    }
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; t++) {
        load_floats<COUNT>(x[t] + col, inputs);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++)
#pragma unroll
            for (uint32_t run = 0; run < RUNS; run++) {
                float part = traits::BY_RUN ? 0.0f : sums[r][t];
#pragma unroll
                for (uint32_t i = run * EACH; i < (run + 1) * EACH; i++)
                    part = fmaf(weights[r][i], inputs[i], part);
                sums[r][t] = traits::BY_RUN ? fmaf(scales[r][run], part, sums[r][t]) : part;
            }
    }
}

/* A lane's loads of `AHEAD` strides are under way together; memory is far. */
template <decoder_format_id_t F, uint32_t TOKENS>
static __device__ __forceinline__ void add_loads(const decoder_matrix_t *matrix, uint32_t row,
                                                 const float *const *x, float (*sums)[TOKENS])
{
    constexpr uint32_t COUNT = format_traits<F>::COUNT, STRIDE = WARP * COUNT;
    constexpr uint32_t AHEAD = TOKENS == 1 ? 4 : 1;
    const uint8_t *rows[ROWS];
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++)
        rows[r] = (const uint8_t *)matrix->data + row_of(matrix, row, r) * bytes_of<F>(matrix->cols);
#pragma unroll 1
    for (uint32_t col = threadIdx.x % WARP * COUNT; col < matrix->cols; col += AHEAD * STRIDE) {
        uint4 codes[AHEAD][ROWS];
#pragma unroll
        for (uint32_t a = 0; a < AHEAD; a++)
#pragma unroll
            for (uint32_t r = 0; r < ROWS; r++)
                if (col + a * STRIDE < matrix->cols)
                    codes[a][r] = __ldcs((const uint4 *)(rows[r] + bytes_of<F>(col + a * STRIDE)));
#pragma unroll
        for (uint32_t a = 0; a < AHEAD; a++)
            if (col + a * STRIDE < matrix->cols)
                add_load<F, TOKENS>(matrix, row, col + a * STRIDE, codes[a], x, sums);
    }
}

/* Scales of whole rows come last. */
template <decoder_format_id_t F, uint32_t TOKENS>
static __device__ __forceinline__ void scale_rows(const decoder_matrix_t *matrix, uint32_t row,
                                                  float (*sums)[TOKENS])
{
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) {
        const float scale = scale_at<F>(matrix, row_of(matrix, row, r), 0);
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; t++)
            sums[r][t] *= scale;
    }
}

template <uint32_t TOKENS>
static __device__ __noinline__ void dot_elements(const decoder_matrix_t *matrix, uint32_t row,
                                                 const float *const *x, float (*sums)[TOKENS])
{
#pragma unroll 1
    for (uint32_t col = threadIdx.x % WARP; col < matrix->cols; col += WARP)
        for (uint32_t r = 0; r < ROWS; r++) {
            const float weight = decoder_matrix_value(matrix, row_of(matrix, row, r), col);
            for (uint32_t t = 0; t < TOKENS; t++)
                sums[r][t] = fmaf(weight, x[t][col], sums[r][t]);
        }
}

/* A lane's part of the products of rows [row, row + ROWS) and x[t]; the warp's sum is still to be taken. */
template <decoder_format_id_t F, uint32_t TOKENS>
static __device__ __forceinline__ void dot_rows(const decoder_matrix_t *matrix, uint32_t row,
                                                const float *const *x, float (*sums)[TOKENS])
{
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++)
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; t++)
            sums[r][t] = 0;
    if (((uintptr_t)matrix->data | bytes_of<F>(matrix->cols)) % LOAD_BYTES == 0) {
        add_loads<F, TOKENS>(matrix, row, x, sums);
        if constexpr (format_traits<F>::BY_ROW)
            scale_rows<F, TOKENS>(matrix, row, sums);
    } else {
        float slow[ROWS][TOKENS] = {}; /* its address is taken: not the sums that live in registers */
        dot_elements<TOKENS>(matrix, row, x, slow);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++)
#pragma unroll
            for (uint32_t t = 0; t < TOKENS; t++)
                sums[r][t] = slow[r][t];
    }
}

/* Grid: rows, tiles of tokens. */
template <decoder_format_id_t F, uint32_t TOKENS>
static __global__ void __launch_bounds__(THREADS)
    matmul(const __grid_constant__ decoder_matrix_t matrix, const float *x, uint32_t batch, float *y,
           uint32_t stride)
{
    const uint32_t row = first_row(), first = blockIdx.y * TOKENS;
    if (row >= matrix.rows)
        return;
    const float *inputs[TOKENS];
    float sums[ROWS][TOKENS];
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; t++)
        inputs[t] = x + (size_t)min(first + t, batch - 1) * matrix.cols;
    dot_rows<F, TOKENS>(&matrix, row, inputs, sums);
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++)
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; t++) {
            const float total = warp_reduce(sums[r][t], sum_t());
            if (threadIdx.x % WARP == 0 && row + r < matrix.rows && first + t < batch)
                y[(size_t)(first + t) * stride + row + r] = total;
        }
}

/* Grid: rows, active experts, tokens. */
template <decoder_format_id_t F>
static __global__ void __launch_bounds__(THREADS)
    experts_up(const __grid_constant__ decoder_shape_t shape, const __grid_constant__ decoder_matrix_t w13,
               const __grid_constant__ buffers_t on)
{
    const uint32_t row = first_row(), pair = blockIdx.z * shape.experts_active + blockIdx.y;
    const uint32_t held = on.choices[pair].expert - shape.experts_begin;
    if (row >= w13.rows || held >= shape.experts_held)
        return;
    const decoder_matrix_t matrix = decoder_matrix_expert(&w13, held);
    const float *input[1] = {on.normed + (size_t)blockIdx.z * shape.hidden};
    float sums[ROWS][1];
    dot_rows<F, 1>(&matrix, row, input, sums);
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) {
        const float total = warp_reduce(sums[r][0], sum_t());
        if (threadIdx.x % WARP == 0 && row + r < matrix.rows)
            on.wide[(size_t)pair * matrix.rows + row + r] = total;
    }
}

/* Grid: rows, tokens. */
template <decoder_format_id_t F>
static __global__ void __launch_bounds__(THREADS)
    experts_down(const __grid_constant__ decoder_shape_t shape, const __grid_constant__ decoder_matrix_t w2,
                 const __grid_constant__ buffers_t on)
{
    const uint32_t row = first_row(), token = blockIdx.y;
    if (row >= w2.rows)
        return;
    float totals[ROWS] = {};
#pragma unroll 1
    for (uint32_t i = 0; i < shape.experts_active; i++) {
        const uint32_t pair = token * shape.experts_active + i;
        const choice_t choice = on.choices[pair];
        if (choice.expert - shape.experts_begin >= shape.experts_held)
            continue;
        const decoder_matrix_t matrix = decoder_matrix_expert(&w2, choice.expert - shape.experts_begin);
        const float *input[1] = {on.activated + (size_t)pair * shape.expert_width};
        float sums[ROWS][1];
        dot_rows<F, 1>(&matrix, row, input, sums);
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++)
            totals[r] = fmaf(choice.share, sums[r][0], totals[r]);
    }
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) {
        const float total = warp_reduce(totals[r], sum_t());
        if (threadIdx.x % WARP == 0 && row + r < w2.rows)
            on.delta[(size_t)token * shape.hidden + row + r] = total;
    }
}

static uint32_t row_blocks(const decoder_matrix_t *matrix)
{
    return (matrix->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
}

cudaError_t enqueue_matmul(const decoder_matrix_t *matrix, const float *x, uint32_t batch, float *y,
                           uint32_t stride, cudaStream_t stream)
{
    typedef void (*matmul_fn)(decoder_matrix_t, const float *, uint32_t, float *, uint32_t);
#define ONE(id, ...)  matmul<DECODER_FORMAT_##id, 1>,
#define MANY(id, ...) matmul<DECODER_FORMAT_##id, TILE>,
    static const matmul_fn one[DECODER_FORMAT_COUNT] = {DECODER_FORMATS(ONE)};
    static const matmul_fn many[DECODER_FORMAT_COUNT] = {DECODER_FORMATS(MANY)};
#undef ONE
#undef MANY
    if (!matrix->rows)
        return cudaSuccess;
    if (batch == 1)
        return launch(one[matrix->format], dim3(row_blocks(matrix)), THREADS, stream, *matrix, x, batch, y,
                      stride);
    return launch(many[matrix->format], dim3(row_blocks(matrix), (batch + TILE - 1) / TILE), THREADS, stream,
                  *matrix, x, batch, y, stride);
}

typedef void (*experts_fn)(decoder_shape_t, decoder_matrix_t, buffers_t);

cudaError_t enqueue_experts_up(const decoder_shape_t *shape, const decoder_matrix_t *w13, const buffers_t *on,
                               cudaStream_t stream)
{
#define X(id, ...) experts_up<DECODER_FORMAT_##id>,
    static const experts_fn fns[DECODER_FORMAT_COUNT] = {DECODER_FORMATS(X)};
#undef X
    return launch(fns[w13->format], dim3(row_blocks(w13), shape->experts_active, on->batch), THREADS, stream,
                  *shape, *w13, *on);
}

cudaError_t enqueue_experts_down(const decoder_shape_t *shape, const decoder_matrix_t *w2,
                                 const buffers_t *on, cudaStream_t stream)
{
#define X(id, ...) experts_down<DECODER_FORMAT_##id>,
    static const experts_fn fns[DECODER_FORMAT_COUNT] = {DECODER_FORMATS(X)};
#undef X
    return launch(fns[w2->format], dim3(row_blocks(w2), on->batch), THREADS, stream, *shape, *w2, *on);
}
