/* One trainer rank: from published versions to bytes on routes. `send_version` is the trainer's side of the
 * picture in docs/data-path.md. */
#include <weft/trainer.h>

#include <stdlib.h>
#include <string.h>

#include "src/assemble/selection.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/base/log.h"
#include "src/model/model_private.h"
#include "src/pause.h"
#include "src/sender.h"
#include "src/snapshot.h"
#include "src/transfer.h"

#define IDLE_WAIT_US   100000
#define WEFT_SNAPSHOTS 2 /* as many as versions may be in flight */

struct weft_trainer {
    weft_session_t *session;
    weft_program_t *program;
    weft_queue_t *queue;
    weft_shard_t *shards; /* [tensors of the model]; box empty where this rank holds nothing */
    weft_snapshot_t snapshots[WEFT_SNAPSHOTS];
    const weft_shard_t *sent; /* what the sender was prepared with */
    weft_lender_t *lender;    /* NULL unless the transport lends */
    weft_sender_t *sender;
    _Atomic bool moved; /* a shard was bound since the sender last looked */
    void *stream;       /* where the optimizer writes, on a GPU */
    uint64_t last_version;
    pthread_t thread;
    bool thread_started;
    _Atomic bool quit;
    weft_transfer_t transfer;
    weft_selection_t selection; /* of the version in transfer */
    uint32_t next_bucket;       /* a selected one, or one past the last */
    weft_trainer_stats_t stats; /* under the session's mutex */
};

/* ---- the data path ---- */

/* Start every bucket that has a buffer, below the round that the control plane allows. */
static void skip_to_selected(weft_trainer_t *t)
{
    while (t->next_bucket < t->program->num_buckets && !t->selection.buckets[t->next_bucket])
        t->next_bucket++;
}

static weft_status_t start_buckets(weft_trainer_t *t, bool *moved, weft_error_t *error)
{
    uint32_t limit = weft_transfer_limit(&t->transfer);
    while (t->next_bucket < t->program->num_buckets && t->program->buckets[t->next_bucket].round < limit &&
           weft_sender_ready(t->sender, t->next_bucket)) {
        t->transfer.posted = t->program->buckets[t->next_bucket].round + 1;
        WEFT_TRY(weft_sender_start(t->sender, t->next_bucket++, error));
        skip_to_selected(t);
        *moved = true;
    }
    return WEFT_OK;
}

/* Everything allowed has left, and nothing more will be allowed. */
static bool all_sent(const weft_trainer_t *t)
{
    const weft_transfer_t *transfer = &t->transfer;
    bool more = t->next_bucket < t->program->num_buckets &&
                t->program->buckets[t->next_bucket].round < weft_transfer_limit(transfer);
    bool settled = transfer->stopped || !transfer->held;
    return !more && settled && weft_sender_idle(t->sender);
}

/* The shards that the version in transfer is read from. */
static const weft_shard_t *shards_of_version(const weft_trainer_t *t)
{
    for (unsigned i = 0; i < WEFT_SNAPSHOTS; i++)
        if (t->snapshots[i].version == t->transfer.version)
            return t->snapshots[i].shards;
    return t->shards;
}

/* Look at shards that were bound or copied elsewhere, and lend all of them if the transport does. */
static weft_status_t offer_shards(weft_trainer_t *t, weft_error_t *error)
{
    const weft_shard_t *shards = shards_of_version(t);
    if (t->moved || t->sent != shards) {
        t->moved = false;
        t->sent = shards;
        WEFT_TRY(weft_sender_prepare(t->sender, shards, error));
    }
    weft_sender_begin(t->sender, t->selection.buckets);
    return t->lender ? weft_lender_lend(t->lender, t->transfer.version, shards, error) : WEFT_OK;
}

