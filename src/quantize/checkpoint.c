/* In: a checkpoint's own bytes. Out: a folder with the quantized ones.
 * Invariant: the folder has its name only when everything in it is whole. */
#include "src/quantize/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"
#include "src/model/safetensors.h"
#include "src/quantize/checkpoint_config.h"
#include "src/quantize/checkpoint_folder.h"
#include "src/quantize/checkpoint_tensors.h"
#include "src/quantize/offline.h"

#define SHARD_NAME_BYTES 40
#define NO_LAYER         UINT32_MAX

typedef struct writer {
    const weft_program_t *program;
    const weft_outputs_t *outputs;
    uint64_t shard_bytes;
    weft_checkpoint_tensors_t tensors;
    uint32_t *shards; /* [tensors]: which file */
    uint32_t num_shards;
    weft_offline_t *offline;
    uint8_t *memory; /* of one layer */
    uint32_t layer;  /* that is in it */
    weft_folder_t folder;
} writer_t;

/* ---- files ---- */

static uint64_t module_bytes(const weft_checkpoint_tensors_t *tensors, size_t first)
{
    uint64_t bytes = tensors->items[first].bytes;
    for (size_t i = first + 1; i < tensors->count && !tensors->sources[i].begins_module; i++)
        bytes += tensors->items[i].bytes;
    return bytes;
}

/* Fill one file after the other; what one module has stays together. */
static weft_status_t assign_shards(writer_t *w, weft_error_t *error)
{
    uint64_t filled = 0;
    w->shards = calloc(w->tensors.count + 1, sizeof *w->shards);
    if (!w->shards)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a checkpoint's tensors");
    for (size_t i = 0; i < w->tensors.count; i++) {
        bool begins = w->tensors.sources[i].begins_module;
        if (begins && filled && filled + module_bytes(&w->tensors, i) > w->shard_bytes) {
            w->num_shards++;
            filled = 0;
        }
        filled += w->tensors.items[i].bytes;
        w->shards[i] = w->num_shards;
    }
    w->num_shards++;
    return WEFT_OK;
}

static const char *shard_name(const writer_t *w, uint32_t shard, char name[SHARD_NAME_BYTES])
{
    snprintf(name, SHARD_NAME_BYTES, "model-%05" PRIu32 "-of-%05" PRIu32 ".safetensors", shard + 1,
             w->num_shards);
    return name;
}

/* ---- bytes ---- */

static weft_status_t fill_layer(writer_t *w, uint32_t layer, weft_error_t *error)
{
    if (w->layer == layer)
        return WEFT_OK;
    w->layer = NO_LAYER; /* until it is whole */
    WEFT_TRY(weft_offline_layer(w->offline, layer, w->memory, error));
    w->layer = layer;
    return WEFT_OK;
}

static void make_divisor(const writer_t *w, const weft_checkpoint_source_t *source, void *out)
{
    float multiplier, divisor;
    memcpy(&multiplier, w->memory + source->offset, sizeof multiplier);
    divisor = weft_checkpoint_divisor(multiplier, w->program->plan->layers->items[source->layer].dtype);
    memcpy(out, &divisor, sizeof divisor);
}

static void make_shape(const weft_checkpoint_source_t *source, void *out)
{
    const int64_t shape[2] = {(int64_t)source->rows, (int64_t)source->cols};
    memcpy(out, shape, sizeof shape);
}

/* A weft_safetensors_make_fn: `tensor` is one of the writer's. */
static weft_status_t make_bytes(void *user, const weft_tensor_t *tensor, uint64_t begin, size_t bytes,
                                void *out, weft_error_t *error)
{
    writer_t *w = user;
    const weft_checkpoint_source_t *source = &w->tensors.sources[tensor - w->tensors.items];
    WEFT_TRY(fill_layer(w, source->layer, error));
    switch (source->from) {
    case WEFT_FROM_LAYER:
        memcpy(out, w->memory + source->offset + begin, bytes);
        break;
    case WEFT_FROM_DIVISOR:
        make_divisor(w, source, out);
        break;
    case WEFT_FROM_SHAPE:
        make_shape(source, out);
        break;
    }
    return WEFT_OK;
}

static weft_status_t write_shard(writer_t *w, size_t first, size_t count, weft_error_t *error)
{
    char name[SHARD_NAME_BYTES], *path;
    const weft_safetensors_metadata_t metadata[] = {
        {"format", "pt"}, /* what transformers asks for: tensors as PyTorch has them */
        {"scheme", weft_plan_scheme(w->program->plan)},
        {"profile", weft_plan_profile(w->program->plan)},
    };
    if (asprintf(&path, "%s/%s", w->folder.path, shard_name(w, w->shards[first], name)) < 0)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a path");
    weft_status_t status =
        weft_safetensors_write_made(path, w->tensors.items + first, count, metadata,
                                    sizeof metadata / sizeof metadata[0], make_bytes, w, error);
    free(path);
    return status;
}

