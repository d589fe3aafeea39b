/* In: a checkpoint's own bytes. Out: a rank's whole range. Invariant: unit for unit the same calls as on a
 * rollout rank; only where a fragment lies differs. */
#include "src/quantize/offline.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/model/shape.h"

struct weft_offline {
    const weft_program_t *program;
    const weft_outputs_t *outputs;
    weft_queue_t *queue;
    weft_quantizer_t *quantizer;
    const weft_kernels_t *kernels;
    const weft_tensor_t *
        *tensors;    /* [of the plan's model]: where their values are; NULL where none is read */
    uint32_t unit;   /* the first of the layer looked at last */
    uint8_t *bounce; /* one unit, for tensors that a file holds unaligned */
    size_t used;
    uint16_t amax[WEFT_UNIT_ROWS];
    uint32_t domain; /* whose amax is in amax[0]; UINT32_MAX: none */
};

static const uint8_t *element_at(const weft_tensor_t *tensor, weft_rect_t rect, size_t *ld_elems)
{
    *ld_elems = tensor->num_dims ? tensor->shape[tensor->num_dims - 1] : 1;
    size_t element = weft_dtype_bytes(tensor->dtype);
    return (const uint8_t *)tensor->data + (rect.row * *ld_elems + rect.col) * element;
}

/* safetensors promises no alignment: rows that are off it are copied to where they are not. */
static const void *align_rows(weft_offline_t *s, const uint8_t *data, weft_rect_t rect, size_t element,
                              size_t *ld_elems)
{
    if ((uintptr_t)data % element == 0)
        return data;
    uint8_t *out = s->bounce + s->used;
    for (uint32_t row = 0; row < rect.rows; row++)
        memcpy(out + (size_t)row * rect.cols * element, data + row * *ld_elems * element,
               rect.cols * element);
    s->used += weft_rect_area(rect) * element;
    *ld_elems = rect.cols;
    return out;
}

static const void *locate(void *user, const weft_fragment_t *fragment, size_t *ld_elems)
{
    weft_offline_t *s = user;
    const weft_tensor_t *tensor = s->tensors[fragment->tensor];
    const uint8_t *data = element_at(tensor, fragment->rect, ld_elems);
    return align_rows(s, data, fragment->rect, weft_dtype_bytes(tensor->dtype), ld_elems);
}

static void fold_amax(weft_offline_t *s, const weft_fragment_t *f)
{
    size_t ld, used = s->used;
    uint32_t row, col;
    weft_dtype_t dtype = s->tensors[f->tensor]->dtype;
    const void *data = locate(s, f, &ld);
    if (f->transposed)
        weft_amax_columns(data, ld, f->rect.rows, f->rect.cols, dtype, s->amax + f->to_row);
    else
        s->kernels->amax(data, ld, f->rect.rows, f->rect.cols, dtype, s->amax + f->to_row, &row, &col);
    s->used = used;
}

/* The amax of whole rows, from the fragments that would have carried it. */
static void find_rows_amax(weft_offline_t *s, uint32_t index)
{
    const weft_unit_t *unit = &s->program->units[index];
    memset(s->amax, 0, sizeof s->amax);
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &s->program->fragments[s->program->inputs[unit->first_input + i]];
        if (f->kind == WEFT_PIECE_AMAX)
            fold_amax(s, f);
    }
}

/* That of a whole domain, once for all its units, which follow each other. */
static void find_domain_amax(weft_offline_t *s, uint32_t domain)
{
    if (s->domain == domain)
        return;
    find_rows_amax(s, s->program->domains[domain].first_unit);
    for (uint32_t row = 1; row < WEFT_UNIT_ROWS; row++)
        s->amax[0] = s->amax[row] > s->amax[0] ? s->amax[row] : s->amax[0];
    s->domain = domain;
}

static const uint16_t *find_amax(void *user, uint32_t index)
{
    weft_offline_t *s = user;
    uint32_t domain = s->program->units[index].domain;
    if (domain != UINT32_MAX) {
        find_domain_amax(s, domain);
    } else {
        find_rows_amax(s, index);
        s->domain = UINT32_MAX;
    }
    return s->amax;
}

/* Of one unit: its data, and the largest fragment that its amax comes from, were all of it copied. */
static size_t largest_unit_bytes(const weft_program_t *program)
{
    size_t most = 0, most_amax = 0;
    for (size_t u = 0; u < program->num_units; u++) {
        const weft_unit_t *unit = &program->units[u];
        size_t bytes = 0;
        for (uint32_t i = 0; i < unit->num_inputs; i++) {
            const weft_fragment_t *f = &program->fragments[program->inputs[unit->first_input + i]];
            size_t copied = weft_rect_area(f->rect) * 8;
            bytes += f->kind == WEFT_PIECE_AMAX ? 0 : copied;
            most_amax = copied > most_amax ? copied : most_amax;
        }
        most = bytes > most ? bytes : most;
    }
    return most + most_amax;
}

/* ---- what is read ---- */

static weft_status_t compare_tensor(const weft_tensor_t *expected, const weft_tensor_t *found,
                                    const char *layer, weft_error_t *error)
{
    char has[WEFT_SHAPE_TEXT_BYTES], wants[WEFT_SHAPE_TEXT_BYTES];
    if (!found)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR, "tensor %s is missing (layer %s)", expected->name,
                         layer);
    if (!found->data)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "the model has no bytes: open it from a checkpoint directory");
    if (found->dtype == expected->dtype && found->num_dims == expected->num_dims &&
        memcmp(found->shape, expected->shape, expected->num_dims * sizeof *expected->shape) == 0)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_SHAPE, "tensor %s is %s %s, expected %s %s (layer %s)", expected->name,
                     weft_dtype_name(found->dtype), weft_shape_text(found->shape, found->num_dims, has),
                     weft_dtype_name(expected->dtype),
                     weft_shape_text(expected->shape, expected->num_dims, wants), layer);
}

