#include "src/plan/placement.h"

#include <stdio.h>
#include <stdlib.h>

#include "src/base/array.h"

#define VOCAB_PAD 64u

/* The run of one dimension that a split cuts: rows, or the elements of a vector. */
static uint64_t split_extent(const weft_part_t *part)
{
    return part->vector ? part->cols : part->split == WEFT_SPLIT_COLS ? part->cols : part->rows;
}

/* A box over `length` from `start` of the dimension that is cut, whole in the other. */
static weft_rect_t cut_box(const weft_part_t *part, uint64_t start, uint64_t length)
{
    if (part->vector || part->split == WEFT_SPLIT_COLS)
        return (weft_rect_t){0, (uint32_t)start, (uint32_t)part->rows, (uint32_t)length};
    return (weft_rect_t){(uint32_t)start, 0, (uint32_t)length, (uint32_t)part->cols};
}

static uint64_t num_heads(const weft_part_t *part)
{
    return split_extent(part) / part->head_rows;
}

/* The part of rank `index` of `count` under the recipe's split, without padding. */
static weft_rect_t split_box(const weft_part_t *part, uint32_t count, uint32_t index)
{
    uint64_t extent = split_extent(part);
    switch (part->split) {
    case WEFT_SPLIT_NONE:
    case WEFT_SPLIT_FIRST:
        break;
    case WEFT_SPLIT_KV_HEADS:
        if (count > num_heads(part))
            return cut_box(part, index * num_heads(part) / count * part->head_rows, part->head_rows);
        return cut_box(part, extent / count * index, extent / count);
    case WEFT_SPLIT_ROWS:
    case WEFT_SPLIT_COLS:
    case WEFT_SPLIT_HEADS:
    case WEFT_SPLIT_VOCAB:
        return cut_box(part, extent / count * index, extent / count);
    }
    return (weft_rect_t){0, 0, (uint32_t)part->rows, (uint32_t)part->cols};
}

/* Why `count` ranks cannot share the part as its split says. */
static bool split_misfit(const weft_part_t *part, uint32_t count, char reason[256])
{
    uint64_t extent = split_extent(part);
    switch (part->split) {
    case WEFT_SPLIT_NONE:
    case WEFT_SPLIT_FIRST:
        return false;
    case WEFT_SPLIT_HEADS:
        if (num_heads(part) % count == 0)
            return false;
        snprintf(reason, 256, "%llu heads cannot be shared by %u ranks", (unsigned long long)num_heads(part),
                 count);
        return true;
    case WEFT_SPLIT_KV_HEADS:
        if (num_heads(part) % count == 0 || count % num_heads(part) == 0)
            return false;
        snprintf(reason, 256, "%llu KV heads can neither be shared nor copied evenly by %u ranks",
                 (unsigned long long)num_heads(part), count);
        return true;
    case WEFT_SPLIT_ROWS:
    case WEFT_SPLIT_COLS:
    case WEFT_SPLIT_VOCAB:
        if (extent % count == 0 && (!part->head_rows || extent / count % part->head_rows == 0))
            return false;
        snprintf(reason, 256, "%llu %s%s cannot be divided by %u ranks", (unsigned long long)extent,
                 part->split == WEFT_SPLIT_COLS ? "columns" : "rows",
                 part->head_rows ? ", of which pairs stay together," : "", count);
        return true;
    }
    return false;
}

/* Chunk `index` of `count` of dimension 0 as torch.chunk cuts it: ceil-sized, the last ones short or empty.
 */
static weft_rect_t fsdp_chunk(weft_rect_t box, bool vector, uint32_t count, uint32_t index)
{
    uint32_t extent = vector ? box.cols : box.rows;
    uint32_t chunk = (extent + count - 1) / count;
    uint64_t start = (uint64_t)chunk * index;
    uint32_t length = start >= extent ? 0 : extent - start < chunk ? (uint32_t)(extent - start) : chunk;
    if (vector) {
        box.col += length ? (uint32_t)start : 0;
        box.cols = length;
    } else {
        box.row += length ? (uint32_t)start : 0;
        box.rows = length;
    }
    return box;
}

