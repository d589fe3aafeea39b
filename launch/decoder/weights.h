/* The live weights as the decoder reads them: found once by name, checked against the shape, dequantized row
 * by row at every use. Nothing here holds a value of a weight, only where it is; how it lies, matrix.h says.
 */
#ifndef WEFT_LAUNCH_DECODER_WEIGHTS_H
#define WEFT_LAUNCH_DECODER_WEIGHTS_H

#include "launch/decoder/matrix.h"
#include "launch/decoder/shape.h"

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

#endif
