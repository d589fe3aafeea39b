/* In: complete units. Out: their rows of the kernel-format weights and scales in the stage.
 * Invariant: the bytes depend on the tensors alone, not on how they were cut or where they were quantized. */
#include "src/quantize/quantizer.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/arrange.h"
#include "src/base/array.h"
#include "src/base/error.h"
#include "src/base/hash.h"

struct weft_quantizer {
    const weft_program_t *program;
    const weft_outputs_t *outputs;
    weft_queue_t *queue;
    uint8_t *stage;
    uint64_t begin; /* of the range: what the stage's first byte is */
    weft_quantize_list_t *list;
    uint32_t first_unit; /* of the list */
    uint32_t *by_name;   /* outputs in byte order of name */
    struct weft_hasher *hasher;
};

/* What prepare works with. */
typedef struct draft {
    const weft_sources_t *sources;
    WEFT_ARRAY(weft_segment_t) segments;
    weft_unit_job_t *units;
    weft_run_t *tensors;
} draft_t;

/* qsort has no argument for the outputs, so names are sorted with their index beside them. */
typedef struct named_output {
    const char *name;
    uint32_t index;
} named_output_t;

static int compare_names(const void *left, const void *right)
{
    return strcmp(((const named_output_t *)left)->name, ((const named_output_t *)right)->name);
}

static weft_status_t sort_by_name(weft_quantizer_t *q)
{
    named_output_t *named = malloc((q->outputs->count + 1) * sizeof *named);
    if (!named)
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < q->outputs->count; i++)
        named[i] = (named_output_t){q->outputs->items[i].name, i};
    qsort(named, q->outputs->count, sizeof *named, compare_names);
    for (uint32_t i = 0; i < q->outputs->count; i++)
        q->by_name[i] = named[i].index;
    free(named);
    return WEFT_OK;
}

weft_status_t weft_quantizer_create(const weft_program_t *program, const weft_outputs_t *outputs,
                                    weft_queue_t *queue, uint8_t *stage, weft_quantizer_t **quantizer)
{
    weft_quantizer_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    *made = (weft_quantizer_t){.program = program, .outputs = outputs, .queue = queue, .stage = stage};
    made->by_name = calloc(outputs->count + 1, sizeof *made->by_name);
    made->hasher = weft_hasher_create();
    if (!made->by_name || !made->hasher || sort_by_name(made) != WEFT_OK) {
        weft_quantizer_destroy(made);
        return WEFT_ERR_NO_MEMORY;
    }
    *quantizer = made;
    return WEFT_OK;
}

void weft_quantizer_destroy(weft_quantizer_t *q)
{
    if (!q)
        return;
    q->queue->ops->quantize_destroy(q->list);
    free(q->by_name);
    weft_hasher_destroy(q->hasher);
    free(q);
}

void weft_quantizer_aim(weft_quantizer_t *q, uint8_t *stage, uint64_t begin)
{
    q->stage = stage;
    q->begin = begin;
}

/* ---- the list ---- */

static uint8_t *place_of(const weft_quantizer_t *q, uint64_t offset)
{
    return q->stage + (offset - q->begin);
}

static const weft_fragment_t *input_of(const weft_quantizer_t *q, const weft_unit_t *unit, uint32_t index)
{
    return &q->program->fragments[q->program->inputs[unit->first_input + index]];
}

/* One segment for each data fragment, and one of zeros for padding below them. */
static bool list_segments(const weft_quantizer_t *q, const weft_unit_t *unit, draft_t *draft)
{
    const weft_sources_t *sources = draft->sources;
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = input_of(q, unit, i);
        if (f->kind != WEFT_PIECE_DATA)
            continue;
        weft_segment_t segment = {.row = f->to_row,
                                  .col = f->to_col,
                                  .rows = weft_fragment_rows(f),
                                  .cols = weft_fragment_cols(f),
                                  .transposed = f->transposed};
        segment.data = sources->locate(sources->user, f, &segment.ld_elems);
        if (!WEFT_ARRAY_PUSH(&draft->segments, segment))
            return false;
    }
    weft_segment_t padding = {
        .row = unit->real_rows, .rows = unit->rows - unit->real_rows, .cols = unit->cols};
    return !padding.rows || WEFT_ARRAY_PUSH(&draft->segments, padding);
}

