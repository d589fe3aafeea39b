#include "src/plan/plan.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "src/base/array.h"
#include "src/base/error.h"
#include "src/model/stored.h"

const weft_pattern_t *weft_plan_pattern(const weft_plan_t *plan, uint32_t layer)
{
    return &plan->patterns[plan->layer_pattern[layer]];
}

const weft_scheme_entry_t *weft_plan_entry(const weft_plan_t *plan, uint32_t layer)
{
    return &plan->map.entries[plan->layer_entry[layer]];
}

typedef WEFT_ARRAY(weft_pattern_t) pattern_array_t;

static bool same_scheme(const weft_plan_t *plan, const weft_layer_t *example, const weft_layer_t *layer)
{
    const weft_layer_t *first = plan->layers->items;
    const weft_scheme_entry_t *a = weft_plan_entry(plan, (uint32_t)(example - first)),
                              *b = weft_plan_entry(plan, (uint32_t)(layer - first));
    return weft_scheme_entries_agree(&plan->map, a, &plan->map, b, layer);
}

/* The pattern that `layer` can share; their number when there is none yet. */
static weft_status_t find_pattern(const weft_plan_t *plan, const pattern_array_t *patterns,
                                  const weft_layer_t *layer, size_t *found)
{
    for (*found = 0; *found < patterns->count; ++*found) {
        const weft_layer_t *example = patterns->items[*found].example;
        bool alike = weft_layers_alike(example, layer) && same_scheme(plan, example, layer);
        if (alike && plan->holdings)
            WEFT_TRY(weft_holdings_alike(plan->holdings, example, layer, &alike));
        if (alike)
            break;
    }
    return WEFT_OK;
}

static weft_status_t add_pattern(weft_plan_t *plan, pattern_array_t *patterns, const weft_layer_t *layer)
{
    weft_pattern_t pattern;
    const weft_scheme_entry_t *entry = weft_plan_entry(plan, (uint32_t)(layer - plan->layers->items));
    WEFT_TRY(weft_pattern_create(layer, &plan->map, entry, plan->trainer, plan->holdings, plan->rollout,
                                 &plan->sets, &pattern));
    if (WEFT_ARRAY_PUSH(patterns, pattern))
        return WEFT_OK;
    weft_pattern_destroy(&pattern);
    return WEFT_ERR_NO_MEMORY;
}

static weft_status_t share_patterns(weft_plan_t *plan)
{
    const weft_layers_t *layers = plan->layers;
    pattern_array_t patterns = {0};
    plan->layer_pattern = calloc(layers->count, sizeof *plan->layer_pattern);
    plan->layer_ordinal = calloc(layers->count, sizeof *plan->layer_ordinal);
    weft_status_t status = plan->layer_pattern && plan->layer_ordinal ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < layers->count && status == WEFT_OK; i++) {
        size_t found;
        status = find_pattern(plan, &patterns, &layers->items[i], &found);
        if (status == WEFT_OK && found == patterns.count)
            status = add_pattern(plan, &patterns, &layers->items[i]);
        if (status != WEFT_OK)
            break;
        plan->layer_pattern[i] = (uint32_t)found;
        plan->layer_ordinal[i] = patterns.items[found].num_layers++;
    }
    plan->patterns = patterns.items;
    plan->num_patterns = (uint32_t)patterns.count;
    return status;
}

static uint32_t count_blocks(const weft_layers_t *layers)
{
    int32_t last = -1;
    for (uint32_t i = 0; i < layers->count; i++)
        last = layers->items[i].block > last ? layers->items[i].block : last;
    return (uint32_t)(last + 1);
}

/* The layer before `layer` that is made of the same tensor, as lm_head is of a tied embedding; `layer` itself
 * if none. */
static uint32_t first_user(const weft_layers_t *layers, uint32_t layer)
{
    uint32_t i = 0;
    while (i < layer && layers->items[i].tensors[0] != layers->items[layer].tensors[0])
        i++;
    return i;
}

static weft_status_t assign_stages(weft_plan_t *plan, weft_error_t *error)
{
    const weft_layers_t *layers = plan->layers;
    uint32_t stages = plan->trainer->size[WEFT_AXIS_PP], blocks = count_blocks(layers);
    bool behind = false; /* a block has come */
    if (stages > blocks && stages > 1)
        return weft_fail(
            error, WEFT_ERR_MISFIT,
            "trainer %s does not fit: %u blocks are fewer than %u pipeline stages; choose pp:%u or less",
            plan->trainer->text, blocks, stages, blocks);
    plan->layer_stage = calloc((size_t)layers->count + 1, sizeof *plan->layer_stage);
    if (!plan->layer_stage)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the plan");
    for (uint32_t i = 0; i < layers->count; i++) {
        int32_t block = layers->items[i].block;
        behind |= block >= 0;
        plan->layer_stage[i] = block >= 0 ? weft_trainer_stage(plan->trainer, (uint32_t)block, blocks)
                               : behind   ? stages - 1
                                          : 0;
        if (block < 0)
            plan->layer_stage[i] = plan->layer_stage[first_user(layers, i)];
    }
    return WEFT_OK;
}

