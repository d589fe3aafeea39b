/* One rollout rank: from files to a staged version. In: a directory, with a checkpoint or with kernel-format
 * files. Out: the stage, whole, and its digest. Invariant: nothing but the stage is written; the progress
 * thread still hears what the control thread says, between two layers. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/model/model_private.h"
#include "src/model/stored.h"
#include "src/quantize/kernel_file.h"
#include "src/quantize/offline.h"
#include "src/rollout_private.h"

#define PIECE_BYTES (UINT64_C(16) << 20)
#define DIR_BYTES   4000

/* What stays from one load to the next. */
struct weft_loader {
    weft_digest_list_t *digests; /* [outputs] of the stage */
};

/* ---- the user's side ---- */

/* Under the session's mutex. */
static const weft_publication_t *find_load(const weft_rollout_t *r, uint64_t version)
{
    for (unsigned i = 0; version && version == r->load_version && i < WEFT_PUBLICATIONS; i++)
        if (r->session->publications[i].version == version)
            return &r->session->publications[i];
    return NULL;
}

bool weft_rollout_load_over(const weft_rollout_t *r, uint64_t version, weft_status_t *status,
                            weft_error_t *error)
{
    const weft_publication_t *load = find_load(r, version);
    *status = WEFT_OK;
    if (!load || load->outcome == WEFT_OUTCOME_APPLIED)
        return true;
    if (load->outcome == WEFT_OUTCOME_NONE)
        return false;
    *status = weft_fail(error, load->status ? load->status : WEFT_ERR_ABORTED,
                        "rollout rank %u: version %llu was not loaded: %s", r->session->rank,
                        (unsigned long long)version, load->text);
    return true;
}

/* Under the session's mutex. */
static weft_status_t check_open(const weft_rollout_t *r, weft_error_t *error)
{
    const weft_session_t *s = r->session;
    const weft_publication_t *last = find_load(r, r->load_version);
    if (s->fenced)
        return weft_fail(error, WEFT_ERR_PEER_LOST, "rollout rank %u serves nothing: %s", s->rank,
                         s->fenced_text);
    if (last && last->outcome == WEFT_OUTCOME_NONE)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rollout rank %u: the load of version %llu is not over: wait for it", s->rank,
                         (unsigned long long)r->load_version);
    return WEFT_OK;
}

/* Under the session's mutex. A number that was asked for before is asked for anew. */
static void open_load(weft_rollout_t *r, uint64_t version)
{
    weft_session_t *s = r->session;
    weft_publication_t *place = NULL;
    for (unsigned i = 0; i < WEFT_PUBLICATIONS && !place; i++)
        if (s->publications[i].version == version)
            place = &s->publications[i];
    if (!place)
        place = &s->publications[s->num_publications++ % WEFT_PUBLICATIONS];
    *place = (weft_publication_t){.version = version};
}

static weft_status_t note_load(weft_rollout_t *r, char *dir, uint64_t version, weft_error_t *error)
{
    weft_session_t *s = r->session;
    pthread_mutex_lock(&s->mutex);
    weft_status_t status = check_open(r, error);
    if (status == WEFT_OK) {
        open_load(r, version);
        free(r->load_dir);
        r->load_dir = dir;
        r->load_version = version;
    }
    pthread_mutex_unlock(&s->mutex);
    return status;
}

weft_status_t weft_rollout_load(weft_rollout_t *r, const char *dir, uint64_t version, weft_error_t *error)
{
    if (version == 0 || !dir || !*dir || strlen(dir) >= DIR_BYTES)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "rollout rank %u: a load needs a version above 0 and a directory of at most %d characters",
            r->session->rank, DIR_BYTES - 1);
    char *copy = strdup(dir);
    if (!copy)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rollout rank %u: no memory", r->session->rank);
    weft_status_t status = note_load(r, copy, version, error);
    if (status != WEFT_OK) {
        free(copy);
        return status;
    }
    weft_session_post(r->session, WEFT_EVENT_LOAD, version, 0);
    return WEFT_OK;
}

/* ---- between two pieces ---- */

