/* One rollout rank: from buckets to a staged version. `receive_version` is the rollout's side of the picture
 * in docs/data-path.md; rollout_swap.c makes what is staged live. */
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/pause.h"
#include "src/rollout_private.h"

#define IDLE_WAIT_US    100000
#define ARRIVALS_A_TURN 8 /* then what is complete is quantized */

/* ---- rounds ---- */

static weft_status_t fail_queue(const weft_rollout_t *r, weft_status_t status, weft_error_t *error)
{
    return weft_fail(error, status, "rollout rank %u: its %s queue failed: %s", r->session->rank,
                     r->queue->ops->name, weft_status_text(status));
}

/* Whether nothing reads or writes a round's slot any more. */
static bool round_over(const weft_rollout_t *r, uint32_t round)
{
    return weft_assembler_round_done(r->assembler, round) && weft_receiver_round_idle(r->receiver, round) &&
           r->round_tickets[round] <= r->done;
}

/* Over a transport that lends, the sources learn so that their memory was read. */
static void acknowledge_round(weft_rollout_t *r, uint32_t round)
{
    const weft_transport_ops_t *ops = weft_transport_table(r->session->transport);
    const weft_round_t *ended = &r->program->rounds[round];
    for (uint32_t i = 0; r->borrower && i < ended->num_buckets; i++) {
        const weft_bucket_t *bucket = &r->program->buckets[ended->first_bucket + i];
        if (!r->selection.buckets[ended->first_bucket + i])
            continue;
        ops->acknowledge(r->session->transport, r->session->groups[bucket->route]);
    }
}