static weft_status_t send_buckets(weft_trainer_t *t, weft_error_t *error)
{
    weft_pause_t pause = {.eager = !t->queue->ops->on_host};
    bool offered = false;
    while (!all_sent(t) && !t->transfer.aborted && !t->quit) {
        bool moved = false;
        weft_transfer_obey_all(t->session, &t->transfer);
        if (!offered && t->queue->ops->engine_idle(t->queue)) { /* the optimizer has written */
            WEFT_TRY(offer_shards(t, error));
            offered = moved = true;
        }
        if (offered)
            WEFT_TRY(start_buckets(t, &moved, error));
        WEFT_TRY(weft_sender_poll(t->sender, error));
        if (moved)
            weft_pause_moved(&pause);
        else
            weft_pause_rest(&pause);
    }
    return WEFT_OK;
}

static void note_stats(weft_trainer_t *t, uint64_t started_us)
{
    pthread_mutex_lock(&t->session->mutex);
    t->stats = (weft_trainer_stats_t){
        .version = t->transfer.version,
        .payload_bytes = t->selection.payload_bytes,
        .wire_bytes = t->selection.wire_bytes,
        .pack_us = weft_sender_take_pack_us(t->sender),
        .total_us = weft_now_us() - started_us,
        .peak_staging_bytes = weft_sender_bytes(t->sender),
    };
    pthread_mutex_unlock(&t->session->mutex);
}

/* The memory of the version is read no more. The next may have begun meanwhile. */
static void note_over(weft_trainer_t *t, uint64_t version)
{
    pthread_mutex_lock(&t->session->mutex);
    if (t->session->transferring == version)
        t->session->transferring = 0;
    pthread_cond_broadcast(&t->session->publish_cond);
    pthread_mutex_unlock(&t->session->mutex);
}

/* The transfer is over: say how it ended. Whoever hears the outcome may publish at once, so its memory is let go before. */
static void conclude(weft_trainer_t *t, weft_status_t status, const weft_error_t *error)
{
    weft_transfer_t *transfer = &t->transfer;
    bool broken = status != WEFT_OK || transfer->aborted || t->quit;
    transfer->active = false;
    if (t->lender) /* before anyone is told that this memory may be written */
        weft_lender_unlend(t->lender);
    if (status != WEFT_OK) {
        weft_event_t event = {.type = WEFT_EVENT_TRANSFER_FAILED,
                              .version = transfer->version,
                              .status = status,
                              .text = error->message};
        weft_session_post_event(t->session, &event);
    }
    if (broken)
        weft_sender_clear(t->sender, weft_session_abort_transport(t->session));
    else if (!transfer->stopped)
        transfer->posted = transfer->num_rounds;
    note_over(t, transfer->version);
    if (!broken)
        weft_session_post(t->session, transfer->stopped ? WEFT_EVENT_DRAINED : WEFT_EVENT_SENT, transfer->version, 0);
}

/* shard -> pack -> bucket ==== route, round by round. */
static void send_version(weft_trainer_t *t, uint64_t version)
{
    weft_error_t error;
    uint64_t start = weft_now_ns();
    weft_transfer_begin(&t->transfer, version, t->program->num_rounds);
    weft_content_t content = weft_session_content(t->session);
    weft_selection_choose(&t->selection, content.subset);
    t->next_bucket = 0;
    skip_to_selected(t);
    bool renewed;
    weft_status_t status = weft_session_meet(t->session, version, &renewed, &error);
    if (status == WEFT_OK)
        status = send_buckets(t, &error);
    weft_session_span(t->session, "send", start, version, 0);
    note_stats(t, start / 1000);
    conclude(t, status, &error);
}

static void *progress_main(void *user)
{
    weft_trainer_t *t = user;
    weft_command_t command;
    weft_session_progress_begin(t->session, t->queue);
    while (!t->quit) {
        if (!weft_session_next_command(t->session, IDLE_WAIT_US, &command))
            continue;
        if (command.type == WEFT_ACTION_START_TRANSFER)
            send_version(t, command.version);
        else
            weft_transfer_obey(t->session, &t->transfer, &command);
    }
    return NULL;
}

/* ---- shards ---- */

static weft_shard_t *find_shard(const weft_trainer_t *t, const char *name, const weft_tensor_t **tensor)
{
    const weft_model_t *model = t->session->plan->model;
    *tensor = weft_model_find(model, name);
    return *tensor ? &t->shards[weft_model_index(model, name)] : NULL;
}