static weft_status_t find_tensors(weft_offline_t *s, const weft_model_t *values, weft_error_t *error)
{
    const weft_plan_t *plan = s->program->plan;
    for (size_t i = 0; i < s->program->num_fragments; i++) {
        const weft_fragment_t *f = &s->program->fragments[i];
        if (f->kind == WEFT_PIECE_DIGEST || s->tensors[f->tensor])
            continue;
        const weft_tensor_t *expected = weft_model_tensor(plan->model, f->tensor);
        const weft_tensor_t *found = weft_model_find(values, expected->name);
        WEFT_TRY(compare_tensor(expected, found, plan->layers->items[f->layer].name, error));
        s->tensors[f->tensor] = found;
    }
    return WEFT_OK;
}

static weft_status_t build(weft_offline_t *s, const weft_model_t *values, weft_error_t *error)
{
    s->tensors = calloc((size_t)weft_model_num_tensors(s->program->plan->model) + 1, sizeof *s->tensors);
    s->bounce = malloc(largest_unit_bytes(s->program) + 1);
    if (!s->tensors || !s->bounce)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory to quantize");
    WEFT_TRY(find_tensors(s, values, error));
    WEFT_TRY(weft_queue_open("host", -1, &s->queue, error));
    if (weft_quantizer_create(s->program, s->outputs, s->queue, NULL, &s->quantizer) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory to quantize");
    return WEFT_OK;
}

weft_status_t weft_offline_create(const weft_program_t *program, const weft_outputs_t *outputs,
                                  const weft_model_t *values, weft_offline_t **offline, weft_error_t *error)
{
    weft_offline_t *made = malloc(sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory to quantize");
    *made = (weft_offline_t){
        .program = program, .outputs = outputs, .kernels = weft_kernels_best(), .domain = UINT32_MAX};
    weft_status_t status = build(made, values, error);
    if (status != WEFT_OK) {
        weft_offline_destroy(made);
        return status;
    }
    *offline = made;
    return WEFT_OK;
}

void weft_offline_destroy(weft_offline_t *s)
{
    if (!s)
        return;
    weft_quantizer_destroy(s->quantizer);
    weft_queue_close(s->queue);
    free(s->tensors);
    free(s->bounce);
    free(s);
}

/* ---- layers ---- */

uint64_t weft_offline_layer_offset(const weft_outputs_t *outputs, uint32_t layer)
{
    return outputs->items[outputs->layers[layer].weight].offset;
}

uint64_t weft_offline_layer_bytes(const weft_outputs_t *outputs, uint32_t layer)
{
    const weft_layer_outputs_t *of = &outputs->layers[layer];
    const weft_output_t *last = &outputs->items[of->weight + of->count - 1];
    return last->offset + last->bytes - weft_offline_layer_offset(outputs, layer);
}

static weft_status_t run_unit(weft_offline_t *s, uint32_t unit, weft_error_t *error)
{
    const weft_sources_t sources = {locate, find_amax, s};
    s->used = 0;
    WEFT_TRY(weft_quantizer_prepare_some(s->quantizer, unit, 1, &sources, error));
    WEFT_TRY(weft_quantizer_run(s->quantizer, unit, 1, error));
    return weft_quantizer_judge(s->quantizer, error);
}

/* The units of a layer follow each other, and mostly the layers do too. */
static uint32_t first_unit(weft_offline_t *s, uint32_t layer)
{
    const weft_program_t *program = s->program;
    if (s->unit < program->num_units && program->units[s->unit].layer > layer)
        s->unit = 0;
    while (s->unit < program->num_units && program->units[s->unit].layer < layer)
        s->unit++;
    return s->unit;
}

weft_status_t weft_offline_layer(weft_offline_t *s, uint32_t layer, uint8_t *memory, weft_error_t *error)
{
    s->queue->ops->thread_begin(s->queue);
    weft_quantizer_aim(s->quantizer, memory, weft_offline_layer_offset(s->outputs, layer));
    WEFT_TRY(weft_quantizer_clear_padding(s->quantizer, layer));
    for (uint32_t u = first_unit(s, layer); u < s->program->num_units && s->program->units[u].layer == layer;
         u++)
        WEFT_TRY(run_unit(s, u, error));
    return weft_quantizer_put_shapes(s->quantizer, layer);
}

static weft_status_t digest_all(weft_offline_t *s, uint8_t *memory, weft_digest_t *digest,
                                weft_error_t *error)
{
    const weft_sources_t none = {0};
    weft_quantizer_aim(s->quantizer, memory, 0);
    WEFT_TRY(weft_quantizer_prepare_some(s->quantizer, 0, 0, &none, error));
    for (uint32_t layer = 0; layer < s->program->plan->layers->count; layer++)
        weft_quantizer_layer_done(s->quantizer, layer);
    *digest = weft_quantizer_model_digest(s->quantizer, NULL);
    return WEFT_OK;
}

weft_status_t weft_quantize_offline(const weft_program_t *program, const weft_outputs_t *outputs,
                                    uint8_t *memory, weft_digest_t *digest, weft_error_t *error)
{
    weft_offline_t *offline;
    WEFT_TRY(weft_offline_create(program, outputs, program->plan->model, &offline, error));
    weft_status_t status = WEFT_OK;
    for (uint32_t layer = 0; layer < program->plan->layers->count && status == WEFT_OK; layer++)
        status =
            weft_offline_layer(offline, layer, memory + weft_offline_layer_offset(outputs, layer), error);
    if (status == WEFT_OK)
        status = digest_all(offline, memory, digest, error);
    weft_offline_destroy(offline);
    return status;
}
