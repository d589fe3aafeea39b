/* In: a layer, both layouts. Out: its units with the fragments each needs. Invariant: the fragments of a unit
 * are disjoint and, with its padding, cover it on every TP rank. */
#include "src/plan/pattern.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "src/base/array.h"

#define ALIGN 256u

static uint64_t align_up(uint64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

typedef WEFT_ARRAY(weft_fragment_pattern_t) fragment_array_t;
typedef WEFT_ARRAY(weft_rect_t) rect_array_t;

/* TP ranks that need the same box, and how many bytes each rank stages for the unit at hand. */
typedef struct builder {
    const weft_layout_t *trainer, *rollout;
    const weft_holdings_t *holdings;
    weft_sets_t *sets;
    weft_pattern_t *pattern;
    weft_part_pattern_t *part;
    const weft_part_t *source;
    fragment_array_t fragments;
    rect_array_t left, next; /* what no box has covered yet */
    uint32_t *members;       /* [tp] scratch */
    bool *grouped;           /* [tp] scratch */
    uint64_t *bytes;         /* [tp] staged for this unit */
    uint32_t all;            /* the set of all TP ranks, of a domain */
} builder_t;

bool weft_layers_alike(const weft_layer_t *a, const weft_layer_t *b)
{
    if (a->num_parts != b->num_parts || a->num_experts != b->num_experts || a->dtype != b->dtype ||
        a->quantize != b->quantize || a->keep_f32 != b->keep_f32 || a->stored != b->stored ||
        a->number != b->number || a->inverse != b->inverse || !a->shape_leaf != !b->shape_leaf)
        return false;
    for (uint32_t p = 0; p < a->num_parts; p++) {
        const weft_part_t *x = &a->parts[p], *y = &b->parts[p];
        if (x->split != y->split || x->rows != y->rows || x->cols != y->cols ||
            x->head_rows != y->head_rows || x->vector != y->vector || x->stacked != y->stacked ||
            x->transposed != y->transposed || x->first_row != y->first_row || x->slab_n != y->slab_n ||
            x->of_rows != y->of_rows || x->of_cols != y->of_cols || x->grain_rows != y->grain_rows ||
            x->grain_cols != y->grain_cols)
            return false;
    }
    return true;
}

static weft_rect_t unit_box(weft_need_t need, uint32_t unit)
{
    uint32_t first = unit * WEFT_UNIT_ROWS;
    uint32_t rows = need.box.rows > first ? need.box.rows - first : 0;
    return (weft_rect_t){need.box.row + first, need.box.col, rows < WEFT_UNIT_ROWS ? rows : WEFT_UNIT_ROWS,
                         need.box.cols};
}

/* Cut `want` along the boxes that trainers hold. */
static weft_status_t add_fragments(builder_t *b, weft_rect_t want, uint32_t set)
{
    const weft_placement_t *placement = &b->part->placement;
    b->left.count = 0;
    if (!weft_rect_empty(want) && !WEFT_ARRAY_PUSH(&b->left, want))
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t box = 0; box < placement->num_boxes && b->left.count; box++) {
        if (weft_rect_empty(weft_rect_intersect(want, placement->boxes[box])))
            continue;
        b->next.count = 0;
        for (size_t i = 0; i < b->left.count; i++) {
            weft_rect_t rest = b->left.items[i], pieces[4];
            weft_rect_t both = weft_rect_intersect(rest, placement->boxes[box]);
            unsigned count = 1;
            pieces[0] = rest;
            if (!weft_rect_empty(both)) {
                weft_fragment_pattern_t fragment = {set, box, both, both.row - want.row, both.col - want.col};
                if (!WEFT_ARRAY_PUSH(&b->fragments, fragment))
                    return WEFT_ERR_NO_MEMORY;
                count = weft_rect_subtract(rest, both, pieces);
            }
            for (unsigned p = 0; p < count; p++)
                if (!WEFT_ARRAY_PUSH(&b->next, pieces[p]))
                    return WEFT_ERR_NO_MEMORY;
        }
        rect_array_t swap = b->left;
        b->left = b->next;
        b->next = swap;
    }
    return WEFT_OK;
}

/* Every box with a share of the rows sends the amax of its columns. */
static weft_status_t add_amax(builder_t *b, weft_rect_t want, uint32_t set)
{
    const weft_placement_t *placement = &b->part->placement;
    for (uint32_t box = 0; box < placement->num_boxes; box++) {
        weft_rect_t rows = {want.row, 0, want.rows, (uint32_t)b->source->cols};
        weft_rect_t both = weft_rect_intersect(rows, placement->boxes[box]);
        if (weft_rect_empty(both))
            continue;
        weft_fragment_pattern_t fragment = {set, box, both, both.row - want.row, 0};
        if (!WEFT_ARRAY_PUSH(&b->fragments, fragment))
            return WEFT_ERR_NO_MEMORY;
    }
    return WEFT_OK;
}

