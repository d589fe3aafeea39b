#include "src/plan/outputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "src/base/error.h"

static uint64_t align_up(uint64_t bytes)
{
    return (bytes + WEFT_OUTPUT_ALIGN - 1) / WEFT_OUTPUT_ALIGN * WEFT_OUTPUT_ALIGN;
}

static uint32_t held_experts(const weft_plan_t *plan, const weft_layer_t *layer, uint32_t tp_rank)
{
    uint32_t first, count = 1;
    if (layer->num_experts)
        weft_rollout_experts(layer->num_experts, plan->rollout->tp, tp_rank, plan->rollout->ep, &first,
                             &count);
    return count;
}

/* Fill shape and bytes; experts add one dimension in front. */
static void set_shape(weft_output_t *output, const weft_layer_t *layer, uint32_t experts,
                      const uint64_t *extent, uint32_t num_extents)
{
    uint32_t n = 0;
    if (layer->num_experts)
        output->shape[n++] = experts;
    for (uint32_t i = 0; i < num_extents; i++)
        output->shape[n++] = extent[i];
    output->num_dims = n;
    output->bytes = weft_dtype_bytes(output->dtype);
    for (uint32_t i = 0; i < n; i++)
        output->bytes *= output->shape[i];
}

typedef enum role { ROLE_WEIGHT, ROLE_SCALE, ROLE_GLOBAL, ROLE_SHAPE, NUM_ROLES } role_t;

/* The outputs of a layer; those it has not got have no suffix. */
typedef struct described {
    weft_output_t outputs[NUM_ROLES];
    const char *suffixes[NUM_ROLES];
} described_t;

/* A vector has one dimension. */
static void describe_weight(const weft_pattern_t *pattern, const weft_layer_t *layer, uint32_t experts,
                            weft_output_t *weight)
{
    uint64_t extent[2];
    bool vector = layer->parts[0].vector;
    weight->dtype = weft_arrange_codes(pattern->arrange, pattern->scheme->kernel, pattern->dtype,
                                       pattern->rows, pattern->cols, extent);
    set_shape(weight, layer, experts, extent + vector, vector ? 1 : 2);
}

/* What the constant shape is called, where one goes with a matrix that is moved: as the matrix, with a leaf
 * of its own. */
static weft_layer_t shape_of(const weft_layer_t *layer)
{
    weft_layer_t shape = *layer;
    shape.leaf = layer->shape_leaf ? layer->shape_leaf : layer->leaf;
    return shape;
}

/* What is for a whole tensor is one number, of experts one each. */
static void describe_global(const weft_layer_t *layer, uint32_t experts, weft_dtype_t dtype,
                            weft_output_t *output)
{
    output->dtype = dtype;
    set_shape(output, layer, experts, (const uint64_t[]){1}, layer->num_experts ? 0 : 1);
}

static void describe_scale(const weft_pattern_t *pattern, const weft_layer_t *layer, uint32_t experts,
                           weft_output_t *scale)
{
    const weft_format_t *format = weft_kernel_format(pattern->scheme->kernel);
    uint64_t extent[2];
    scale->dtype =
        weft_arrange_scales(pattern->arrange, pattern->scheme->kernel, pattern->rows, pattern->cols, extent);
    if (weft_arrange_one_scale(pattern->arrange, format))
        describe_global(layer, experts, format->scale_dtype, scale);
    else
        set_shape(scale, layer, experts, extent, 2);
}

static described_t describe(const weft_plan_t *plan, uint32_t index, uint32_t tp_rank)
{
    const weft_layer_t *layer = &plan->layers->items[index];
    const weft_pattern_t *pattern = weft_plan_pattern(plan, index);
    const weft_scheme_t *scheme = pattern->scheme;
    uint32_t experts = held_experts(plan, layer, tp_rank);
    described_t d = {.suffixes = {[ROLE_WEIGHT] = scheme->weight_suffix ? scheme->weight_suffix : "",
                                  [ROLE_SCALE] = scheme->scale_suffix,
                                  [ROLE_GLOBAL] = scheme->global_suffix,
                                  [ROLE_SHAPE] = scheme->shape_suffix}};
    describe_weight(pattern, layer, experts, &d.outputs[ROLE_WEIGHT]);
    if (layer->number)
        describe_global(layer, experts, pattern->dtype, &d.outputs[ROLE_WEIGHT]);
    if (layer->shape_leaf)
        d.suffixes[ROLE_SHAPE] = "";
    describe_scale(pattern, layer, experts, &d.outputs[ROLE_SCALE]);
    describe_global(layer, experts, WEFT_DTYPE_F32, &d.outputs[ROLE_GLOBAL]);
    d.outputs[ROLE_SHAPE].dtype = WEFT_DTYPE_I64;
    set_shape(&d.outputs[ROLE_SHAPE], layer, experts, (const uint64_t[]){2}, 1);
    return d;
}

