/* In: a unit of the global order. Out: its pieces, with source and tensor filled in from the instance table.
 * Invariant: every rank walks the same pieces in the same order. */
#include "src/base/error.h"
#include "src/plan/plan.h"

uint32_t weft_plan_local_experts(const weft_plan_t *plan, uint32_t layer)
{
    uint32_t experts = plan->layers->items[layer].num_experts;
    uint32_t first, count;
    if (experts == 0)
        return 1;
    weft_rollout_experts(experts, plan->rollout->tp, 0, plan->rollout->ep, &first, &count);
    return count;
}

const weft_unit_pattern_t *weft_cursor_unit(const weft_plan_t *plan, weft_cursor_t cursor)
{
    return &weft_plan_pattern(plan, cursor.layer)->parts[cursor.part].units[cursor.unit];
}

bool weft_cursor_begins_domain(const weft_plan_t *plan, weft_cursor_t cursor)
{
    return weft_plan_pattern(plan, cursor.layer)->domain_amax_bytes && cursor.part == 0 && cursor.unit == 0;
}

uint64_t weft_cursor_amax_bytes(const weft_plan_t *plan, weft_cursor_t cursor)
{
    uint64_t domain = weft_plan_pattern(plan, cursor.layer)->domain_amax_bytes;
    if (!domain)
        return weft_cursor_unit(plan, cursor)->amax_bytes;
    return weft_cursor_begins_domain(plan, cursor) ? domain : 0;
}

bool weft_cursor_next(const weft_plan_t *plan, weft_cursor_t *cursor)
{
    const weft_pattern_t *pattern = weft_plan_pattern(plan, cursor->layer);
    if (++cursor->unit < pattern->parts[cursor->part].num_units)
        return true;
    cursor->unit = 0;
    if (++cursor->part < pattern->num_parts)
        return true;
    cursor->part = 0;
    if (++cursor->expert < weft_plan_local_experts(plan, cursor->layer))
        return true;
    cursor->expert = 0;
    return ++cursor->layer < plan->layers->count;
}

bool weft_cursor_expert(const weft_plan_t *plan, weft_cursor_t cursor, uint32_t tp_rank, uint32_t *expert)
{
    uint32_t experts = plan->layers->items[cursor.layer].num_experts;
    uint32_t first = 0, count = 1;
    if (experts)
        weft_rollout_experts(experts, plan->rollout->tp, tp_rank, plan->rollout->ep, &first, &count);
    *expert = first + cursor.expert;
    return cursor.expert < count;
}

static uint32_t tensor_of(const weft_plan_t *plan, weft_cursor_t cursor, uint32_t expert)
{
    const weft_layer_t *layer = &plan->layers->items[cursor.layer];
    return layer->tensors[expert * layer->num_parts + cursor.part];
}

/* Among equal holders the choice rotates with the instance and the unit, so that egress is even. */
static uint32_t pick_source(const weft_plan_t *plan, weft_cursor_t cursor, const weft_placement_t *placement,
                            uint32_t box, uint32_t expert)
{
    uint32_t first = placement->first_holder[box];
    uint32_t count = placement->first_holder[box + 1] - first;
    uint32_t turn = plan->layer_ordinal[cursor.layer] + expert + cursor.unit;
    const weft_layer_t *layer = &plan->layers->items[cursor.layer];
    if (plan->holdings)
        return weft_holdings_pick(plan->holdings, &layer->parts[cursor.part], tensor_of(plan, cursor, expert),
                                  expert, placement->boxes[box], turn);
    uint32_t source = placement->holders[first + turn % count];
    if (layer->num_experts)
        source += weft_trainer_expert(plan->trainer, layer->parts[0].stacked, expert, layer->num_experts);
    return source + plan->layer_stage[cursor.layer] * plan->trainer->stride[WEFT_AXIS_PP];
}

uint32_t weft_plan_single_set(const weft_plan_t *plan, uint32_t tp_rank)
{
    return plan->single_sets[tp_rank];
}

