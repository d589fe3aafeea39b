#include "src/control/rank_machine_internal.h"

#include <stdio.h>
#include <string.h>

#include "src/control/mutate.h"

typedef weft_rank_machine_t machine_t;

static const char *const names[WEFT_RANK_STATE_COUNT] = {
    "IDLE",     "RECEIVING", "REFUSED", "STOPPING",  "DRAINING",
    "PREPARED", "ARMED",     "FROZEN",  "COMMITTED", "FENCED",
};

#define TO(id) (1u << WEFT_RANK_##id)

/* From each state, where it may go. From ARMED on there is no way back to IDLE but the leader's word. */
static const unsigned transitions[WEFT_RANK_STATE_COUNT] = {
    [WEFT_RANK_IDLE] = TO(RECEIVING) | TO(FENCED),
    [WEFT_RANK_RECEIVING] = TO(PREPARED) | TO(REFUSED) | TO(STOPPING) | TO(IDLE) | TO(FENCED),
    [WEFT_RANK_REFUSED] = TO(STOPPING) | TO(IDLE) | TO(FENCED),
    [WEFT_RANK_STOPPING] = TO(DRAINING) | TO(IDLE) | TO(FENCED),
    [WEFT_RANK_DRAINING] = TO(IDLE) | TO(FENCED),
    [WEFT_RANK_PREPARED] = TO(ARMED) | TO(FROZEN) | TO(STOPPING) | TO(IDLE) | TO(FENCED),
    [WEFT_RANK_ARMED] = TO(COMMITTED) | TO(FROZEN) | TO(IDLE) | TO(FENCED),
    [WEFT_RANK_FROZEN] = TO(COMMITTED) | TO(FROZEN) | TO(IDLE) | TO(FENCED),
    [WEFT_RANK_COMMITTED] = TO(FROZEN) | TO(IDLE) | TO(FENCED),
    [WEFT_RANK_FENCED] = 0,
};

const char *weft_rank_state_name(weft_rank_state_t state)
{
    return (unsigned)state < WEFT_RANK_STATE_COUNT ? names[state] : "?";
}

static bool in_commit(const machine_t *m)
{
    return m->state == WEFT_RANK_ARMED || m->state == WEFT_RANK_FROZEN || m->state == WEFT_RANK_COMMITTED;
}

static bool in_transfer(const machine_t *m)
{
    return m->state == WEFT_RANK_RECEIVING || m->state == WEFT_RANK_REFUSED ||
           m->state == WEFT_RANK_STOPPING || m->state == WEFT_RANK_DRAINING;
}

bool weft_rank_may_become(const machine_t *m, weft_rank_state_t state)
{
    bool unarmed = WEFT_BROKEN(SKIP_ARM) && m->state == WEFT_RANK_PREPARED && state == WEFT_RANK_COMMITTED;
    return (transitions[m->state] & 1u << state) != 0 || unarmed;
}

bool weft_rank_set_state(machine_t *m, weft_rank_state_t state, const weft_sink_t *sink)
{
    if (!weft_rank_may_become(m, state)) {
        weft_emit_log(sink, WEFT_LOG_ERROR, "rank %u: version %llu: no way from %s to %s", m->rank,
                      (unsigned long long)m->version, names[m->state], names[state]);
        return false;
    }
    weft_emit_log(sink, WEFT_LOG_DEBUG, "rank %u: version %llu: %s -> %s", m->rank,
                  (unsigned long long)m->version, names[m->state], names[state]);
    m->leader_due |= in_commit(m);
    m->state = state;
    m->leader_due |= in_commit(m);
    m->report_due = true;
    return true;
}

void weft_rank_machine_init(machine_t *m, const weft_control_config_t *config, uint32_t rank,
                            weft_guard_t *guard)
{
    memset(m, 0, sizeof *m);
    m->config = *config;
    m->rank = rank;
    m->guard = guard;
    m->coordinator = config->coordinator;
    m->joins = config->incarnation > 1;
    m->epoch = m->joins ? 0 : config->epoch;
    m->report_due = true;
}

void weft_rank_machine_loaded(machine_t *m, uint64_t version, weft_digest_t digest)
{
    m->live = m->done = version;
    m->digest = m->live_digest = digest;
    m->report_due = true;
}