/* As the engine calls it. */
static char *join_name(const weft_plan_t *plan, const weft_layer_t *layer, const char *suffix)
{
    char plain[WEFT_LAYER_NAME_BYTES + 32], name[2 * WEFT_LAYER_NAME_BYTES];
    char full[WEFT_LAYER_NAME_BYTES];
    snprintf(plain, sizeof plain, "%s%s", weft_layer_full_name(layer, full), suffix);
    if (!layer->num_experts)
        return strdup(plain);
    return weft_engine_name(plan->engine, plain, name, sizeof name) ? strdup(name) : NULL;
}

/* Append an output if the layer has it; *place is its index or WEFT_OUTPUT_NONE. */
static bool append(weft_outputs_t *outputs, const weft_plan_t *plan, const weft_layer_t *layer,
                   const described_t *d, role_t role, uint32_t *place)
{
    *place = WEFT_OUTPUT_NONE;
    if (!d->suffixes[role])
        return true;
    weft_output_t output = d->outputs[role];
    const weft_layer_t named = role == ROLE_SHAPE ? shape_of(layer) : *layer;
    output.name = join_name(plan, &named, d->suffixes[role]);
    output.offset = outputs->bytes;
    outputs->bytes += align_up(output.bytes);
    *place = outputs->count++;
    outputs->items[*place] = output;
    return output.name != NULL;
}

static bool append_layer(weft_outputs_t *outputs, const weft_plan_t *plan, uint32_t index, uint32_t tp_rank)
{
    const weft_layer_t *layer = &plan->layers->items[index];
    const weft_pattern_t *pattern = weft_plan_pattern(plan, index);
    weft_layer_outputs_t *made = &outputs->layers[index];
    described_t d = describe(plan, index, tp_rank);
    *made = (weft_layer_outputs_t){
        .num_experts = held_experts(plan, layer, tp_rank), .rows = pattern->rows, .cols = pattern->cols};
    bool whole = append(outputs, plan, layer, &d, ROLE_WEIGHT, &made->weight) &&
                 append(outputs, plan, layer, &d, ROLE_SCALE, &made->scale) &&
                 append(outputs, plan, layer, &d, ROLE_GLOBAL, &made->global) &&
                 append(outputs, plan, layer, &d, ROLE_SHAPE, &made->shape);
    made->count = outputs->count - made->weight;
    return whole;
}

weft_status_t weft_outputs_create(const weft_plan_t *plan, uint32_t tp_rank, weft_outputs_t *outputs)
{
    uint32_t num_layers = plan->layers->count;
    weft_outputs_t made = {
        .items = calloc((size_t)num_layers * NUM_ROLES + 1, sizeof *made.items),
        .layers = calloc((size_t)num_layers + 1, sizeof *made.layers),
    };
    bool whole = made.items && made.layers;
    for (uint32_t i = 0; i < num_layers && whole; i++)
        whole = append_layer(&made, plan, i, tp_rank);
    if (!whole) {
        weft_outputs_destroy(&made);
        return WEFT_ERR_NO_MEMORY;
    }
    *outputs = made;
    return WEFT_OK;
}

void weft_outputs_destroy(weft_outputs_t *outputs)
{
    for (uint32_t i = 0; i < outputs->count; i++)
        free(outputs->items[i].name);
    free(outputs->items);
    free(outputs->layers);
    *outputs = (weft_outputs_t){0};
}

uint64_t weft_outputs_bytes(const weft_plan_t *plan, uint32_t tp_rank)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        described_t d = describe(plan, i, tp_rank);
        for (unsigned role = 0; role < NUM_ROLES; role++)
            bytes += d.suffixes[role] ? align_up(d.outputs[role].bytes) : 0;
    }
    return bytes;
}
