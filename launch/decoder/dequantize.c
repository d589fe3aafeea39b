/* Rows of codes to rows of floats: for each format a function of its own, in which all that its row of
 * DECODER_FORMATS says is a constant. Its loops are branch-free, so that they vectorize. */
#include "launch/decoder/clones.h"
#include "launch/decoder/matrix.h"

#define INLINE static inline __attribute__((always_inline))

/* `count` codes that share a scale. */
INLINE void run_of_bytes(weft_dtype_t dtype, const uint8_t *restrict codes, uint32_t count, float scale,
                         float *restrict out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = decoder_code(dtype, codes, i) * scale;
}

INLINE void run_of_nibbles(weft_dtype_t dtype, const uint8_t *restrict codes, uint32_t count, float scale,
                           float *restrict out)
{
    for (uint32_t i = 0; i < count / 2; i++) {
        out[2 * i] = decoder_nibble(dtype, codes[i]) * scale;
        out[2 * i + 1] = decoder_nibble(dtype, (uint32_t)codes[i] >> 4) * scale;
    }
}

INLINE void run_of_codes(weft_dtype_t dtype, uint32_t bits, const uint8_t *restrict codes, uint32_t count,
                         float scale, float *restrict out)
{
    if (bits == 4)
        run_of_nibbles(dtype, codes, count, scale, out);
    else
        run_of_bytes(dtype, codes, count, scale, out);
}

/* A run for each scale. Most are whole, and of a length that the compiler knows. */
INLINE void piece_of_row(weft_dtype_t dtype, uint32_t bits, decoder_scaling_t scaling,
                         const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols,
                         float *restrict out)
{
    const uint8_t *codes = (const uint8_t *)matrix->data + (size_t)row * matrix->cols * bits / 8;
    const uint32_t each = scaling.cols ? scaling.cols : matrix->cols;
    for (uint32_t end = col + cols; col < end;) {
        const uint8_t *first = codes + (size_t)col * bits / 8;
        const float scale = decoder_scale(scaling, matrix, row, col);
        uint32_t count = each - col % each;
        if (count > end - col)
            count = end - col;
        if (count == each)
            run_of_codes(dtype, bits, first, each, scale, out);
        else
            run_of_codes(dtype, bits, first, count, scale, out);
        out += count;
        col += count;
    }
}

typedef void (*piece_fn)(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols,
                         float *restrict out);

#define X(id, scheme, suffix, dtype, bits, scale_suffix, scale_dtype, rows, cols_, global_suffix)            \
    DECODER_VECTOR_CLONES                                                                                    \
    static void piece_of_##id(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols,     \
                              float *restrict out)                                                           \
    {                                                                                                        \
        piece_of_row(                                                                                        \
            WEFT_DTYPE_##dtype, bits,                                                                        \
            (decoder_scaling_t)DECODER_SCALING(scale_suffix, scale_dtype, rows, cols_, global_suffix),       \
            matrix, row, col, cols, out);                                                                    \
    }
DECODER_FORMATS(X)
#undef X

static const piece_fn pieces[DECODER_FORMAT_COUNT] = {
#define X(id, ...) [DECODER_FORMAT_##id] = piece_of_##id,
    DECODER_FORMATS(X)
#undef X
};

void decoder_dequantize(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols, float *out)
{
    pieces[matrix->format](matrix, row, col, cols, out);
}