static weft_status_t prove(const weft_plan_t *plan, weft_error_t *error)
{
    char reason[256];
    weft_status_t status = WEFT_OK;
    for (uint32_t i = 0; i < plan->num_patterns && status == WEFT_OK; i++)
        status = weft_pattern_prove(&plan->patterns[i], plan->rollout, &plan->sets, reason);
    if (status == WEFT_ERR_NO_MEMORY)
        return weft_fail(error, status, "no memory for the plan's proof");
    if (status != WEFT_OK)
        return weft_fail(error, status, "the plan does not cover every element once: %s", reason);
    return WEFT_OK;
}

static weft_status_t check_fragments(const weft_plan_t *plan, const weft_pattern_t *pattern,
                                     weft_error_t *error)
{
    size_t element = weft_dtype_bytes(pattern->example->dtype);
    for (uint32_t p = 0; p < pattern->num_parts; p++)
        for (uint32_t i = 0; i < pattern->parts[p].num_fragments; i++) {
            weft_rect_t rect = pattern->parts[p].fragments[i].rect;
            if (weft_rect_area(rect) * element <= WEFT_MAX_BUCKET_BYTES)
                continue;
            return weft_fail(
                error, WEFT_ERR_MISFIT,
                "trainer %s to rollout %s: layer %s, part %s: %u rows of %u columns travel as one "
                "message of %llu bytes, at most %u can; choose layouts that cut the columns",
                plan->trainer->text, plan->rollout->text, pattern->example->name,
                pattern->example->parts[p].role, rect.rows, rect.cols,
                (unsigned long long)(weft_rect_area(rect) * element), WEFT_MAX_BUCKET_BYTES);
        }
    return WEFT_OK;
}

static weft_status_t check_messages(const weft_plan_t *plan, weft_error_t *error)
{
    for (uint32_t i = 0; i < plan->num_patterns; i++)
        WEFT_TRY(check_fragments(plan, &plan->patterns[i], error));
    return WEFT_OK;
}

static weft_status_t take_options(weft_plan_t *plan, const char *scheme, const weft_plan_options_t *options,
                                  weft_error_t *error)
{
    plan->options = options ? *options : WEFT_PLAN_OPTIONS;
    if (plan->options.struct_size != sizeof(weft_plan_options_t))
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "weft_plan_options_t has %zu bytes, expected %zu: start from WEFT_PLAN_OPTIONS",
                         plan->options.struct_size, sizeof(weft_plan_options_t));
    if (plan->options.engine)
        WEFT_TRY(weft_engine_find(plan->options.engine, &plan->engine, error));
    if (!scheme && plan->layers->stored)
        scheme = plan->layers->stored->scheme;
    if (!scheme && !plan->engine)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "neither a scheme nor an engine is given; a scheme is such as fp8-block");
    plan->engine_chose_scheme = !scheme;
    WEFT_TRY(weft_scheme_map_parse(scheme ? scheme : plan->engine->scheme, plan->options.profile,
                                   plan->engine, &plan->map, error));
    plan->options.profile = plan->options.engine = NULL;
    return WEFT_OK;
}

static weft_status_t assign_schemes(weft_plan_t *plan, weft_error_t *error)
{
    plan->layer_entry = calloc((size_t)plan->layers->count + 1, sizeof *plan->layer_entry);
    if (!plan->layer_entry)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the plan");
    return weft_scheme_map_assign(&plan->map, plan->model, plan->layers, plan->layer_entry, error);
}

/* What is quantized already is moved: the scheme asked for must be its own, and its scales stay plain. */
static weft_status_t check_stored(const weft_plan_t *plan, weft_error_t *error)
{
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_layer_t *layer = &plan->layers->items[i];
        const weft_scheme_entry_t *entry = weft_plan_entry(plan, i);
        if (!layer->stored)
            continue;
        if (strcmp(entry->scheme->name, layer->stored->scheme) != 0)
            return weft_fail(
                error, WEFT_ERR_MISFIT,
                "layer %s: the checkpoint has it quantized as %s, and %s is asked for: quantized "
                "weights are moved as they are; ask for %s, or start from the checkpoint it was "
                "made of",
                layer->name, layer->stored->scheme, entry->scheme->name, layer->stored->scheme);
        if (entry->arrange != WEFT_ARRANGE_PLAIN)
            return weft_fail(error, WEFT_ERR_MISFIT,
                             "layer %s: the checkpoint has its scales plain, and the arrangement %s is asked "
                             "for: scales are moved as they are; ask for %s@plain",
                             layer->name, weft_arrange_name(entry->arrange), layer->stored->scheme);
    }
    return WEFT_OK;
}