/* Whether the version is still wanted. What comes behind its end is left in the queue. */
static bool goes_on(weft_rollout_t *r)
{
    weft_transfer_t *t = &r->transfer;
    weft_command_t command;
    while (!t->stopped && !t->aborted && weft_session_next_command(r->session, 0, &command))
        weft_transfer_obey(r->session, t, &command);
    return !t->held && !t->stopped && !t->aborted && !r->quit;
}

static weft_status_t not_wanted(weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_ABORTED, "the load was stopped");
}

static weft_status_t write_stage(weft_rollout_t *r, uint64_t offset, const uint8_t *from, uint64_t bytes,
                                 weft_error_t *error)
{
    uint8_t *stage = weft_weights_stage(r->weights);
    for (uint64_t done = 0, piece; done < bytes; done += piece) {
        piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        weft_status_t status = r->queue->ops->write(r->queue, stage + offset + done, from + done, piece);
        if (status != WEFT_OK)
            return weft_fail(error, status, "its %s queue failed: %s", r->queue->ops->name,
                             weft_status_text(status));
        if (!goes_on(r))
            return not_wanted(error);
    }
    return WEFT_OK;
}

static void note_layer(weft_rollout_t *r)
{
    pthread_mutex_lock(&r->session->mutex);
    r->layers_staged++;
    pthread_mutex_unlock(&r->session->mutex);
}

static weft_status_t write_output(weft_rollout_t *r, uint32_t output, const uint8_t *from,
                                  weft_error_t *error)
{
    const weft_output_t *to = &r->outputs.items[output];
    return write_stage(r, to->offset, from, to->bytes, error);
}

/* ---- a checkpoint: quantized on the way ---- */

