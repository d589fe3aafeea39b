/* In: the outputs of a rank that holds everything. Out: the tensors of a checkpoint, each a run of them.
 * Invariant: every tensor of the checkpoint that a layer is made of is listed once. */
#include "src/quantize/checkpoint_config.h"
#include "src/quantize/checkpoint_tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/arith_fp4.h"
#include "kernels/format.h"
#include "src/base/array.h"
#include "src/base/error.h"

#define LEAF "weight"

typedef struct builder {
    const weft_plan_t *plan;
    const weft_outputs_t *outputs;
    WEFT_ARRAY(weft_tensor_t) items;
    WEFT_ARRAY(weft_checkpoint_source_t) sources;
    bool *listed; /* [tensors of the model] */
    weft_error_t *error;
} builder_t;

/* Parts of a layer that lie below each other in one tensor; mostly just one. */
typedef struct piece {
    uint32_t layer, expert, first_part, num_parts;
    uint64_t row, rows; /* in the layer's matrix */
    const weft_tensor_t *tensor;
} piece_t;

float weft_checkpoint_divisor(float multiplier, weft_dtype_t dtype)
{
    weft_nvfp4_t none = weft_nvfp4_domain(WEFT_PROFILE_DEFAULT, 0);
    if (multiplier == none.global)
        return 1.0f;
    float amax = weft_mul(multiplier, WEFT_NVFP4_RANGE);
    amax = dtype == WEFT_DTYPE_F16 ? weft_f32_from_f16(weft_f16_from_f32(amax))
                                   : weft_f32_from_bf16(weft_bf16_from_f32(amax));
    float divisor = weft_div(WEFT_NVFP4_RANGE, amax);
    return divisor < WEFT_F32_LARGEST ? divisor : WEFT_F32_LARGEST;
}

static const weft_output_t *output_at(const builder_t *b, uint32_t index)
{
    return index == WEFT_OUTPUT_NONE ? NULL : &b->outputs->items[index];
}

static bool quantized(const builder_t *b, uint32_t layer)
{
    return weft_plan_pattern(b->plan, layer)->scheme->kernel != WEFT_KERNEL_CAST;
}

/* The parts from `first` on that are in the same tensor. */
static piece_t find_piece(const builder_t *b, uint32_t index, uint32_t expert, uint32_t first)
{
    const weft_layer_t *layer = &b->plan->layers->items[index];
    const weft_pattern_t *pattern = weft_plan_pattern(b->plan, index);
    const uint32_t *tensors = layer->tensors + (size_t)expert * layer->num_parts;
    piece_t piece = {.layer = index,
                     .expert = expert,
                     .first_part = first,
                     .row = pattern->parts[first].row_offset,
                     .tensor = weft_model_tensor(b->plan->model, tensors[first])};
    while (first + piece.num_parts < layer->num_parts && tensors[first + piece.num_parts] == tensors[first])
        piece.rows += layer->parts[first + piece.num_parts++].rows;
    return piece;
}

/* ---- what there is no form for ---- */

static weft_status_t check_layer(const builder_t *b, uint32_t index)
{
    const weft_layer_t *layer = &b->plan->layers->items[index];
    const char *tensor = weft_model_tensor(b->plan->model, layer->tensors[0])->name;
    const char *advice = "write kernel format instead (--format kernel)";
    if (layer->parts[0].transposed)
        return weft_fail(
            b->error, WEFT_ERR_MISFIT,
            "layer %s: tensor %s holds transposed matrices, for which quantized checkpoints have no form: %s",
            layer->name, tensor, advice);
    if (layer->parts[0].stacked && quantized(b, index))
        return weft_fail(
            b->error, WEFT_ERR_MISFIT,
            "layer %s: tensor %s holds all experts, and quantized checkpoints hold them by name: %s",
            layer->name, tensor, advice);
    if (layer->parts[0].stacked && find_piece(b, index, 0, 0).num_parts != layer->num_parts)
        return weft_fail(b->error, WEFT_ERR_MISFIT,
                         "layer %s: tensor %s holds all experts, but not all of the layer: %s", layer->name,
                         tensor, advice);
    size_t length = strlen(tensor), leaf = strlen("." LEAF);
    if (quantized(b, index) && (length < leaf || strcmp(tensor + length - leaf, "." LEAF) != 0))
        return weft_fail(b->error, WEFT_ERR_MISFIT,
                         "layer %s: tensor %s is quantized, and its name does not end with ." LEAF ": %s",
                         layer->name, tensor, advice);
    return WEFT_OK;
}