/* ---- reports ---- */

uint32_t weft_rank_leader(const machine_t *m)
{
    const weft_topology_t *t = &m->config.topology;
    return weft_topology_leader(t, weft_topology_replica(t, m->rank));
}

/* Parked: no step was open, and none has begun, since idle_us. Seen by looking at the guard at each event. */
static uint32_t step_flags(machine_t *m, const weft_guard_view_t *view)
{
    if (view->open || view->step != m->seen_step)
        m->stepped_us = m->now_us;
    m->seen_step = view->step;
    bool parked = !view->open && m->now_us - m->stepped_us >= m->config.idle_us;
    return (view->open ? WEFT_FLAG_OPEN : 0) | (parked ? WEFT_FLAG_PARKED : 0) |
           (view->started ? WEFT_FLAG_STARTED : 0);
}

static weft_message_t whole_state(machine_t *m)
{
    weft_guard_view_t view = weft_guard_look(m->guard);
    bool decided = m->state == WEFT_RANK_COMMITTED || m->state == WEFT_RANK_FROZEN;
    m->reported_flags = step_flags(m, &view);
    weft_message_t out = {
        .type = WEFT_MESSAGE_RANK_STATE,
        .state = (uint8_t)m->state,
        .flags = m->reported_flags | (m->broken ? WEFT_FLAG_BROKEN : 0) |
                 (m->stop_known ? WEFT_FLAG_STOP_AT : 0) | (m->posted_known ? WEFT_FLAG_POSTED : 0) |
                 (m->joins ? WEFT_FLAG_JOINS : 0) | (m->leaves ? WEFT_FLAG_LEAVES : 0),
        .from = m->rank,
        .epoch = m->epoch,
        .incarnation = m->config.incarnation,
        .status = m->status,
        .term = m->term,
        .version = m->version,
        .live = m->live,
        .done = m->done,
        .wants = m->wants,
        .newest = m->newest,
        .ballot = m->promised,
        .step = view.step,
        .limit = m->limit,
        .at_step = decided ? m->at_step : m->live_at_step,
        .round = m->posted,
        .stop_round = m->stop_round,
        .digest = m->digest,
        .members = m->members,
        .content = m->content,
    };
    weft_copy_text(out.text, m->text);
    return out;
}

static void report(machine_t *m, const weft_sink_t *sink)
{
    weft_message_t out = whole_state(m);
    out.sequence = ++m->sequence;
    if (m->report_due) {
        out.role = WEFT_ROLE_COORDINATOR;
        out.to = m->coordinator;
        weft_emit_send(sink, &out);
        m->reported_us = m->now_us;
    }
    if (m->leader_due) {
        out.role = WEFT_ROLE_LEADER;
        out.to = weft_rank_leader(m);
        weft_emit_send(sink, &out);
    }
    m->report_due = m->leader_due = false;
}

/* ---- loading ---- */

static void notify(const weft_sink_t *sink, uint64_t version, weft_outcome_t outcome, weft_status_t status,
                   const char *text)
{
    weft_action_t action = {
        .type = WEFT_ACTION_NOTIFY, .version = version, .outcome = outcome, .status = status, .text = text};
    sink->emit(sink->user, &action);
}

/* The wish is a level of every report; the coordinator begins the version when all ranks that live have it.
 */
static void on_load(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (m->state == WEFT_RANK_FENCED) {
        notify(sink, event->version, WEFT_OUTCOME_FAILED, WEFT_ERR_PEER_LOST, m->text);
    } else if (m->wants != 0) {
        notify(sink, event->version, WEFT_OUTCOME_FAILED, WEFT_ERR_ARGUMENT,
               "another load has no outcome yet: wait for it");
    } else {
        m->wants = event->version;
        m->report_due = true;
    }
}

static void settle_load(machine_t *m, uint64_t version, weft_outcome_t outcome, weft_status_t status,
                        const char *text, const weft_sink_t *sink)
{
    m->wants = version == m->wants ? 0 : m->wants;
    m->report_due = true;
    notify(sink, version, outcome, status, text);
}