/* The TP ranks that need exactly what `first` needs, as a set. */
static weft_status_t group_of(builder_t *b, uint32_t first, weft_rect_t want, uint32_t unit, uint32_t *set)
{
    uint32_t count = 0;
    for (uint32_t t = first; t < b->rollout->tp; t++) {
        weft_need_t need = weft_rollout_need(b->source, b->rollout->tp, t, b->pattern->whole);
        if (!b->grouped[t] && weft_rect_equal(unit_box(need, unit), want)) {
            b->grouped[t] = true;
            b->members[count++] = t;
        }
    }
    return weft_sets_intern(b->sets, b->members, count, set);
}

/* Add what fragments [first, end) stage on each TP rank; return the most. */
static uint64_t staged_most(builder_t *b, size_t first, bool amax)
{
    size_t element = amax ? 2 : weft_dtype_bytes(b->pattern->example->dtype);
    memset(b->bytes, 0, b->rollout->tp * sizeof *b->bytes);
    for (size_t i = first; i < b->fragments.count; i++) {
        const weft_fragment_pattern_t *f = &b->fragments.items[i];
        uint64_t bytes = align_up((amax ? f->rect.rows : weft_rect_area(f->rect)) * element);
        for (uint32_t t = 0; t < b->rollout->tp; t++)
            if (f->set == WEFT_SET_EACH || weft_set_has(&b->sets->items[f->set], t))
                b->bytes[t] += bytes;
    }
    uint64_t most = 0;
    for (uint32_t t = 0; t < b->rollout->tp; t++)
        most = b->bytes[t] > most ? b->bytes[t] : most;
    return most;
}

/* Call `add` once for each group of TP ranks with equal needs in this unit. */
static weft_status_t for_each_group(builder_t *b, uint32_t unit,
                                    weft_status_t (*add)(builder_t *, weft_rect_t, uint32_t))
{
    uint32_t tp = b->rollout->tp;
    if (b->pattern->whole)
        return add(b, unit_box(weft_rollout_need(b->source, tp, 0, true), unit), WEFT_SET_EACH);
    memset(b->grouped, 0, tp * sizeof *b->grouped);
    for (uint32_t t = 0; t < tp; t++) {
        if (b->grouped[t])
            continue;
        weft_rect_t want = unit_box(weft_rollout_need(b->source, tp, t, false), unit);
        if (weft_rect_empty(want))
            continue;
        uint32_t set;
        weft_status_t status = group_of(b, t, want, unit, &set);
        if (status == WEFT_OK)
            status = add(b, want, set);
        if (status != WEFT_OK)
            return status;
    }
    return WEFT_OK;
}

/* Rows asked for by all TP ranks alike, whatever their columns: one amax vector serves them all. */
static weft_status_t add_unit_amax(builder_t *b, uint32_t unit)
{
    uint32_t set;
    for (uint32_t t = 0; t < b->rollout->tp; t++)
        b->members[t] = t;
    weft_status_t status = weft_sets_intern(b->sets, b->members, b->rollout->tp, &set);
    if (status != WEFT_OK)
        return status;
    return add_amax(b, unit_box(weft_rollout_need(b->source, b->rollout->tp, 0, false), unit), set);
}

static weft_status_t add_share(builder_t *b, weft_rect_t want, uint32_t set)
{
    (void)set;
    return add_fragments(b, want, b->all);
}

/* A domain spans what any rank has: each group's box is looked at once, for all. Experts that are whole have
 * their domain to themselves. */
static weft_status_t add_domain_amax(builder_t *b, uint32_t unit)
{
    if (b->pattern->whole)
        return for_each_group(b, unit, add_fragments);
    for (uint32_t t = 0; t < b->rollout->tp; t++)
        b->members[t] = t;
    weft_status_t status = weft_sets_intern(b->sets, b->members, b->rollout->tp, &b->all);
    return status == WEFT_OK ? for_each_group(b, unit, add_share) : status;
}

static weft_status_t build_unit(builder_t *b, uint32_t unit)
{
    weft_unit_pattern_t *made = &b->part->units[unit];
    uint32_t rest = b->part->rows - unit * WEFT_UNIT_ROWS;
    size_t first = b->fragments.count;
    weft_status_t status = for_each_group(b, unit, add_fragments);
    if (status != WEFT_OK)
        return status;
    *made = (weft_unit_pattern_t){
        .rows = rest < WEFT_UNIT_ROWS ? rest : WEFT_UNIT_ROWS,
        .first_fragment = (uint32_t)first,
        .num_fragments = (uint32_t)(b->fragments.count - first),
        .staged_bytes = staged_most(b, first, false),
    };
    made->first_amax = (uint32_t)b->fragments.count;
    if (!b->pattern->amax_ahead)
        return WEFT_OK;
    bool domain = b->pattern->scheme->amax == WEFT_AMAX_TENSOR;
    status = domain ? add_domain_amax(b, unit) : add_unit_amax(b, unit);
    made->num_amax = (uint32_t)b->fragments.count - made->first_amax;
    made->amax_bytes = staged_most(b, made->first_amax, true);
    b->pattern->domain_amax_bytes += domain ? made->amax_bytes : 0;
    return status;
}

