/* Recipes: what an architecture's checkpoint becomes, written as tables.
 *
 * A recipe is a list of rows in forward order. A row is one layer, once or (with {L} in its name) once for
 * each transformer block; its parts say which tensors lie below each other in it, how tensor parallelism cuts
 * them and what shape the configuration gives them. One family, one file recipe_<family>.c; recipe.c lists
 * them, layers.c applies them. docs/recipes.md says how to add one.
 *
 *     {.layer = "model.layers.{L}.self_attn.qkv_proj", .leaf = "weight", .flags = WEFT_ROW_QUANTIZE,
 *      .parts = {{"model.layers.{L}.self_attn.q_proj", WEFT_SPLIT_HEADS, WEFT_DIM_Q, WEFT_DIM_HIDDEN}, ...}}
 */
#ifndef WEFT_MODEL_RECIPE_H
#define WEFT_MODEL_RECIPE_H

#include "src/model/config.h"
#include "src/model/layer.h"

/* Extents that rows refer to by name. */
typedef enum weft_dim {
    WEFT_DIM_VECTOR, /* as rows: the tensor has one dimension, that of the columns */
    WEFT_DIM_HIDDEN,
    WEFT_DIM_VOCAB,
    WEFT_DIM_HEAD, /* of one attention head */
    WEFT_DIM_Q,    /* of all query heads */
    WEFT_DIM_KV,   /* of all key (or value) heads */
    WEFT_DIM_MLP,
    WEFT_DIM_EXPERT_MLP,
    WEFT_DIM_EXPERTS,
    WEFT_DIM_GATE_UP, /* gate and up projection of an expert, interleaved */
    WEFT_DIM_PAIR,    /* a gate and an up row: 2 */
    WEFT_DIM_HEADS,   /* how many query heads */
    WEFT_DIM_ONE,
    WEFT_DIM_SHARED_MLP, /* of all shared experts together */
    /* multi-head latent attention: of the low-rank projections, and of all heads, and of one */
    WEFT_DIM_Q_RANK,
    WEFT_DIM_KV_RANK,
    WEFT_DIM_KV_A, /* kv_rank and the rotary part of the keys */
    WEFT_DIM_Q_B,
    WEFT_DIM_Q_B_HEAD,
    WEFT_DIM_KV_B,
    WEFT_DIM_KV_B_HEAD,
    WEFT_DIM_VALUES,
    WEFT_DIM_COUNT,
} weft_dim_t;

#define WEFT_MAX_EXTENTS  64u /* of a user's recipe, numbered from WEFT_DIM_COUNT on */
#define WEFT_MAX_TEMPLATE 160 /* characters of a name, before {L} and {E} are filled in */

typedef enum weft_row_flags {
    WEFT_ROW_QUANTIZE = 1,
    WEFT_ROW_EXPERTS = 2,     /* parts have {E}, the layer an expert dimension and the joint '_' */
    WEFT_ROW_OPTIONAL = 4,    /* taken when one of its tensors is there; then all must be */
    WEFT_ROW_KEEP_F32 = 8,    /* the engine holds it in fp32 */
    WEFT_ROW_STACKED = 16,    /* EXPERTS whose tensors hold all experts, one slab after another */
    WEFT_ROW_TRANSPOSED = 32, /* the tensors hold [K, N] */
} weft_row_flags_t;

/* Parts that name one tensor lie below each other in it. */
typedef struct weft_recipe_part {
    const char *tensor; /* name without ".leaf"; NULL ends the parts */
    weft_split_t split;
    weft_dim_t rows, cols;
    weft_dim_t head; /* (optional) rows that stay together: for HEADS and KV_HEADS a head, by default of
                        WEFT_DIM_HEAD; for ROWS whatever, by default nothing */
} weft_recipe_part_t;

/* A row whose layer an earlier row has made is passed over: so there may be OPTIONAL rows for other ways to
 * hold it. */
typedef struct weft_recipe_row {
    const char *layer;  /* kernel-format name without joint and leaf */
    const char *leaf;   /* in the checkpoint and in the kernel format */
    const char *suffix; /* (optional, default "." and leaf) what follows a part's name in the checkpoint */
    unsigned flags;
    bool (*when)(const weft_config_t *config, uint32_t block); /* (optional, default: every block) */
    weft_dim_t from, until; /* (optional, user's recipes) blocks from the one extent on, below the other */
    const char *required_by; /* (optional) bool of the configuration that makes an OPTIONAL row mandatory */
    const char *tied_to; /* (optional) source of the only part when the configuration ties the embeddings */
    weft_recipe_part_t parts[WEFT_MAX_PARTS];
} weft_recipe_row_t;

/* The configuration's extents as a recipe sees them; 0 where the architecture has none. */
typedef struct weft_recipe_dims {
    uint64_t of[WEFT_DIM_COUNT + WEFT_MAX_EXTENTS];
    uint32_t num_blocks, num_experts;
} weft_recipe_dims_t;

typedef struct weft_recipe {
    const char *model_type;
    const weft_recipe_row_t *rows;
    uint32_t num_rows;
    const char *const *ignore; /* glob patterns of tensors that may be left out, NULL-terminated */
    bool ignore_mtp;           /* the num_nextn_predict_layers blocks behind the last may be left out */
    weft_status_t (*read_dims)(const weft_config_t *config, weft_recipe_dims_t *dims, weft_error_t *error);
    /* A user's instead: expressions, and which of them count blocks and experts (0: there are none). */
    const char *const *extents;
    uint32_t num_extents;
    weft_dim_t blocks, experts;
} weft_recipe_t;

extern const weft_recipe_t weft_recipe_deepseek_v3;
extern const weft_recipe_t weft_recipe_gpt_oss;
extern const weft_recipe_t weft_recipe_kimi_k2;
extern const weft_recipe_t weft_recipe_llama;
extern const weft_recipe_t weft_recipe_mistral;
extern const weft_recipe_t weft_recipe_mixtral;
extern const weft_recipe_t weft_recipe_qwen2;
extern const weft_recipe_t weft_recipe_qwen3;
extern const weft_recipe_t weft_recipe_qwen3_moe;

/* Find the recipe of a model_type.
 * **Returns** WEFT_OK, or WEFT_ERR_UNKNOWN_NAME with the list of those there are. */
weft_status_t weft_recipe_find(const char *model_type, const weft_recipe_t **recipe, weft_error_t *error);

/* Read the extents of a decoder without its attention; with grouped-query attention; the same with experts.
 */
weft_status_t weft_recipe_dims_frame(const weft_config_t *config, weft_recipe_dims_t *dims,
                                     weft_error_t *error);
weft_status_t weft_recipe_dims_dense(const weft_config_t *config, weft_recipe_dims_t *dims,
                                     weft_error_t *error);
weft_status_t weft_recipe_dims_experts(const weft_config_t *config, weft_recipe_dims_t *dims,
                                       weft_error_t *error);

#endif
