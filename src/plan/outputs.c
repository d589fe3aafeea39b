#include "src/plan/outputs.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/format.h"
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

/* Fill shape and bytes; a vector has one dimension, experts add one in front. */
static void set_shape(weft_output_t *output, const weft_layer_t *layer, uint32_t experts, uint64_t rows,
                      uint64_t cols)
{
    uint32_t n = 0;
    if (layer->num_experts)
        output->shape[n++] = experts;
    if (!layer->parts[0].vector)
        output->shape[n++] = rows;
    output->shape[n++] = cols;
    output->num_dims = n;
    output->bytes = weft_dtype_bytes(output->dtype);
    for (uint32_t i = 0; i < n; i++)
        output->bytes *= output->shape[i];
}

typedef struct output_pair {
    weft_output_t weight, scale;
    bool has_scale;
} output_pair_t;

static output_pair_t describe(const weft_plan_t *plan, uint32_t index, uint32_t tp_rank)
{
    const weft_layer_t *layer = &plan->layers->items[index];
    const weft_pattern_t *pattern = weft_plan_pattern(plan, index);
    uint32_t experts = held_experts(plan, layer, tp_rank);
    const weft_format_t *format = weft_kernel_format(pattern->scheme->kernel);
    output_pair_t pair = {.has_scale = format->scale_rows != 0};
    pair.weight.dtype = pattern->dtype;
    set_shape(&pair.weight, layer, experts, pattern->rows, pattern->cols / format->codes);
    if (pair.has_scale) {
        uint64_t extent[2];
        weft_format_scales(format, pattern->rows, pattern->cols, extent);
        pair.scale.dtype = format->scale_dtype;
        set_shape(&pair.scale, layer, experts, extent[0], extent[1]);
    }
    return pair;
}

static char *join_name(const weft_layer_t *layer, const char *suffix)
{
    char *name;
    char full[WEFT_LAYER_NAME_BYTES];
    return asprintf(&name, "%s%s", weft_layer_full_name(layer, full), suffix) < 0 ? NULL : name;
}

static bool place(weft_outputs_t *outputs, weft_output_t output, char *name)
{
    output.name = name;
    output.offset = outputs->bytes;
    outputs->bytes += align_up(output.bytes);
    outputs->items[outputs->count++] = output;
    return name != NULL;
}

weft_status_t weft_outputs_create(const weft_plan_t *plan, uint32_t tp_rank, weft_outputs_t *outputs)
{
    uint32_t num_layers = plan->layers->count;
    weft_outputs_t made = {
        .items = calloc((size_t)num_layers * 2 + 1, sizeof *made.items),
        .layers = calloc((size_t)num_layers + 1, sizeof *made.layers),
    };
    bool whole = made.items && made.layers;
    for (uint32_t i = 0; i < num_layers && whole; i++) {
        const weft_layer_t *layer = &plan->layers->items[i];
        const weft_pattern_t *pattern = weft_plan_pattern(plan, i);
        output_pair_t pair = describe(plan, i, tp_rank);
        made.layers[i] = (weft_layer_outputs_t){made.count, UINT32_MAX, held_experts(plan, layer, tp_rank),
                                                pattern->rows, pattern->cols};
        whole = place(&made, pair.weight,
                      join_name(layer, pattern->scheme->weight_suffix ? pattern->scheme->weight_suffix : ""));
        if (whole && pair.has_scale) {
            made.layers[i].scale = made.count;
            whole = place(&made, pair.scale, join_name(layer, pattern->scheme->scale_suffix));
        }
    }
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
        output_pair_t pair = describe(plan, i, tp_rank);
        bytes += align_up(pair.weight.bytes) + (pair.has_scale ? align_up(pair.scale.bytes) : 0);
    }
    return bytes;
}