static void on_outcome(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->wants != 0 && in->version == m->wants)
        settle_load(m, in->version, in->outcome, in->status, in->text, sink);
}

/* ---- taking a version in ---- */

static void begin(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    m->version = in->version;
    m->members = in->members;
    m->content = in->content;
    m->posted_known = m->stop_known = false;
    m->posted = m->stop_round = 0;
    m->at_step = m->limit = 0;
    m->promised = m->accepted = 0; /* ballots are about one version */
    m->status = WEFT_OK;
    m->text[0] = '\0';
    if (!weft_rank_set_state(m, WEFT_RANK_RECEIVING, sink))
        return;
    weft_action_t action = {.type = WEFT_ACTION_START_TRANSFER,
                            .version = m->version,
                            .members = m->members,
                            .content = &m->content,
                            .text = ""};
    sink->emit(sink->user, &action);
}

/* The version in hand will not be live; what serves goes on serving. */
void weft_rank_give_up(machine_t *m, const weft_sink_t *sink)
{
    weft_emit(sink, WEFT_ACTION_DISCARD_STAGE, m->version);
    if (!weft_rank_set_state(m, WEFT_RANK_IDLE, sink))
        return;
    m->done = m->version;
    m->version = 0;
    m->digest = m->live_digest;
}

/* A load has no rounds: what breaks it off leaves the transport whole. */
static void break_transfer(machine_t *m, const weft_sink_t *sink)
{
    m->broken |= !m->content.load;
    if (in_transfer(m))
        weft_emit(sink, WEFT_ACTION_ABORT_TRANSFER, m->version);
    weft_rank_give_up(m, sink);
}

void weft_rank_remember_failure(machine_t *m, weft_status_t status, const char *text)
{
    m->status = status;
    weft_copy_text(m->text, text);
}

void weft_rank_fence(machine_t *m, weft_status_t status, const char *text, const weft_sink_t *sink)
{
    if (m->state == WEFT_RANK_FENCED)
        return;
    if (!WEFT_BROKEN(FENCE_LATE))
        weft_guard_fence(m->guard);
    weft_rank_remember_failure(m, status, text);
    if (in_transfer(m))
        weft_emit(sink, WEFT_ACTION_ABORT_TRANSFER, m->version);
    if (m->version != 0 && m->state != WEFT_RANK_COMMITTED)
        weft_emit(sink, WEFT_ACTION_DISCARD_STAGE, m->version);
    if (m->wants != 0)
        settle_load(m, m->wants, WEFT_OUTCOME_FAILED, status, m->text, sink);
    weft_rank_set_state(m, WEFT_RANK_FENCED, sink);
    weft_action_t action = {.type = WEFT_ACTION_FENCE, .status = status, .text = m->text};
    sink->emit(sink->user, &action);
    weft_emit(sink, WEFT_ACTION_WAKE_STEPS, m->version);
}

/* The guard has swapped: the new weights serve. */
void weft_rank_applied(machine_t *m, const weft_sink_t *sink)
{
    if (!weft_rank_set_state(m, WEFT_RANK_IDLE, sink))
        return;
    m->live = m->done = m->version;
    m->live_at_step = m->at_step;
    m->live_digest = m->digest;
    if (m->content.load) /* what this rank serves it knows by itself */
        settle_load(m, m->version, WEFT_OUTCOME_APPLIED, WEFT_OK, "", sink);
    m->version = 0;
    weft_emit(sink, WEFT_ACTION_WAKE_STEPS, m->live);
}

/* ---- what the data path tells ---- */

static void on_transfer_done(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (m->state != WEFT_RANK_RECEIVING)
        return; /* REFUSED, or stopped: the bytes are not wanted any more */
    m->digest = event->digest;
    weft_rank_set_state(m, WEFT_RANK_PREPARED, sink);
}

static void on_refused(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (m->state != WEFT_RANK_RECEIVING)
        return;
    weft_rank_remember_failure(m, event->status, event->text);
    weft_rank_set_state(m, WEFT_RANK_REFUSED, sink);
}

static void on_failed(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (!in_transfer(m))
        return;
    weft_rank_remember_failure(m, event->status, event->text);
    break_transfer(m, sink);
}