static void add_dimension(weft_box_t *box, uint64_t offset, uint64_t extent)
{
    box->offset[box->num_dims] = offset;
    box->extent[box->num_dims++] = extent;
}

weft_status_t weft_trainer_box(const weft_trainer_t *t, const char *name, weft_box_t *box)
{
    const weft_tensor_t *tensor;
    const weft_shard_t *shard = find_shard(t, name, &tensor);
    if (!shard)
        return WEFT_ERR_MISSING_TENSOR;
    *box = (weft_box_t){0};
    if (shard->stacked)
        add_dimension(box, shard->first_slab, shard->num_slabs);
    if (tensor->num_dims > box->num_dims + 1)
        add_dimension(box, shard->box.row, shard->box.rows);
    add_dimension(box, shard->box.col, shard->box.cols);
    if (weft_shard_empty(shard))
        *box = (weft_box_t){.num_dims = tensor->num_dims ? tensor->num_dims : 1};
    return WEFT_OK;
}

/* Whether the kernels that pack, or a colocated rank's, could read memory at `data`. */
static weft_status_t check_memory(const weft_trainer_t *t, const char *name, const void *data, size_t bytes,
                                  weft_error_t *error)
{
    weft_memory_kind_t kind = t->queue->ops->memory_kind(t->queue, data);
    const weft_transport_ops_t *ops = weft_transport_table(t->session->transport);
    if (!data)
        return WEFT_OK;
    if (t->queue->ops->reads(t->queue, kind) && ops->lendable) {
        const weft_lent_run_t run = {data, bytes, 0};
        weft_status_t status = bytes ? ops->lendable(t->session->transport, &run, error) : WEFT_OK;
        if (status != WEFT_OK)
            weft_error_prefix(error, "trainer rank %u: %s", t->session->rank, name);
        return status;
    }
    if (t->queue->ops->reads(t->queue, kind))
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_ARGUMENT,
        "trainer rank %u: %s is bound at %p, which is %s; transport %s reads %s memory: bind it there, or "
        "choose a transport for this kind",
        t->session->rank, name, data, weft_memory_kind_name(kind), ops->name, t->queue->ops->name);
}

weft_status_t weft_trainer_bind(weft_trainer_t *t, const char *name, const void *data, size_t ld_elems,
                                weft_error_t *error)
{
    const weft_tensor_t *tensor;
    weft_shard_t *shard = find_shard(t, name, &tensor);
    if (!shard)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR, "trainer rank %u: the model has no tensor %s",
                         t->session->rank, name);
    size_t element = weft_dtype_bytes(tensor->dtype);
    if ((uintptr_t)data % element)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "trainer rank %u: %s is bound at %p, which is not aligned to its %zu-byte elements",
                         t->session->rank, name, data, element);
    if (ld_elems && ld_elems < shard->box.cols)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "trainer rank %u: %s has rows of %u elements, a leading dimension of %zu is less",
                         t->session->rank, name, shard->box.cols, ld_elems);
    size_t ld = ld_elems ? ld_elems : shard->box.cols;
    size_t bytes = weft_shard_elems(shard, ld) * element;
    WEFT_TRY(check_memory(t, name, data, bytes, error));
    shard->data = data;
    shard->ld_elems = ld;
    t->moved = true;
    return WEFT_OK;
}

/* ---- versions ---- */

static weft_status_t check_bound(const weft_trainer_t *t, weft_error_t *error)
{
    for (uint32_t i = 0; i < weft_model_num_tensors(t->session->plan->model); i++)
        if (!weft_shard_empty(&t->shards[i]) && !t->shards[i].data)
            return weft_fail(error, WEFT_ERR_ARGUMENT,
                             "trainer rank %u: tensor %s is not bound: bind every tensor this rank holds "
                             "before publishing",
                             t->session->rank, weft_model_tensor(t->session->plan->model, i)->name);
    return WEFT_OK;
}

/* Under the session's mutex: how many publications have no outcome yet. */
static uint32_t count_open(const weft_session_t *s)
{
    uint32_t open = 0;
    for (unsigned i = 0; i < WEFT_PUBLICATIONS; i++)
        open += s->publications[i].version && s->publications[i].outcome == WEFT_OUTCOME_NONE;
    return open;
}