static weft_status_t write_shards(writer_t *w, weft_error_t *error)
{
    for (size_t first = 0; first < w->tensors.count;) {
        size_t end = first;
        while (end < w->tensors.count && w->shards[end] == w->shards[first])
            end++;
        WEFT_TRY(write_shard(w, first, end - first, error));
        first = end;
    }
    return WEFT_OK;
}

/* ---- what describes them ---- */

static uint64_t total_bytes(const writer_t *w)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < w->tensors.count; i++)
        bytes += w->tensors.items[i].bytes;
    return bytes;
}

static weft_status_t write_text(const writer_t *w, const char *name, weft_text_t *text, weft_error_t *error)
{
    weft_status_t status = text->failed ? weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %s", name)
                                        : weft_folder_write(&w->folder, name, text->data, error);
    weft_text_free(text);
    return status;
}

static weft_status_t write_index(const writer_t *w, weft_error_t *error)
{
    char name[SHARD_NAME_BYTES];
    weft_text_t text = {0};
    weft_text_add(&text, "{\"metadata\": {\"total_size\": %" PRIu64 "}, \"weight_map\": {", total_bytes(w));
    for (size_t i = 0; i < w->tensors.count; i++) {
        weft_text_add(&text, i ? ",\n" : "\n");
        weft_text_add_json_string(&text, w->tensors.items[i].name);
        weft_text_add(&text, ": \"%s\"", shard_name(w, w->shards[i], name));
    }
    weft_text_add(&text, "}}\n");
    return write_text(w, "model.safetensors.index.json", &text, error);
}

static weft_status_t write_config(const writer_t *w, const char *source, weft_error_t *error)
{
    char *config;
    size_t bytes;
    weft_text_t text = {0};
    WEFT_TRY(weft_folder_read(source, "config.json", &config, &bytes, error));
    weft_status_t status = weft_checkpoint_config_merge(w->program->plan, config, &text, error);
    free(config);
    if (status == WEFT_OK)
        return write_text(w, "config.json", &text, error);
    weft_text_free(&text);
    return status;
}

/* ---- all of it ---- */

static weft_status_t prepare(writer_t *w, weft_error_t *error)
{
    uint64_t largest = 0;
    WEFT_TRY(weft_checkpoint_tensors_create(w->program->plan, w->outputs, &w->tensors, error));
    WEFT_TRY(assign_shards(w, error));
    for (uint32_t i = 0; i < w->program->plan->layers->count; i++) {
        uint64_t bytes = weft_offline_layer_bytes(w->outputs, i);
        largest = bytes > largest ? bytes : largest;
    }
    w->memory = aligned_alloc(WEFT_OUTPUT_ALIGN, (largest / WEFT_OUTPUT_ALIGN + 1) * WEFT_OUTPUT_ALIGN);
    if (!w->memory)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a layer of %" PRIu64 " bytes", largest);
    return weft_offline_create(w->program, w->outputs, w->program->plan->model, &w->offline, error);
}

/* The small files first: what is wrong with them shows at once. */
static weft_status_t fill_folder(writer_t *w, const char *source, weft_error_t *error)
{
    WEFT_TRY(write_config(w, source, error));
    WEFT_TRY(weft_folder_copy_companions(&w->folder, source, error));
    WEFT_TRY(write_shards(w, error));
    WEFT_TRY(write_index(w, error));
    return weft_folder_end(&w->folder, error);
}

static void release(writer_t *w)
{
    weft_folder_abandon(&w->folder);
    weft_offline_destroy(w->offline);
    weft_checkpoint_tensors_destroy(&w->tensors);
    free(w->shards);
    free(w->memory);
}

weft_status_t weft_checkpoint_write(const weft_program_t *program, const weft_outputs_t *outputs,
                                    const char *source, const char *out, uint64_t shard_bytes,
                                    weft_checkpoint_written_t *written, weft_error_t *error)
{
    const weft_plan_t *plan = program->plan;
    if (weft_plan_num_rollouts(plan) != 1)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "a checkpoint is written whole: of rollout tp:1, found %s",
                         weft_plan_rollout_text(plan));
    if (plan->layers->stored)
        return weft_fail(
            error, WEFT_ERR_FILE,
            "config.json has a quantization_config already: quantize the checkpoint it was made of");
    writer_t w = {.program = program, .outputs = outputs, .shard_bytes = shard_bytes, .layer = NO_LAYER};
    weft_status_t status = prepare(&w, error);
    if (status == WEFT_OK)
        status = weft_folder_begin(out, &w.folder, error);
    if (status == WEFT_OK)
        status = fill_folder(&w, source, error);
    if (status == WEFT_OK)
        *written = (weft_checkpoint_written_t){.num_files = w.num_shards,
                                               .num_tensors = w.tensors.count,
                                               .bytes = total_bytes(&w),
                                               .num_left_out = plan->layers->num_ignored};
    release(&w);
    return status;
}