static void on_posted(machine_t *m, uint32_t round)
{
    if (m->state != WEFT_RANK_STOPPING || m->posted_known)
        return;
    m->posted = round;
    m->posted_known = m->report_due = true;
}

static void on_drained(machine_t *m, const weft_sink_t *sink)
{
    if (m->state == WEFT_RANK_DRAINING)
        weft_rank_give_up(m, sink);
}

static void on_swapped(machine_t *m, const weft_sink_t *sink)
{
    if (m->state == WEFT_RANK_COMMITTED)
        weft_rank_applied(m, sink);
}

/* An answer of the data path to a version that is no longer in hand comes too late to matter. */
static void on_data_path(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (event->version != m->version || m->version == 0)
        return;
    switch (event->type) {
    case WEFT_EVENT_TRANSFER_DONE:
        on_transfer_done(m, event, sink);
        break;
    case WEFT_EVENT_TRANSFER_REFUSED:
        on_refused(m, event, sink);
        break;
    case WEFT_EVENT_TRANSFER_FAILED:
        on_failed(m, event, sink);
        break;
    case WEFT_EVENT_POSTED:
        on_posted(m, event->round);
        break;
    case WEFT_EVENT_DRAINED:
        on_drained(m, sink);
        break;
    case WEFT_EVENT_SWAPPED:
        on_swapped(m, sink);
        break;
    case WEFT_EVENT_SWAP_FAILED:
        weft_rank_fence(m, event->status, event->text, sink);
        break;
    default: /* not a rank's event */
        break;
    }
}

/* ---- what the coordinator tells ---- */

static void on_begin(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state == WEFT_RANK_IDLE && in->version > m->done && (!m->broken || in->content.load))
        begin(m, in, sink);
}

static void on_stop(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    /* Others may have posted rounds that need this rank: it takes part even if BEGIN has not come. */
    on_begin(m, in, sink);
    if (in->version != m->version || !weft_rank_may_become(m, WEFT_RANK_STOPPING))
        return;
    if (weft_rank_set_state(m, WEFT_RANK_STOPPING, sink))
        weft_emit(sink, WEFT_ACTION_REPORT_POSTED, m->version);
}

static void on_stop_at(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state != WEFT_RANK_STOPPING || !m->posted_known || in->version != m->version)
        return;
    m->stop_round = in->stop_round;
    m->stop_known = true;
    weft_rank_set_state(m, WEFT_RANK_DRAINING, sink);
    weft_action_t action = {
        .type = WEFT_ACTION_STOP_TRANSFER_AT, .version = m->version, .round = in->stop_round, .text = ""};
    sink->emit(sink->user, &action);
}

static void on_drop(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state == WEFT_RANK_PREPARED && in->version == m->version)
        weft_rank_give_up(m, sink);
}

static void on_abort_transfer(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state == WEFT_RANK_IDLE && in->version > m->done) {
        m->done = in->version; /* never begun here */
        m->broken |= !in->content.load;
    } else if (in->version == m->version && (in_transfer(m) || m->state == WEFT_RANK_PREPARED)) {
        break_transfer(m, sink);
    }
}

/* Others are ahead, or this rank is. */
static void hear_of_newest(machine_t *m, uint64_t version, const weft_sink_t *sink)
{
    if (version <= m->newest)
        return;
    m->newest = version;
    m->report_due = true;
    weft_emit(sink, WEFT_ACTION_NOTE_NEWEST, version);
}

/* Membership has changed: transports are opened anew, so those that broke count no more. */
static void hear_of_epoch(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state != WEFT_RANK_IDLE || !weft_admits(in, m->epoch, m->joins))
        return;
    m->epoch = in->epoch;
    m->joins = m->broken = false;
    m->report_due = true;
    weft_emit_epoch(sink, m->epoch);
}

/* True for what may be said across epochs. */
static bool is_of_membership(uint8_t type)
{
    return type == WEFT_MESSAGE_WELCOME || type == WEFT_MESSAGE_FENCE;
}

