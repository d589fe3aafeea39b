/* In: named boxes, shapes. Out: for each tensor who holds what. Invariant: boxes of a slab are equal or
 * apart, and cover it. */
#include "src/plan/holdings.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/model/model_private.h"

/* ---- from names to tensors ---- */

typedef struct entry {
    uint32_t tensor;
    weft_holding_t holding;
} entry_t;

typedef struct builder {
    const weft_model_t *model;
    const weft_layers_t *layers;
    const weft_layout_t *trainer;
    const weft_part_t **parts; /* [tensors]: a part of it; NULL: no layer has it */
    entry_t *entries;
    weft_holdings_t *made;
    weft_error_t *error;
} builder_t;

static uint32_t experts_of(const weft_layer_t *layer)
{
    return layer->num_experts ? layer->num_experts : 1;
}

static void find_parts(builder_t *b)
{
    for (uint32_t i = 0; i < b->layers->count; i++) {
        const weft_layer_t *layer = &b->layers->items[i];
        for (uint32_t k = 0; k < experts_of(layer) * layer->num_parts; k++)
            b->parts[layer->tensors[k]] = &layer->parts[k % layer->num_parts];
    }
}

static const char *name_of(const builder_t *b, uint32_t tensor)
{
    return weft_model_tensor(b->model, tensor)->name;
}

static weft_status_t check_box(const builder_t *b, const weft_named_box_t *named, const weft_tensor_t *tensor)
{
    bool inside = named->box.num_dims == tensor->num_dims;
    for (uint32_t d = 0; d < tensor->num_dims && inside; d++)
        inside = named->box.extent[d] > 0 && named->box.offset[d] < tensor->shape[d] &&
                 named->box.extent[d] <= tensor->shape[d] - named->box.offset[d];
    if (inside)
        return WEFT_OK;
    return weft_fail(b->error, WEFT_ERR_SHAPE,
                     "trainer %s: tensor %s, rank %u: its box is empty, has other dimensions than the "
                     "tensor's %u, or lies "
                     "outside of it",
                     b->trainer->text, tensor->name, named->rank, tensor->num_dims);
}

/* The last dimension is columns, the one before rows, and of a tensor that stacks experts the first is slabs.
 */
static weft_holding_t holding_of(const weft_named_box_t *named, bool stacked)
{
    const weft_box_t *box = &named->box;
    uint32_t cols = box->num_dims - 1;
    bool rows = box->num_dims > (stacked ? 2u : 1u);
    return (weft_holding_t){
        .rank = named->rank,
        .first_slab = stacked ? (uint32_t)box->offset[0] : 0,
        .num_slabs = stacked ? (uint32_t)box->extent[0] : 1,
        .rect = {rows ? (uint32_t)box->offset[cols - 1] : 0, (uint32_t)box->offset[cols],
                 rows ? (uint32_t)box->extent[cols - 1] : 1, (uint32_t)box->extent[cols]},
    };
}

static weft_status_t resolve(builder_t *b, size_t *count)
{
    *count = 0;
    for (size_t i = 0; i < b->trainer->num_boxes; i++) {
        const weft_named_box_t *named = &b->trainer->boxes[i];
        const weft_tensor_t *tensor = weft_model_find(b->model, named->tensor);
        if (!tensor)
            return weft_fail(b->error, WEFT_ERR_MISSING_TENSOR, "trainer %s: the model has no tensor %s",
                             b->trainer->text, named->tensor);
        uint32_t index = weft_model_index(b->model, named->tensor);
        if (!b->parts[index])
            continue; /* ignored, as the recipe says */
        WEFT_TRY(check_box(b, named, tensor));
        b->entries[(*count)++] = (entry_t){index, holding_of(named, b->parts[index]->stacked)};
    }
    return WEFT_OK;
}

static int compare_entries(const void *left, const void *right)
{
    const entry_t *a = left, *b = right;
    if (a->tensor != b->tensor)
        return a->tensor < b->tensor ? -1 : 1;
    return a->holding.rank < b->holding.rank ? -1 : a->holding.rank > b->holding.rank;
}

static void file_entries(builder_t *b, size_t count)
{
    size_t at = 0;
    qsort(b->entries, count, sizeof *b->entries, compare_entries);
    for (uint32_t t = 0; t < b->made->num_tensors; t++) {
        b->made->first[t] = (uint32_t)at;
        for (; at < count && b->entries[at].tensor == t; at++)
            b->made->items[at] = b->entries[at].holding;
    }
    b->made->first[b->made->num_tensors] = (uint32_t)at;
}

/* ---- checks ---- */

static bool share_a_slab(const weft_holding_t *a, const weft_holding_t *b)
{
    return a->first_slab < b->first_slab + b->num_slabs && b->first_slab < a->first_slab + a->num_slabs;
}

