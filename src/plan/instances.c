/* In: the instance table. Out: classes of instances with equal sources, and their pieces.
 * Invariant: every layer and expert is in one class; its pieces have the sources, sets and bytes that
 * weft_plan_walk finds for it. */
#include "src/plan/instances.h"

#include <stdlib.h>

#include "src/base/error.h"

#define MAX_EXPERTS 65536u

/* What the source of a piece depends on, and who an expert is for. */
typedef struct instance_key {
    uint32_t stage, place, turn, tp_rank;
    uint32_t layer, expert;
} instance_key_t;

static int compare_keys(const void *left, const void *right)
{
    const instance_key_t *a = left, *b = right;
    const uint32_t x[] = {a->stage, a->place, a->turn, a->tp_rank};
    const uint32_t y[] = {b->stage, b->place, b->turn, b->tp_rank};
    for (unsigned i = 0; i < 4; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

static uint64_t common_multiple(uint64_t a, uint64_t b)
{
    uint64_t x = a, y = b;
    while (y) {
        uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

/* After so many turns every box is back at its first holder. UINT32_MAX where that is beyond any count: then
 * each turn is a class of its own. */
static uint32_t rotation_period(const weft_pattern_t *pattern)
{
    uint64_t period = 1;
    for (uint32_t p = 0; p < pattern->num_parts; p++) {
        const weft_placement_t *placement = &pattern->parts[p].placement;
        for (uint32_t box = 0; box < placement->num_boxes && period < UINT32_MAX; box++)
            period = common_multiple(period, placement->first_holder[box + 1] - placement->first_holder[box]);
    }
    return period < UINT32_MAX ? (uint32_t)period : UINT32_MAX;
}

static uint32_t experts_of(const weft_layer_t *layer)
{
    return layer->num_experts ? layer->num_experts : 1;
}

/* By how much an expert's holders differ from the first's; box by box, every layer and expert is its own. */
static uint32_t place_of(const weft_plan_t *plan, uint32_t layer, uint32_t expert)
{
    const weft_layer_t *l = &plan->layers->items[layer];
    if (plan->holdings)
        return layer * MAX_EXPERTS + expert;
    return l->num_experts ? weft_trainer_expert(plan->trainer, l->parts[0].stacked, expert, l->num_experts)
                          : 0;
}

/* Append the instances of one layer that TP rank `tp_rank` holds. */
static instance_key_t *list_held(const weft_plan_t *plan, uint32_t layer, uint32_t tp_rank, uint32_t period,
                                 instance_key_t *out)
{
    const weft_layer_t *l = &plan->layers->items[layer];
    bool whole = weft_plan_pattern(plan, layer)->whole;
    uint32_t first = 0, count = experts_of(l);
    if (whole)
        weft_rollout_experts(l->num_experts, plan->rollout->tp, tp_rank, true, &first, &count);
    for (uint32_t e = first; e < first + count; e++)
        *out++ = (instance_key_t){
            .stage = plan->layer_stage[layer],
            .place = place_of(plan, layer, e),
            .turn = (plan->layer_ordinal[layer] + e) % period,
            .tp_rank = tp_rank,
            .layer = layer,
            .expert = e,
        };
    return out;
}

static instance_key_t *list_keys(const weft_plan_t *plan, uint32_t pattern, instance_key_t *out)
{
    uint32_t period = rotation_period(&plan->patterns[pattern]);
    uint32_t holders = plan->patterns[pattern].whole ? plan->rollout->tp : 1;
    for (uint32_t layer = 0; layer < plan->layers->count; layer++)
        for (uint32_t t = 0; t < holders && plan->layer_pattern[layer] == pattern; t++)
            out = list_held(plan, layer, t, period, out);
    return out;
}

weft_status_t weft_instances_create(const weft_plan_t *plan, uint32_t pattern, weft_instances_t *instances)
{
    const weft_pattern_t *shape = &plan->patterns[pattern];
    size_t most = (size_t)shape->num_layers * experts_of(shape->example);
    instance_key_t *keys = malloc((most + 1) * sizeof *keys);
    weft_instance_t *items = malloc((most + 1) * sizeof *items);
    if (!keys || !items) {
        free(keys);
        free(items);
        return WEFT_ERR_NO_MEMORY;
    }
    size_t count = (size_t)(list_keys(plan, pattern, keys) - keys);
    uint32_t classes = 0;
    qsort(keys, count, sizeof *keys, compare_keys);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || compare_keys(&keys[i - 1], &keys[i]) != 0)
            items[classes++] = (weft_instance_t){keys[i].layer, keys[i].expert, keys[i].tp_rank, 0};
        items[classes - 1].count++;
    }
    free(keys);
    *instances = (weft_instances_t){items, classes};
    return WEFT_OK;
}

void weft_instances_destroy(weft_instances_t *instances)
{
    free(instances->items);
    *instances = (weft_instances_t){0};
}

static weft_status_t walk_unit(const weft_plan_t *plan, const weft_instance_t *instance, uint32_t part,
                               uint32_t unit, weft_instance_fn fn, void *user)
{
    const weft_part_pattern_t *shape = &weft_plan_pattern(plan, instance->layer)->parts[part];
    const weft_unit_pattern_t *u = &shape->units[unit];
    const weft_cursor_t cursor = {instance->layer, 0, part, unit};
    for (uint32_t i = 0; i < u->num_fragments + u->num_amax; i++) {
        bool amax = i >= u->num_fragments;
        uint32_t index = amax ? u->first_amax + i - u->num_fragments : u->first_fragment + i;
        const weft_fragment_pattern_t *fragment = &shape->fragments[index];
        uint32_t set =
            fragment->set == WEFT_SET_EACH ? weft_plan_single_set(plan, instance->tp_rank) : fragment->set;
        weft_piece_t piece = weft_plan_piece(plan, cursor, fragment, amax ? WEFT_PIECE_AMAX : WEFT_PIECE_DATA,
                                             set, instance->expert);
        WEFT_TRY(fn(user, &piece, instance->count));
    }
    return WEFT_OK;
}

static weft_status_t walk_instance(const weft_plan_t *plan, const weft_instance_t *instance,
                                   weft_instance_fn fn, void *user)
{
    const weft_pattern_t *pattern = weft_plan_pattern(plan, instance->layer);
    for (uint32_t p = 0; p < pattern->num_parts; p++)
        for (uint32_t u = 0; u < pattern->parts[p].num_units; u++)
            WEFT_TRY(walk_unit(plan, instance, p, u, fn, user));
    return WEFT_OK;
}

weft_status_t weft_plan_walk_classes(const weft_plan_t *plan, weft_instance_fn fn, void *user)
{
    for (uint32_t i = 0; i < plan->num_patterns; i++) {
        weft_instances_t instances;
        WEFT_TRY(weft_instances_create(plan, i, &instances));
        weft_status_t status = WEFT_OK;
        for (uint32_t k = 0; k < instances.count && status == WEFT_OK; k++)
            status = walk_instance(plan, &instances.items[k], fn, user);
        weft_instances_destroy(&instances);
        WEFT_TRY(status);
    }
    return WEFT_OK;
}