weft_rect_t weft_part_lying(const weft_part_t *part, weft_rect_t r)
{
    r.row += (uint32_t)part->first_row;
    return part->transposed ? (weft_rect_t){r.col, r.row, r.cols, r.rows} : r;
}

/* The other way round; `r` lies in the part. */
static weft_rect_t turned_up(const weft_part_t *part, weft_rect_t r)
{
    if (part->transposed)
        r = (weft_rect_t){r.col, r.row, r.cols, r.rows};
    r.row -= (uint32_t)part->first_row;
    return r;
}

weft_rect_t weft_part_standing(const weft_part_t *part, weft_rect_t lying)
{
    weft_rect_t whole = {0, 0, (uint32_t)part->rows, (uint32_t)part->cols};
    weft_rect_t both = weft_rect_intersect(lying, weft_part_lying(part, whole));
    return weft_rect_empty(both) ? (weft_rect_t){0} : turned_up(part, both);
}

weft_rect_t weft_placement_shard(const weft_layout_t *trainer, const weft_part_t *part, uint32_t rank)
{
    weft_rect_t box = weft_part_lying(part, split_box(part, trainer->size[WEFT_AXIS_TP],
                                                      weft_layout_coordinate(trainer, rank, WEFT_AXIS_TP)));
    if (weft_part_fused(part)) /* then tp is 1, see weft_trainer_misfit */
        box = (weft_rect_t){0, 0, (uint32_t)weft_part_slab_rows(part), (uint32_t)weft_part_slab_cols(part)};
    return part->stacked ? box
                         : fsdp_chunk(box, part->vector, trainer->size[WEFT_AXIS_FSDP],
                                      weft_layout_coordinate(trainer, rank, WEFT_AXIS_FSDP));
}

weft_rect_t weft_placement_box(const weft_layout_t *trainer, const weft_part_t *part, uint32_t rank)
{
    weft_rect_t shard = weft_placement_shard(trainer, part, rank);
    return weft_part_fused(part) ? weft_part_standing(part, shard) : turned_up(part, shard);
}

/* Which of `count` holders has item `index` of `items`, dealt out in runs of which the first are one longer.
 */
static uint32_t holder_of(uint32_t index, uint32_t items, uint32_t count)
{
    uint32_t base = items / count, more = items % count, longer = more * (base + 1);
    return index < longer ? index / (base + 1) : more + (index - longer) / base;
}

uint32_t weft_trainer_stage(const weft_layout_t *trainer, uint32_t block, uint32_t num_blocks)
{
    return holder_of(block, num_blocks, trainer->size[WEFT_AXIS_PP]);
}

/* Items [first, first + count) of holder `index` of `holders`, as holder_of deals them out. */
static void dealt_out(uint32_t items, uint32_t holders, uint32_t index, uint32_t *first, uint32_t *count)
{
    uint32_t base = items / holders, more = items % holders;
    *count = base + (index < more);
    *first = base * index + (index < more ? index : more);
}

/* Experts to each place on the fsdp axis, of `count` that it chunks. */
static uint32_t stacked_chunk(const weft_layout_t *trainer, uint32_t count)
{
    return (count + trainer->size[WEFT_AXIS_FSDP] - 1) / trainer->size[WEFT_AXIS_FSDP];
}

uint32_t weft_trainer_expert(const weft_layout_t *trainer, bool stacked, uint32_t expert,
                             uint32_t num_experts)
{
    uint32_t place = holder_of(expert, num_experts, trainer->size[WEFT_AXIS_EP]), first, count;
    dealt_out(num_experts, trainer->size[WEFT_AXIS_EP], place, &first, &count);
    uint32_t chunk = stacked ? (expert - first) / stacked_chunk(trainer, count) : 0;
    return place * trainer->stride[WEFT_AXIS_EP] + chunk * trainer->stride[WEFT_AXIS_FSDP];
}

