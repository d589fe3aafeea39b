/* In: a pattern. Out: whether each element of each unit is written exactly once, on every TP rank.
 * Invariant: written without the code that made the fragments, from the needs alone. */
#include <stdio.h>
#include <stdlib.h>

#include "src/base/array.h"
#include "src/plan/pattern.h"

typedef WEFT_ARRAY(weft_rect_t) rect_array_t;

static int compare_rects(const void *left, const void *right)
{
    const weft_rect_t *a = left, *b = right;
    if (a->row != b->row)
        return a->row < b->row ? -1 : 1;
    return a->col < b->col ? -1 : a->col > b->col;
}

/* Disjoint rectangles inside `whole` with its area in sum cover it exactly. */
static bool covers_once(rect_array_t *rects, weft_rect_t whole)
{
    uint64_t area = 0;
    if (rects->count)
        qsort(rects->items, rects->count, sizeof *rects->items, compare_rects);
    for (size_t i = 0; i < rects->count; i++) {
        weft_rect_t rect = rects->items[i];
        if (!weft_rect_equal(weft_rect_intersect(rect, whole), rect))
            return false;
        for (size_t j = i + 1; j < rects->count && rects->items[j].row < rect.row + rect.rows; j++)
            if (!weft_rect_empty(weft_rect_intersect(rect, rects->items[j])))
                return false;
        area += weft_rect_area(rect);
    }
    return area == weft_rect_area(whole);
}

/* The fragments that reach `tp_rank`, in the unit's own coordinates. */
static bool collect(const weft_part_pattern_t *part, const weft_unit_pattern_t *unit, const weft_sets_t *sets,
                    uint32_t tp_rank, weft_need_t need, uint32_t first_row, rect_array_t *rects)
{
    rects->count = 0;
    for (uint32_t i = 0; i < unit->num_fragments; i++) {
        const weft_fragment_pattern_t *f = &part->fragments[unit->first_fragment + i];
        if (f->set != WEFT_SET_EACH && !weft_set_has(&sets->items[f->set], tp_rank))
            continue;
        weft_rect_t held = part->placement.boxes[f->box];
        bool right_place =
            f->rect.row - need.box.row - first_row == f->to_row && f->rect.col - need.box.col == f->to_col;
        if (!right_place || !weft_rect_equal(weft_rect_intersect(held, f->rect), f->rect))
            return false;
        if (!WEFT_ARRAY_PUSH(rects, (weft_rect_t){f->to_row, f->to_col, f->rect.rows, f->rect.cols}))
            return false;
    }
    return true;
}

/* The amax vectors of a unit see every column of every row, land on the right rows, and reach every TP rank.
 */
static bool amax_complete(const weft_part_pattern_t *part, const weft_unit_pattern_t *unit,
                          uint32_t first_row, uint64_t cols, const weft_layout_t *rollout,
                          const weft_sets_t *sets, rect_array_t *rects)
{
    rects->count = 0;
    for (uint32_t i = 0; i < unit->num_amax; i++) {
        const weft_fragment_pattern_t *f = &part->fragments[unit->first_amax + i];
        weft_rect_t held = part->placement.boxes[f->box];
        if (f->rect.row - first_row != f->to_row ||
            !weft_rect_equal(weft_rect_intersect(held, f->rect), f->rect) || f->set == WEFT_SET_EACH ||
            sets->items[f->set].count != rollout->tp || !WEFT_ARRAY_PUSH(rects, f->rect))
            return false;
    }
    return covers_once(rects, (weft_rect_t){first_row, 0, unit->rows, (uint32_t)cols});
}