/* True when the message is from the coordinator of the newest term known, for this life and epoch. */
static bool accept_coordinator(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    bool old = in->term < m->term && !WEFT_BROKEN(OBEY_OLD_TERM);
    if (old || (!weft_is_for_life(in, m->config.incarnation) && !WEFT_BROKEN(IGNORE_LIFE)))
        return false;
    hear_of_epoch(m, in, sink);
    if (in->epoch != m->epoch && !is_of_membership(in->type))
        return false;
    hear_of_newest(m, in->newest, sink);
    m->report_due |= in->term > m->term;
    m->term = in->term;
    m->coordinator = in->from;
    /* Whatever was asked for: if it is done already, the coordinator has not heard of it. */
    m->report_due |= in->type != WEFT_MESSAGE_WELCOME;
    return true;
}

static void on_coordinator_message(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (!accept_coordinator(m, in, sink))
        return;
    switch ((weft_message_type_t)in->type) {
    case WEFT_MESSAGE_BEGIN:
        on_begin(m, in, sink);
        break;
    case WEFT_MESSAGE_STOP:
        on_stop(m, in, sink);
        break;
    case WEFT_MESSAGE_STOP_AT:
        on_stop_at(m, in, sink);
        break;
    case WEFT_MESSAGE_DROP:
        on_drop(m, in, sink);
        break;
    case WEFT_MESSAGE_ABORT_TRANSFER:
        on_abort_transfer(m, in, sink);
        break;
    case WEFT_MESSAGE_OUTCOME:
        on_outcome(m, in, sink);
        break;
    case WEFT_MESSAGE_FENCE:
        weft_rank_fence(m, in->status, in->text, sink);
        break;
    default: /* WELCOME has done its work in accept_coordinator; decode refuses others for this role */
        break;
    }
}

static bool from_leader(uint8_t type)
{
    return type == WEFT_MESSAGE_ARM || type == WEFT_MESSAGE_FREEZE || type == WEFT_MESSAGE_COMMIT ||
           type == WEFT_MESSAGE_ABORT;
}

static void on_message(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (in->to != m->rank || in->role != WEFT_ROLE_RANK ||
        !weft_control_knows(&m->config, in->from))
        return;
    if (from_leader(in->type) && in->epoch == m->epoch)
        weft_rank_on_leader(m, in, sink);
    else if (!from_leader(in->type))
        on_coordinator_message(m, in, sink);
}

static void on_tick(machine_t *m, const weft_sink_t *sink)
{
    weft_guard_view_t view = weft_guard_look(m->guard);
    uint32_t flags = step_flags(m, &view);
    if (in_commit(m) && flags != m->reported_flags)
        m->leader_due = true; /* the leader lowers at_step when all are parked */
    /* `live` is read before the word: if it is new and no swap is under way, that swap has ended. */
    bool live = weft_guard_live(m->guard) == m->version;
    if (m->state == WEFT_RANK_COMMITTED && live && !weft_guard_look(m->guard).swapping)
        weft_rank_applied(m, sink); /* EVENT_SWAPPED is late, or lost in a full queue */
    else if (m->state == WEFT_RANK_COMMITTED && weft_guard_swap_due(m->guard))
        weft_emit(sink, WEFT_ACTION_TRY_SWAP, m->version);
    if (WEFT_BROKEN(ABORT_AFTER_ARM) && m->state == WEFT_RANK_ARMED &&
        m->now_us - m->reported_us >= m->config.beat_us)
        weft_guard_release(m->guard), weft_rank_give_up(m, sink);
    if (m->now_us - m->reported_us >= m->config.beat_us) {
        m->report_due = true;
        m->leader_due |= in_commit(m);
    }
}

void weft_rank_machine_handle(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    m->now_us = event->now_us;
    switch (event->type) {
    case WEFT_EVENT_TICK:
        on_tick(m, sink);
        break;
    case WEFT_EVENT_MESSAGE:
        on_message(m, event->message, sink);
        break;
    case WEFT_EVENT_LOAD:
        on_load(m, event, sink);
        break;
    case WEFT_EVENT_LEAVE:
        m->leaves = m->report_due = true;
        break;
    default:
        on_data_path(m, event, sink);
        break;
    }
    if (m->report_due || m->leader_due)
        report(m, sink);
}
