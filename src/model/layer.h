/* A model seen as the list of layers an engine holds: what a recipe makes of a checkpoint.
 *
 * A layer is one module that is produced together in kernel format (`qkv_proj`, `experts.w13`, a norm). It is made of
 * parts: tensors of the checkpoint laid below each other along the rows. A layer with experts has the same parts
 * once for each expert.
 *
 *     layer "model.layers.0.self_attn.qkv_proj"        layer "model.layers.0.mlp.experts.w13", 8 experts
 *     +-----------+ part 0: q_proj, split by heads     expert 0: +------+ part 0: experts.0.gate_proj, rows
 *     |     q     |                                              | gate |
 *     +-----------+ part 1: k_proj, by KV heads                  +------+ part 1: experts.0.up_proj, rows
 *     |     k     |                                              |  up  |
 *     +-----------+ part 2: v_proj, by KV heads                  +------+
 *     |     v     |                                    expert 1: ...
 *     +-----------+
 *
 * A part is always a matrix of `rows` x `cols`, K (the reduction) along the columns; a tensor of one dimension is one
 * row. Splits say how tensor parallelism cuts it, on the trainer's side and on the rollout's.
 *
 * How it lies in its tensor is the part's too: a tensor may hold the parts of several projections below each other
 * (`gate_up_proj`), one matrix for each expert ([E, N, K]), and each of them transposed ([E, K, N], gpt-oss). Such a
 * tensor is seen as one matrix of all its rows; an expert's run of them is its slab.
 */
#ifndef WEFT_MODEL_LAYER_H
#define WEFT_MODEL_LAYER_H

#include <weft/model.h>

typedef enum weft_split {
    WEFT_SPLIT_NONE,     /* every rank holds it whole */
    WEFT_SPLIT_ROWS,     /* output rows, in equal runs (for a tensor of one dimension: its elements) */
    WEFT_SPLIT_COLS,     /* the reduction dimension, in equal runs */
    WEFT_SPLIT_HEADS,    /* rows in runs of whole heads of `head_rows` */
    WEFT_SPLIT_KV_HEADS, /* like HEADS; when ranks outnumber heads each head is held by ranks/heads ranks */
    WEFT_SPLIT_VOCAB,    /* rows, padded with zeros to 64 and then to the number of ranks */
    WEFT_SPLIT_FIRST,    /* the first rank holds it, the others zeros: added before a reduction over ranks */
} weft_split_t;

#define WEFT_MAX_PARTS        4
#define WEFT_LAYER_NAME_BYTES 320

typedef struct weft_part {
    const char *role; /* the last name of the tensor: "q_proj", "gate_proj", for messages; lives as long as the recipe */
    weft_split_t split;
    uint64_t rows, cols;
    uint64_t head_rows; /* rows of one head for HEADS and KV_HEADS; for ROWS what no cut may part, or 0 */
    bool vector;        /* the tensor has one dimension (stacked: two), seen here as one row */
    bool stacked;       /* the tensor has one slab for each expert */
    bool transposed;    /* a slab is [K, N]: its rows are this matrix's columns */
    uint64_t of_rows, of_cols;       /* of a grid over a quantized matrix (stored.h): the matrix's; else 0 */
    uint32_t grain_rows, grain_cols; /* and how much of it one item is for */
    uint64_t first_row, slab_n; /* where it begins among the rows of all parts in the tensor, and how many those are */
} weft_part_t;

/* Rows and columns of the tensor's slab, as they lie. */
static inline uint64_t weft_part_slab_rows(const weft_part_t *part)
{
    return part->transposed ? part->cols : part->slab_n;
}

static inline uint64_t weft_part_slab_cols(const weft_part_t *part)
{
    return part->transposed ? part->slab_n : part->cols;
}

/* Whether the tensor holds other parts as well. */
static inline bool weft_part_fused(const weft_part_t *part)
{
    return part->slab_n != part->rows;
}

/* A grid over a quantized matrix, whose rows and columns are items of it. */
static inline bool weft_part_stored(const weft_part_t *part)
{
    return part->of_rows != 0;
}

/* The matrix that a part is, or is a grid over; `head_rows` and splits are of it. */
static inline weft_part_t weft_part_matrix(const weft_part_t *part)
{
    weft_part_t matrix = *part;
    if (weft_part_stored(part)) {
        matrix.rows = matrix.slab_n = part->of_rows;
        matrix.cols = part->of_cols;
        matrix.of_rows = matrix.of_cols = 0;
    }
    return matrix;
}

typedef struct weft_stored weft_stored_t; /* stored.h */

/* Where a checkpoint is quantized already a layer is made for each tensor that a matrix is stored as: they share its name,
 * and their leaves differ. */
typedef struct weft_layer {
    char *name;       /* "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.experts.w13" */
    char joint;       /* between name and leaf in kernel-format names: '.', for experts '_' */
    const char *leaf; /* "weight" or "bias": outputs are name+joint+leaf and what the scheme adds to it; "": no joint */
    int32_t block;    /* index of the transformer block, -1 outside of them */
    bool quantize;    /* false: kept in high precision by every scheme (embeddings, head, norms, router, biases) */
    bool keep_f32;        /* the engine holds it in fp32, whatever the scheme: a router's correction bias */
    const weft_stored_t *stored; /* what it is a grid of; NULL: high precision. It is moved as it is */
    const char *stored_leaf;     /* its leaf in the checkpoint, where that is another */
    const char *shape_leaf;      /* of a constant beside it, I64 [2]: the matrix's rows and columns; NULL without */
    bool number;                 /* it is one number, [1], of experts [E] */
    bool inverse;                /* it becomes 1/x */
    weft_dtype_t dtype;   /* of all its tensors: F32, F16 or BF16; of a grid what is stored */
    uint32_t num_experts; /* 0: no expert dimension in the kernel format */
    uint32_t num_parts;
    weft_part_t parts[WEFT_MAX_PARTS];
    uint32_t *tensors; /* index in the model of the tensor of [expert][part]; max(1, num_experts) * num_parts of them */
    uint32_t row;      /* index of the recipe row it came from: layers of one row and equal shapes are alike */
} weft_layer_t;

typedef struct weft_layers {
    weft_layer_t *items; /* in forward order: embedding, blocks, final norm, head */
    uint32_t count;
    const weft_stored_t *stored; /* how its matrices are quantized already, those that are; NULL: none is */
    uint32_t num_ignored; /* tensors of the checkpoint that may be left out, as the recipe says or stored.h */
} weft_layers_t;

/* Apply the recipe that the model's `model_type` names.
 * Layers of one module, `weight` and then `bias`, share their name. Where the configuration ties the embeddings, lm_head
 * is a layer all the same, its tensor being the embedding's.
 * **Returns** WEFT_OK; WEFT_ERR_UNKNOWN_NAME when no recipe knows the model_type (the message lists those there are)
 * or when tensors are left that no row takes and none may ignore (it names the first few and their number);
 * WEFT_ERR_MISSING_TENSOR, WEFT_ERR_SHAPE (name, found, expected), WEFT_ERR_FILE (a field of the configuration),
 * WEFT_ERR_NO_MEMORY.
 * **Ownership** free with weft_layers_destroy; `model` must live as long. */
weft_status_t weft_layers_create(const weft_model_t *model, weft_layers_t **layers, weft_error_t *error);

/* Write the name of the layer's weight (or bias) in kernel format into `name`, and return it. */
const char *weft_layer_full_name(const weft_layer_t *layer, char name[WEFT_LAYER_NAME_BYTES]);

/* Free the list; NULL is accepted. */
void weft_layers_destroy(weft_layers_t *layers);

#endif
