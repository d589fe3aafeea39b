/* In: a complete unit. Out: its rows of the kernel-format weight and scale in the stage.
 * Invariant: the bytes depend on the tensors alone, not on how they were cut or where they were quantized. */
#include "src/quantize/quantizer.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/array.h"
#include "src/base/error.h"
#include "src/base/hash.h"

struct weft_quantizer {
    const weft_program_t *program;
    const weft_outputs_t *outputs;
    const weft_kernels_t *kernels;
    WEFT_ARRAY(weft_segment_t) segments; /* of the unit at hand */
    weft_digest_t *digests;              /* [outputs] */
    uint32_t *by_name;                   /* outputs in byte order of name */
    struct weft_hasher *hasher;
};

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
                                    const weft_kernels_t *kernels, weft_quantizer_t **quantizer)
{
    weft_quantizer_t *made = calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->program = program;
    made->outputs = outputs;
    made->kernels = kernels;
    made->digests = calloc(outputs->count + 1, sizeof *made->digests);
    made->by_name = calloc(outputs->count + 1, sizeof *made->by_name);
    made->hasher = weft_hasher_create();
    bool whole = made->digests && made->by_name && made->hasher;
    if (!whole || sort_by_name(made) != WEFT_OK) {
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
    free(q->segments.items);
    free(q->digests);
    free(q->by_name);
    weft_hasher_destroy(q->hasher);
    free(q);
}

/* One segment for each data fragment, and one of zeros for padding below them. */
static weft_status_t list_segments(weft_quantizer_t *q, const weft_unit_t *unit, weft_locate_fn locate,
                                   void *user)
{
    q->segments.count = 0;
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &q->program->fragments[q->program->inputs[unit->first_input + i]];
        if (f->kind != WEFT_PIECE_DATA)
            continue;
        weft_segment_t segment = {
            .row = f->to_row, .col = f->to_col, .rows = f->rect.rows, .cols = f->rect.cols};
        segment.data = locate(user, f, &segment.ld_elems);
        if (!WEFT_ARRAY_PUSH(&q->segments, segment))
            return WEFT_ERR_NO_MEMORY;
    }
    weft_segment_t padding = {
        .row = unit->real_rows, .rows = unit->rows - unit->real_rows, .cols = unit->cols};
    if (padding.rows && !WEFT_ARRAY_PUSH(&q->segments, padding))
        return WEFT_ERR_NO_MEMORY;
    return WEFT_OK;
}

/* Where in the checkpoint an element of the unit comes from. */
static weft_status_t refuse_nonfinite(const weft_quantizer_t *q, const weft_unit_t *unit, uint32_t row,
                                      uint32_t col, weft_error_t *error)
{
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &q->program->fragments[q->program->inputs[unit->first_input + i]];
        if (f->kind != WEFT_PIECE_DATA || row - f->to_row >= f->rect.rows || col - f->to_col >= f->rect.cols)
            continue;
        const weft_tensor_t *tensor = weft_model_tensor(q->program->plan->model, f->tensor);
        uint64_t row_elems = tensor->num_dims > 1 ? tensor->shape[tensor->num_dims - 1] : tensor->shape[0];
        uint64_t flat = (f->rect.row + row - f->to_row) * row_elems + f->rect.col + (col - f->to_col);
        return weft_fail(error, WEFT_ERR_NONFINITE,
                         "tensor %s holds NaN or Inf at flat index %llu (layer %s)", tensor->name,
                         (unsigned long long)flat, q->program->plan->layers->items[unit->layer].name);
    }
    return weft_fail(error, WEFT_ERR_INTERNAL, "a non-finite element outside of every fragment");
}

weft_status_t weft_quantizer_run(weft_quantizer_t *q, uint32_t index, const uint16_t *row_amax,
                                 weft_locate_fn locate, void *user, uint8_t *stage, weft_error_t *error)
{
    const weft_unit_t *unit = &q->program->units[index];
    const weft_pattern_t *pattern = weft_plan_pattern(q->program->plan, unit->layer);
    weft_status_t status = list_segments(q, unit, locate, user);
    if (status != WEFT_OK)
        return weft_fail(error, status, "no memory for the segments of a unit");
    weft_quantize_unit_t work = {
        .segments = q->segments.items,
        .num_segments = (uint32_t)q->segments.count,
        .dtype = pattern->example->dtype,
        .rows = unit->rows,
        .cols = unit->cols,
        .profile = pattern->profile,
        .row_amax = row_amax,
        .out_dtype = pattern->dtype,
        .out = stage + unit->weight_offset,
        .scale = unit->scale_offset == UINT64_MAX ? NULL : (float *)(void *)(stage + unit->scale_offset),
    };
    weft_quantize_result_t result = {0};
    status = q->kernels->quantize[pattern->scheme->kernel](&work, &result);
    if (status != WEFT_OK)
        return weft_fail(error, status, "layer %s: the %s kernel of %s does not take %s",
                         q->program->plan->layers->items[unit->layer].name, pattern->scheme->name,
                         q->kernels->name, weft_dtype_name(work.dtype));
    return result.nonfinite ? refuse_nonfinite(q, unit, result.nonfinite_row, result.nonfinite_col, error)
                            : WEFT_OK;
}

static void digest_output(weft_quantizer_t *q, uint32_t output, const uint8_t *stage)
{
    const weft_output_t *o = &q->outputs->items[output];
    q->digests[output] = weft_digest_run(q->kernels, stage + o->offset, o->bytes);
}

void weft_quantizer_layer_done(weft_quantizer_t *q, uint32_t layer, const uint8_t *stage)
{
    const weft_layer_outputs_t *outputs = &q->outputs->layers[layer];
    digest_output(q, outputs->weight, stage);
    if (outputs->scale != UINT32_MAX)
        digest_output(q, outputs->scale, stage);
}

weft_digest_t weft_quantizer_model_digest(weft_quantizer_t *q)
{
    weft_hasher_reset(q->hasher);
    for (uint32_t i = 0; i < q->outputs->count; i++) {
        uint32_t output = q->by_name[i];
        weft_hasher_add_text(q->hasher, q->outputs->items[output].name);
        weft_hasher_add(q->hasher, &q->digests[output], sizeof *q->digests);
    }
    return weft_hasher_digest(q->hasher);
}

weft_digest_t weft_quantizer_output_digest(const weft_quantizer_t *q, uint32_t output)
{
    return q->digests[output];
}
