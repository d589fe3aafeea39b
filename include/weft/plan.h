/* Plans: who sends which bytes to whom, in which order, proven complete before a byte moves.
 *
 * A plan is a pure function of a model's shapes, the two layouts, the scheme and the options: no GPU, no MPI,
 * no files. Every rank computes it by itself; the hash says whether they agree.
 *
 *     weft_layout_parse("fsdp:2", WEFT_SIDE_TRAINER, &trainer, &error);
 *     weft_layout_parse("tp:2x2", WEFT_SIDE_ROLLOUT, &rollout, &error);
 *     weft_plan_options_t options = WEFT_PLAN_OPTIONS;
 *     weft_plan_create(model, trainer, rollout, "fp8-block", &options, &plan, &error);
 *     ...
 *     weft_plan_destroy(plan);
 */
#ifndef WEFT_PLAN_H
#define WEFT_PLAN_H

#include <weft/model.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_layout weft_layout_t;
typedef struct weft_plan weft_plan_t;

typedef enum weft_side {
    WEFT_SIDE_TRAINER,
    WEFT_SIDE_ROLLOUT,
} weft_side_t;

/* Parse a layout.
 * Trainer: a product of `fsdp:N` (dimension 0 in ceil-sized chunks, as FSDP2 cuts it; trailing ranks may hold
 * nothing), `tp:N` (as the recipe splits), `ep:N` (experts in runs, copies of all else), `pp:N` (blocks in runs; the
 * embedding is with the first stage, what follows the blocks with the last, a tied head with its embedding) and `dp:N`
 * (copies), separated by commas; the leftmost factor varies fastest with the rank. Where runs cannot be equal the
 * first are one longer. `boxes:FILE` reads boxes given one by one. Rollout: `tp:T`, `tp:TxR` for R replicas, `,ep` for whole experts over the same T ranks.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT (the message shows what may be written), WEFT_ERR_NO_MEMORY; of a file also
 * WEFT_ERR_IO and WEFT_ERR_FILE (it names what is wrong in it). */
WEFT_API weft_status_t weft_layout_parse(const char *text, weft_side_t side, weft_layout_t **layout,
                                         weft_error_t *error);
WEFT_API void weft_layout_destroy(weft_layout_t *layout);

/* Make a trainer layout without boxes, for placements that no product of axes describes; then say box by box what each
 * rank holds. All ranks of a job say the same boxes.
 *     {"ranks": 2, "boxes": {"model.norm.weight": [{"rank": 0, "offset": [0], "extent": [4096]}], ...}}
 * is what `boxes:FILE` reads.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT (no ranks, or more than 65536), WEFT_ERR_NO_MEMORY. */
WEFT_API weft_status_t weft_layout_boxes(uint32_t num_ranks, weft_layout_t **layout, weft_error_t *error);

/* Say that trainer rank `rank` holds `box` of tensor `tensor`, in the tensor's own dimensions; at most one of each. Of a
 * tensor with three dimensions (experts) a box has whole matrices' places in the first. When the plan is made boxes of a
 * tensor must cover it, and two of them be equal or apart; experts of a layer must be cut alike.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT (a layout of axes, no such rank, an empty box, a second one),
 * WEFT_ERR_NO_MEMORY. */
WEFT_API weft_status_t weft_layout_add_box(weft_layout_t *layout, uint32_t rank, const char *tensor, const weft_box_t *box,
                                           weft_error_t *error);

/* The number of ranks, and the text it was parsed from. */
WEFT_API uint32_t weft_layout_num_ranks(const weft_layout_t *layout);
WEFT_API const char *weft_layout_text(const weft_layout_t *layout);

typedef struct weft_plan_options {
    size_t struct_size;
    const char *profile; /* exact arithmetic: of the scheme, in a map of every entry that has it and names none; NULL: the
                            engine's, or each scheme's default */
    const char *engine;  /* vllm-hopper, vllm-blackwell or sglang: chooses what is not given, and the names of parameters;
                            NULL: none, plain names */
    uint64_t
        budget_bytes; /* staging memory of a rollout rank, and of a trainer for packing; default 256 MiB */
    uint32_t max_bucket_bytes; /* largest broadcast, unless one fragment alone is larger; default 64 MiB,
                                  never more than half the budget, nor 2 GiB */
    uint32_t max_groups; /* communicators a rank may hold before routes become relays; default 16, 0 forces
                            relay */
} weft_plan_options_t;

#define WEFT_PLAN_OPTIONS                                                                                    \
    ((weft_plan_options_t){.struct_size = sizeof(weft_plan_options_t),                                       \
                           .budget_bytes = 256u << 20,                                                       \
                           .max_bucket_bytes = 64u << 20,                                                    \
                           .max_groups = 16})