/* A layer's scheme is that of all quantized layers, and has a form in a checkpoint. */
static weft_status_t check_scheme(const builder_t *b, uint32_t index)
{
    const weft_pattern_t *pattern = weft_plan_pattern(b->plan, index);
    const weft_kernel_id_t kernel = weft_checkpoint_kernel(b->plan);
    if (quantized(b, index) && pattern->scheme->kernel != kernel)
        return weft_fail(b->error, WEFT_ERR_MISFIT,
                         "layer %s gets %s, layers before it another scheme, and a checkpoint has one for all that "
                         "it quantizes: choose a map with one scheme and casts, or --format kernel",
                         b->plan->layers->items[index].name, pattern->scheme->name);
    if (!quantized(b, index) || pattern->profile != WEFT_PROFILE_MODELOPT)
        return WEFT_OK;
    return weft_fail(b->error, WEFT_ERR_ARGUMENT,
                     "profile modelopt is defined by a multiplier, and compressed-tensors stores a divisor: "
                     "take profile default, or --format kernel");
}

/* ---- tensors of a piece ---- */

static weft_status_t append(builder_t *b, const weft_tensor_t *tensor, const weft_checkpoint_source_t *source)
{
    if (tensor->name && WEFT_ARRAY_PUSH(&b->sources, *source) && WEFT_ARRAY_PUSH(&b->items, *tensor))
        return WEFT_OK;
    free((char *)tensor->name);
    return weft_fail(b->error, WEFT_ERR_NO_MEMORY, "no memory for a checkpoint's tensors");
}

static char *join(const char *name, const char *suffix)
{
    char *joined;
    return asprintf(&joined, "%s%s", name, suffix ? suffix : "") < 0 ? NULL : joined;
}

static uint64_t offset_in_layer(const builder_t *b, uint32_t layer, const weft_output_t *output)
{
    return output->offset - b->outputs->items[b->outputs->layers[layer].weight].offset;
}

/* Rows [row, row + rows) of the piece's expert in an output of `total` rows. */
static weft_status_t append_rows(builder_t *b, const piece_t *piece, const weft_output_t *output,
                                 uint64_t total, uint64_t row, uint64_t rows, const char *suffix)
{
    uint32_t experts = b->outputs->layers[piece->layer].num_experts;
    uint64_t expert_bytes = output->bytes / experts, row_bytes = total ? expert_bytes / total : 0;
    const weft_checkpoint_source_t source = {.layer = piece->layer,
                                             .begins_module = !suffix || strcmp(suffix, "_packed") == 0,
                                             .offset = offset_in_layer(b, piece->layer, output) +
                                                       piece->expert * expert_bytes + row * row_bytes};
    weft_tensor_t tensor = {.name = join(piece->tensor->name, suffix),
                            .dtype = output->dtype,
                            .num_dims = 2,
                            .shape = {rows, output->shape[output->num_dims - 1]},
                            .bytes = rows * row_bytes};
    return append(b, &tensor, &source);
}

/* nvfp4's weight is called as int4's and mxfp4's are, whatever engines call it in memory. */
static const char *weight_suffix(const weft_scheme_t *scheme)
{
    return scheme->global_suffix ? "_packed" : scheme->weight_suffix;
}

static weft_status_t append_weight(builder_t *b, const piece_t *piece)
{
    const weft_layer_outputs_t *of = &b->outputs->layers[piece->layer];
    const weft_scheme_t *scheme = weft_plan_pattern(b->plan, piece->layer)->scheme;
    return append_rows(b, piece, output_at(b, of->weight), of->rows, piece->row, piece->rows,
                       weight_suffix(scheme));
}

/* One number for all of the layer's parts. */
static weft_status_t append_number(builder_t *b, const piece_t *piece, const weft_output_t *output,
                                   weft_checkpoint_from_t from, const char *suffix)
{
    const weft_checkpoint_source_t source = {.from = from,
                                             .layer = piece->layer,
                                             .offset = offset_in_layer(b, piece->layer, output) +
                                                       piece->expert * sizeof(float)};
    weft_tensor_t tensor = {.name = join(piece->tensor->name, suffix),
                            .dtype = WEFT_DTYPE_F32,
                            .num_dims = 1,
                            .shape = {1},
                            .bytes = sizeof(float)};
    return append(b, &tensor, &source);
}

static weft_status_t append_scale(builder_t *b, const piece_t *piece)
{
    const weft_layer_outputs_t *of = &b->outputs->layers[piece->layer];
    const weft_output_t *output = output_at(b, of->scale);
    const weft_scheme_t *scheme = weft_plan_pattern(b->plan, piece->layer)->scheme;
    const weft_format_t *format = weft_kernel_format(scheme->kernel);
    if (!output)
        return WEFT_OK;
    if (format->scale_rows == WEFT_WHOLE)
        return append_number(b, piece, output, WEFT_FROM_LAYER, scheme->scale_suffix);
    uint64_t all[2], before[2], mine[2];
    weft_format_scales(format, of->rows, of->cols, all);
    weft_format_scales(format, piece->row, of->cols, before); /* parts begin where a block does */
    weft_format_scales(format, piece->rows, of->cols, mine);
    return append_rows(b, piece, output, all[0], before[0], mine[0], scheme->scale_suffix);
}