/* Under the session's mutex: whether the version may still be read. */
static bool in_flight(const weft_session_t *s, uint64_t version)
{
    for (unsigned i = 0; i < WEFT_PUBLICATIONS; i++)
        if (version && s->publications[i].version == version &&
            s->publications[i].outcome == WEFT_OUTCOME_NONE)
            return true;
    return version && s->transferring == version;
}

/* A snapshot that no version in flight is read from; there is one while at most one version is in flight. */
static weft_snapshot_t *free_snapshot(weft_trainer_t *t)
{
    weft_snapshot_t *found = NULL;
    pthread_mutex_lock(&t->session->mutex);
    for (unsigned i = 0; i < WEFT_SNAPSHOTS && !found; i++)
        if (!in_flight(t->session, t->snapshots[i].version))
            found = &t->snapshots[i];
    pthread_mutex_unlock(&t->session->mutex);
    return found;
}

static weft_status_t take_snapshot(weft_trainer_t *t, uint64_t version, weft_error_t *error)
{
    weft_snapshot_t *snapshot = free_snapshot(t);
    if (!snapshot)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "trainer rank %u: two versions are in flight already: wait for one of them",
                         t->session->rank);
    snapshot->session = t->session;
    snapshot->queue = t->queue;
    snapshot->version = 0;
    WEFT_TRY(weft_snapshot_take(snapshot, t->shards, version, t->stream, error));
    if (snapshot->moved)
        t->moved = true;
    return WEFT_OK;
}

/* Under the session's mutex. */
static weft_status_t check_open(const weft_trainer_t *t, uint64_t version, weft_error_t *error)
{
    const weft_session_t *s = t->session;
    if (s->fenced)
        return weft_fail(error, s->fenced_status, "trainer rank %u: the session has ended: %s", s->rank,
                         s->fenced_text);
    if (version <= t->last_version)
        return weft_fail(error, WEFT_ERR_VERSION_ORDER,
                         "trainer rank %u: version %llu was published after %llu: versions must rise",
                         s->rank, (unsigned long long)version, (unsigned long long)t->last_version);
    if (count_open(s) >= 2)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "trainer rank %u: two versions are in flight already: wait for one of them",
                         s->rank);
    return WEFT_OK;
}

static weft_status_t check_version(weft_trainer_t *t, uint64_t version, weft_error_t *error)
{
    pthread_mutex_lock(&t->session->mutex);
    weft_status_t status = check_open(t, version, error);
    pthread_mutex_unlock(&t->session->mutex);
    return status;
}

/* `released`: the memory bound is not read for it. */
static weft_status_t note_publication(weft_trainer_t *t, uint64_t version, bool released, weft_error_t *error)
{
    weft_session_t *s = t->session;
    pthread_mutex_lock(&s->mutex);
    weft_status_t status = check_open(t, version, error); /* again: the session may have ended meanwhile */
    if (status == WEFT_OK)
        s->publications[s->num_publications++ % WEFT_PUBLICATIONS] =
            (weft_publication_t){.version = version, .released = released};
    pthread_mutex_unlock(&s->mutex);
    return status;
}

void weft_trainer_set_stream(weft_trainer_t *t, void *stream)
{
    t->stream = stream;
}

weft_status_t weft_trainer_publish(weft_trainer_t *t, uint64_t version, weft_error_t *error)
{
    return weft_trainer_publish_with(t, version, NULL, error);
}

/* The layers that a publication names, and the version they go over. */
static weft_status_t describe_subset(const weft_trainer_t *t, const weft_publish_config_t *config,
                                     weft_content_t *content, weft_error_t *error)
{
    uint64_t base = config->base ? config->base : t->last_version;
    size_t length = strlen(config->layers);
    if (length >= sizeof content->subset)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "trainer rank %u: layers are named in %zu characters, expected at most %zu: use patterns",
            t->session->rank, length, sizeof content->subset - 1);
    for (size_t i = 0; i < length; i++)
        if (config->layers[i] < 0x20 || config->layers[i] == 0x7f)
            return weft_fail(error, WEFT_ERR_ARGUMENT, "trainer rank %u: layers hold a control character",
                             t->session->rank);
    if (weft_selection_count(t->session->plan, config->layers) == 0)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR,
                         "trainer rank %u: no layer matches \"%s\"; weft plan lists the names",
                         t->session->rank, config->layers);
    if (base == 0)
        return weft_fail(error, WEFT_ERR_BASE,
                         "trainer rank %u: a subset needs a version to go over: publish a whole one first",
                         t->session->rank);
    content->base = base;
    memcpy(content->subset, config->layers, length + 1);
    return WEFT_OK;
}

