/* In: a finished plan. Out: XXH3-128 over what ranks must agree on. Invariant: two ranks with the same hash
 * compute the same buckets; anything that changes a byte on the wire or in kernel format changes the hash. */
#include "kernels/arrange.h"
#include "src/base/error.h"
#include "src/base/hash.h"
#include "src/plan/plan.h"

#define PLAN_FORMAT 3u /* raise it when the meaning of a plan changes */

static void add_rect(weft_hasher_t *hasher, weft_rect_t rect)
{
    weft_hasher_add(hasher, &rect, sizeof rect);
}

static void add_part(weft_hasher_t *hasher, const weft_part_pattern_t *part)
{
    weft_hasher_add_u64(hasher, part->rows);
    weft_hasher_add_u64(hasher, part->cols);
    weft_hasher_add_u64(hasher, part->row_offset);
    weft_hasher_add_u64(hasher, part->col_offset);
    weft_hasher_add_u64(hasher, part->num_units);
    for (uint32_t u = 0; u < part->num_units; u++) {
        weft_hasher_add_u64(hasher, part->units[u].num_fragments);
        weft_hasher_add_u64(hasher, part->units[u].num_amax);
    }
    for (uint32_t i = 0; i < part->num_fragments; i++) {
        const weft_fragment_pattern_t *fragment = &part->fragments[i];
        const uint32_t fields[] = {fragment->set, fragment->box, fragment->to_row, fragment->to_col};
        weft_hasher_add(hasher, fields, sizeof fields);
        add_rect(hasher, fragment->rect);
    }
    for (uint32_t box = 0; box < part->placement.num_boxes; box++) {
        uint32_t first = part->placement.first_holder[box], end = part->placement.first_holder[box + 1];
        add_rect(hasher, part->placement.boxes[box]);
        weft_hasher_add(hasher, &part->placement.holders[first], (end - first) * sizeof(uint32_t));
    }
}

static void add_instances(weft_hasher_t *hasher, const weft_plan_t *plan)
{
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_layer_t *layer = &plan->layers->items[i];
        uint32_t experts = layer->num_experts ? layer->num_experts : 1;
        weft_hasher_add_text(hasher, layer->name);
        weft_hasher_add_text(hasher, layer->leaf);
        weft_hasher_add_u64(hasher, plan->layer_pattern[i]);
        weft_hasher_add_u64(hasher, plan->layer_stage[i]);
        for (uint32_t t = 0; t < experts * layer->num_parts; t++)
            weft_hasher_add_text(hasher, weft_model_tensor(plan->model, layer->tensors[t])->name);
    }
}

/* A layout by boxes is its boxes, wherever the file lies. */
static void add_trainer(weft_hasher_t *hasher, const weft_plan_t *plan)
{
    const weft_holdings_t *held = plan->holdings;
    if (!held) {
        weft_hasher_add_text(hasher, plan->trainer->text);
        return;
    }
    weft_hasher_add_u64(hasher, plan->trainer->num_ranks);
    weft_hasher_add(hasher, held->first, (held->num_tensors + 1) * sizeof *held->first);
    weft_hasher_add(hasher, held->items, held->first[held->num_tensors] * sizeof *held->items);
}

static void add_rounds(weft_hasher_t *hasher, const weft_plan_t *plan)
{
    for (uint32_t r = 0; r < plan->num_rounds; r++) {
        const weft_plan_round_t *round = &plan->rounds[r];
        const uint32_t fields[] = {round->first.layer, round->first.expert, round->first.part,
                                   round->first.unit,  round->num_units,    round->digests};
        weft_hasher_add(hasher, fields, sizeof fields);
    }
}

weft_status_t weft_plan_make_hash(weft_plan_t *plan)
{
    weft_hasher_t *hasher = weft_hasher_create();
    if (!hasher)
        return WEFT_ERR_NO_MEMORY;
    const uint64_t head[] = {PLAN_FORMAT,
                             plan->map.entries[0].profile,
                             plan->options.max_bucket_bytes,
                             plan->relay,
                             plan->rollout->tp,
                             plan->rollout->replicas,
                             plan->num_patterns,
                             plan->rollout->ep};
    weft_hasher_add(hasher, head, sizeof head);
    weft_hasher_add_text(hasher, plan->map.entries[0].scheme->name);
    if (*weft_engine_experts(plan->engine))
        weft_hasher_add_text(hasher, weft_engine_experts(plan->engine));
    add_trainer(hasher, plan);
    for (uint32_t i = 0; i < plan->num_patterns; i++) {
        const weft_pattern_t *pattern = &plan->patterns[i];
        weft_hasher_add_u64(hasher, pattern->dtype);
        weft_hasher_add_u64(hasher, pattern->profile);
        if (pattern->arrange != WEFT_ARRANGE_PLAIN)
            weft_hasher_add_text(hasher, weft_arrange_name(pattern->arrange));
        weft_hasher_add_u64(hasher, pattern->example->dtype);
        weft_hasher_add_u64(hasher, pattern->scheme->kernel);
        for (uint32_t p = 0; p < pattern->num_parts; p++) {
            const weft_part_t *lies = &pattern->example->parts[p];
            const uint64_t fields[] = {lies->stacked, lies->transposed, lies->first_row, lies->slab_n};
            weft_hasher_add(hasher, fields, sizeof fields);
            if (pattern->example->stored) {
                const uint64_t grid[] = {lies->of_rows, lies->of_cols, lies->grain_rows, lies->grain_cols,
                                         pattern->example->inverse};
                weft_hasher_add(hasher, grid, sizeof grid);
            }
            add_part(hasher, &pattern->parts[p]);
        }
    }
    add_instances(hasher, plan);
    add_rounds(hasher, plan);
    plan->hash = weft_hasher_digest(hasher);
    weft_hasher_destroy(hasher);
    return WEFT_OK;
}
