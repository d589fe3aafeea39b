/* One rollout rank: from buckets to a staged version. `receive_version` is the rollout's side of the picture
 * in docs/data-path.md; rollout_swap.c makes what is staged live. */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/pause.h"
#include "src/rollout_private.h"

#define IDLE_WAIT_US 100000

/* Grant a round when its slot is free: the round two before is quantized and passed on. */
static weft_status_t grant_rounds(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    while (weft_assembler_round_done(r->assembler, r->oldest_round) &&
           weft_receiver_round_idle(r->receiver, r->oldest_round))
        r->oldest_round++;
    uint32_t limit = weft_transfer_limit(&r->transfer);
    while (r->transfer.posted < limit && r->transfer.posted < r->oldest_round + WEFT_STAGING_SLOTS) {
        uint32_t round = r->transfer.posted++;
        weft_staging_clear_amax(&r->staging, round + 1);
        weft_assembler_grant(r->assembler, round);
        WEFT_TRY(weft_receiver_post(r->receiver, round, error));
        *moved = true;
    }
    return WEFT_OK;
}

/* A version is refused once; the control plane then stops it everywhere. */
static void refuse(weft_rollout_t *r, weft_status_t status, const weft_error_t *error)
{
    if (r->refused)
        return;
    r->refused = true;
    weft_event_t event = {.type = WEFT_EVENT_TRANSFER_REFUSED,
                          .version = r->transfer.version,
                          .status = status,
                          .text = error->message};
    weft_session_post_event(r->session, &event);
}

static void fold_amax(weft_rollout_t *r, const weft_bucket_t *bucket)
{
    for (uint32_t i = 0; i < bucket->num_fragments; i++) {
        const weft_fragment_t *fragment = &r->program->fragments[bucket->first_fragment + i];
        if (fragment->kind == WEFT_PIECE_AMAX)
            weft_staging_fold_amax(&r->staging, fragment);
    }
}

static void note_arrival(weft_rollout_t *r, const weft_bucket_t *bucket)
{
    r->last_arrival_us = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->received_bytes += bucket->payload_bytes;
    pthread_mutex_unlock(&r->session->mutex);
}

static weft_status_t take_arrivals(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    uint32_t index;
    weft_status_t status;
    while (weft_receiver_poll(r->receiver, &index, &status, error)) {
        const weft_bucket_t *bucket = &r->program->buckets[index];
        if (!r->program->plan->rounds[bucket->round].digests) {
            uint64_t start = weft_now_ns();
            weft_wire_digests_add(&r->digests, r->kernels, index, weft_staging_bucket(&r->staging, bucket));
            r->digest_ns += weft_now_ns() - start;
            weft_session_span(r->session, "digest", start, r->transfer.version, index);
        }
        fold_amax(r, bucket);
        WEFT_TRY(weft_assembler_arrive(r->assembler, index, error));
        note_arrival(r, bucket);
        *moved = true;
    }
    return status;
}

static const void *locate_in_staging(void *user, const weft_fragment_t *fragment, size_t *ld_elems)
{
    *ld_elems = fragment->rect.cols;
    return weft_staging_fragment(user, fragment);
}

static void finish_layer(weft_rollout_t *r, uint32_t layer)
{
    weft_quantizer_layer_done(r->quantizer, layer, weft_weights_stage(r->weights));
    pthread_mutex_lock(&r->session->mutex);
    r->layers_staged++;
    pthread_mutex_unlock(&r->session->mutex);
}

/* One unit at a time, so that arrivals are looked at in between. */
static void quantize_next(weft_rollout_t *r, bool *moved)
{
    uint32_t index;
    bool layer_staged;
    weft_error_t error;
    if (!weft_assembler_next(r->assembler, &index))
        return;
    const weft_unit_t *unit = &r->program->units[index];
    uint64_t start = weft_now_ns();
    if (!r->refused) {
        const uint16_t *amax =
            weft_staging_amax(&r->staging, weft_assembler_unit_round(r->assembler, index), unit);
        weft_status_t status = weft_quantizer_run(r->quantizer, index, amax, locate_in_staging, &r->staging,
                                                  weft_weights_stage(r->weights), &error);
        if (status != WEFT_OK)
            refuse(r, status, &error);
    }
    weft_assembler_staged(r->assembler, index, &layer_staged);
    if (layer_staged && !r->refused)
        finish_layer(r, unit->layer);
    r->quantize_ns += weft_now_ns() - start;
    weft_session_span(r->session, "quantize", start, r->transfer.version, index);
    *moved = true;
}

