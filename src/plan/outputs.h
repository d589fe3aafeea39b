/* Outputs: the kernel-format tensors of one rollout rank, and where each lies in its live range and in its
 * stage. */
#ifndef WEFT_PLAN_OUTPUTS_H
#define WEFT_PLAN_OUTPUTS_H

#include "src/plan/plan.h"

#define WEFT_OUTPUT_ALIGN 256u

typedef struct weft_output {
    char *name; /* vLLM's: "model.layers.0.self_attn.qkv_proj.weight_scale_inv" */
    weft_dtype_t dtype;
    uint32_t num_dims;
    uint64_t shape[WEFT_MAX_DIMS];
    uint64_t offset; /* bytes from the start of the range, a multiple of WEFT_OUTPUT_ALIGN */
    uint64_t bytes;
} weft_output_t;

#define WEFT_OUTPUT_NONE UINT32_MAX

/* The outputs of one layer, side by side: the weight, and after it what else the scheme has. */
typedef struct weft_layer_outputs {
    uint32_t weight, count; /* index of the first output; how many there are */
    uint32_t scale;         /* index, or WEFT_OUTPUT_NONE */
    uint32_t global;        /* the scale of the whole tensor beside those, or WEFT_OUTPUT_NONE */
    uint32_t shape;         /* of rows and cols of each expert, or WEFT_OUTPUT_NONE */
    uint32_t num_experts;   /* held by this rank; 1 for a layer without */
    uint32_t rows, cols;    /* of one expert's matrix */
} weft_layer_outputs_t;

typedef struct weft_outputs {
    weft_output_t *items; /* in the order of layers */
    uint32_t count;
    weft_layer_outputs_t *layers; /* [layers of the plan] */
    uint64_t bytes;               /* of the whole range */
} weft_outputs_t;

weft_status_t weft_outputs_create(const weft_plan_t *plan, uint32_t tp_rank, weft_outputs_t *outputs);
void weft_outputs_destroy(weft_outputs_t *outputs);

/* Bytes of the whole range of a TP rank, without building the list. */
uint64_t weft_outputs_bytes(const weft_plan_t *plan, uint32_t tp_rank);

#endif
