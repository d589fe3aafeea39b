#include "src/assemble/shard.h"

static weft_shard_t shard_of(const weft_part_t *part, weft_rect_t box, uint32_t first_slab,
                             uint32_t num_slabs)
{
    return (weft_shard_t){.box = box,
                          .stacked = part->stacked,
                          .first_slab = part->stacked ? first_slab : 0,
                          .num_slabs = part->stacked ? num_slabs : 1,
                          .slab_rows = (uint32_t)weft_part_slab_rows(part),
                          .ld_elems = box.cols};
}

/* What `rank` holds of the tensor of part `p`; experts are those it has, or one. */
static weft_shard_t place_shard(const weft_plan_t *plan, uint32_t rank, const weft_part_t *part,
                                uint32_t first_expert, uint32_t num_experts)
{
    return shard_of(part, weft_placement_shard(plan->trainer, part, rank), first_expert, num_experts);
}

static void place_layer(const weft_plan_t *plan, uint32_t rank, const weft_layer_t *layer,
                        weft_shard_t *shards)
{
    uint32_t first = 0, count = 1;
    if (layer->num_experts)
        weft_trainer_experts(plan->trainer, layer->parts[0].stacked, rank, layer->num_experts, &first,
                             &count);
    for (uint32_t k = first * layer->num_parts; k < (first + count) * layer->num_parts; k++)
        shards[layer->tensors[k]] =
            place_shard(plan, rank, &layer->parts[k % layer->num_parts], first, count);
}

static void place_held(const weft_plan_t *plan, uint32_t rank, const weft_layer_t *layer,
                       weft_shard_t *shards)
{
    uint32_t experts = layer->num_experts ? layer->num_experts : 1;
    for (uint32_t k = 0; k < experts * layer->num_parts; k++) {
        const weft_holding_t *held = weft_holdings_find(plan->holdings, layer->tensors[k], rank);
        if (held)
            shards[layer->tensors[k]] =
                shard_of(&layer->parts[k % layer->num_parts], held->rect, held->first_slab, held->num_slabs);
    }
}

void weft_shards_place(const weft_plan_t *plan, uint32_t rank, weft_shard_t *shards)
{
    for (uint32_t i = 0; i < plan->layers->count && plan->holdings; i++)
        place_held(plan, rank, &plan->layers->items[i], shards);
    if (plan->holdings)
        return;
    for (uint32_t i = 0; i < plan->layers->count; i++)
        if (weft_layout_coordinate(plan->trainer, rank, WEFT_AXIS_PP) == plan->layer_stage[i])
            place_layer(plan, rank, &plan->layers->items[i], shards);
}

bool weft_shard_empty(const weft_shard_t *shard)
{
    return shard->num_slabs == 0 || weft_rect_empty(shard->box);
}

size_t weft_shard_elems(const weft_shard_t *shard, size_t ld_elems)
{
    if (weft_shard_empty(shard))
        return 0;
    return ((size_t)shard->num_slabs * shard->box.rows - 1) * ld_elems + shard->box.cols;
}

const uint8_t *weft_shard_at(const weft_shard_t *shard, size_t element_bytes, uint32_t row, uint32_t col)
{
    uint32_t slab = shard->stacked ? row / shard->slab_rows : 0;
    size_t down = (size_t)(slab - shard->first_slab) * shard->box.rows + (row - slab * shard->slab_rows) -
                  shard->box.row;
    return shard->data + (down * shard->ld_elems + (col - shard->box.col)) * element_bytes;
}
