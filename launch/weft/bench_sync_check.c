/* In: the seed of a version. Out: the trainer's bytes of it; on a rollout rank, how many live bytes are
 * wrong. Invariant: an element of a tensor depends on seed, tensor and flat index alone, so each rank can
 * make it for itself. */
#include <stdlib.h>
#include <string.h>

#include "launch/weft/bench_sync.h"
#include "src/base/error.h"
#include "src/quantize/quantizer.h"

#define CHECKED_BYTES (1ull << 30) /* of outputs: more is sampled */
#define PIECE_BYTES   (64u << 20)

/* ---- trainer ---- */

/* Rows of a box that is narrower than its tensor are gathered in host memory, as many as fit a piece. */
static weft_status_t write_narrow(bench_sync_t *s, uint64_t from, uint64_t ld, uint64_t rows, uint64_t cols,
                                  uint8_t *out)
{
    uint64_t at_once = PIECE_BYTES / (cols * 2) ? PIECE_BYTES / (cols * 2) : 1;
    uint16_t *piece = malloc(at_once * cols * sizeof *piece);
    weft_status_t status = piece ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint64_t row = 0; row < rows && status == WEFT_OK; row += at_once) {
        uint64_t count = rows - row < at_once ? rows - row : at_once;
        for (uint64_t i = 0; i < count; i++)
            bench_random_copy(&s->random, from + (row + i) * ld, cols, piece + i * cols);
        weft_queue_t *queue = s->world.job.queue;
        status = queue->ops->write(queue, out + row * cols * 2, piece, count * cols * 2);
    }
    free(piece);
    return status;
}

static weft_status_t fill_shard(bench_sync_t *s, uint32_t index, uint64_t seed)
{
    const weft_tensor_t *tensor = weft_model_tensor(s->world.job.model, index);
    weft_box_t box;
    uint64_t rows, cols, ld = tensor->shape[tensor->num_dims - 1];
    if (shards_box(&s->shards, index, &box, &rows, &cols) == 0)
        return WEFT_OK;
    uint64_t first = box.num_dims > 1 ? box.offset[0] * ld + box.offset[1] : box.offset[0];
    uint64_t from = bench_random_start(&s->random, index, seed) + first;
    if (cols == ld || rows == 1)
        return bench_random_write(&s->random, from, rows * cols, s->world.job.queue, s->shards.at[index]);
    return write_narrow(s, from, ld, rows, cols, s->shards.at[index]);
}

weft_status_t bench_sync_fill(bench_sync_t *s, uint64_t seed, weft_error_t *error)
{
    for (uint32_t i = 0; i < weft_model_num_tensors(s->world.job.model); i++) {
        weft_status_t status = fill_shard(s, i, seed);
        if (status != WEFT_OK)
            return weft_fail(error, status, "trainer rank %u: tensor %s cannot be written: %s",
                             s->world.job.rank, weft_model_tensor(s->world.job.model, i)->name,
                             weft_status_text(status));
    }
    return WEFT_OK;
}

/* ---- rollout: the reference ---- */

typedef struct reference {
    bench_sync_t *sync;
    uint64_t seed;
    uint16_t *elems; /* of one unit: its data, and what a row's amax comes from */
    size_t used, room;
    uint16_t amax[128];
    weft_queue_t *host;
    weft_quantizer_t *quantizer;
    uint8_t *memory; /* the rank's whole range; only the pages of what is checked are ever touched */
} reference_t;

static size_t rect_elems(const weft_fragment_t *f)
{
    return (size_t)f->rect.rows * f->rect.cols;
}

/* The most that one unit takes. */
static size_t unit_elems(const weft_program_t *program)
{
    size_t most = 0;
    for (size_t u = 0; u < program->num_units; u++) {
        size_t elems = 0;
        for (uint32_t i = 0; i < program->units[u].num_inputs; i++)
            elems += rect_elems(&program->fragments[program->inputs[program->units[u].first_input + i]]);
        most = elems > most ? elems : most;
    }
    return most;
}

static const void *locate(void *user, const weft_fragment_t *f, size_t *ld_elems)
{
    reference_t *r = user;
    const weft_tensor_t *tensor = weft_model_tensor(r->sync->world.job.model, f->tensor);
    uint64_t ld = tensor->shape[tensor->num_dims - 1],
             start = bench_random_start(&r->sync->random, f->tensor, r->seed);
    uint16_t *out = r->elems + r->used;
    for (uint32_t row = 0; row < f->rect.rows; row++)
        bench_random_copy(&r->sync->random, start + (f->rect.row + row) * ld + f->rect.col, f->rect.cols,
                          out + (size_t)row * f->rect.cols);
    r->used += rect_elems(f);
    *ld_elems = f->rect.cols;
    return out;
}

