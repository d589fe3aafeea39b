/* What a quantized checkpoint holds: the kernel-format outputs of one rank that has everything, cut back into the
 * checkpoint's own tensors.
 *
 *     kernel format, TP 1                            quantized checkpoint
 *     qkv_proj.weight         +-----+                q_proj.weight        rows of q
 *                             |  q  |                q_proj.weight_scale  their scales
 *     qkv_proj.weight_scale   +-----+   === cut ==>  k_proj.weight
 *                             |  k  |                k_proj.weight_scale
 *                             +-----+                ...
 *                             |  v  |
 *                             +-----+
 *
 * A part's rows lie together, so each tensor is one run of bytes of its layer; but for the shape that int4 stores and
 * for nvfp4's divisor, which checkpoints hold in the place of the multiplier. A scale of a whole layer is given to each
 * of its parts.
 */
#ifndef WEFT_QUANTIZE_CHECKPOINT_TENSORS_H
#define WEFT_QUANTIZE_CHECKPOINT_TENSORS_H

#include "src/plan/outputs.h"

/* Where the bytes of a tensor come from. */
typedef enum weft_checkpoint_from {
    WEFT_FROM_LAYER,   /* `bytes` at `offset` of the layer's outputs */
    WEFT_FROM_DIVISOR, /* the divisor of the multiplier that is there */
    WEFT_FROM_SHAPE,   /* `rows` and `cols` */
} weft_checkpoint_from_t;

typedef struct weft_checkpoint_source {
    weft_checkpoint_from_t from;
    uint32_t layer;
    bool begins_module; /* the first of the tensors that one module of the checkpoint has */
    uint64_t offset;    /* bytes from the layer's first output */
    uint64_t rows, cols;
} weft_checkpoint_source_t;

typedef struct weft_checkpoint_tensors {
    weft_tensor_t *items; /* without data; in the order of layers */
    weft_checkpoint_source_t *sources;
    size_t count;
} weft_checkpoint_tensors_t;

/* List them. The plan is for tp:1, and `outputs` its only rank's.
 * **Returns** WEFT_OK; WEFT_ERR_MISFIT where a checkpoint has no form for a tensor, which holds all experts, or matrices
 * transposed (the message names layer and tensor); WEFT_ERR_ARGUMENT where it has none for the profile;
 * WEFT_ERR_NO_MEMORY. */
weft_status_t weft_checkpoint_tensors_create(const weft_plan_t *plan, const weft_outputs_t *outputs,
                                             weft_checkpoint_tensors_t *tensors, weft_error_t *error);
void weft_checkpoint_tensors_destroy(weft_checkpoint_tensors_t *tensors);

/* The divisor 2688 / amax that goes with a multiplier of nvfp4's default profile, exactly: `dtype` is that of the
 * source, whose amax has few enough bits to be found again. */
float weft_checkpoint_divisor(float multiplier, weft_dtype_t dtype);

#endif