static uint64_t largest_layer_bytes(const weft_program_t *program, const weft_outputs_t *outputs)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < program->plan->layers->count; i++) {
        uint64_t bytes = weft_offline_layer_bytes(outputs, i);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* How the files become the rank's outputs: by the session's plan, or where they are quantized and its tensors
 * are not (or the other way round) by one of their own, whose outputs are the same. */
typedef struct reading {
    weft_plan_t *plan; /* NULL: the session's */
    weft_program_t *program;
    weft_outputs_t outputs;
} reading_t;

static void reading_end(reading_t *own)
{
    weft_program_destroy(own->program);
    weft_outputs_destroy(&own->outputs);
    weft_plan_destroy(own->plan);
    *own = (reading_t){0};
}

static weft_status_t compare_outputs(const weft_outputs_t *expected, const weft_outputs_t *found,
                                     weft_error_t *error)
{
    bool same = expected->count == found->count && expected->bytes == found->bytes;
    for (uint32_t i = 0; i < expected->count && same; i++) {
        const weft_output_t *a = &expected->items[i], *b = &found->items[i];
        if (strcmp(a->name, b->name) != 0 || a->dtype != b->dtype || a->bytes != b->bytes ||
            a->offset != b->offset)
            return weft_fail(
                error, WEFT_ERR_MISFIT,
                "it makes %.200s %s of %llu bytes, expected %.200s %s of %llu bytes: it is quantized "
                "in other layers than this session",
                b->name, weft_dtype_name(b->dtype), (unsigned long long)b->bytes, a->name,
                weft_dtype_name(a->dtype), (unsigned long long)a->bytes);
    }
    return same ? WEFT_OK
                : weft_fail(error, WEFT_ERR_MISFIT,
                            "it makes %u tensors, expected %u: it is quantized in other "
                            "layers than this session",
                            found->count, expected->count);
}

static weft_status_t plan_reading(const weft_rollout_t *r, const weft_model_t *values, reading_t *own,
                                  weft_error_t *error)
{
    const weft_plan_t *plan = r->program->plan;
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_layout_t *trainer;
    options.engine = weft_plan_engine(plan);
    options.profile = weft_plan_profile(plan);
    options.budget_bytes = UINT64_C(1) << 40; /* nothing is staged */
    if (strcmp(options.profile, "default") == 0)
        options.profile = NULL;
    WEFT_TRY(weft_layout_parse("fsdp:1", WEFT_SIDE_TRAINER, &trainer, error));
    weft_status_t status =
        weft_plan_create(values, trainer, plan->rollout, weft_plan_scheme(plan), &options, &own->plan, error);
    weft_layout_destroy(trainer);
    return status;
}

static weft_status_t reading_begin(const weft_rollout_t *r, const weft_model_t *values, reading_t *own,
                                   weft_error_t *error)
{
    uint32_t tp_rank = r->program->tp_rank;
    *own = (reading_t){0};
    if (!weft_stored_of(values) && !r->program->plan->layers->stored)
        return WEFT_OK;
    weft_status_t status = plan_reading(r, values, own, error);
    if (status == WEFT_OK && weft_outputs_create(own->plan, tp_rank, &own->outputs) != WEFT_OK)
        status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for its outputs");
    if (status == WEFT_OK)
        status = compare_outputs(&r->outputs, &own->outputs, error);
    if (status == WEFT_OK && weft_program_create(own->plan, weft_plan_num_trainers(own->plan) + tp_rank,
                                                 &own->outputs, &own->program) != WEFT_OK)
        status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a program");
    if (status != WEFT_OK)
        reading_end(own);
    return status;
}

/* Straight into the stage where the host can write it, else by way of `bounce`. */
static weft_status_t quantize_layer(weft_rollout_t *r, const weft_outputs_t *outputs, weft_offline_t *offline,
                                    uint32_t layer, uint8_t *bounce, weft_error_t *error)
{
    const weft_layer_outputs_t *of = &outputs->layers[layer];
    uint64_t begin = weft_offline_layer_offset(outputs, layer);
    uint8_t *out = bounce ? bounce : weft_weights_stage(r->weights) + begin;
    WEFT_TRY(weft_offline_layer(offline, layer, out, error));
    if (!bounce)
        return goes_on(r) ? WEFT_OK : not_wanted(error);
    for (uint32_t o = of->weight; o < of->weight + of->count; o++)
        WEFT_TRY(write_output(r, o, bounce + (r->outputs.items[o].offset - begin), error));
    return WEFT_OK;
}

static weft_status_t quantize_layers(weft_rollout_t *r, const weft_program_t *program,
                                     const weft_outputs_t *outputs, weft_offline_t *offline,
                                     weft_error_t *error)
{
    uint32_t count = program->plan->layers->count, counted = r->program->plan->layers->count;
    uint8_t *bounce = NULL;
    if (!r->queue->ops->on_host &&
        !(bounce = aligned_alloc(WEFT_OUTPUT_ALIGN,
                                 (largest_layer_bytes(program, outputs) / WEFT_OUTPUT_ALIGN + 1) *
                                     WEFT_OUTPUT_ALIGN)))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a layer");
    weft_status_t status = WEFT_OK;
    for (uint32_t i = 0; i < count && status == WEFT_OK; i++) {
        status = quantize_layer(r, outputs, offline, i, bounce, error);
        /* So many of the session's layers as are done in proportion. */
        for (uint64_t k = (uint64_t)i * counted / count; k < (uint64_t)(i + 1) * counted / count; k++)
            note_layer(r);
    }
    free(bounce);
    return status;
}

static weft_status_t check_type(const weft_rollout_t *r, const weft_model_t *values, weft_error_t *error)
{
    const char *expected = weft_plan_model_type(r->session->plan), *found = weft_model_type(values);
    if (strcmp(found, expected) == 0)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "its model_type is \"%.40s\", expected \"%s\"", found,
                     expected);
}

static weft_status_t load_checkpoint(weft_rollout_t *r, const char *dir, weft_error_t *error)
{
    weft_model_t *values;
    weft_offline_t *offline = NULL;
    WEFT_TRY(weft_model_open(dir, &values, error));
    weft_model_lend_recipe(values, r->program->plan->model);
    reading_t own = {0};
    weft_status_t status = check_type(r, values, error);
    if (status == WEFT_OK)
        status = reading_begin(r, values, &own, error);
    const weft_program_t *program = own.plan ? own.program : r->program;
    const weft_outputs_t *outputs = own.plan ? &own.outputs : &r->outputs;
    if (status == WEFT_OK)
        status = weft_offline_create(program, outputs, values, &offline, error);
    uint64_t start = weft_now_ns();
    if (status == WEFT_OK)
        status = quantize_layers(r, program, outputs, offline, error);
    r->quantize_ns += weft_now_ns() - start;
    weft_offline_destroy(offline);
    reading_end(&own);
    weft_model_close(values);
    return status;
}