void weft_trainer_experts(const weft_layout_t *trainer, bool stacked, uint32_t rank, uint32_t num_experts,
                          uint32_t *first, uint32_t *count)
{
    dealt_out(num_experts, trainer->size[WEFT_AXIS_EP], weft_layout_coordinate(trainer, rank, WEFT_AXIS_EP),
              first, count);
    if (!stacked)
        return;
    uint32_t chunk = stacked_chunk(trainer, *count);
    uint64_t start = (uint64_t)chunk * weft_layout_coordinate(trainer, rank, WEFT_AXIS_FSDP);
    uint32_t rest = start < *count ? *count - (uint32_t)start : 0;
    *first += rest ? (uint32_t)start : 0;
    *count = rest < chunk ? rest : chunk;
}

bool weft_trainer_misfit(const weft_layout_t *trainer, const weft_part_t *part, char reason[256])
{
    if (weft_part_fused(part) && trainer->size[WEFT_AXIS_TP] > 1) {
        snprintf(reason, 256, "its tensor holds other parts too, and tp would cut each of them");
        return true;
    }
    return split_misfit(part, trainer->size[WEFT_AXIS_TP], reason);
}

static int compare_boxes(const void *left, const void *right)
{
    const weft_held_box_t *a = left, *b = right;
    const uint32_t x[] = {a->box.row, a->box.col, a->box.rows, a->box.cols, a->rank};
    const uint32_t y[] = {b->box.row, b->box.col, b->box.rows, b->box.cols, b->rank};
    for (unsigned i = 0; i < 5; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

static uint32_t list_boxes(const weft_layout_t *trainer, const weft_part_t *part, bool experts,
                           weft_held_box_t *held)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < trainer->num_ranks; rank++) {
        weft_rect_t box = weft_placement_box(trainer, part, rank);
        bool first = weft_layout_coordinate(trainer, rank, WEFT_AXIS_PP) == 0 &&
                     (!experts || weft_layout_coordinate(trainer, rank, WEFT_AXIS_EP) == 0) &&
                     (!part->stacked || weft_layout_coordinate(trainer, rank, WEFT_AXIS_FSDP) == 0);
        if (first && !weft_rect_empty(box))
            held[count++] = (weft_held_box_t){box, rank};
    }
    return count;
}

weft_status_t weft_placement_group(weft_held_box_t *held, uint32_t count, weft_placement_t *placement)
{
    weft_placement_t made = {
        .boxes = malloc((count + 1) * sizeof *made.boxes),
        .first_holder = malloc((count + 1) * sizeof *made.first_holder),
        .holders = malloc((count + 1) * sizeof *made.holders),
    };
    if (!made.boxes || !made.first_holder || !made.holders) {
        weft_placement_destroy(&made);
        return WEFT_ERR_NO_MEMORY;
    }
    qsort(held, count, sizeof *held, compare_boxes);
    for (uint32_t i = 0; i < count; i++) {
        if (i == 0 || !weft_rect_equal(held[i].box, held[i - 1].box)) {
            made.first_holder[made.num_boxes] = i;
            made.boxes[made.num_boxes++] = held[i].box;
        }
        made.holders[i] = held[i].rank;
    }
    made.first_holder[made.num_boxes] = count;
    *placement = made;
    return WEFT_OK;
}

weft_status_t weft_placement_create(const weft_layout_t *trainer, const weft_part_t *part, bool experts,
                                    weft_placement_t *placement)
{
    weft_held_box_t *held = malloc(trainer->num_ranks * sizeof *held);
    if (!held)
        return WEFT_ERR_NO_MEMORY;
    weft_status_t status = weft_placement_group(held, list_boxes(trainer, part, experts, held), placement);
    free(held);
    return status;
}