static weft_status_t check_pairs(const builder_t *b, uint32_t tensor)
{
    const weft_holdings_t *h = b->made;
    for (uint32_t i = h->first[tensor]; i < h->first[tensor + 1]; i++)
        for (uint32_t k = i + 1; k < h->first[tensor + 1]; k++) {
            const weft_holding_t *x = &h->items[i], *y = &h->items[k];
            if (x->rank == y->rank)
                return weft_fail(b->error, WEFT_ERR_MISFIT,
                                 "trainer %s: tensor %s: rank %u has two boxes, expected one",
                                 b->trainer->text, name_of(b, tensor), x->rank);
            bool apart = weft_rect_empty(weft_rect_intersect(x->rect, y->rect)) || !share_a_slab(x, y);
            if (!apart && !weft_rect_equal(x->rect, y->rect))
                return weft_fail(
                    b->error, WEFT_ERR_MISFIT,
                    "trainer %s: tensor %s: the boxes of ranks %u and %u overlap in part; make them equal or "
                    "apart",
                    b->trainer->text, name_of(b, tensor), x->rank, y->rank);
        }
    return WEFT_OK;
}

/* Whether an earlier entry of the slab has the same box. */
static bool is_copy(const weft_holdings_t *h, uint32_t tensor, uint32_t item, uint32_t slab)
{
    for (uint32_t i = h->first[tensor]; i < item; i++)
        if (h->items[i].first_slab <= slab && slab - h->items[i].first_slab < h->items[i].num_slabs &&
            weft_rect_equal(h->items[i].rect, h->items[item].rect))
            return true;
    return false;
}

static uint64_t covered(const weft_holdings_t *h, uint32_t tensor, uint32_t slab)
{
    uint64_t area = 0;
    for (uint32_t i = h->first[tensor]; i < h->first[tensor + 1]; i++)
        if (h->items[i].first_slab <= slab && slab - h->items[i].first_slab < h->items[i].num_slabs &&
            !is_copy(h, tensor, i, slab))
            area += weft_rect_area(h->items[i].rect);
    return area;
}

static weft_status_t check_covered(const builder_t *b, uint32_t tensor)
{
    const weft_part_t *part = b->parts[tensor];
    const weft_tensor_t *of = weft_model_tensor(b->model, tensor);
    uint64_t slab_elems = weft_part_slab_rows(part) * weft_part_slab_cols(part);
    for (uint32_t slab = 0; slab < (part->stacked ? of->shape[0] : 1); slab++) {
        uint64_t found = covered(b->made, tensor, slab);
        if (found != slab_elems)
            return weft_fail(b->error, WEFT_ERR_MISFIT,
                             "trainer %s: tensor %s: the boxes of all ranks have %llu of %llu elements%s; "
                             "add what is missing",
                             b->trainer->text, of->name, (unsigned long long)found,
                             (unsigned long long)slab_elems, part->stacked ? " of a matrix" : "");
    }
    return WEFT_OK;
}

static weft_status_t same_boxes(const weft_holdings_t *h, const weft_part_t *part, uint32_t tensor_a,
                                uint32_t slab_a, uint32_t tensor_b, uint32_t slab_b, bool *same)
{
    weft_placement_t a = {0}, b = {0};
    weft_status_t status = weft_holdings_placement(h, part, tensor_a, slab_a, &a);
    if (status == WEFT_OK)
        status = weft_holdings_placement(h, part, tensor_b, slab_b, &b);
    *same = status == WEFT_OK && a.num_boxes == b.num_boxes;
    for (uint32_t i = 0; i < a.num_boxes && *same; i++)
        *same = weft_rect_equal(a.boxes[i], b.boxes[i]);
    weft_placement_destroy(&a);
    weft_placement_destroy(&b);
    return status;
}

/* Experts of a layer share its pattern. */
static weft_status_t check_experts(const builder_t *b, const weft_layer_t *layer)
{
    for (uint32_t k = layer->num_parts; k < experts_of(layer) * layer->num_parts; k++) {
        uint32_t part = k % layer->num_parts;
        bool same;
        WEFT_TRY(same_boxes(b->made, &layer->parts[part], layer->tensors[part], 0, layer->tensors[k],
                            k / layer->num_parts, &same));
        if (!same)
            return weft_fail(
                b->error, WEFT_ERR_MISFIT,
                "trainer %s: layer %s, part %s: expert %u is cut otherwise than expert 0; cut all alike, "
                "whoever holds them",
                b->trainer->text, layer->name, layer->parts[part].role, k / layer->num_parts);
    }
    return WEFT_OK;
}