/* Nothing more will come: all rounds are through, or all below the agreed one. */
static bool transfer_over(const weft_rollout_t *r)
{
    const weft_transfer_t *transfer = &r->transfer;
    if (transfer->aborted || r->quit)
        return true;
    if (!weft_receiver_idle(r->receiver) || (transfer->held && !transfer->stopped))
        return false;
    return transfer->stopped ? transfer->posted >= transfer->stop_at : weft_assembler_done(r->assembler);
}

static weft_status_t move_version(weft_rollout_t *r, weft_error_t *error)
{
    weft_pause_t pause = {0};
    while (!transfer_over(r)) {
        bool moved = false;
        weft_transfer_obey_all(r->session, &r->transfer);
        WEFT_TRY(grant_rounds(r, &moved, error));
        WEFT_TRY(take_arrivals(r, &moved, error));
        quantize_next(r, &moved);
        if (moved)
            weft_pause_moved(&pause);
        else
            weft_pause_rest(&pause);
    }
    return WEFT_OK;
}

/* What travelled must be what the trainers sent: their digests came in the last round. */
static weft_status_t compare_digests(weft_rollout_t *r, weft_error_t *error)
{
    uint64_t start = weft_now_ns();
    const weft_round_t *last = &r->program->rounds[r->program->num_rounds - 1];
    weft_wire_digests_finish(&r->digests);
    for (uint32_t i = 0; i < last->num_buckets; i++) {
        const weft_bucket_t *bucket = &r->program->buckets[last->first_bucket + i];
        const weft_digest_t *mine = &r->digests.routes[bucket->route];
        if (memcmp(mine, weft_staging_bucket(&r->staging, bucket), sizeof *mine) != 0)
            return weft_fail(
                error, WEFT_ERR_DIGEST,
                "rollout rank %u: what arrived from trainer rank %u has another digest than what it sent",
                r->session->rank, bucket->source);
    }
    r->digest_ns += weft_now_ns() - start;
    return WEFT_OK;
}

static void note_prepared(weft_rollout_t *r, weft_digest_t digest)
{
    uint64_t now = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->pending_stats = (weft_rollout_stats_t){
        .version = r->transfer.version,
        .payload_bytes = r->received_bytes,
        .wire_bytes = r->program->wire_bytes,
        .needed_bytes = r->program->payload_bytes,
        .receive_us = r->last_arrival_us - r->started_us,
        .quantize_us = r->quantize_ns / 1000,
        .digest_us = r->digest_ns / 1000,
        .prepare_us = now - r->started_us,
        .staging_bytes = r->staging.bytes,
        .digest = digest,
    };
    pthread_mutex_unlock(&r->session->mutex);
}

static void say_prepared(weft_rollout_t *r)
{
    weft_event_t event = {.type = WEFT_EVENT_TRANSFER_DONE,
                          .version = r->transfer.version,
                          .digest = weft_quantizer_model_digest(r->quantizer)};
    r->transfer.posted = r->transfer.num_rounds;
    note_prepared(r, event.digest);
    weft_session_post_event(r->session, &event);
}

static void give_up_transport(weft_rollout_t *r)
{
    if (!weft_session_abort_transport(r->session))
        r->buffers_lost = true;
    weft_receiver_clear(r->receiver);
}

/* The transfer is over: say how it ended. The live weights have not been touched. */
static void conclude(weft_rollout_t *r, weft_status_t status, weft_error_t *error)
{
    r->transfer.active = false;
    if (status != WEFT_OK) {
        weft_event_t event = {.type = WEFT_EVENT_TRANSFER_FAILED,
                              .version = r->transfer.version,
                              .status = status,
                              .text = error->message};
        weft_session_post_event(r->session, &event);
    }
    if (status != WEFT_OK || r->transfer.aborted || r->quit) {
        give_up_transport(r);
        return;
    }
    if (!r->transfer.stopped && !r->refused) {
        weft_status_t compared = compare_digests(r, error);
        if (compared == WEFT_OK)
            say_prepared(r);
        else
            refuse(r, compared, error);
    }
    if (r->transfer.stopped)
        weft_session_post(r->session, WEFT_EVENT_DRAINED, r->transfer.version, 0);
}