void weft_placement_destroy(weft_placement_t *placement)
{
    free(placement->boxes);
    free(placement->first_holder);
    free(placement->holders);
    *placement = (weft_placement_t){0};
}

/* A vocabulary is padded to 64 rows and then to the ranks; the last ranks' rows may be padding in part or
 * whole. */
static weft_need_t vocab_need(const weft_part_t *part, uint32_t tp, uint32_t tp_rank)
{
    uint64_t padded = (part->rows + VOCAB_PAD - 1) / VOCAB_PAD * VOCAB_PAD;
    uint64_t rows = (padded + tp - 1) / tp;
    uint64_t start = rows * tp_rank;
    uint64_t real = start >= part->rows ? 0 : part->rows - start < rows ? part->rows - start : rows;
    weft_rect_t box = {(uint32_t)(real ? start : 0), 0, (uint32_t)real, (uint32_t)part->cols};
    return (weft_need_t){box, (uint32_t)rows, (uint32_t)part->cols};
}

weft_need_t weft_rollout_need(const weft_part_t *part, uint32_t tp, uint32_t tp_rank, bool whole)
{
    if (!whole && part->split == WEFT_SPLIT_VOCAB)
        return vocab_need(part, tp, tp_rank);
    weft_rect_t box = whole ? (weft_rect_t){0, 0, (uint32_t)part->rows, (uint32_t)part->cols}
                            : split_box(part, tp, tp_rank);
    if (!whole && part->split == WEFT_SPLIT_FIRST && tp_rank > 0) /* zeros below a box without rows */
        return (weft_need_t){{0, 0, 0, box.cols}, box.rows, box.cols};
    return (weft_need_t){box, box.rows, box.cols};
}

/* A cut inside of what a scale is for. */
static bool cuts_scale(const weft_part_t *part, uint32_t tp, bool whole, weft_cut_t cut, bool last,
                       char reason[256])
{
    weft_need_t need = weft_rollout_need(part, tp, 0, whole);
    bool ragged_end = last && need.rows == part->rows && !cut.whole_rows;
    if (need.rows % cut.rows && !ragged_end) {
        snprintf(reason, 256, "rows: %llu over %u ranks leave %u, a cut inside a %s of %u",
                 (unsigned long long)part->rows, whole ? 1 : tp, need.rows, cut.whole_rows ? "tile" : "block",
                 cut.rows);
        return true;
    }
    if (need.cols % cut.cols && need.cols != part->cols) {
        snprintf(reason, 256, "columns: %llu over %u ranks leave %u, a cut inside a %s of %u",
                 (unsigned long long)part->cols, tp, need.cols, cut.whole_cols ? "group" : "block", cut.cols);
        return true;
    }
    return false;
}

bool weft_rollout_misfit(const weft_part_t *part, uint32_t tp, bool whole, weft_cut_t cut, bool last,
                         char reason[256])
{
    if (!whole && part->split != WEFT_SPLIT_VOCAB && split_misfit(part, tp, reason))
        return true;
    if (cut.whole_cols && part->cols % cut.cols) {
        snprintf(reason, 256, "columns: %llu are not whole groups of %u", (unsigned long long)part->cols,
                 cut.cols);
        return true;
    }
    return (cut.rows > 1 || cut.cols > 1) && cuts_scale(part, tp, whole, cut, last, reason);
}

void weft_rollout_experts(uint32_t num_experts, uint32_t tp, uint32_t tp_rank, bool ep, uint32_t *first,
                          uint32_t *count)
{
    if (!ep) {
        *first = 0;
        *count = num_experts;
        return;
    }
    uint32_t base = num_experts / tp, more = num_experts % tp;
    *count = base + (tp_rank < more);
    *first = base * tp_rank + (tp_rank < more ? tp_rank : more);
}