weft_status_t weft_trainer_publish_with(weft_trainer_t *t, uint64_t version,
                                        const weft_publish_config_t *config, weft_error_t *error)
{
    weft_publish_config_t used = config ? *config : WEFT_PUBLISH_CONFIG;
    if (used.struct_size != sizeof used)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "weft_publish_config_t has %zu bytes, expected %zu: start from WEFT_PUBLISH_CONFIG",
                         used.struct_size, sizeof used);
    weft_content_t content = {.base = 0};
    if (used.layers)
        WEFT_TRY(describe_subset(t, &used, &content, error));
    WEFT_TRY(check_bound(t, error));
    WEFT_TRY(check_version(t, version, error));
    if (used.snapshot)
        WEFT_TRY(take_snapshot(t, version, error));
    weft_status_t written = WEFT_OK;
    if (!t->queue->ops->stream_idle(t->queue, t->stream))
        written = t->queue->ops->engine_end(t->queue, t->stream);
    if (written != WEFT_OK)
        return weft_fail(error, written, "trainer rank %u: its stream cannot be waited for: %s",
                         t->session->rank, weft_status_text(written));
    WEFT_TRY(note_publication(t, version, used.snapshot, error));
    t->last_version = version;
    weft_event_t event = {
        .type = WEFT_EVENT_PUBLISH, .version = version, .supersedes = used.supersede, .content = content};
    weft_session_post_event(t->session, &event);
    return WEFT_OK;
}

/* Nobody can say what becomes of the version, or have its transfer ended. */
static bool fail_cut_off(const weft_session_t *s, uint64_t version, weft_status_t *status,
                         weft_error_t *error)
{
    *status =
        weft_fail(error, WEFT_ERR_PEER_LOST,
                  "trainer rank %u: version %llu: %s: wait again if it comes back, or open a new session",
                  s->rank, (unsigned long long)version, s->cut_off_text);
    return true;
}

/* Under the session's mutex: whether the wait is over, and how. */
static bool wait_over(weft_session_t *s, uint64_t version, weft_publish_state_t state, weft_status_t *status,
                      weft_error_t *error)
{
    const weft_publication_t *found = NULL;
    for (unsigned i = 0; i < WEFT_PUBLICATIONS; i++)
        if (version && s->publications[i].version == version)
            found = &s->publications[i];
    bool open = found && found->outcome == WEFT_OUTCOME_NONE;
    *status = WEFT_OK;
    if (open && s->cut_off && !(state == WEFT_PUBLISH_RELEASED && found->released))
        return fail_cut_off(s, version, status, error);
    if (found && found->version == s->transferring && (!found->released || s->given_up == version))
        return false; /* its memory, or its snapshot, is still being read, whatever has become of it */
    if (!found)
        *status = weft_fail(error, WEFT_ERR_ARGUMENT,
                            "trainer rank %u: version %llu was not published, or long ago", s->rank,
                            (unsigned long long)version);
    else if (found->outcome == WEFT_OUTCOME_FAILED || found->outcome == WEFT_OUTCOME_PARTIAL)
        *status = weft_fail(error, found->status ? found->status : WEFT_ERR_ABORTED, "version %llu: %s",
                            (unsigned long long)version, found->text);
    else if (s->fenced)
        *status = weft_fail(error, s->fenced_status, "trainer rank %u: the session has ended: %s", s->rank,
                            s->fenced_text);
    else
        return state == WEFT_PUBLISH_RELEASED ? found->released : found->outcome == WEFT_OUTCOME_APPLIED;
    return true;
}