/* Make the plan from `model`'s shapes (its bytes are not read).
 * `scheme` is one for all layers that may be quantized, or a map, "DEFAULT; GLOB=SCHEME[:PROFILE]; ...": of the entries whose
 * glob matches a layer the last decides. A glob is matched on names as a plan prints them and on those of the layer's tensors,
 * each also without a leading "model." or the last ".weight". NULL: the engine's.
 *     "fp8-block; *.experts.*=nvfp4; layers.0.*=bf16"
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (a map that cannot be read, or no scheme and no engine); WEFT_ERR_UNKNOWN_NAME (scheme,
 * profile, engine, an entry of the map that matches nothing, model_type, tensors); WEFT_ERR_MISSING_TENSOR,
 * WEFT_ERR_SHAPE; WEFT_ERR_MISFIT (layer, dimension and what would fit; a map that the recipe does not allow; a piece that no
 * message can hold); WEFT_ERR_BUDGET (the least that
 * works); WEFT_ERR_NO_MEMORY.
 * **Ownership** `model` must outlive the plan; the layouts need not. */
WEFT_API weft_status_t weft_plan_create(const weft_model_t *model, const weft_layout_t *trainer,
                                        const weft_layout_t *rollout, const char *scheme,
                                        const weft_plan_options_t *options, weft_plan_t **plan,
                                        weft_error_t *error);
WEFT_API void weft_plan_destroy(weft_plan_t *plan);

/* XXH3-128 over everything that ranks must agree on, the certificate included. */
WEFT_API weft_digest_t weft_plan_hash(const weft_plan_t *plan);

/* What the plan was made of: the model's type, the layouts as written, the scheme (or the map, as weft writes it), the
 * profile of its default, and the engine (NULL: none). */
WEFT_API const char *weft_plan_model_type(const weft_plan_t *plan);
WEFT_API const char *weft_plan_trainer_text(const weft_plan_t *plan);
WEFT_API const char *weft_plan_rollout_text(const weft_plan_t *plan);
WEFT_API const char *weft_plan_scheme(const weft_plan_t *plan);
WEFT_API const char *weft_plan_profile(const weft_plan_t *plan);
WEFT_API const char *weft_plan_engine(const weft_plan_t *plan);

/* Sizes of both sides; the TP ranks of a replica. */
WEFT_API uint32_t weft_plan_tp(const weft_plan_t *plan);
WEFT_API uint32_t weft_plan_num_trainers(const weft_plan_t *plan);
WEFT_API uint32_t weft_plan_num_rollouts(const weft_plan_t *plan);

/* Numbers that a plan is judged by. Ranks are the worst of their side unless said otherwise. */
typedef struct weft_plan_summary {
    uint32_t num_tensors, num_layers, num_patterns, num_rounds;
    uint64_t checkpoint_bytes;   /* of the tensors that travel */
    uint64_t needed_bytes_total; /* data + amax that all rollout ranks need, summed */
    uint64_t egress_bytes_total; /* what leaves all trainers, alignment not counted */
    uint64_t unique_bytes_total; /* what one replica needs at least once: the least that can leave */
    uint64_t ingress_bytes_max;  /* payload of a rollout rank */
    uint64_t egress_bytes_min, egress_bytes_max; /* payload of a trainer rank */
    uint64_t kernel_bytes_max;   /* kernel-format weights of a rollout rank; staged once more beside them */
    uint64_t staging_bytes;      /* peak of a rollout rank: both rounds and the amax tables */
    uint64_t least_budget_bytes; /* the smallest budget this plan could have */
    uint32_t num_routes, num_sets;
    uint32_t groups_max; /* communicators of a rank */
    bool relay;
} weft_plan_summary_t;

WEFT_API void weft_plan_summarize(const weft_plan_t *plan, weft_plan_summary_t *summary);

/* Speeds that the predicted time is made from, in bytes a second; 0 is the default. */
typedef struct weft_plan_speeds {
    size_t struct_size;
    double link_bytes_per_s;   /* of a rank's network link, each way; default 50e9 */
    double nvlink_bytes_per_s; /* between ranks of one node, each way; default 450e9 */
    double hbm_bytes_per_s;    /* of a rank's memory, reads and writes together; default 4e12 */
    uint32_t ranks_per_node;   /* session ranks, trainers first, fill nodes in order; 0: every route leaves its node */
} weft_plan_speeds_t;

#define WEFT_PLAN_SPEEDS ((weft_plan_speeds_t){.struct_size = sizeof(weft_plan_speeds_t)})

/* Print the plan as a page for a person, or as JSON; malloc'ed text in *text. `speeds` may be NULL.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (struct_size, or a speed that is negative or no number); WEFT_ERR_NO_MEMORY. */
WEFT_API weft_status_t weft_plan_print(const weft_plan_t *plan, bool json, const weft_plan_speeds_t *speeds,
                                       char **text);

/* Say where each byte of some layers comes from: boxes, trainers, TP ranks, rounds. `layers` is a name, with or without
 * its leaf, or a glob; malloc'ed text in *text.
 * **Returns** WEFT_OK; WEFT_ERR_UNKNOWN_NAME (the message has the nearest names); WEFT_ERR_NO_MEMORY. */
WEFT_API weft_status_t weft_plan_explain(const weft_plan_t *plan, const char *layers, char **text,
                                         weft_error_t *error);

#ifdef __cplusplus
}
#endif
#endif