static weft_status_t build(weft_plan_t *plan, const char *scheme, const weft_plan_options_t *options,
                           weft_error_t *error)
{
    WEFT_TRY(weft_layers_create(plan->model, &plan->layers, error));
    WEFT_TRY(take_options(plan, scheme, options, error));
    WEFT_TRY(assign_schemes(plan, error));
    WEFT_TRY(check_stored(plan, error));
    WEFT_TRY(weft_plan_check_fit(plan, error));
    WEFT_TRY(assign_stages(plan, error));
    if (plan->trainer->by_boxes)
        WEFT_TRY(weft_holdings_create(plan->model, plan->layers, plan->trainer, &plan->holdings, error));
    weft_status_t status = share_patterns(plan);
    if (status == WEFT_OK)
        status = check_messages(plan, error);
    if (status == WEFT_OK)
        status = prove(plan, error);
    if (status == WEFT_OK)
        status = weft_plan_make_routes(plan);
    if (status == WEFT_OK)
        status = weft_plan_make_rounds(plan, error);
    if (status == WEFT_OK)
        status = weft_plan_make_hash(plan);
    return status == WEFT_ERR_NO_MEMORY ? weft_fail(error, status, "no memory for the plan") : status;
}

weft_status_t weft_plan_create(const weft_model_t *model, const weft_layout_t *trainer,
                               const weft_layout_t *rollout, const char *scheme,
                               const weft_plan_options_t *options, weft_plan_t **plan, weft_error_t *error)
{
    if (trainer->side != WEFT_SIDE_TRAINER || rollout->side != WEFT_SIDE_ROLLOUT)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "a plan takes a trainer layout and a rollout layout, in this order");
    weft_plan_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the plan");
    made->model = model;
    made->trainer = weft_layout_copy(trainer);
    made->rollout = weft_layout_copy(rollout);
    weft_status_t status = made->trainer && made->rollout
                               ? build(made, scheme, options, error)
                               : weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the plan");
    if (status != WEFT_OK) {
        weft_plan_destroy(made);
        return status;
    }
    *plan = made;
    return WEFT_OK;
}

void weft_plan_destroy(weft_plan_t *plan)
{
    if (!plan)
        return;
    for (uint32_t i = 0; i < plan->num_patterns; i++)
        weft_pattern_destroy(&plan->patterns[i]);
    free(plan->patterns);
    free(plan->layer_pattern);
    free(plan->layer_ordinal);
    free(plan->layer_stage);
    free(plan->layer_entry);
    weft_scheme_map_free(&plan->map);
    free(plan->single_sets);
    free(plan->rounds);
    WEFT_ARRAY_FREE(&plan->routes);
    weft_sets_destroy(&plan->sets);
    weft_holdings_destroy(plan->holdings);
    weft_layers_destroy(plan->layers);
    weft_layout_destroy(plan->trainer);
    weft_layout_destroy(plan->rollout);
    free(plan);
}

weft_digest_t weft_plan_hash(const weft_plan_t *plan)
{
    return plan->hash;
}

const char *weft_plan_model_type(const weft_plan_t *plan)
{
    return weft_model_type(plan->model);
}

const char *weft_plan_trainer_text(const weft_plan_t *plan)
{
    return plan->trainer->text;
}

const char *weft_plan_rollout_text(const weft_plan_t *plan)
{
    return plan->rollout->text;
}

const char *weft_plan_scheme(const weft_plan_t *plan)
{
    return plan->map.text;
}

const char *weft_plan_engine(const weft_plan_t *plan)
{
    return plan->engine ? plan->engine->name : NULL;
}

const char *weft_plan_profile(const weft_plan_t *plan)
{
    return weft_profile_name(plan->map.entries[0].profile);
}

uint32_t weft_plan_tp(const weft_plan_t *plan)
{
    return plan->rollout->tp;
}

uint32_t weft_plan_num_trainers(const weft_plan_t *plan)
{
    return plan->trainer->num_ranks;
}

uint32_t weft_plan_num_rollouts(const weft_plan_t *plan)
{
    return plan->rollout->num_ranks;
}

uint32_t weft_plan_num_ranks(const weft_plan_t *plan)
{
    return plan->trainer->num_ranks + plan->rollout->num_ranks;
}

uint32_t weft_plan_rollout_rank(const weft_plan_t *plan, uint32_t replica, uint32_t tp_rank)
{
    return plan->trainer->num_ranks + replica * plan->rollout->tp + tp_rank;
}
