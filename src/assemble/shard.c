#include "src/assemble/shard.h"

void weft_shards_place(const weft_plan_t *plan, uint32_t rank, weft_shard_t *shards)
{
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_layer_t *layer = &plan->layers->items[i];
        uint32_t experts = layer->num_experts ? layer->num_experts : 1;
        if (weft_layout_coordinate(plan->trainer, rank, WEFT_AXIS_PP) != plan->layer_stage[i])
            continue;
        for (uint32_t k = 0; k < experts * layer->num_parts; k++) {
            if (layer->num_experts && weft_trainer_expert(plan->trainer, k / layer->num_parts, experts) !=
                                          weft_layout_coordinate(plan->trainer, rank, WEFT_AXIS_EP))
                continue;
            weft_rect_t box = weft_placement_box(plan->trainer, &layer->parts[k % layer->num_parts], rank);
            shards[layer->tensors[k]] = (weft_shard_t){.box = box, .ld_elems = box.cols};
        }
    }
}

const uint8_t *weft_shard_at(const weft_shard_t *shard, size_t element_bytes, uint32_t row, uint32_t col)
{
    return shard->data +
           ((size_t)(row - shard->box.row) * shard->ld_elems + (col - shard->box.col)) * element_bytes;
}
