/* In: a checkpoint's own bytes. Out: a rank's whole range. Invariant: unit for unit the same calls as on a
 * rollout rank; only where a fragment lies differs. */
#include "src/quantize/offline.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

typedef struct source {
    const weft_program_t *program;
    const weft_kernels_t *kernels;
    uint8_t *bounce; /* one unit, for tensors that a file holds unaligned */
    size_t used;
    uint16_t amax[WEFT_UNIT_ROWS];
} source_t;

static const uint8_t *element_at(const weft_tensor_t *tensor, weft_rect_t rect, size_t *ld_elems)
{
    *ld_elems = tensor->num_dims ? tensor->shape[tensor->num_dims - 1] : 1;
    size_t element = weft_dtype_bytes(tensor->dtype);
    return (const uint8_t *)tensor->data + (rect.row * *ld_elems + rect.col) * element;
}

/* safetensors promises no alignment: rows that are off it are copied to where they are not. */
static const void *align_rows(source_t *s, const uint8_t *data, weft_rect_t rect, size_t element,
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
    source_t *s = user;
    const weft_tensor_t *tensor = weft_model_tensor(s->program->plan->model, fragment->tensor);
    const uint8_t *data = element_at(tensor, fragment->rect, ld_elems);
    return align_rows(s, data, fragment->rect, weft_dtype_bytes(tensor->dtype), ld_elems);
}

/* The amax of whole rows, from the fragments that would have carried it. */
static const uint16_t *find_amax(void *user, uint32_t index)
{
    source_t *s = user;
    const weft_unit_t *unit = &s->program->units[index];
    memset(s->amax, 0, sizeof s->amax);
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &s->program->fragments[s->program->inputs[unit->first_input + i]];
        if (f->kind != WEFT_PIECE_AMAX)
            continue;
        size_t ld, used = s->used;
        uint32_t row, col;
        weft_dtype_t dtype = weft_model_tensor(s->program->plan->model, f->tensor)->dtype;
        const void *data = locate(s, f, &ld);
        if (f->transposed)
            weft_amax_columns(data, ld, f->rect.rows, f->rect.cols, dtype, s->amax + f->to_row);
        else
            s->kernels->amax(data, ld, f->rect.rows, f->rect.cols, dtype, s->amax + f->to_row, &row, &col);
        s->used = used;
    }
    return s->amax;
}

/* Of one unit: its data, and what its amax comes from, were all of it copied. */
static size_t largest_unit_bytes(const weft_program_t *program)
{
    size_t most = 0;
    for (size_t u = 0; u < program->num_units; u++) {
        const weft_unit_t *unit = &program->units[u];
        size_t bytes = 0;
        for (uint32_t i = 0; i < unit->num_inputs; i++)
            bytes += weft_rect_area(program->fragments[program->inputs[unit->first_input + i]].rect) * 8;
        most = bytes > most ? bytes : most;
    }
    return most;
}

static weft_status_t run_units(weft_quantizer_t *quantizer, source_t *source, weft_error_t *error)
{
    const weft_sources_t sources = {locate, find_amax, source};
    for (uint32_t u = 0; u < source->program->num_units; u++) {
        source->used = 0;
        WEFT_TRY(weft_quantizer_prepare_some(quantizer, u, 1, &sources, error));
        WEFT_TRY(weft_quantizer_run(quantizer, u, 1, error));
        WEFT_TRY(weft_quantizer_judge(quantizer, error));
    }
    return WEFT_OK;
}

static weft_status_t digest_all(weft_quantizer_t *quantizer, const weft_program_t *program, weft_digest_t *digest,
                                weft_error_t *error)
{
    const weft_sources_t none = {0};
    WEFT_TRY(weft_quantizer_prepare_some(quantizer, 0, 0, &none, error));
    for (uint32_t layer = 0; layer < program->plan->layers->count; layer++)
        weft_quantizer_layer_done(quantizer, layer);
    *digest = weft_quantizer_model_digest(quantizer, NULL);
    return WEFT_OK;
}

weft_status_t weft_quantize_offline(const weft_program_t *program, const weft_outputs_t *outputs, uint8_t *memory,
                                    weft_digest_t *digest, weft_error_t *error)
{
    if (weft_model_num_tensors(program->plan->model) && !weft_model_tensor(program->plan->model, 0)->data)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "the model has no bytes: open it from a checkpoint directory");
    weft_queue_t *queue;
    WEFT_TRY(weft_queue_open("host", -1, &queue, error));
    weft_quantizer_t *quantizer = NULL;
    source_t source = {.program = program,
                       .kernels = weft_kernels_best(),
                       .bounce = malloc(largest_unit_bytes(program) + 1)};
    weft_status_t status =
        source.bounce ? weft_quantizer_create(program, outputs, queue, memory, &quantizer) : WEFT_ERR_NO_MEMORY;
    if (status != WEFT_OK)
        weft_fail(error, status, "no memory to quantize");
    queue->ops->thread_begin(queue);
    if (status == WEFT_OK)
        status = run_units(quantizer, &source, error);
    if (status == WEFT_OK)
        status = digest_all(quantizer, program, digest, error);
    weft_quantizer_destroy(quantizer);
    weft_queue_close(queue);
    free(source.bounce);
    return status;
}