static weft_status_t place_part(builder_t *b, uint32_t index)
{
    const weft_layer_t *layer = b->pattern->example;
    if (b->holdings)
        return weft_holdings_placement(b->holdings, b->source, layer->tensors[index], 0, &b->part->placement);
    return weft_placement_create(b->trainer, b->source, layer->num_experts > 0, &b->part->placement);
}

static weft_status_t build_part(builder_t *b, uint32_t index)
{
    weft_pattern_t *pattern = b->pattern;
    b->source = &pattern->example->parts[index];
    b->part = &pattern->parts[index];
    weft_need_t need = weft_rollout_need(b->source, b->rollout->tp, 0, pattern->whole);
    b->part->rows = need.rows;
    b->part->cols = need.cols;
    if (b->source->vector) {
        b->part->col_offset = pattern->cols;
        pattern->rows = 1;
        pattern->cols += need.cols;
    } else {
        b->part->row_offset = pattern->rows;
        pattern->rows += need.rows;
        pattern->cols = need.cols;
    }
    b->part->num_units = (need.rows + WEFT_UNIT_ROWS - 1) / WEFT_UNIT_ROWS;
    b->part->units = calloc(b->part->num_units + 1, sizeof *b->part->units);
    if (!b->part->units)
        return WEFT_ERR_NO_MEMORY;
    weft_status_t status = place_part(b, index);
    b->fragments = (fragment_array_t){0};
    for (uint32_t unit = 0; unit < b->part->num_units && status == WEFT_OK; unit++)
        status = build_unit(b, unit);
    b->part->fragments = b->fragments.items;
    b->part->num_fragments = (uint32_t)b->fragments.count;
    return status;
}

/* A scale that spans a row needs its amax ahead when the row lies on several ranks; one that spans a tensor
 * always, because no unit has it whole. */
static bool needs_amax(const weft_layer_t *layer, const weft_scheme_t *scheme, const weft_layout_t *rollout,
                       bool whole)
{
    if (scheme->amax == WEFT_AMAX_TENSOR)
        return true;
    if (scheme->amax != WEFT_AMAX_ROW || whole || rollout->tp == 1)
        return false;
    for (uint32_t p = 0; p < layer->num_parts; p++)
        if (layer->parts[p].split == WEFT_SPLIT_COLS)
            return true;
    return false;
}

/* vLLM requantizes to powers of two where DeepGEMM takes the layer: linear layers of whole 64 x 128 tiles,
 * and experts only when they are whole. The rest keeps the profile that requantizing starts from. */
static weft_profile_t layer_profile(const weft_pattern_t *pattern, weft_profile_t profile)
{
    if (pattern->scheme->kernel == WEFT_KERNEL_CAST)
        return WEFT_PROFILE_DEFAULT;
    bool experts = pattern->example->num_experts > 0;
    bool taken = experts ? pattern->whole : pattern->rows % 64 == 0 && pattern->cols % 128 == 0;
    return profile == WEFT_PROFILE_VLLM_POW2 && !taken ? WEFT_PROFILE_VLLM : profile;
}

weft_status_t weft_pattern_create(const weft_layer_t *layer, const weft_scheme_map_t *map,
                                  const weft_scheme_entry_t *entry, const weft_layout_t *trainer,
                                  const weft_holdings_t *holdings, const weft_layout_t *rollout,
                                  weft_sets_t *sets, weft_pattern_t *pattern)
{
    const weft_scheme_t *used =
        layer->stored ? weft_scheme_moved() : weft_scheme_map_decide(map, layer, entry);
    bool whole = rollout->ep && layer->num_experts > 0;
    *pattern = (weft_pattern_t){
        .example = layer,
        .scheme = used,
        .dtype = weft_scheme_map_dtype(map, layer, entry),
        .whole = whole,
        .amax_ahead = needs_amax(layer, used, rollout, whole),
        .num_parts = layer->num_parts,
    };
    builder_t b = {
        .trainer = trainer,
        .rollout = rollout,
        .holdings = holdings,
        .sets = sets,
        .pattern = pattern,
        .members = malloc(rollout->tp * sizeof *b.members),
        .grouped = malloc(rollout->tp * sizeof *b.grouped),
        .bytes = malloc(rollout->tp * sizeof *b.bytes),
    };
    weft_status_t status = b.members && b.grouped && b.bytes ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint32_t part = 0; part < layer->num_parts && status == WEFT_OK; part++)
        status = build_part(&b, part);
    pattern->profile = layer_profile(pattern, entry->profile);
    if (layer->quantize && !layer->stored &&
        weft_arrange_takes(entry->arrange, used->kernel, pattern->profile))
        pattern->arrange = entry->arrange;
    free(b.members);
    free(b.grouped);
    free(b.bytes);
    WEFT_ARRAY_FREE(&b.left);
    WEFT_ARRAY_FREE(&b.next);
    if (status != WEFT_OK)
        weft_pattern_destroy(pattern);
    return status;
}

void weft_pattern_destroy(weft_pattern_t *pattern)
{
    for (uint32_t part = 0; part < pattern->num_parts; part++) {
        weft_placement_destroy(&pattern->parts[part].placement);
        free(pattern->parts[part].units);
        free(pattern->parts[part].fragments);
    }
    *pattern = (weft_pattern_t){0};
}