static weft_unit_job_t unit_job(const weft_quantizer_t *q, uint32_t index, const weft_sources_t *sources,
                                bool digested, uint32_t num_segments)
{
    const weft_unit_t *unit = &q->program->units[index];
    const weft_pattern_t *pattern = weft_plan_pattern(q->program->plan, unit->layer);
    bool of_rows = unit->amax_row != UINT32_MAX, of_tensor = unit->domain != UINT32_MAX;
    bool scaled = unit->scale_offset != UINT64_MAX, global = unit->global_offset != UINT64_MAX;
    const uint16_t *amax = of_rows || of_tensor ? sources->amax(sources->user, index) : NULL;
    uint64_t matrix[2];
    weft_arrange_extent(pattern->arrange, pattern->scheme->kernel, pattern->rows, pattern->cols, matrix);
    return (weft_unit_job_t){
        .kernel = pattern->scheme->kernel,
        .tensor = digested ? q->outputs->layers[unit->layer].weight : WEFT_RUN_NONE,
        .unit = {.num_segments = num_segments,
                 .dtype = pattern->example->dtype,
                 .rows = unit->rows,
                 .cols = unit->cols,
                 .profile = pattern->profile,
                 .arrange = pattern->arrange == WEFT_ARRANGE_PADDED ? WEFT_ARRANGE_PLAIN : pattern->arrange,
                 .matrix_row = unit->matrix_row,
                 .matrix_rows = (uint32_t)matrix[0],
                 .row_amax = of_rows ? amax : NULL,
                 .tensor_amax = of_tensor ? amax : NULL,
                 .out_dtype = pattern->dtype,
                 .out = place_of(q, unit->weight_offset),
                 .scale = scaled ? place_of(q, unit->scale_offset) : NULL,
                 .global = global ? (float *)(void *)place_of(q, unit->global_offset) : NULL,
                 .inverse = pattern->example->inverse,
                 .matrix_cols = (uint32_t)matrix[1]},
    };
}

/* Whether a list of `count` units digests the outputs: one of all units, or of none for the digests alone. */
static bool has_digests(const weft_quantizer_t *q, uint32_t count)
{
    return count == 0 || count == q->program->num_units;
}

/* Units first, addresses of their segments after: the array of segments moves while it grows. */
static bool list_units(const weft_quantizer_t *q, uint32_t first, uint32_t count, draft_t *draft)
{
    for (uint32_t i = 0; i < count; i++) {
        size_t before = draft->segments.count;
        if (!list_segments(q, &q->program->units[first + i], draft))
            return false;
        draft->units[i] = unit_job(q, first + i, draft->sources, has_digests(q, count),
                                   (uint32_t)(draft->segments.count - before));
    }
    const weft_segment_t *next = draft->segments.items;
    for (uint32_t i = 0; i < count; i++) {
        draft->units[i].unit.segments = next;
        next += draft->units[i].unit.num_segments;
    }
    return true;
}

static weft_status_t make_list(weft_quantizer_t *q, uint32_t first, uint32_t count, draft_t *draft,
                               weft_error_t *error)
{
    uint32_t num_tensors = has_digests(q, count) ? q->outputs->count : 0;
    draft->units = calloc((size_t)count + 1, sizeof *draft->units);
    draft->tensors = calloc((size_t)num_tensors + 1, sizeof *draft->tensors);
    if (!draft->units || !draft->tensors || !list_units(q, first, count, draft))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a list of %u units", count);
    for (uint32_t i = 0; i < num_tensors; i++)
        draft->tensors[i] =
            (weft_run_t){place_of(q, q->outputs->items[i].offset), q->outputs->items[i].bytes};
    weft_status_t status =
        q->queue->ops->quantize_create(q->queue, draft->units, count, draft->tensors, num_tensors, &q->list);
    if (status != WEFT_OK)
        return weft_fail(error, status,
                         "rank %u: %s memory cannot hold or run a list of %u units of scheme %.100s: %s",
                         q->program->rank, q->queue->ops->name, count, weft_plan_scheme(q->program->plan),
                         weft_status_text(status));
    return WEFT_OK;
}

weft_status_t weft_quantizer_prepare_some(weft_quantizer_t *q, uint32_t first, uint32_t count,
                                          const weft_sources_t *sources, weft_error_t *error)
{
    draft_t draft = {.sources = sources};
    q->queue->ops->quantize_destroy(q->list);
    q->list = NULL;
    q->first_unit = first;
    weft_status_t status = make_list(q, first, count, &draft, error);
    free(draft.segments.items);
    free(draft.units);
    free(draft.tensors);
    return status;
}