static weft_status_t append_global(builder_t *b, const piece_t *piece)
{
    const weft_output_t *output = output_at(b, b->outputs->layers[piece->layer].global);
    return output ? append_number(b, piece, output, WEFT_FROM_DIVISOR, "_global_scale") : WEFT_OK;
}

static weft_status_t append_shape(builder_t *b, const piece_t *piece)
{
    const weft_layer_outputs_t *of = &b->outputs->layers[piece->layer];
    const weft_scheme_t *scheme = weft_plan_pattern(b->plan, piece->layer)->scheme;
    if (of->shape == WEFT_OUTPUT_NONE)
        return WEFT_OK;
    const weft_checkpoint_source_t source = {
        .from = WEFT_FROM_SHAPE, .layer = piece->layer, .rows = piece->rows, .cols = of->cols};
    weft_tensor_t tensor = {.name = join(piece->tensor->name, scheme->shape_suffix),
                            .dtype = WEFT_DTYPE_I64,
                            .num_dims = 1,
                            .shape = {2},
                            .bytes = 2 * sizeof(int64_t)};
    return append(b, &tensor, &source);
}

static weft_status_t append_module(builder_t *b, const piece_t *piece)
{
    WEFT_TRY(append_weight(b, piece));
    WEFT_TRY(append_scale(b, piece));
    WEFT_TRY(append_global(b, piece));
    return append_shape(b, piece);
}

/* A tensor that is not quantized keeps its shape: it is a run of the layer's only output. */
static weft_status_t append_plain(builder_t *b, const piece_t *piece)
{
    const weft_layer_t *layer = &b->plan->layers->items[piece->layer];
    const weft_part_pattern_t *part = &weft_plan_pattern(b->plan, piece->layer)->parts[piece->first_part];
    const weft_output_t *output = output_at(b, b->outputs->layers[piece->layer].weight);
    uint64_t element = weft_dtype_bytes(output->dtype);
    uint64_t expert = layer->parts[0].stacked ? 0 : piece->expert;
    uint64_t first = layer->parts[0].vector ? part->col_offset : piece->row * part->cols;
    const weft_checkpoint_source_t source = {
        .layer = piece->layer,
        .begins_module = true,
        .offset = offset_in_layer(b, piece->layer, output) + first * element +
                  expert * (output->bytes / b->outputs->layers[piece->layer].num_experts)};
    weft_tensor_t tensor = *piece->tensor;
    tensor.name = join(tensor.name, NULL);
    tensor.bytes = tensor.bytes / weft_dtype_bytes(tensor.dtype) * element;
    tensor.dtype = output->dtype;
    tensor.data = NULL;
    return append(b, &tensor, &source);
}

/* ---- layers ---- */

static weft_status_t list_expert(builder_t *b, uint32_t index, uint32_t expert)
{
    const weft_layer_t *layer = &b->plan->layers->items[index];
    for (uint32_t part = 0; part < layer->num_parts;) {
        piece_t piece = find_piece(b, index, expert, part);
        bool *listed = &b->listed[layer->tensors[(size_t)expert * layer->num_parts + part]];
        part += piece.num_parts;
        if (*listed) /* a tied head, or the other slabs of a tensor that holds all experts */
            continue;
        *listed = true;
        WEFT_TRY(quantized(b, index) ? append_module(b, &piece) : append_plain(b, &piece));
    }
    return WEFT_OK;
}

static weft_status_t list_layers(builder_t *b)
{
    for (uint32_t i = 0; i < b->plan->layers->count; i++) {
        WEFT_TRY(check_scheme(b, i));
        WEFT_TRY(check_layer(b, i));
        for (uint32_t expert = 0; expert < b->outputs->layers[i].num_experts; expert++)
            WEFT_TRY(list_expert(b, i, expert));
    }
    return WEFT_OK;
}

weft_status_t weft_checkpoint_tensors_create(const weft_plan_t *plan, const weft_outputs_t *outputs,
                                             weft_checkpoint_tensors_t *tensors, weft_error_t *error)
{
    builder_t b = {.plan = plan, .outputs = outputs, .error = error};
    b.listed = calloc((size_t)weft_model_num_tensors(plan->model) + 1, sizeof *b.listed);
    weft_status_t status = b.listed
                               ? list_layers(&b)
                               : weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a checkpoint's tensors");
    free(b.listed);
    weft_checkpoint_tensors_t made = {b.items.items, b.sources.items, b.items.count};
    if (status == WEFT_OK)
        *tensors = made;
    else
        weft_checkpoint_tensors_destroy(&made);
    return status;
}

void weft_checkpoint_tensors_destroy(weft_checkpoint_tensors_t *tensors)
{
    for (size_t i = 0; i < tensors->count; i++)
        free((char *)tensors->items[i].name);
    free(tensors->items);
    free(tensors->sources);
    *tensors = (weft_checkpoint_tensors_t){0};
}
