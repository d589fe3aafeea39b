/* Source matrices on the host, of random elements of every kind. */
#ifndef WEFT_TESTS_CUDA_MATRIX_CUH
#define WEFT_TESTS_CUDA_MATRIX_CUH

#include "fixture.cuh"

typedef std::vector<uint8_t> bytes_t;

/* A source matrix on the host. */
typedef struct matrix {
    weft_dtype_t dtype;
    uint32_t rows, cols;
    bytes_t data;
} matrix_t;

static inline size_t elem_of(weft_dtype_t dtype)
{
    return weft_dtype_bytes(dtype);
}

typedef enum fill {
    FILL_WEIGHTS, /* near-normal, small */
    FILL_BITS,    /* any bits, NaN and Inf among them */
    FILL_FINITE,  /* any bits that are finite */
    FILL_TINY,    /* subnormals and zeros of both signs */
    FILL_ZERO,
    FILL_COUNT,
} fill_t;

static inline uint32_t random_element(weft_dtype_t dtype, fill_t fill)
{
    const uint32_t f16_top = WEFT_F16_INF, bf16_top = WEFT_BF16_INF;
    uint32_t bits = (uint32_t)random_u64(), sign16 = bits & 0x8000, sign32 = bits & 0x80000000u;
    if (fill == FILL_ZERO)
        return one_in(2) ? 0 : dtype == WEFT_DTYPE_F32 ? sign32 : sign16;
    if (fill == FILL_WEIGHTS) {
        float x = 0.02f * ((float)(random_u64() >> 40) * 0x1p-24f + (float)(random_u64() >> 40) * 0x1p-24f - 1.0f);
        return dtype == WEFT_DTYPE_F32   ? weft_f32_bits(x)
               : dtype == WEFT_DTYPE_F16 ? weft_f16_from_f32(x)
                                         : weft_bf16_from_f32(x);
    }
    if (fill == FILL_TINY)
        return dtype == WEFT_DTYPE_F32 ? bits & 0x80FFFFFFu : dtype == WEFT_DTYPE_F16 ? bits & 0x83FF : bits & 0x80FF;
    if (dtype == WEFT_DTYPE_F32) /* what rounds to Inf counts as Inf */
        return fill == FILL_BITS ? bits : sign32 | (bits & 0x7FFFFFFF) % 0x7F7F8000u;
    uint32_t top = dtype == WEFT_DTYPE_F16 ? f16_top : bf16_top;
    return fill == FILL_BITS ? bits & 0xFFFF : sign16 | (bits & 0x7FFF) % top;
}

static inline void set_element(matrix_t *m, size_t index, uint32_t bits)
{
    memcpy(m->data.data() + index * elem_of(m->dtype), &bits, elem_of(m->dtype));
}

static inline matrix_t random_matrix(weft_dtype_t dtype, uint32_t rows, uint32_t cols, fill_t fill)
{
    matrix_t m = {dtype, rows, cols, bytes_t((size_t)rows * cols * elem_of(dtype))};
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        set_element(&m, i, random_element(dtype, fill));
    if (fill == FILL_WEIGHTS && one_in(4)) /* a few bad ones among good ones */
        set_element(&m, random_u64() % ((size_t)rows * cols), dtype == WEFT_DTYPE_F32 ? 0xFF800000u : 0x7FFF);
    return m;
}

static inline uint32_t random_cols(bool channel)
{
    switch (random_in(0, 5)) {
    case 0:
        return random_in(1, 40);
    case 1:
        return random_in(1, 700);
    case 2:
        return 8 * random_in(1, 80);
    case 3:
        return 128 * random_in(1, 24);
    case 4:
        return channel ? 8 * random_in(200, 1600) : 128 * random_in(1, 8);
    default:
        return 64 * random_in(1, 20);
    }
}

#endif