static const uint16_t *find_amax(void *user, uint32_t index)
{
    reference_t *r = user;
    const weft_program_t *program = r->sync->program;
    bool domain = program->units[index].domain != UINT32_MAX;
    const weft_unit_t *unit =
        &program->units[domain ? program->domains[program->units[index].domain].first_unit : index];
    size_t used = r->used;
    memset(r->amax, 0, sizeof r->amax);
    for (uint32_t i = 0; i < unit->num_inputs; i++) {
        const weft_fragment_t *f = &program->fragments[program->inputs[unit->first_input + i]];
        size_t ld;
        uint32_t row, col;
        if (f->kind != WEFT_PIECE_AMAX)
            continue;
        const void *data = locate(r, f, &ld);
        weft_kernels_find("ref")->amax(data, ld, f->rect.rows, f->rect.cols, WEFT_DTYPE_BF16,
                                       r->amax + f->to_row, &row, &col);
        r->used = used;
    }
    for (uint32_t row = 1; row < WEFT_UNIT_ROWS && domain; row++)
        r->amax[0] = r->amax[row] > r->amax[0] ? r->amax[row] : r->amax[0];
    return r->amax;
}

static weft_status_t make_layer(reference_t *r, uint32_t layer, weft_error_t *error)
{
    const weft_sources_t sources = {locate, find_amax, r};
    WEFT_TRY(weft_quantizer_clear_padding(r->quantizer, layer));
    for (uint32_t u = 0; u < r->sync->program->num_units; u++) {
        if (r->sync->program->units[u].layer != layer)
            continue;
        r->used = 0;
        WEFT_TRY(weft_quantizer_prepare_some(r->quantizer, u, 1, &sources, error));
        WEFT_TRY(weft_quantizer_run(r->quantizer, u, 1, error));
        WEFT_TRY(weft_quantizer_judge(r->quantizer, error));
    }
    return weft_quantizer_put_shapes(r->quantizer, layer);
}

/* ---- rollout: comparing ---- */

static weft_status_t compare_output(const reference_t *r, uint32_t index, double *wrong, double *checked,
                                    weft_error_t *error)
{
    weft_queue_t *queue = r->sync->world.job.queue;
    weft_tensor_t live = weft_rollout_tensor(r->sync->rollout, index);
    uint8_t *found = malloc(live.bytes < PIECE_BYTES ? live.bytes : PIECE_BYTES);
    weft_status_t status = found ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint64_t at = 0; at < live.bytes && status == WEFT_OK; at += PIECE_BYTES) {
        size_t bytes = live.bytes - at < PIECE_BYTES ? live.bytes - at : PIECE_BYTES;
        status = queue->ops->read(queue, (const uint8_t *)live.data + at, found, bytes);
        if (status == WEFT_OK)
            *wrong += bench_compare(found, r->memory + r->sync->outputs.items[index].offset + at, bytes);
    }
    free(found);
    *checked += (double)live.bytes;
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "rollout rank %u: %s cannot be read: %s",
                                         r->sync->world.job.rank, live.name, weft_status_text(status));
}

static weft_status_t check_layer(reference_t *r, uint32_t layer, double *wrong, double *checked,
                                 weft_error_t *error)
{
    const weft_layer_outputs_t *outputs = &r->sync->outputs.layers[layer];
    WEFT_TRY(make_layer(r, layer, error));
    for (uint32_t i = 0; i < outputs->count; i++)
        WEFT_TRY(compare_output(r, outputs->weight + i, wrong, checked, error));
    return WEFT_OK;
}

/* A step through all layers that visits each once, far from the one before. */
static uint32_t layer_step(uint32_t layers)
{
    for (uint32_t step = layers * 5 / 8 | 1; step < layers; step++) {
        uint32_t a = layers, b = step;
        while (b) {
            uint32_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return step;
    }
    return 1;
}

static weft_status_t check_layers(reference_t *r, double *wrong, double *checked, weft_error_t *error)
{
    uint32_t layers = r->sync->world.job.plan->layers->count, step = layer_step(layers);
    r->host->ops->thread_begin(r->host);
    for (uint32_t i = 0; i < layers && *checked < CHECKED_BYTES; i++)
        WEFT_TRY(check_layer(r, (uint32_t)((uint64_t)i * step % layers), wrong, checked, error));
    return WEFT_OK;
}

static weft_status_t build(reference_t *r, weft_error_t *error)
{
    bench_sync_t *s = r->sync;
    r->room = unit_elems(s->program);
    r->elems = malloc((r->room + 1) * sizeof *r->elems);
    r->memory = calloc(1, s->outputs.bytes + 1);
    WEFT_TRY(weft_queue_open("host", -1, &r->host, error));
    weft_status_t status = r->elems && r->memory ? weft_quantizer_create(s->program, &s->outputs, r->host,
                                                                         r->memory, &r->quantizer)
                                                 : WEFT_ERR_NO_MEMORY;
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "rollout rank %u: no memory to check its weights",
                                         s->world.job.rank);
}

weft_status_t bench_sync_check(bench_sync_t *s, uint64_t seed, double *wrong, double *checked,
                               weft_error_t *error)
{
    reference_t r = {.sync = s, .seed = seed};
    *wrong = *checked = 0;
    weft_status_t status = build(&r, error);
    if (status == WEFT_OK)
        status = check_layers(&r, wrong, checked, error);
    weft_quantizer_destroy(r.quantizer);
    weft_queue_close(r.host);
    free(r.elems);
    free(r.memory);
    return status;
}
