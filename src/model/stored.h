/* How a checkpoint that is quantized already stores a matrix: several tensors under the name of its module, each a grid
 * over the matrix.
 *
 *     matrix [N, K]        fp8-block                        int4-group-128, pack-quantized
 *     +---+---+---+        weight           [N, K]          weight_packed  I32  [N, K/8]
 *     |   |   |   |        weight_scale_inv [N/128, K/128]  weight_scale   BF16 [N, K/128]
 *     +---+---+---+                                         weight_shape   I64  [2]
 *     |   |   |   |
 *     +---+---+---+        an item of a grid is for `rows` x `cols` elements of the matrix
 *
 * Which form it is the configuration says (quantization_config); which matrices have it, the tensors do.
 */
#ifndef WEFT_MODEL_STORED_H
#define WEFT_MODEL_STORED_H

#include "src/model/config.h"
#include "src/model/layer.h"

#define WEFT_STORED_WHOLE UINT32_MAX /* all rows, or all columns */
#define WEFT_STORED_GRIDS 3u

typedef struct weft_stored_grid {
    const char *suffix; /* behind the name of the module in the checkpoint: ".weight_packed"; NULL: no grid */
    const char *leaf;   /* of the parameter in kernel format */
    weft_dtype_t dtype; /* F32 scales may be stored as BF16 or F16 too */
    uint32_t rows, cols; /* of the matrix, that one item is for */
    bool number;  /* one for the whole layer, of experts each; every part stores it, and all the same */
    bool inverse; /* stored to divide by, held to multiply by */
} weft_stored_grid_t;

struct weft_stored {
    const char *scheme; /* as weft calls it */
    const char *shape_suffix, *shape_leaf; /* of a tensor I64 [2] with rows and columns; NULL without one */
    weft_stored_grid_t grids[WEFT_STORED_GRIDS]; /* codes first */
    bool calibrated; /* beside them are scales of activations, which stay where they are: weft_stored_leaves_out */
};

/* Read what a configuration says. *stored is NULL where it says nothing.
 * **Returns** WEFT_OK; WEFT_ERR_FILE where it says what weft has no form for: the message names the field, what was
 * found and what there is. */
weft_status_t weft_stored_read(const weft_config_t *config, const weft_stored_t **stored, weft_error_t *error);

/* The form of the model's matrices; NULL where its configuration names none, or no tensor has it. */
const weft_stored_t *weft_stored_of(const weft_model_t *model);

/* Whether a tensor of such a checkpoint is a scale of activations or of the KV cache. Those were measured when it was made; an
 * engine has them since it loaded it, and no update of weights changes them. */
bool weft_stored_leaves_out(const weft_stored_t *stored, const char *tensor);

/* Make a part of a matrix one of a grid over it.
 * **Returns** WEFT_OK, WEFT_ERR_SHAPE where the grid has no such part: the message says why. */
weft_status_t weft_stored_part(const weft_stored_grid_t *grid, weft_part_t *part, weft_error_t *error);

#endif
