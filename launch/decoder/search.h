/* Find weights by name: which format a weight has is told by the tensors that are there. */
#ifndef WEFT_LAUNCH_DECODER_SEARCH_H
#define WEFT_LAUNCH_DECODER_SEARCH_H

#include "launch/decoder/decoder.h"
#include "launch/decoder/matrix.h"

typedef struct decoder_search {
    const decoder_config_t *config;
    const char *prefix; /* "model.layers.3.", or "" */
    weft_error_t *error;
} decoder_search_t;

/* Whether there is a weight prefix + `leaf`, in any format. */
bool decoder_search_has(const decoder_search_t *search, const char *leaf);

/* Find the weight prefix + `leaf`, [rows, cols], of `count` stacked experts ([count, rows, cols]) or 0: a
 * plain matrix, and its scales.
 * **Returns** WEFT_OK; WEFT_ERR_MISSING_TENSOR (the weight, or all that could be its scale), WEFT_ERR_SHAPE
 * (shape, dtype or alignment; found and expected). */
weft_status_t decoder_search(const decoder_search_t *search, const char *leaf, uint32_t count, uint32_t rows,
                             uint32_t cols, decoder_matrix_t *matrix);

#endif
