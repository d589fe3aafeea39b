/* Holdings: what each trainer rank has of each tensor, where the layout says it box by box.
 *
 *     weft_holdings_create(model, layers, trainer, &holdings, &error);      checks: covered, equal or apart, experts alike
 *     weft_holdings_placement(holdings, part, tensor, slab, &placement);    boxes of a part and who has them
 *     rank = weft_holdings_pick(holdings, part, tensor, slab, box, turn);
 *     weft_holdings_destroy(holdings);
 *
 * Layers whose tensors are cut alike share a pattern, whoever holds the boxes; so holders are looked up tensor by tensor.
 */
#ifndef WEFT_PLAN_HOLDINGS_H
#define WEFT_PLAN_HOLDINGS_H

#include "src/plan/placement.h"

/* One rank's box: `rect` of each slab, as it lies, of slabs [first_slab, first_slab + num_slabs). */
typedef struct weft_holding {
    uint32_t rank, first_slab, num_slabs;
    weft_rect_t rect;
} weft_holding_t;

typedef struct weft_holdings {
    uint32_t num_tensors;
    uint32_t *first;       /* [num_tensors + 1] into items */
    weft_holding_t *items; /* by tensor, then rank */
} weft_holdings_t;

/* Read the boxes of `trainer` against the model's shapes.
 * **Returns** WEFT_OK; WEFT_ERR_MISSING_TENSOR (a box of a tensor that the model lacks); WEFT_ERR_SHAPE (a box that is
 * empty, lies outside, or has other dimensions); WEFT_ERR_MISFIT (two boxes of a rank, boxes that overlap in part, a tensor
 * that is not covered, experts that are cut in different ways); WEFT_ERR_NO_MEMORY. */
weft_status_t weft_holdings_create(const weft_model_t *model, const weft_layers_t *layers, const weft_layout_t *trainer,
                                   weft_holdings_t **holdings, weft_error_t *error);
void weft_holdings_destroy(weft_holdings_t *holdings);

/* As weft_placement_create, of one slab of one tensor. */
weft_status_t weft_holdings_placement(const weft_holdings_t *holdings, const weft_part_t *part, uint32_t tensor,
                                      uint32_t slab, weft_placement_t *placement);

/* Whether two layers with equal parts are cut alike. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_holdings_alike(const weft_holdings_t *holdings, const weft_layer_t *a, const weft_layer_t *b, bool *alike);

/* The holder of `box` of the part that comes up at turn `turn`: they take turns. */
uint32_t weft_holdings_pick(const weft_holdings_t *holdings, const weft_part_t *part, uint32_t tensor, uint32_t slab,
                            weft_rect_t box, uint32_t turn);

/* What `rank` holds of `tensor`; NULL when nothing. */
const weft_holding_t *weft_holdings_find(const weft_holdings_t *holdings, uint32_t tensor, uint32_t rank);

#endif