/* The amax vectors of a domain see every element of the part, and reach every TP rank that has some of it. */
static bool domain_complete(const weft_pattern_t *pattern, uint32_t part_index, const weft_layout_t *rollout,
                            const weft_sets_t *sets, rect_array_t *rects)
{
    const weft_part_pattern_t *part = &pattern->parts[part_index];
    const weft_part_t *source = &pattern->example->parts[part_index];
    rects->count = 0;
    for (uint32_t u = 0; u < part->num_units; u++)
        for (uint32_t i = 0; i < part->units[u].num_amax; i++) {
            const weft_fragment_pattern_t *f = &part->fragments[part->units[u].first_amax + i];
            bool held = weft_rect_equal(weft_rect_intersect(part->placement.boxes[f->box], f->rect), f->rect);
            bool all = pattern->whole ? f->set == WEFT_SET_EACH
                                      : f->set != WEFT_SET_EACH && sets->items[f->set].count == rollout->tp;
            bool fits = f->to_row + f->rect.rows <= WEFT_UNIT_ROWS;
            if (!held || !all || !fits || !WEFT_ARRAY_PUSH(rects, f->rect))
                return false;
        }
    return covers_once(rects, (weft_rect_t){0, 0, (uint32_t)source->rows, (uint32_t)source->cols});
}

static bool prove_unit(const weft_pattern_t *pattern, uint32_t part_index, uint32_t unit_index,
                       const weft_layout_t *rollout, const weft_sets_t *sets, rect_array_t *rects)
{
    const weft_part_pattern_t *part = &pattern->parts[part_index];
    const weft_unit_pattern_t *unit = &part->units[unit_index];
    const weft_part_t *source = &pattern->example->parts[part_index];
    uint32_t first_row = unit_index * WEFT_UNIT_ROWS;
    for (uint32_t t = 0; t < rollout->tp; t++) {
        weft_need_t need = weft_rollout_need(source, rollout->tp, t, pattern->whole);
        uint32_t real = need.box.rows > first_row ? need.box.rows - first_row : 0;
        real = real < unit->rows ? real : unit->rows;
        if (!collect(part, unit, sets, t, need, first_row, rects) ||
            !covers_once(rects, (weft_rect_t){0, 0, real, real ? need.box.cols : 0}))
            return false;
    }
    weft_need_t first = weft_rollout_need(source, rollout->tp, 0, pattern->whole);
    return !pattern->amax_ahead || pattern->domain_amax_bytes ||
           amax_complete(part, unit, first.box.row + first_row, source->cols, rollout, sets, rects);
}

/* Room for all fragments that are looked at together, so that whatever is found wrong later is wrong. */
static bool make_room(const weft_pattern_t *pattern, rect_array_t *rects)
{
    size_t most = 1;
    for (uint32_t p = 0; p < pattern->num_parts; p++)
        most = pattern->parts[p].num_fragments > most ? pattern->parts[p].num_fragments : most;
    return WEFT_ARRAY_RESERVE(rects, most);
}

weft_status_t weft_pattern_prove(const weft_pattern_t *pattern, const weft_layout_t *rollout,
                                 const weft_sets_t *sets, char reason[256])
{
    rect_array_t rects = {0};
    uint32_t row = 0, col = 0;
    bool proven = true;
    if (!make_room(pattern, &rects))
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t p = 0; p < pattern->num_parts && proven; p++) {
        const weft_part_pattern_t *part = &pattern->parts[p];
        uint32_t rows = 0;
        for (uint32_t u = 0; u < part->num_units && proven; u++) {
            proven = prove_unit(pattern, p, u, rollout, sets, &rects);
            rows += part->units[u].rows;
            if (!proven)
                snprintf(reason, 256, "layer %s, part %s, rows %u to %u: not covered exactly once",
                         pattern->example->name, pattern->example->parts[p].role, u * WEFT_UNIT_ROWS,
                         u * WEFT_UNIT_ROWS + part->units[u].rows);
        }
        if (proven && pattern->domain_amax_bytes && !domain_complete(pattern, p, rollout, sets, &rects)) {
            proven = false;
            snprintf(reason, 256, "layer %s, part %s: its amax does not see every element once",
                     pattern->example->name, pattern->example->parts[p].role);
        }
        bool vector = pattern->example->parts[p].vector;
        if (proven && (part->row_offset != row || part->col_offset != col || rows != part->rows)) {
            proven = false;
            snprintf(reason, 256, "layer %s, part %s: its units do not tile its rows", pattern->example->name,
                     pattern->example->parts[p].role);
        }
        row += vector ? 0 : part->rows;
        col += vector ? part->cols : 0;
    }
    free(rects.items);
    return proven ? WEFT_OK : WEFT_ERR_INTERNAL;
}