static weft_status_t check_all(const builder_t *b)
{
    for (uint32_t t = 0; t < b->made->num_tensors; t++) {
        if (!b->parts[t])
            continue;
        WEFT_TRY(check_pairs(b, t));
        WEFT_TRY(check_covered(b, t));
    }
    for (uint32_t i = 0; i < b->layers->count; i++)
        WEFT_TRY(check_experts(b, &b->layers->items[i]));
    return WEFT_OK;
}

/* ---- life ---- */

static weft_status_t build(builder_t *b)
{
    size_t boxes = b->trainer->num_boxes, tensors = weft_model_num_tensors(b->model), count;
    b->made->num_tensors = (uint32_t)tensors;
    b->parts = calloc(tensors + 1, sizeof *b->parts);
    b->entries = calloc(boxes + 1, sizeof *b->entries);
    b->made->first = calloc(tensors + 1, sizeof *b->made->first);
    b->made->items = calloc(boxes + 1, sizeof *b->made->items);
    if (!b->parts || !b->entries || !b->made->first || !b->made->items)
        return weft_fail(b->error, WEFT_ERR_NO_MEMORY, "no memory for the trainers' boxes");
    find_parts(b);
    WEFT_TRY(resolve(b, &count));
    file_entries(b, count);
    weft_status_t status = check_all(b);
    return status == WEFT_ERR_NO_MEMORY ? weft_fail(b->error, status, "no memory for the trainers' boxes")
                                        : status;
}

weft_status_t weft_holdings_create(const weft_model_t *model, const weft_layers_t *layers,
                                   const weft_layout_t *trainer, weft_holdings_t **holdings,
                                   weft_error_t *error)
{
    builder_t b = {.model = model,
                   .layers = layers,
                   .trainer = trainer,
                   .made = calloc(1, sizeof *b.made),
                   .error = error};
    weft_status_t status =
        b.made ? build(&b) : weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the trainers' boxes");
    free(b.parts);
    free(b.entries);
    if (status != WEFT_OK) {
        weft_holdings_destroy(b.made);
        return status;
    }
    *holdings = b.made;
    return WEFT_OK;
}

void weft_holdings_destroy(weft_holdings_t *h)
{
    if (!h)
        return;
    free(h->first);
    free(h->items);
    free(h);
}

/* ---- queries ---- */

/* What a holding has of a part's slab; empty when nothing. */
static weft_rect_t part_box(const weft_holding_t *holding, const weft_part_t *part, uint32_t slab)
{
    if (part->stacked && (slab < holding->first_slab || slab - holding->first_slab >= holding->num_slabs))
        return (weft_rect_t){0};
    return weft_part_standing(part, holding->rect);
}

weft_status_t weft_holdings_placement(const weft_holdings_t *h, const weft_part_t *part, uint32_t tensor,
                                      uint32_t slab, weft_placement_t *placement)
{
    uint32_t first = h->first[tensor], end = h->first[tensor + 1], count = 0;
    weft_held_box_t *held = malloc((end - first + 1) * sizeof *held);
    if (!held)
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t i = first; i < end; i++) {
        weft_rect_t box = part_box(&h->items[i], part, slab);
        if (!weft_rect_empty(box))
            held[count++] = (weft_held_box_t){box, h->items[i].rank};
    }
    weft_status_t status = weft_placement_group(held, count, placement);
    free(held);
    return status;
}

weft_status_t weft_holdings_alike(const weft_holdings_t *h, const weft_layer_t *a, const weft_layer_t *b,
                                  bool *alike)
{
    *alike = true;
    for (uint32_t p = 0; p < a->num_parts && *alike; p++)
        WEFT_TRY(same_boxes(h, &a->parts[p], a->tensors[p], 0, b->tensors[p], 0, alike));
    return WEFT_OK;
}

uint32_t weft_holdings_pick(const weft_holdings_t *h, const weft_part_t *part, uint32_t tensor, uint32_t slab,
                            weft_rect_t box, uint32_t turn)
{
    uint32_t count = 0, seen = 0;
    for (uint32_t i = h->first[tensor]; i < h->first[tensor + 1]; i++)
        count += weft_rect_equal(part_box(&h->items[i], part, slab), box);
    for (uint32_t i = h->first[tensor]; i < h->first[tensor + 1]; i++)
        if (weft_rect_equal(part_box(&h->items[i], part, slab), box) && seen++ == turn % count)
            return h->items[i].rank;
    return 0; /* not reached: every box of a placement has a holder */
}

const weft_holding_t *weft_holdings_find(const weft_holdings_t *h, uint32_t tensor, uint32_t rank)
{
    for (uint32_t i = h->first[tensor]; i < h->first[tensor + 1]; i++)
        if (h->items[i].rank == rank)
            return &h->items[i];
    return NULL;
}