static void begin_version(weft_rollout_t *r, uint64_t version)
{
    weft_transfer_begin(&r->transfer, version, r->program->num_rounds);
    weft_assembler_begin(r->assembler);
    weft_staging_clear_amax(&r->staging, 0);
    r->refused = false;
    r->oldest_round = 0;
    r->quantize_ns = r->digest_ns = 0;
    r->started_us = r->last_arrival_us = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->received_bytes = 0;
    r->layers_staged = 0;
    pthread_mutex_unlock(&r->session->mutex);
}

/* route ==== bucket -> slot -> assembler -> quantizer -> stage. */
static void receive_version(weft_rollout_t *r, uint64_t version)
{
    weft_error_t error = {.message = ""};
    uint64_t start = weft_now_ns();
    begin_version(r, version);
    weft_status_t status = move_version(r, &error);
    weft_session_span(r->session, "receive", start, version, 0);
    conclude(r, status, &error);
}

static void *progress_main(void *user)
{
    weft_rollout_t *r = user;
    weft_command_t command;
    weft_kernels_thread_begin();
    while (!r->quit) {
        if (!weft_session_next_command(r->session, IDLE_WAIT_US, &command))
            continue;
        if (command.type == WEFT_ACTION_START_TRANSFER)
            receive_version(r, command.version);
        else if (command.type == WEFT_ACTION_TRY_SWAP)
            weft_rollout_swap_if_due(r);
        else
            weft_transfer_obey(r->session, &r->transfer, &command);
    }
    return NULL;
}

/* ---- life ---- */

static weft_status_t build_path(weft_rollout_t *r)
{
    const weft_plan_t *plan = r->session->plan;
    r->kernels = weft_kernels_find("ref");
    WEFT_TRY(weft_program_create(plan, r->session->rank, &r->outputs, &r->program));
    WEFT_TRY(weft_staging_create(r->program, &r->staging));
    WEFT_TRY(weft_assembler_create(r->program, &r->session->config.log, &r->assembler));
    WEFT_TRY(weft_quantizer_create(r->program, &r->outputs, r->kernels, &r->quantizer));
    WEFT_TRY(weft_receiver_create(r->session, r->program, &r->staging, &r->receiver));
    return weft_wire_digests_create(r->program, &r->digests);
}

static weft_status_t build(weft_rollout_t *r, const weft_rollout_config_t *config, weft_error_t *error)
{
    uint32_t tp_rank = weft_topology_tp_rank(&r->session->control.topology, r->session->rank);
    weft_status_t status = weft_outputs_create(r->session->plan, tp_rank, &r->outputs);
    if (status == WEFT_OK)
        status = build_path(r);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rollout rank %u: no memory for its program and staging",
                         r->session->rank);
    WEFT_TRY(weft_weights_create(config->swap, r->outputs.bytes, &r->weights, error));
    if (pthread_create(&r->thread, NULL, progress_main, r) != 0)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rollout rank %u: the progress thread cannot be started",
                         r->session->rank);
    r->thread_started = true;
    return WEFT_OK;
}

weft_status_t weft_rollout_create(weft_session_t *session, const weft_rollout_config_t *config,
                                  weft_rollout_t **rollout, weft_error_t *error)
{
    weft_rollout_config_t used = config ? *config : WEFT_ROLLOUT_CONFIG;
    if (used.struct_size != sizeof used)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "weft_rollout_config_t has %zu bytes, expected %zu: start from WEFT_ROLLOUT_CONFIG",
                         used.struct_size, sizeof used);
    if (session->is_trainer)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rank %u is a trainer rank of the plan: rollouts begin at rank %u", session->rank,
                         weft_plan_num_trainers(session->plan));
    weft_rollout_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rollout rank %u: no memory", session->rank);
    made->session = session;
    weft_status_t status = build(made, &used, error);
    if (status != WEFT_OK) {
        weft_rollout_destroy(made);
        return status;
    }
    *rollout = made;
    return WEFT_OK;
}

void weft_rollout_destroy(weft_rollout_t *r)
{
    if (!r)
        return;
    r->quit = true;
    if (r->thread_started) {
        weft_session_wake(r->session);
        pthread_join(r->thread, NULL);
    }
    if (r->digests.program)
        weft_wire_digests_destroy(&r->digests);
    weft_receiver_destroy(r->receiver);
    weft_quantizer_destroy(r->quantizer);
    weft_assembler_destroy(r->assembler);
    if (!r->buffers_lost)
        weft_staging_destroy(&r->staging);
    weft_weights_destroy(r->weights);
    weft_program_destroy(r->program);
    weft_outputs_destroy(&r->outputs);
    free(r);
}