/* ---- kernel-format files: copied ---- */

static weft_status_t copy_layers(weft_rollout_t *r, const weft_kernel_file_t *file, weft_error_t *error)
{
    for (uint32_t i = 0; i < r->program->plan->layers->count; i++) {
        const weft_layer_outputs_t *of = &r->outputs.layers[i];
        for (uint32_t o = of->weight; o < of->weight + of->count; o++)
            WEFT_TRY(write_output(r, o, weft_kernel_file_output(file, o), error));
        note_layer(r);
    }
    return WEFT_OK;
}

/* ---- the digest of the stage ---- */

static weft_status_t make_loader(weft_rollout_t *r)
{
    weft_run_t *runs = calloc((size_t)r->outputs.count + 1, sizeof *runs);
    r->loader = calloc(1, sizeof *r->loader);
    if (!runs || !r->loader) {
        free(runs);
        return WEFT_ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < r->outputs.count; i++)
        runs[i] = (weft_run_t){weft_weights_stage(r->weights) + r->outputs.items[i].offset,
                               r->outputs.items[i].bytes};
    weft_status_t status =
        r->queue->ops->digest_create(r->queue, runs, r->outputs.count, &r->loader->digests);
    free(runs);
    return status;
}

void weft_loader_destroy(weft_loader_t *loader, weft_queue_t *queue)
{
    if (loader)
        queue->ops->digest_destroy(loader->digests);
    free(loader);
}

static weft_status_t run_digests(weft_rollout_t *r)
{
    if (!r->loader)
        WEFT_TRY(make_loader(r));
    if (!r->loader->digests)
        return WEFT_ERR_NO_MEMORY; /* it could not be made then */
    WEFT_TRY(r->queue->ops->digest_run(r->loader->digests, 0, r->outputs.count));
    WEFT_TRY(r->queue->ops->mark(r->queue, &r->ticket));
    WEFT_TRY(weft_queue_wait(r->queue, r->ticket));
    r->done = r->ticket;
    return WEFT_OK;
}

static weft_status_t digest_stage(weft_rollout_t *r, weft_digest_t *digest, weft_error_t *error)
{
    uint64_t start = weft_now_ns();
    weft_status_t status = run_digests(r);
    if (status != WEFT_OK)
        return weft_fail(error, status, "its stage cannot be digested: %s", weft_status_text(status));
    *digest = weft_quantizer_combine(r->quantizer, r->queue->ops->digest_results(r->loader->digests));
    r->digest_ns += weft_now_ns() - start;
    return WEFT_OK;
}

static weft_status_t load_kernel_file(weft_rollout_t *r, const char *dir, weft_digest_t *digest,
                                      weft_error_t *error)
{
    weft_kernel_file_t *file;
    WEFT_TRY(weft_kernel_file_open(dir, r->program, &r->outputs, &file, error));
    weft_status_t status = copy_layers(r, file, error);
    r->last_arrival_us = weft_now_us();
    if (status == WEFT_OK)
        status = digest_stage(r, digest, error);
    if (status == WEFT_OK)
        status = weft_kernel_file_check_digest(file, *digest, error);
    weft_kernel_file_close(file);
    return status;
}

/* ---- the version ---- */

static char *copy_dir(weft_rollout_t *r, uint64_t version)
{
    pthread_mutex_lock(&r->session->mutex);
    char *dir = r->load_version == version && r->load_dir ? strdup(r->load_dir) : NULL;
    pthread_mutex_unlock(&r->session->mutex);
    return dir;
}