weft_status_t weft_trainer_wait(weft_trainer_t *t, uint64_t version, weft_publish_state_t state,
                                uint64_t timeout_us, weft_error_t *error)
{
    weft_session_t *s = t->session;
    uint64_t deadline = weft_now_us() + timeout_us;
    weft_status_t status;
    pthread_mutex_lock(&s->mutex);
    while (!wait_over(s, version, state, &status, error)) {
        if (!weft_condition_wait(&s->publish_cond, &s->mutex, deadline) && weft_now_us() >= deadline) {
            status =
                weft_fail(error, WEFT_ERR_TIMEOUT, "trainer rank %u: version %llu is not %s after %.1f s",
                          s->rank, (unsigned long long)version,
                          state == WEFT_PUBLISH_RELEASED ? "released" : "applied", (double)timeout_us / 1e6);
            break;
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return status;
}

bool weft_trainer_in_flight(const weft_trainer_t *t, uint64_t version)
{
    weft_session_t *s = t->session;
    pthread_mutex_lock(&s->mutex);
    bool open = !s->fenced && in_flight(s, version);
    pthread_mutex_unlock(&s->mutex);
    return open;
}

void weft_trainer_get_stats(const weft_trainer_t *t, weft_trainer_stats_t *stats)
{
    pthread_mutex_lock(&t->session->mutex);
    *stats = t->stats;
    pthread_mutex_unlock(&t->session->mutex);
}

/* ---- life ---- */

static weft_status_t build_path(weft_trainer_t *t, weft_error_t *error)
{
    const weft_plan_t *plan = t->session->plan;
    weft_status_t status = WEFT_OK;
    t->shards = calloc((size_t)weft_model_num_tensors(plan->model) + 1, sizeof *t->shards);
    if (!t->shards || weft_program_create(plan, t->session->rank, NULL, &t->program) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for its program",
                         t->session->rank);
    if (weft_selection_create(t->program, &t->selection) != WEFT_OK)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for its program",
                         t->session->rank);
    weft_shards_place(plan, t->session->rank, t->shards);
    if (weft_session_lends(t->session))
        WEFT_TRY(weft_lender_create(t->session, t->program, t->queue, &t->lender, error));
    status = weft_sender_create(t->session, t->program, t->queue, t->lender, &t->sender);
    return status == WEFT_OK ? status
                             : weft_fail(error, status, "trainer rank %u: no memory for its pack buffers",
                                         t->session->rank);
}

static weft_status_t build(weft_trainer_t *t, weft_error_t *error)
{
    WEFT_TRY(weft_session_open_queue(t->session, &t->queue, error));
    WEFT_TRY(build_path(t, error));
    t->moved = true;
    if (pthread_create(&t->thread, NULL, progress_main, t) != 0)
        return weft_fail(error, WEFT_ERR_SYSTEM, "trainer rank %u: the progress thread cannot be started",
                         t->session->rank);
    t->thread_started = true;
    return WEFT_OK;
}

weft_status_t weft_trainer_create(weft_session_t *session, weft_trainer_t **trainer, weft_error_t *error)
{
    if (!session->is_trainer)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rank %u is a rollout rank of the plan: trainers are ranks 0 to %u", session->rank,
                         weft_plan_num_trainers(session->plan) - 1);
    weft_trainer_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory", session->rank);
    made->session = session;
    weft_status_t status = build(made, error);
    if (status != WEFT_OK) {
        weft_trainer_destroy(made);
        return status;
    }
    *trainer = made;
    return WEFT_OK;
}

void weft_trainer_destroy(weft_trainer_t *t)
{
    if (!t)
        return;
    t->quit = true;
    if (t->thread_started) {
        weft_session_give_up(t->session);
        weft_session_wake(t->session);
        pthread_join(t->thread, NULL);
    }
    weft_sender_destroy(t->sender);
    weft_lender_destroy(t->lender);
    weft_selection_destroy(&t->selection);
    weft_program_destroy(t->program);
    for (unsigned i = 0; i < WEFT_SNAPSHOTS; i++)
        if (t->snapshots[i].session)
            weft_snapshot_free(&t->snapshots[i]);
    weft_queue_close(t->queue);
    free(t->shards);
    free(t);
}
