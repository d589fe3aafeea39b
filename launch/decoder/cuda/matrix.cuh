/* Live weights as floats: single elements, and the elements of a 16-byte load. */
#ifndef WEFT_LAUNCH_DECODER_CUDA_MATRIX_CUH
#define WEFT_LAUNCH_DECODER_CUDA_MATRIX_CUH

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "launch/decoder/cuda/engine.cuh"

typedef enum format {
    FORMAT_BF16,
    FORMAT_F16,
    FORMAT_E4M3_BLOCK,
    FORMAT_E4M3_CHANNEL,
    FORMAT_COUNT,
} format_t;

constexpr uint32_t LOAD_BYTES = 16;

template <format_t F> constexpr uint32_t code_bytes = F == FORMAT_BF16 || F == FORMAT_F16 ? 2 : 1;

static inline format_t format_of(const decoder_matrix_t *matrix)
{
    if (matrix->dtype == WEFT_DTYPE_BF16)
        return FORMAT_BF16;
    if (matrix->dtype == WEFT_DTYPE_F16)
        return FORMAT_F16;
    return matrix->scaling == DECODER_SCALING_BLOCK ? FORMAT_E4M3_BLOCK : FORMAT_E4M3_CHANNEL;
}

static __device__ __forceinline__ float2 floats_of_bf16(uint32_t pair)
{
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
}

static __device__ __forceinline__ float2 floats_of_f16(uint32_t pair)
{
    __half2_raw raw;
    raw.x = (unsigned short)pair;
    raw.y = (unsigned short)(pair >> 16);
    return __half22float2(__half2(raw));
}

/* Every E4M3 value is an fp16 value. */
static __device__ __forceinline__ float2 floats_of_e4m3(uint32_t pair)
{
    return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)pair, __NV_E4M3)));
}

template <format_t F> static __device__ __forceinline__ void unpack_word(uint32_t word, float *out)
{
    if constexpr (code_bytes<F> == 2) {
        float2 two = F == FORMAT_BF16 ? floats_of_bf16(word) : floats_of_f16(word);
        out[0] = two.x;
        out[1] = two.y;
    } else {
        float2 low = floats_of_e4m3(word & 0xFFFF), high = floats_of_e4m3(word >> 16);
        out[0] = low.x;
        out[1] = low.y;
        out[2] = high.x;
        out[3] = high.y;
    }
}

/* The codes of a load as floats, not yet scaled. */
template <format_t F> static __device__ __forceinline__ void unpack(uint4 codes, float *out)
{
    constexpr uint32_t each = 4 / code_bytes<F>;
    unpack_word<F>(codes.x, out);
    unpack_word<F>(codes.y, out + each);
    unpack_word<F>(codes.z, out + 2 * each);
    unpack_word<F>(codes.w, out + 3 * each);
}

static __device__ __forceinline__ uint32_t scale_columns(const decoder_matrix_t *matrix)
{
    return (matrix->cols + DECODER_BLOCK - 1) / DECODER_BLOCK;
}

/* Where the scale of an element of an fp8-block matrix is. */
static __device__ __forceinline__ float block_scale(const decoder_matrix_t *matrix, uint32_t row,
                                                    uint32_t col)
{
    return matrix->scale[(size_t)(row / DECODER_BLOCK) * scale_columns(matrix) + col / DECODER_BLOCK];
}

/* One element, whatever the format. */
static __device__ __forceinline__ float matrix_value(const decoder_matrix_t *matrix, uint32_t row,
                                                     uint32_t col)
{
    size_t at = (size_t)row * matrix->cols + col;
    if (matrix->dtype == WEFT_DTYPE_BF16)
        return floats_of_bf16(((const uint16_t *)matrix->data)[at]).x;
    if (matrix->dtype == WEFT_DTYPE_F16)
        return floats_of_f16(((const uint16_t *)matrix->data)[at]).x;
    float code = floats_of_e4m3(((const uint8_t *)matrix->data)[at]).x;
    return code *
           (matrix->scaling == DECODER_SCALING_CHANNEL ? matrix->scale[row] : block_scale(matrix, row, col));
}

/* The matrix of one expert of a stack, as decoder_matrix_expert says. */
template <format_t F>
static __device__ __forceinline__ decoder_matrix_t expert_of(const decoder_matrix_t *stack, uint32_t expert)
{
    decoder_matrix_t one = *stack;
    one.data = (const uint8_t *)stack->data + (size_t)expert * stack->rows * stack->cols * code_bytes<F>;
    if constexpr (F == FORMAT_E4M3_CHANNEL)
        one.scale = stack->scale + (size_t)expert * stack->rows;
    if constexpr (F == FORMAT_E4M3_BLOCK)
        one.scale = stack->scale + (size_t)expert * ((stack->rows + DECODER_BLOCK - 1) / DECODER_BLOCK) *
                                       scale_columns(stack);
    return one;
}

#endif