/* Grant a round when its slot is free: the round two before is quantized and passed on. */
static weft_status_t grant_rounds(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    while (r->oldest_round < r->transfer.posted && round_over(r, r->oldest_round))
        acknowledge_round(r, r->oldest_round++);
    uint32_t limit = weft_transfer_limit(&r->transfer);
    while (r->mapped && r->window_open && r->transfer.posted < limit &&
           r->transfer.posted < r->oldest_round + WEFT_STAGING_SLOTS) {
        uint32_t round = r->transfer.posted++;
        weft_status_t cleared = weft_staging_clear_amax(&r->staging, round + 1);
        if (cleared != WEFT_OK)
            return fail_queue(r, cleared, error);
        weft_assembler_grant(r->assembler, round);
        WEFT_TRY(weft_receiver_post(r->receiver, round, r->selection.buckets, error));
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

/* ---- arrivals ---- */

static void note_arrival(weft_rollout_t *r, const weft_bucket_t *bucket)
{
    r->last_arrival_us = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->received_bytes += bucket->payload_bytes;
    pthread_mutex_unlock(&r->session->mutex);
}

/* What was lent is read in place and was never sent: there is nothing to compare it with but the source's
 * word. */
static weft_status_t digest_arrival(weft_rollout_t *r, uint32_t index)
{
    if (r->borrower || r->program->plan->rounds[r->program->buckets[index].round].digests)
        return WEFT_OK;
    uint64_t start = weft_now_ns();
    WEFT_TRY(weft_wire_digests_start(&r->digests, index));
    r->digest_ns += weft_now_ns() - start;
    weft_session_span(r->session, "digest", start, r->transfer.version, index);
    return WEFT_OK;
}

static weft_status_t take_arrivals(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    uint32_t index;
    bool folded;
    weft_status_t status;
    for (uint32_t taken = 0; weft_receiver_poll(r->receiver, &index, &status, error); taken++) {
        const weft_bucket_t *bucket = &r->program->buckets[index];
        weft_status_t started = digest_arrival(r, index);
        if (started == WEFT_OK && !r->refused)
            started = weft_staging_fold_amax(&r->staging, index, &folded);
        if (started != WEFT_OK)
            return fail_queue(r, started, error);
        WEFT_TRY(weft_assembler_arrive(r->assembler, index, error));
        r->round_tickets[bucket->round] = r->ticket + 1; /* the mark that follows */
        note_arrival(r, bucket);
        *moved = true;
        if (taken + 1 == ARRIVALS_A_TURN)
            break;
    }
    return status;
}

/* ---- quantize ---- */

/* The next units that are complete and follow each other: on the host one, so that arrivals are looked at in
 * between; on a GPU as many as there are, for one launch. */
static bool next_batch(weft_rollout_t *r, weft_batch_t *batch)
{
    if (!weft_assembler_next(r->assembler, &batch->first))
        return false;
    uint32_t round = weft_assembler_unit_round(r->assembler, batch->first), unit = batch->first;
    const weft_round_t *of = &r->program->rounds[round];
    while (!r->queue->synchronous && unit + 1 < of->first_unit + of->num_units &&
           weft_assembler_next_is(r->assembler, unit + 1))
        weft_assembler_next(r->assembler, &unit);
    batch->count = unit + 1 - batch->first;
    batch->start_ns = weft_now_ns();
    batch->ticket = r->ticket + 1; /* the mark that follows */
    return true;
}

static weft_status_t start_batches(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    weft_batch_t batch;
    while (next_batch(r, &batch)) {
        if (!r->refused)
            WEFT_TRY(weft_quantizer_run(r->quantizer, batch.first, batch.count, error));
        if (r->num_batches == 0)
            r->busy_since_ns = batch.start_ns;
        r->batches[(r->first_batch + r->num_batches++) % r->program->num_units] = batch;
        r->units_started += batch.count;
        r->round_tickets[weft_assembler_unit_round(r->assembler, batch.first)] = batch.ticket;
        *moved = true;
        if (r->queue->synchronous)
            break;
    }
    return WEFT_OK;
}

static void finish_layer(weft_rollout_t *r, uint32_t layer)
{
    weft_quantizer_layer_done(r->quantizer, layer);
    pthread_mutex_lock(&r->session->mutex);
    r->layers_staged++;
    pthread_mutex_unlock(&r->session->mutex);
}

/* The memory that a batch was read from was lent: it counts only if it still is. */
static void check_lent(weft_rollout_t *r)
{
    uint32_t first;
    weft_error_t error;
    if (!r->borrower || weft_borrower_has(r->borrower, r->transfer.version, &first))
        return;
    weft_fail(&error, WEFT_ERR_ABORTED,
              "rollout rank %u: trainer rank %u took its memory back while version %llu was read from it",
              r->session->rank, first, (unsigned long long)r->transfer.version);
    refuse(r, WEFT_ERR_ABORTED, &error);
}

static void finish_batch(weft_rollout_t *r, const weft_batch_t *batch)
{
    weft_error_t error;
    bool layer_staged;
    check_lent(r);
    if (r->queue->synchronous && !r->refused && weft_quantizer_judge(r->quantizer, &error) != WEFT_OK)
        refuse(r, error.status, &error);
    for (uint32_t u = batch->first; u < batch->first + batch->count; u++) {
        weft_assembler_staged(r->assembler, u, &layer_staged);
        if (layer_staged && !r->refused)
            finish_layer(r, r->program->units[u].layer);
    }
    weft_session_span(r->session, "quantize", batch->start_ns, r->transfer.version, batch->first);
}

static void finish_batches(weft_rollout_t *r, bool *moved)
{
    while (r->num_batches && r->batches[r->first_batch].ticket <= r->done) {
        finish_batch(r, &r->batches[r->first_batch]);
        r->first_batch = (r->first_batch + 1) % (uint32_t)r->program->num_units;
        if (--r->num_batches == 0)
            r->quantize_ns += weft_now_ns() - r->busy_since_ns;
        *moved = true;
    }
}

/* ---- the queue ---- */

/* What this turn started gets one ticket. */
static weft_status_t mark_work(weft_rollout_t *r, bool started, weft_error_t *error)
{
    weft_status_t status = WEFT_OK;
    if (started) {
        status = r->queue->ops->mark(r->queue, &r->ticket);
        weft_wire_digests_mark(&r->digests, r->ticket);
    }
    if (status == WEFT_OK)
        status = r->queue->ops->poll(r->queue, &r->done);
    weft_wire_digests_take(&r->digests, r->done);
    return status == WEFT_OK ? status : fail_queue(r, status, error);
}

/* Every unit is being quantized: what sums up the digests may stand behind them on the queue. */
static bool all_started(const weft_rollout_t *r)
{
    return r->units_started == r->selection.num_units && !r->refused && !r->transfer.stopped;
}

static weft_status_t end_work(weft_rollout_t *r, weft_error_t *error)
{
    weft_status_t status = WEFT_OK;
    r->ended = true;
    if (!r->refused && !r->transfer.stopped)
        status = weft_quantizer_end(r->quantizer);
    return status == WEFT_OK ? mark_work(r, true, error) : fail_queue(r, status, error);
}

static bool queue_over(const weft_rollout_t *r)
{
    return r->num_batches == 0 && r->done == r->ticket;
}

/* ---- the version ---- */

/* Nothing more will come: all rounds are through, or all below the agreed one. */
static bool rounds_over(const weft_rollout_t *r)
{
    const weft_transfer_t *transfer = &r->transfer;
    if (!weft_receiver_idle(r->receiver) || !queue_over(r) || (transfer->held && !transfer->stopped))
        return false;
    if (r->oldest_round < transfer->posted) /* not acknowledged */
        return false;
    return transfer->stopped ? transfer->posted >= transfer->stop_at : weft_assembler_done(r->assembler);
}

static bool transfer_over(const weft_rollout_t *r)
{
    return r->transfer.aborted || r->quit || (r->ended && rounds_over(r));
}

static const uint16_t *amax_of(void *user, uint32_t unit)
{
    const weft_rollout_t *r = user;
    return weft_staging_amax(&r->staging, weft_assembler_unit_round(r->assembler, unit),
                             &r->program->units[unit]);
}

static const void *locate(void *user, const weft_fragment_t *fragment, size_t *ld_elems)
{
    weft_rollout_t *r = user;
    return r->borrower ? weft_borrower_locate(r->borrower, fragment, ld_elems)
                       : weft_staging_locate(&r->staging, fragment, ld_elems);
}

static const uint8_t *arrived_at(void *user, uint32_t bucket)
{
    const weft_rollout_t *r = user;
    return weft_staging_bucket(&r->staging, &r->program->buckets[bucket]);
}

/* List all work, now that it is known where the fragments will be. */
static weft_status_t prepare_lists(weft_rollout_t *r, weft_error_t *error)
{
    const weft_sources_t sources = {locate, amax_of, r};
    weft_status_t status = weft_staging_prepare(&r->staging, locate, r);
    if (status == WEFT_OK && !r->borrower)
        status = weft_wire_digests_prepare(&r->digests, arrived_at, r);
    if (status != WEFT_OK)
        return fail_queue(r, status, error);
    WEFT_TRY(weft_quantizer_prepare(r->quantizer, &sources, error));
    r->listed = true;
    r->fresh = false;
    return WEFT_OK;
}

/* Forget what the version before left behind. While the rank is idle, if it can be: not when a version waits
 * for it. */
static weft_status_t freshen(weft_rollout_t *r)
{
    if (r->fresh || !r->listed)
        return WEFT_OK;
    WEFT_TRY(weft_staging_clear_amax(&r->staging, 0));
    WEFT_TRY(weft_quantizer_begin(r->quantizer));
    r->fresh = true;
    return WEFT_OK;
}

/* Over a transport that lends, wait for every source's word, then see where its memory is. */
static weft_status_t map_sources(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    uint32_t first;
    bool changed;
    if (!r->mapped &&
        r->transfer.stopped) { /* nobody wants it: rounds that others have posted go through unread */
        r->refused = r->mapped = *moved = true;
        return WEFT_OK;
    }
    if (r->mapped)
        return WEFT_OK;
    if (!weft_borrower_has(r->borrower, r->transfer.version, &first))
        return weft_borrower_alive(r->borrower, error);
    weft_status_t status = weft_borrower_map(r->borrower, &changed, error);
    if (status == WEFT_ERR_ABORTED) { /* taken back already: rounds go through unread */
        refuse(r, status, error);
        r->mapped = true;
        return WEFT_OK;
    }
    WEFT_TRY(status);
    if (changed)
        WEFT_TRY(prepare_lists(r, error));
    status = freshen(r);
    r->fresh = false;
    r->mapped = *moved = true;
    return status == WEFT_OK ? status : fail_queue(r, status, error);
}

static weft_status_t carry_over(weft_rollout_t *r, weft_error_t *error);

/* Swap layerwise waits for the engine's pause; one that nobody wants any more goes through unread. */
static weft_status_t open_window(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    if (r->window_open)
        return WEFT_OK;
    if (r->transfer.stopped) {
        r->refused = r->window_open = *moved = true;
        return WEFT_OK;
    }
    weft_status_t status = weft_rollout_open_window(r, &r->window_open, error);
    if (status == WEFT_ERR_TAINTED) {
        refuse(r, status, error);
        return WEFT_OK;
    }
    WEFT_TRY(status);
    *moved |= r->window_open;
    return r->window_open ? carry_over(r, error) : WEFT_OK;
}

/* One turn of everything that can move. */
static weft_status_t turn(weft_rollout_t *r, bool *moved, weft_error_t *error)
{
    bool started = false;
    WEFT_TRY(open_window(r, moved, error));
    if (r->borrower)
        WEFT_TRY(map_sources(r, moved, error));
    WEFT_TRY(grant_rounds(r, moved, error));
    WEFT_TRY(take_arrivals(r, &started, error));
    WEFT_TRY(start_batches(r, &started, error));
    WEFT_TRY(mark_work(r, started, error));
    finish_batches(r, moved);
    *moved |= started;
    return !r->ended && (all_started(r) || rounds_over(r)) ? end_work(r, error) : WEFT_OK;
}

static weft_status_t move_version(weft_rollout_t *r, weft_error_t *error)
{
    weft_pause_t pause = {.eager = !r->queue->ops->on_host};
    while (!transfer_over(r)) {
        bool moved = false;
        weft_transfer_obey_all(r->session, &r->transfer);
        WEFT_TRY(turn(r, &moved, error));
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
    for (uint32_t i = 0; i < last->num_buckets && !r->borrower; i++) {
        const weft_bucket_t *bucket = &r->program->buckets[last->first_bucket + i];
        weft_digest_t sent;
        weft_status_t status =
            r->queue->ops->read(r->queue, weft_staging_bucket(&r->staging, bucket), &sent, sizeof sent);
        if (status != WEFT_OK)
            return fail_queue(r, status, error);
        if (memcmp(&r->digests.routes[bucket->route], &sent, sizeof sent) != 0)
            return weft_fail(
                error, WEFT_ERR_DIGEST,
                "rollout rank %u: what arrived from trainer rank %u has another digest than what it sent",
                r->session->rank, bucket->source);
    }
    r->digest_ns += weft_now_ns() - start;
    return WEFT_OK;
}

/* Everything is staged: whether it may be used. */
static weft_status_t judge_version(weft_rollout_t *r, weft_error_t *error)
{
    WEFT_TRY(weft_quantizer_judge(r->quantizer, error));
    return compare_digests(r, error);
}

static void note_prepared(weft_rollout_t *r, weft_digest_t digest)
{
    uint64_t now = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->pending_stats = (weft_rollout_stats_t){
        .version = r->transfer.version,
        .payload_bytes = r->received_bytes,
        .wire_bytes = r->selection.wire_bytes,
        .needed_bytes = r->selection.payload_bytes,
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
    weft_event_t event = {
        .type = WEFT_EVENT_TRANSFER_DONE,
        .version = r->transfer.version,
        .digest = weft_quantizer_model_digest(r->quantizer, r->selection.whole ? NULL : r->carry)};
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
        weft_status_t judged = judge_version(r, error);
        if (judged == WEFT_OK)
            say_prepared(r);
        else
            refuse(r, judged, error);
    }
    if (r->transfer.stopped)
        weft_session_post(r->session, WEFT_EVENT_DRAINED, r->transfer.version, 0);
}

static weft_status_t make_carry(weft_rollout_t *r)
{
    const void **live = calloc((size_t)r->outputs.count + 1, sizeof *live);
    if (!live)
        return WEFT_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < r->outputs.count; i++)
        live[i] = weft_weights_live(r->weights, r->outputs.items[i].offset);
    weft_status_t status =
        weft_carry_create(r->queue, &r->outputs, live, weft_weights_stage(r->weights), &r->carry);
    free(live);
    return status;
}

/* What a subset leaves out comes from the weights that serve, which nobody writes before the swap. */
static weft_status_t carry_over(weft_rollout_t *r, weft_error_t *error)
{
    weft_status_t status = WEFT_OK;
    if (r->selection.whole)
        return WEFT_OK;
    if (!r->carry)
        status = make_carry(r);
    if (status == WEFT_OK)
        status = weft_carry_run(r->carry, r->selection.layers, r->program->plan->layers->count);
    return status == WEFT_OK ? mark_work(r, true, error) : fail_queue(r, status, error);
}

static weft_status_t begin_version(weft_rollout_t *r, uint64_t version, weft_error_t *error)
{
    weft_content_t content = weft_session_content(r->session);
    weft_transfer_begin(&r->transfer, version, r->program->num_rounds);
    weft_selection_choose(&r->selection, content.subset);
    weft_assembler_begin(r->assembler, &r->selection);
    weft_wire_digests_begin(&r->digests, r->selection.buckets);
    memset(r->round_tickets, 0, r->program->num_rounds * sizeof *r->round_tickets);
    r->refused = r->ended = false;
    r->mapped = !r->borrower;
    r->window_open = !weft_weights_in_place(r->weights);
    r->oldest_round = r->first_batch = r->num_batches = r->units_started = 0;
    r->quantize_ns = r->digest_ns = 0;
    r->started_us = r->last_arrival_us = weft_now_us();
    pthread_mutex_lock(&r->session->mutex);
    r->received_bytes = 0;
    r->received_version = version;
    r->layers_staged = weft_assembler_layers_staged(r->assembler);
    pthread_mutex_unlock(&r->session->mutex);
    WEFT_TRY(weft_weights_settle(r->weights, error));
    if (r->window_open)
        WEFT_TRY(carry_over(r, error));
    if (!r->mapped)
        return WEFT_OK;
    weft_status_t status = freshen(r);
    r->fresh = false;
    return status == WEFT_OK ? status : fail_queue(r, status, error);
}

/* After a renewal sources may be other processes, and their memory elsewhere. */
static weft_status_t meet_sources(weft_rollout_t *r, uint64_t version, weft_error_t *error)
{
    bool renewed;
    WEFT_TRY(weft_session_meet(r->session, version, &renewed, error));
    if (renewed && r->borrower)
        weft_borrower_forget(r->borrower);
    return WEFT_OK;
}

/* route ==== bucket -> slot -> assembler -> quantizer -> stage. */
static void receive_version(weft_rollout_t *r, uint64_t version)
{
    weft_error_t error = {.message = ""};
    uint64_t start = weft_now_ns();
    weft_status_t status = begin_version(r, version, &error);
    if (status == WEFT_OK)
        status = meet_sources(r, version, &error);
    if (status == WEFT_OK)
        status = move_version(r, &error);
    weft_session_span(r->session, "receive", start, version, 0);
    conclude(r, status, &error);
    weft_session_stay_awake(r->session); /* the swap is next */
}

static void *progress_main(void *user)
{
    weft_rollout_t *r = user;
    weft_command_t command;
    weft_session_progress_begin(r->session, r->queue);
    while (!r->quit) {
        if (!weft_session_next_command(r->session, IDLE_WAIT_US, &command)) {
            weft_weights_settle(r->weights,
                                NULL); /* what fails here fails again, and is said, with the next version */
            freshen(r);
            continue;
        }
        if (command.type == WEFT_ACTION_START_TRANSFER && weft_session_content(r->session).load)
            weft_rollout_load_version(r, command.version);
        else if (command.type == WEFT_ACTION_START_TRANSFER)
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
    bool lends = weft_session_lends(r->session);
    WEFT_TRY(weft_program_create(plan, r->session->rank, &r->outputs, &r->program));
    r->round_tickets = calloc(r->program->num_rounds + 1, sizeof *r->round_tickets);
    r->batches = calloc(r->program->num_units + 1, sizeof *r->batches);
    if (!r->round_tickets || !r->batches)
        return WEFT_ERR_NO_MEMORY;
    WEFT_TRY(weft_staging_create(r->program, r->queue, !lends, &r->staging));
    WEFT_TRY(weft_session_register(r->session, r->staging.memory, r->staging.bytes));
    WEFT_TRY(weft_selection_create(r->program, &r->selection));
    WEFT_TRY(weft_assembler_create(r->program, &r->session->config.log, &r->assembler));
    WEFT_TRY(weft_receiver_create(r->session, r->program, &r->staging, &r->receiver));
    if (lends)
        WEFT_TRY(weft_borrower_create(r->session, r->program, &r->borrower));
    return weft_wire_digests_create(r->program, r->queue, &r->digests);
}

static weft_status_t build_weights(weft_rollout_t *r, const char *swap, weft_error_t *error)
{
    WEFT_TRY(weft_weights_create(r->queue, swap, r->outputs.bytes, &r->weights, error));
    weft_status_t status = weft_quantizer_create(r->program, &r->outputs, r->queue,
                                                 weft_weights_stage(r->weights), &r->quantizer);
    if (status == WEFT_OK)
        status = weft_quantizer_fill_constants(r->quantizer, weft_weights_stage(r->weights));
    if (status == WEFT_OK)
        status = weft_quantizer_fill_constants(r->quantizer, weft_weights_live(r->weights, 0));
    if (status != WEFT_OK)
        return weft_fail(error, status, "rollout rank %u: no memory for its quantizer", r->session->rank);
    return r->borrower ? WEFT_OK : prepare_lists(r, error);
}

static weft_status_t build(weft_rollout_t *r, const weft_rollout_config_t *config, weft_error_t *error)
{
    uint32_t tp_rank = weft_topology_tp_rank(&r->session->control.topology, r->session->rank);
    WEFT_TRY(weft_session_open_queue(r->session, &r->queue, error));
    weft_status_t status = weft_outputs_create(r->session->plan, tp_rank, &r->outputs);
    if (status == WEFT_OK)
        status = build_path(r);
    if (status != WEFT_OK)
        return weft_fail(error, status, "rollout rank %u: no memory for its program and staging",
                         r->session->rank);
    WEFT_TRY(build_weights(r, config->swap, error));
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
        weft_session_give_up(r->session);
        weft_session_wake(r->session);
        pthread_join(r->thread, NULL);
    }
    if (r->digests.program)
        weft_wire_digests_destroy(&r->digests);
    weft_receiver_destroy(r->receiver);
    weft_borrower_destroy(r->borrower);
    weft_loader_destroy(r->loader, r->queue);
    weft_quantizer_destroy(r->quantizer);
    weft_carry_destroy(r->carry);
    weft_assembler_destroy(r->assembler);
    weft_selection_destroy(&r->selection);
    if (r->buffers_lost)
        r->staging.memory = NULL;
    weft_staging_destroy(&r->staging);
    weft_weights_destroy(r->weights);
    weft_program_destroy(r->program);
    weft_outputs_destroy(&r->outputs);
    weft_queue_close(r->queue);
    free(r->round_tickets);
    free(r->batches);
    free(r->load_dir);
    free(r);
}
