/* Placement: which box of a part each trainer rank holds, and which box each TP rank of a replica needs. */
#ifndef WEFT_PLAN_PLACEMENT_H
#define WEFT_PLAN_PLACEMENT_H

#include "src/model/layer.h"
#include "src/plan/layout.h"
#include "src/plan/rect.h"

/* A rectangle of the part as it lies in its tensor's slab. */
weft_rect_t weft_part_lying(const weft_part_t *part, weft_rect_t rect);

/* The other way round: what of the part lies in a rectangle of the slab; empty when nothing. */
weft_rect_t weft_part_standing(const weft_part_t *part, weft_rect_t lying);

/* What trainer `rank` holds of each slab of the part's tensor that it has, as it lies; empty when nothing.
 * The part must have passed weft_trainer_misfit. */
weft_rect_t weft_placement_shard(const weft_layout_t *trainer, const weft_part_t *part, uint32_t rank);

/* The box of `part` that trainer `rank` holds of the layers of its pipeline stage; empty when it holds
 * nothing. */
weft_rect_t weft_placement_box(const weft_layout_t *trainer, const weft_part_t *part, uint32_t rank);

/* The pipeline stage that holds block `block` of `num_blocks`: the first `num_blocks mod stages` hold one
 * more. */
uint32_t weft_trainer_stage(const weft_layout_t *trainer, uint32_t block, uint32_t num_blocks);

/* Why `part` cannot be cut over the trainer's tp axis: fills `reason` and returns true, or returns false. */
bool weft_trainer_misfit(const weft_layout_t *trainer, const weft_part_t *part, char reason[256]);

/* How many ranks further on than the first expert `expert` of `num_experts` is: ep deals experts out in the
 * same way, and of tensors that stack them fsdp chunks what ep leaves. */
uint32_t weft_trainer_expert(const weft_layout_t *trainer, bool stacked, uint32_t expert,
                             uint32_t num_experts);

/* The experts [first, first + count) that trainer `rank` has, whole or a shard of each. */
void weft_trainer_experts(const weft_layout_t *trainer, bool stacked, uint32_t rank, uint32_t num_experts,
                          uint32_t *first, uint32_t *count);

/* The distinct boxes of a part and who holds each, were its layer in the first stage and its expert, if it is
 * of one, the first: in stage s it is the rank s * stride[WEFT_AXIS_PP] further on, and of another expert
 * weft_trainer_expert further on. */
typedef struct weft_placement {
    uint32_t num_boxes;
    weft_rect_t *boxes;     /* [num_boxes], in order of first holder */
    uint32_t *first_holder; /* [num_boxes + 1] into holders */
    uint32_t *holders;      /* trainer ranks, ascending within a box */
} weft_placement_t;

weft_status_t weft_placement_create(const weft_layout_t *trainer, const weft_part_t *part, bool experts,
                                    weft_placement_t *placement);
/* The same of boxes that are known, [count], which it sorts. */
typedef struct weft_held_box {
    weft_rect_t box;
    uint32_t rank;
} weft_held_box_t;

weft_status_t weft_placement_group(weft_held_box_t *held, uint32_t count, weft_placement_t *placement);
void weft_placement_destroy(weft_placement_t *placement);

/* What a TP rank needs of a part: a box of the tensor, and how large it is in kernel format, where `rows` may
 * exceed the box's by rows of zeros below (a padded vocabulary). */
typedef struct weft_need {
    weft_rect_t box;
    uint32_t rows, cols;
} weft_need_t;

/* `whole` is true for experts under ep: nothing is cut. */
weft_need_t weft_rollout_need(const weft_part_t *part, uint32_t tp, uint32_t tp_rank, bool whole);

/* Where ranks and parts may be cut: on multiples of what a scale is for. */
typedef struct weft_cut {
    uint32_t rows, cols; /* 1: anywhere */
    bool whole_cols;     /* the end of a row, too, is a multiple of `cols` */
    bool whole_rows;     /* and of a column of `rows` */
} weft_cut_t;

/* Why `part` cannot be cut over `tp` ranks under `cut`; see weft_trainer_misfit.
 * `last`: it is the last part of its layer, whose end may be ragged when its rows are not cut. */
bool weft_rollout_misfit(const weft_part_t *part, uint32_t tp, bool whole, weft_cut_t cut, bool last,
                         char reason[256]);

/* Experts [first, first + count) that `tp_rank` holds under ep: the first `num_experts mod tp` ranks hold one
 * more. */
void weft_rollout_experts(uint32_t num_experts, uint32_t tp, uint32_t tp_rank, bool ep, uint32_t *first,
                          uint32_t *count);

#endif