weft_status_t weft_quantizer_prepare(weft_quantizer_t *q, const weft_sources_t *sources, weft_error_t *error)
{
    return weft_quantizer_prepare_some(q, 0, (uint32_t)q->program->num_units, sources, error);
}

/* ---- a version ---- */

weft_status_t weft_quantizer_begin(weft_quantizer_t *q)
{
    return q->queue->ops->quantize_begin(q->list);
}

weft_status_t weft_quantizer_run(weft_quantizer_t *q, uint32_t first, uint32_t count, weft_error_t *error)
{
    weft_status_t status = q->queue->ops->quantize_run(q->list, first - q->first_unit, count);
    if (status == WEFT_OK)
        return status;
    const weft_unit_t *unit = &q->program->units[first];
    return weft_fail(error, status, "rank %u: layer %s could not be quantized in %s memory: %s",
                     q->program->rank, q->program->plan->layers->items[unit->layer].name, q->queue->ops->name,
                     weft_status_text(status));
}

static weft_status_t write_shapes(weft_quantizer_t *q, uint32_t index, uint8_t *to)
{
    const weft_layer_outputs_t *layer = &q->outputs->layers[index];
    const weft_part_t *grid = &q->program->plan->layers->items[index].parts[0]; /* or the matrix itself */
    int64_t(*shapes)[2] = calloc((size_t)layer->num_experts + 1, sizeof *shapes);
    if (!shapes)
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t e = 0; e < layer->num_experts; e++) {
        shapes[e][0] = (int64_t)layer->rows * (grid->grain_rows ? grid->grain_rows : 1);
        shapes[e][1] = (int64_t)layer->cols * (grid->grain_cols ? grid->grain_cols : 1);
    }
    weft_status_t status = q->queue->ops->write(q->queue, to, shapes, layer->num_experts * sizeof *shapes);
    free(shapes);
    return status;
}

#define ZEROS_BYTES ((uint64_t)1 << 20) /* at once */

static weft_status_t write_zeros(weft_quantizer_t *q, uint8_t *to, uint64_t bytes)
{
    const uint64_t most = bytes < ZEROS_BYTES ? bytes : ZEROS_BYTES;
    void *zeros = calloc(1, most + 1);
    weft_status_t status = zeros ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint64_t at = 0; at < bytes && status == WEFT_OK; at += most)
        status = q->queue->ops->write(q->queue, to + at, zeros, bytes - at < most ? bytes - at : most);
    free(zeros);
    return status;
}

/* Write zeros over what of a layer has padding, which no unit writes, in the range at `range`. */
static weft_status_t clear_padded(weft_quantizer_t *q, uint32_t index, uint8_t *range)
{
    const weft_layer_outputs_t *layer = &q->outputs->layers[index];
    const weft_pattern_t *pattern = weft_plan_pattern(q->program->plan, index);
    const weft_output_t *weight = &q->outputs->items[layer->weight],
                        *scale = &q->outputs->items[layer->scale];
    const weft_kernel_id_t kernel = pattern->scheme->kernel;
    if (weft_arrange_pads_codes(pattern->arrange, kernel, layer->rows, layer->cols))
        WEFT_TRY(write_zeros(q, range + weight->offset, weight->bytes));
    if (layer->scale != WEFT_OUTPUT_NONE &&
        weft_arrange_pads_scales(pattern->arrange, kernel, layer->rows, layer->cols))
        WEFT_TRY(write_zeros(q, range + scale->offset, scale->bytes));
    return WEFT_OK;
}

weft_status_t weft_quantizer_clear_padding(weft_quantizer_t *q, uint32_t index)
{
    return clear_padded(q, index, place_of(q, 0));
}

weft_status_t weft_quantizer_put_shapes(weft_quantizer_t *q, uint32_t index)
{
    const weft_layer_outputs_t *layer = &q->outputs->layers[index];
    return layer->shape == WEFT_OUTPUT_NONE
               ? WEFT_OK
               : write_shapes(q, index, place_of(q, q->outputs->items[layer->shape].offset));
}

