/* Live weights as floats: the elements of a 16-byte load. Single elements, whatever their format, are
 * decoder_matrix_value's, the host's own. */
#ifndef WEFT_LAUNCH_DECODER_CUDA_MATRIX_CUH
#define WEFT_LAUNCH_DECODER_CUDA_MATRIX_CUH

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "launch/decoder/cuda/engine.cuh"

constexpr uint32_t LOAD_BYTES = 16;

/* What a kernel for one format is compiled for. */
template <decoder_format_id_t F> struct format_traits {
    static constexpr weft_dtype_t DTYPE = decoder_formats[F].dtype;
    static constexpr uint32_t BITS = decoder_formats[F].bits;
    static constexpr decoder_scaling_t SCALING = decoder_formats[F].scaling;
    static constexpr uint32_t COUNT = LOAD_BYTES * 8 / BITS; /* elements of a load */

    /* A scale of whole rows is applied to their sums; another one to each run of EACH elements of a load. */
    static constexpr bool BY_ROW = SCALING.scaled && SCALING.cols == DECODER_WHOLE;
    static constexpr bool BY_RUN = SCALING.scaled && SCALING.cols != DECODER_WHOLE;
    static constexpr uint32_t EACH = BY_RUN && SCALING.cols < COUNT ? SCALING.cols : COUNT;
    static_assert(COUNT % EACH == 0 && (!BY_RUN || SCALING.cols % EACH == 0),
                  "a run of a load never crosses the end of a scale's block");
};

/* The hardware turns two fp16 or E4M3 codes at a time into the floats that decoder_code says; every E4M3
 * value is an fp16 value. */
static __device__ __forceinline__ float2 floats_of_f16(uint32_t pair)
{
    __half2_raw raw;
    raw.x = (unsigned short)pair;
    raw.y = (unsigned short)(pair >> 16);
    return __half22float2(__half2(raw));
}

static __device__ __forceinline__ float2 floats_of_e4m3(uint32_t pair)
{
    return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)pair, __NV_E4M3)));
}

/* The codes of a word, the first one lowest. */
template <weft_dtype_t DTYPE> static __device__ __forceinline__ void unpack_word(uint32_t word, float *out)
{
    if constexpr (DTYPE == WEFT_DTYPE_F32) {
        out[0] = decoder_float_of_bits(word);
    } else if constexpr (DTYPE == WEFT_DTYPE_BF16) {
        out[0] = decoder_float_of_bf16((uint16_t)word);
        out[1] = decoder_float_of_bf16((uint16_t)(word >> 16));
    } else if constexpr (DTYPE == WEFT_DTYPE_F16) {
        const float2 two = floats_of_f16(word);
        out[0] = two.x;
        out[1] = two.y;
    } else if constexpr (DTYPE == WEFT_DTYPE_F8_E4M3) {
        const float2 low = floats_of_e4m3(word & 0xFFFF), high = floats_of_e4m3(word >> 16);
        out[0] = low.x;
        out[1] = low.y;
        out[2] = high.x;
        out[3] = high.y;
    } else if constexpr (DTYPE == WEFT_DTYPE_I8) {
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            out[i] = (float)(int8_t)(word >> 8 * i);
    } else if constexpr (DTYPE == WEFT_DTYPE_U8) {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            out[i] = decoder_float_of_e2m1(word >> 4 * i);
    } else {
        static_assert(DTYPE == WEFT_DTYPE_I32, "a dtype without codes");
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            out[i] = decoder_float_of_int4(word >> 4 * i);
    }
}

/* The codes of a load as floats, not yet scaled. */
template <decoder_format_id_t F> static __device__ __forceinline__ void unpack(uint4 codes, float *out)
{
    constexpr weft_dtype_t DTYPE = format_traits<F>::DTYPE;
    constexpr uint32_t each = format_traits<F>::COUNT / 4;
    unpack_word<DTYPE>(codes.x, out);
    unpack_word<DTYPE>(codes.y, out + each);
    unpack_word<DTYPE>(codes.z, out + 2 * each);
    unpack_word<DTYPE>(codes.w, out + 3 * each);
}

/* What a code at (row, col) is multiplied by. */
template <decoder_format_id_t F>
static __device__ __forceinline__ float scale_at(const decoder_matrix_t *matrix, uint32_t row, uint32_t col)
{
    return decoder_scale(format_traits<F>::SCALING, matrix, row, col);
}

/* Bytes of a row's codes before column `col`. */
template <decoder_format_id_t F> static __device__ __forceinline__ size_t bytes_of(size_t col)
{
    return col * format_traits<F>::BITS / 8;
}

#endif
