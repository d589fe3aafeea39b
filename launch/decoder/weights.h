/* The live weights as the decoder reads them: found once by name, checked against the shape, dequantized row
 * by row at every use. Nothing here holds a value of a weight, only where it is.
 *
 *     fp8-block                                 fp8-channel
 *     data  [rows, cols] E4M3 codes             data  [rows, cols] E4M3 codes
 *     scale [ceil(rows/128), ceil(cols/128)]    scale [rows, 1]
 */
#ifndef WEFT_LAUNCH_DECODER_WEIGHTS_H
#define WEFT_LAUNCH_DECODER_WEIGHTS_H

#include "launch/decoder/shape.h"

#define DECODER_BLOCK 128 /* rows and columns that share a scale in fp8-block */

typedef enum decoder_scaling {
    DECODER_SCALING_NONE,    /* bf16 or fp16: the value itself */
    DECODER_SCALING_BLOCK,   /* E4M3, a multiplier for each 128 x 128 block */
    DECODER_SCALING_CHANNEL, /* E4M3, a multiplier for each row */
} decoder_scaling_t;

/* A matrix [rows, cols], or a stack of experts with one such matrix each. A vector is a matrix of one row. */
typedef struct decoder_matrix {
    const void *data;
    const float *scale; /* NULL without scaling */
    weft_dtype_t dtype;
    decoder_scaling_t scaling;
    uint32_t rows, cols;
} decoder_matrix_t;

/* One transformer block. A block is dense (gate_up, down) or sparse (router, w13, w2). */
typedef struct decoder_block {
    bool sparse;
    decoder_matrix_t input_norm, qkv, q_norm, k_norm, o, post_norm;
    decoder_matrix_t gate_up, down;
    decoder_matrix_t router, w13, w2;
} decoder_block_t;

typedef struct decoder_weights {
    decoder_matrix_t embed, norm, head;
    decoder_block_t *blocks;
} decoder_weights_t;

/* Find and check every weight of this rank.
 * **Returns** WEFT_OK; WEFT_ERR_MISSING_TENSOR, WEFT_ERR_SHAPE (rank, name, found, expected),
 * WEFT_ERR_NO_MEMORY.
 * **Ownership** free with decoder_weights_free. */
weft_status_t decoder_weights_find(const decoder_config_t *config, const decoder_shape_t *shape,
                                   decoder_weights_t *weights, weft_error_t *error);
void decoder_weights_free(decoder_weights_t *weights);

/* The matrix of one expert of a stack. */
decoder_matrix_t decoder_matrix_expert(const decoder_matrix_t *stack, uint32_t expert);

/* Write columns [col, col + cols) of a row as floats: value = code * scale, in fp32. */
void decoder_dequantize(const decoder_matrix_t *matrix, uint32_t row, uint32_t col, uint32_t cols,
                        float *out);

#endif