weft_status_t weft_quantizer_fill_constants(weft_quantizer_t *q, uint8_t *range)
{
    for (uint32_t i = 0; i < q->program->plan->layers->count; i++) {
        if (q->outputs->layers[i].shape != WEFT_OUTPUT_NONE)
            WEFT_TRY(write_shapes(q, i, range + q->outputs->items[q->outputs->layers[i].shape].offset));
        WEFT_TRY(clear_padded(q, i, range));
    }
    return WEFT_OK;
}

weft_status_t weft_quantizer_layer_done(weft_quantizer_t *q, uint32_t layer)
{
    const weft_layer_outputs_t *outputs = &q->outputs->layers[layer];
    return q->queue->synchronous ? q->queue->ops->quantize_finish(q->list, outputs->weight, outputs->count)
                                 : WEFT_OK;
}

weft_status_t weft_quantizer_end(weft_quantizer_t *q)
{
    return q->queue->synchronous ? WEFT_OK : q->queue->ops->quantize_finish(q->list, 0, q->outputs->count);
}

/* Where in the checkpoint an element of the unit comes from. */
static weft_status_t refuse_nonfinite(const weft_quantizer_t *q, const weft_unit_t *unit, uint32_t row,
                                      uint32_t col, weft_error_t *error)
{
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = input_of(q, unit, i);
        uint32_t down = row - f->to_row, right = col - f->to_col;
        if (f->kind != WEFT_PIECE_DATA || down >= weft_fragment_rows(f) || right >= weft_fragment_cols(f))
            continue;
        const weft_tensor_t *tensor = weft_model_tensor(q->program->plan->model, f->tensor);
        uint64_t row_elems = tensor->num_dims > 1 ? tensor->shape[tensor->num_dims - 1] : tensor->shape[0];
        uint64_t lying_row = f->rect.row + (f->transposed ? right : down);
        uint64_t flat = lying_row * row_elems + f->rect.col + (f->transposed ? down : right);
        bool narrows = weft_plan_pattern(q->program->plan, unit->layer)->dtype == WEFT_DTYPE_F16 &&
                       tensor->dtype != WEFT_DTYPE_F16;
        return weft_fail(error, WEFT_ERR_NONFINITE,
                         "tensor %s holds NaN or Inf%s at flat index %llu (layer %s)", tensor->name,
                         narrows ? ", or what is too large for fp16," : "", (unsigned long long)flat,
                         q->program->plan->layers->items[unit->layer].name);
    }
    return weft_fail(error, WEFT_ERR_INTERNAL, "a non-finite element outside of every fragment");
}

weft_status_t weft_quantizer_judge(weft_quantizer_t *q, weft_error_t *error)
{
    bool refused;
    uint32_t unit;
    weft_quantize_result_t result;
    weft_status_t status = q->queue->ops->quantize_refused(q->list, &refused, &unit, &result);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rank %u: what was quantized cannot be read back: %s",
                         q->program->rank, weft_status_text(status));
    return refused ? refuse_nonfinite(q, &q->program->units[q->first_unit + unit], result.nonfinite_row,
                                      result.nonfinite_col, error)
                   : WEFT_OK;
}

/* ---- digests ---- */

weft_digest_t weft_quantizer_model_digest(weft_quantizer_t *q, const weft_carry_t *carry)
{
    const weft_digest_t *digests = q->queue->ops->quantize_digests(q->list);
    const weft_digest_t *carried = carry ? weft_carry_digests(carry) : NULL;
    weft_hasher_reset(q->hasher);
    for (uint32_t i = 0; i < q->outputs->count; i++) {
        uint32_t output = q->by_name[i];
        weft_hasher_add_text(q->hasher, q->outputs->items[output].name);
        bool from_live = carry && weft_carry_which(carry)[output];
        weft_hasher_add(q->hasher, from_live ? &carried[output] : &digests[output], sizeof *digests);
    }
    return weft_hasher_digest(q->hasher);
}

weft_digest_t weft_quantizer_combine(weft_quantizer_t *q, const weft_digest_t *digests)
{
    weft_hasher_reset(q->hasher);
    for (uint32_t i = 0; i < q->outputs->count; i++) {
        weft_hasher_add_text(q->hasher, q->outputs->items[q->by_name[i]].name);
        weft_hasher_add(q->hasher, &digests[q->by_name[i]], sizeof *digests);
    }
    return weft_hasher_digest(q->hasher);
}

weft_digest_t weft_quantizer_output_digest(const weft_quantizer_t *q, uint32_t output)
{
    return q->queue->ops->quantize_digests(q->list)[output];
}