/* What is there at all, before a file of it is named. */
static weft_status_t check_dir(const weft_rollout_t *r, const char *dir, bool *kernel_format,
                               weft_error_t *error)
{
    char config[DIR_BYTES + 16];
    snprintf(config, sizeof config, "%s/config.json", dir);
    *kernel_format = weft_kernel_file_exists(dir, r->program);
    if (access(dir, R_OK | X_OK) != 0)
        return weft_fail(error, WEFT_ERR_IO, "the directory cannot be read: %s", strerror(errno));
    if (*kernel_format || access(config, F_OK) == 0)
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_IO,
        "it holds neither a checkpoint (config.json) nor rank%u.safetensors, which weft quantize writes",
        r->session->rank - weft_plan_num_trainers(r->session->plan));
}

static weft_status_t load_dir(weft_rollout_t *r, const char *dir, weft_digest_t *digest, weft_error_t *error)
{
    bool kernel_format;
    WEFT_TRY(check_dir(r, dir, &kernel_format, error));
    WEFT_TRY(weft_rollout_await_window(r, goes_on, error));
    WEFT_TRY(weft_weights_settle(r->weights, error));
    if (kernel_format)
        return load_kernel_file(r, dir, digest, error);
    WEFT_TRY(load_checkpoint(r, dir, error));
    return digest_stage(r, digest, error);
}

static weft_status_t stage_version(weft_rollout_t *r, weft_digest_t *digest, weft_error_t *error)
{
    char *dir = copy_dir(r, r->transfer.version);
    if (!dir)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "no directory was given here to load version %llu from",
                         (unsigned long long)r->transfer.version);
    weft_status_t status = load_dir(r, dir, digest, error);
    weft_error_t why = *error;
    if (status != WEFT_OK) /* the reason first: the text may be cut on its way to other ranks */
        weft_fail(error, status, "%.800s (in %.200s)", why.message, dir);
    free(dir);
    return status;
}

static void begin(weft_rollout_t *r, uint64_t version)
{
    weft_transfer_begin(&r->transfer, version, 0);
    weft_selection_choose(&r->selection, "");
    r->quantize_ns = r->digest_ns = 0;
    r->started_us = r->last_arrival_us = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->received_bytes = 0;
    r->received_version = version;
    r->layers_staged = 0;
    pthread_mutex_unlock(&r->session->mutex);
}

static void say_prepared(weft_rollout_t *r, weft_digest_t digest)
{
    uint64_t now = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->pending_stats = (weft_rollout_stats_t){
        .version = r->transfer.version,
        .receive_us = r->last_arrival_us - r->started_us,
        .quantize_us = r->quantize_ns / 1000,
        .digest_us = r->digest_ns / 1000,
        .prepare_us = now - r->started_us,
        .staging_bytes = r->staging.bytes,
        .digest = digest,
        .loaded = true,
    };
    pthread_mutex_unlock(&r->session->mutex);
    weft_event_t event = {.type = WEFT_EVENT_TRANSFER_DONE, .version = r->transfer.version, .digest = digest};
    weft_session_post_event(r->session, &event);
}

static void say_refused(weft_rollout_t *r, weft_status_t status, const weft_error_t *error)
{
    weft_event_t event = {.type = WEFT_EVENT_TRANSFER_REFUSED,
                          .version = r->transfer.version,
                          .status = status,
                          .text = error->message};
    weft_session_post_event(r->session, &event);
}

/* files -> stage. Whatever goes wrong is this version's alone: no transport is in it. */
void weft_rollout_load_version(weft_rollout_t *r, uint64_t version)
{
    weft_error_t error = {.message = ""};
    weft_digest_t digest;
    uint64_t start = weft_now_ns();
    begin(r, version);
    weft_status_t status = stage_version(r, &digest, &error);
    weft_session_span(r->session, "load", start, version, 0);
    r->transfer.active = false;
    if (status == WEFT_OK)
        say_prepared(r, digest);
    else
        say_refused(r, status, &error);
    if (r->transfer.stopped)
        weft_session_post(r->session, WEFT_EVENT_DRAINED, version, 0);
    weft_session_stay_awake(r->session);
}