weft_piece_t weft_plan_piece(const weft_plan_t *plan, weft_cursor_t cursor,
                             const weft_fragment_pattern_t *fragment, weft_piece_kind_t kind, uint32_t set,
                             uint32_t expert)
{
    const weft_placement_t *placement = &weft_plan_pattern(plan, cursor.layer)->parts[cursor.part].placement;
    const weft_part_t *part = &plan->layers->items[cursor.layer].parts[cursor.part];
    weft_rect_t box = weft_part_lying(part, placement->boxes[fragment->box]);
    weft_rect_t rect = weft_part_lying(part, fragment->rect);
    bool beside = part->transposed && weft_part_fused(part); /* other parts lie beside it in each row */
    bool whole_rows = rect.col == box.col && rect.cols == box.cols && !beside;
    if (part->stacked)
        rect.row += expert * (uint32_t)weft_part_slab_rows(part);
    return (weft_piece_t){
        .kind = kind,
        .source = pick_source(plan, cursor, placement, fragment->box, expert),
        .set = set,
        .tensor = tensor_of(plan, cursor, expert),
        .rect = rect,
        .transposed = part->transposed,
        .to_row = fragment->to_row,
        .to_col = fragment->to_col,
        .whole_rows = whole_rows,
    };
}

typedef struct walk {
    const weft_plan_t *plan;
    weft_cursor_t cursor;
    const bool *sets;
    weft_piece_fn fn;
    void *user;
} walk_t;

static weft_status_t emit(const walk_t *w, const weft_fragment_pattern_t *fragment, weft_piece_kind_t kind,
                          uint32_t set, uint32_t expert)
{
    if (w->sets && !w->sets[set])
        return WEFT_OK;
    weft_piece_t piece = weft_plan_piece(w->plan, w->cursor, fragment, kind, set, expert);
    return w->fn(w->user, &piece);
}

static weft_status_t emit_each(const walk_t *w, const weft_fragment_pattern_t *fragment,
                               weft_piece_kind_t kind)
{
    for (uint32_t t = 0; t < w->plan->rollout->tp; t++) {
        uint32_t expert;
        if (weft_cursor_expert(w->plan, w->cursor, t, &expert))
            WEFT_TRY(emit(w, fragment, kind, weft_plan_single_set(w->plan, t), expert));
    }
    return WEFT_OK;
}

static weft_status_t walk_unit(const walk_t *w, weft_piece_kind_t kind)
{
    const weft_part_pattern_t *part = &weft_plan_pattern(w->plan, w->cursor.layer)->parts[w->cursor.part];
    const weft_unit_pattern_t *unit = &part->units[w->cursor.unit];
    uint32_t first = kind == WEFT_PIECE_AMAX ? unit->first_amax : unit->first_fragment;
    uint32_t count = kind == WEFT_PIECE_AMAX ? unit->num_amax : unit->num_fragments;
    for (uint32_t i = 0; i < count; i++) {
        const weft_fragment_pattern_t *fragment = &part->fragments[first + i];
        WEFT_TRY(fragment->set == WEFT_SET_EACH ? emit_each(w, fragment, kind)
                                                : emit(w, fragment, kind, fragment->set, w->cursor.expert));
    }
    return WEFT_OK;
}

/* The amax pieces of all units of the domain that begins at the cursor. */
static weft_status_t walk_domain(walk_t w)
{
    const weft_pattern_t *pattern = weft_plan_pattern(w.plan, w.cursor.layer);
    for (w.cursor.part = 0; w.cursor.part < pattern->num_parts; w.cursor.part++)
        for (w.cursor.unit = 0; w.cursor.unit < pattern->parts[w.cursor.part].num_units; w.cursor.unit++)
            WEFT_TRY(walk_unit(&w, WEFT_PIECE_AMAX));
    return WEFT_OK;
}

weft_status_t weft_plan_walk_sets(const weft_plan_t *plan, weft_cursor_t cursor, weft_piece_kind_t kind,
                                  const bool *sets, weft_piece_fn fn, void *user)
{
    const walk_t w = {plan, cursor, sets, fn, user};
    if (kind != WEFT_PIECE_AMAX || !weft_plan_pattern(plan, cursor.layer)->domain_amax_bytes)
        return walk_unit(&w, kind);
    return weft_cursor_begins_domain(plan, cursor) ? walk_domain(w) : WEFT_OK;
}

weft_status_t weft_plan_walk(const weft_plan_t *plan, weft_cursor_t cursor, weft_piece_kind_t kind,
                             weft_piece_fn fn, void *user)
{
    return weft_plan_walk_sets(plan, cursor, kind, NULL, fn, user);
}

uint64_t weft_piece_bytes(const weft_plan_t *plan, const weft_piece_t *piece)
{
    switch (piece->kind) {
    case WEFT_PIECE_DATA:
        return weft_rect_area(piece->rect) *
               weft_dtype_bytes(weft_model_tensor(plan->model, piece->tensor)->dtype);
    case WEFT_PIECE_AMAX:
        return (uint64_t)(piece->transposed ? piece->rect.cols : piece->rect.rows) * 2;
    case WEFT_PIECE_DIGEST:
        return 16;
    }
    return 0;
}
