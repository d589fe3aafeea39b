#include "src/control/trainer_machine.h"

#include <stdio.h>
#include <string.h>

typedef weft_trainer_machine_t machine_t;

static const char *const names[WEFT_TRAINER_STATE_COUNT] = {
    "IDLE", "PUBLISHED", "SENDING", "SENT", "REFUSED", "STOPPING", "DRAINING", "DRAINED", "BROKEN", "FENCED",
};

#define TO(id) (1u << WEFT_TRAINER_##id)

/* From each state, where it may go. */
static const unsigned transitions[WEFT_TRAINER_STATE_COUNT] = {
    [WEFT_TRAINER_IDLE] = TO(PUBLISHED) | TO(FENCED),
    [WEFT_TRAINER_PUBLISHED] = TO(SENDING) | TO(IDLE) | TO(BROKEN) | TO(FENCED),
    [WEFT_TRAINER_SENDING] = TO(SENT) | TO(REFUSED) | TO(STOPPING) | TO(BROKEN) | TO(FENCED),
    [WEFT_TRAINER_SENT] = TO(STOPPING) | TO(IDLE) | TO(BROKEN) | TO(FENCED),
    [WEFT_TRAINER_REFUSED] = TO(STOPPING) | TO(BROKEN) | TO(FENCED),
    [WEFT_TRAINER_STOPPING] = TO(DRAINING) | TO(BROKEN) | TO(FENCED),
    [WEFT_TRAINER_DRAINING] = TO(DRAINED) | TO(BROKEN) | TO(FENCED),
    [WEFT_TRAINER_DRAINED] = TO(IDLE) | TO(FENCED),
    [WEFT_TRAINER_BROKEN] = TO(IDLE) | TO(FENCED),
    [WEFT_TRAINER_FENCED] = 0,
};

const char *weft_trainer_state_name(weft_trainer_state_t state)
{
    return (unsigned)state < WEFT_TRAINER_STATE_COUNT ? names[state] : "?";
}

static bool set_state(machine_t *m, weft_trainer_state_t state, const weft_sink_t *sink)
{
    if ((transitions[m->state] & 1u << state) == 0) {
        weft_emit_log(sink, WEFT_LOG_ERROR, "trainer %u: version %llu: no way from %s to %s", m->rank,
                      (unsigned long long)m->version, names[m->state], names[state]);
        return false;
    }
    weft_emit_log(sink, WEFT_LOG_DEBUG, "trainer %u: version %llu: %s -> %s", m->rank,
                  (unsigned long long)m->version, names[m->state], names[state]);
    m->state = state;
    m->report_due = true;
    return true;
}

void weft_trainer_machine_init(machine_t *m, const weft_control_config_t *config, uint32_t rank)
{
    memset(m, 0, sizeof *m);
    m->config = *config;
    m->rank = rank;
    m->coordinator = config->coordinator;
    m->joins = config->incarnation > 1;
    m->epoch = m->joins ? 0 : config->epoch;
    m->report_due = true;
}

bool weft_trainer_machine_has_room(const machine_t *m)
{
    return m->state != WEFT_TRAINER_FENCED && m->queued == 0;
}

static void report(machine_t *m, const weft_sink_t *sink)
{
    weft_message_t out = {
        .type = WEFT_MESSAGE_TRAINER_STATE,
        .role = WEFT_ROLE_COORDINATOR,
        .state = (uint8_t)m->state,
        .flags = (m->broken ? WEFT_FLAG_BROKEN : 0) | (m->stop_known ? WEFT_FLAG_STOP_AT : 0) |
                 (m->posted_known ? WEFT_FLAG_POSTED : 0) |
                 (m->queued != 0 && m->supersedes ? WEFT_FLAG_SUPERSEDE : 0) |
                 (m->joins ? WEFT_FLAG_JOINS : 0),
        .from = m->rank,
        .to = m->coordinator,
        .epoch = m->epoch,
        .incarnation = m->config.incarnation,
        .status = m->status,
        .term = m->term,
        .sequence = ++m->sequence,
        .version = m->version,
        .done = m->done,
        .round = m->posted,
        .stop_round = m->stop_round,
        .members = m->members,
        .content = m->content,
    };
    weft_copy_text(out.text, m->text);
    weft_emit_send(sink, &out);
    m->report_due = false;
    m->reported_us = m->now_us;
}

static void notify(const weft_sink_t *sink, uint64_t version, weft_outcome_t outcome, weft_status_t status,
                   const char *text)
{
    weft_action_t action = {
        .type = WEFT_ACTION_NOTIFY, .version = version, .outcome = outcome, .status = status, .text = text};
    sink->emit(sink->user, &action);
}

/* A final word on the version in hand, once. */
static void settle(machine_t *m, weft_outcome_t outcome, weft_status_t status, const char *text,
                   const weft_sink_t *sink)
{
    if (!m->notified)
        notify(sink, m->version, outcome, status, text);
    m->notified = true;
}

/* ---- what the user and the data path tell ---- */

static uint64_t patience_us(const machine_t *m)
{
    const weft_control_config_t *c = &m->config;
    return c->publish_us + c->transfer_us + c->drain_us + c->commit_us + 2 * c->dead_us;
}

static void take(machine_t *m, uint64_t version, const weft_content_t *content, const weft_sink_t *sink)
{
    m->version = version;
    m->content = *content;
    m->notified = m->posted_known = m->stop_known = false;
    m->posted = m->stop_round = 0;
    m->status = WEFT_OK;
    m->text[0] = '\0';
    m->members = (weft_members_t){0};
    m->deadline_us = m->now_us + patience_us(m);
    set_state(m, WEFT_TRAINER_PUBLISHED, sink);
}

/* Behind the version in hand, which the coordinator may stop for it. */
static void queue(machine_t *m, const weft_event_t *event)
{
    m->queued = event->version;
    m->queued_content = event->content;
    m->supersedes = event->supersedes;
    m->report_due |= m->supersedes;
}

static void on_publish(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    uint64_t version = event->version;
    char text[WEFT_MESSAGE_TEXT_BYTES];
    if (m->state == WEFT_TRAINER_FENCED) {
        notify(sink, version, WEFT_OUTCOME_FAILED, WEFT_ERR_PEER_LOST, m->text);
    } else if (version <= m->highest) {
        snprintf(text, sizeof text, "trainer %u: version %llu was published after %llu; versions must rise",
                 m->rank, (unsigned long long)version, (unsigned long long)m->highest);
        notify(sink, version, WEFT_OUTCOME_FAILED, WEFT_ERR_VERSION_ORDER, text);
    } else if (m->version != 0 && m->notified) {
        snprintf(text, sizeof text,
                 "trainer %u: version %llu has had no outcome by its deadline; nothing can follow it",
                 m->rank, (unsigned long long)m->version);
        notify(sink, version, WEFT_OUTCOME_FAILED, WEFT_ERR_TIMEOUT, text);
    } else if (m->queued != 0) {
        snprintf(text, sizeof text,
                 "trainer %u: versions %llu and %llu are still on their way; wait for the first", m->rank,
                 (unsigned long long)m->version, (unsigned long long)m->queued);
        notify(sink, version, WEFT_OUTCOME_FAILED, WEFT_ERR_ARGUMENT, text);
    } else {
        m->highest = version;
        if (m->state == WEFT_TRAINER_IDLE)
            take(m, version, &event->content, sink);
        else
            queue(m, event);
    }
}

static void on_sent(machine_t *m, const weft_sink_t *sink)
{
    if (m->state == WEFT_TRAINER_SENDING && set_state(m, WEFT_TRAINER_SENT, sink))
        notify(sink, m->version, WEFT_OUTCOME_RELEASED, WEFT_OK, "");
}

static void remember_failure(machine_t *m, const weft_event_t *event)
{
    m->status = event->status;
    weft_copy_text(m->text, event->text);
}

static void on_refused(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (m->state != WEFT_TRAINER_SENDING)
        return;
    remember_failure(m, event);
    set_state(m, WEFT_TRAINER_REFUSED, sink);
}

static bool in_transfer(const machine_t *m)
{
    return m->state == WEFT_TRAINER_SENDING || m->state == WEFT_TRAINER_REFUSED ||
           m->state == WEFT_TRAINER_STOPPING || m->state == WEFT_TRAINER_DRAINING;
}

static void on_failed(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (!in_transfer(m))
        return;
    remember_failure(m, event);
    m->broken = true;
    weft_emit(sink, WEFT_ACTION_ABORT_TRANSFER, m->version);
    set_state(m, WEFT_TRAINER_BROKEN, sink);
}

static void on_posted(machine_t *m, uint32_t round)
{
    if (m->state != WEFT_TRAINER_STOPPING || m->posted_known)
        return;
    m->posted = round;
    m->posted_known = m->report_due = true;
}

static void on_drained(machine_t *m, const weft_sink_t *sink)
{
    if (m->state == WEFT_TRAINER_DRAINING)
        set_state(m, WEFT_TRAINER_DRAINED, sink);
}

/* ---- what the coordinator tells ---- */

static void on_begin(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state != WEFT_TRAINER_PUBLISHED || in->version != m->version)
        return;
    m->members = in->members;
    weft_action_t action = {.type = WEFT_ACTION_START_TRANSFER,
                            .version = m->version,
                            .members = m->members,
                            .content = &m->content,
                            .text = ""};
    sink->emit(sink->user, &action);
    set_state(m, WEFT_TRAINER_SENDING, sink);
}

static void on_stop(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    /* Others may have posted rounds that need this trainer: it takes part even if BEGIN has not come. */
    on_begin(m, in, sink);
    if (in->version != m->version || (m->state != WEFT_TRAINER_SENDING && m->state != WEFT_TRAINER_SENT &&
                                      m->state != WEFT_TRAINER_REFUSED))
        return;
    if (set_state(m, WEFT_TRAINER_STOPPING, sink))
        weft_emit(sink, WEFT_ACTION_REPORT_POSTED, m->version);
}

static void on_stop_at(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state != WEFT_TRAINER_STOPPING || !m->posted_known || in->version != m->version)
        return;
    m->stop_round = in->stop_round;
    m->stop_known = true;
    set_state(m, WEFT_TRAINER_DRAINING, sink);
    weft_action_t action = {
        .type = WEFT_ACTION_STOP_TRANSFER_AT, .version = m->version, .round = in->stop_round, .text = ""};
    sink->emit(sink->user, &action);
}

static void on_abort_transfer(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (in->version != m->version || (transitions[m->state] & TO(BROKEN)) == 0)
        return;
    m->broken = true;
    if (m->state != WEFT_TRAINER_PUBLISHED)
        weft_emit(sink, WEFT_ACTION_ABORT_TRANSFER, m->version);
    set_state(m, WEFT_TRAINER_BROKEN, sink);
}

static void on_outcome(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (in->version != m->version || (transitions[m->state] & TO(IDLE)) == 0)
        return;
    settle(m, in->outcome, in->status, in->text, sink);
    set_state(m, WEFT_TRAINER_IDLE, sink);
    m->done = m->version;
    uint64_t next = m->queued;
    m->version = m->queued = 0;
    if (next != 0)
        take(m, next, &m->queued_content, sink);
}

static void on_fence(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (m->state == WEFT_TRAINER_FENCED)
        return;
    weft_copy_text(m->text, in->text);
    m->status = WEFT_ERR_PEER_LOST;
    if (in_transfer(m))
        weft_emit(sink, WEFT_ACTION_ABORT_TRANSFER, m->version);
    if (m->version != 0)
        settle(m, WEFT_OUTCOME_FAILED, WEFT_ERR_PEER_LOST, m->text, sink);
    if (m->queued != 0)
        notify(sink, m->queued, WEFT_OUTCOME_FAILED, WEFT_ERR_PEER_LOST, m->text);
    m->queued = 0;
    set_state(m, WEFT_TRAINER_FENCED, sink);
    weft_action_t action = {.type = WEFT_ACTION_FENCE, .status = WEFT_ERR_PEER_LOST, .text = m->text};
    sink->emit(sink->user, &action);
}

/* Membership has changed: transports are opened anew, so those that broke count no more. */
static void hear_of_epoch(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    bool rests = m->state == WEFT_TRAINER_IDLE || m->state == WEFT_TRAINER_PUBLISHED;
    if (!rests || !weft_admits(in, m->epoch, m->joins))
        return;
    m->epoch = in->epoch;
    m->joins = m->broken = false;
    m->report_due = true;
    weft_emit_epoch(sink, m->epoch);
}

/* True when the message is from the coordinator of the newest term known, for this life and epoch. */
static bool accept(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (in->to != m->rank || in->role != WEFT_ROLE_TRAINER ||
        !weft_control_knows(&m->config, in->from))
        return false;
    if (in->term < m->term || !weft_is_for_life(in, m->config.incarnation))
        return false;
    hear_of_epoch(m, in, sink);
    if (in->epoch != m->epoch && in->type != WEFT_MESSAGE_WELCOME && in->type != WEFT_MESSAGE_FENCE)
        return false;
    m->report_due |= in->term > m->term;
    m->term = in->term;
    m->coordinator = in->from;
    m->heard_us = m->now_us;
    return true;
}

static void on_message(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (!accept(m, in, sink))
        return;
    /* Whatever was asked for: if it is done already, the coordinator has not heard of it. */
    m->report_due |= in->type != WEFT_MESSAGE_WELCOME;
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
    case WEFT_MESSAGE_ABORT_TRANSFER:
        on_abort_transfer(m, in, sink);
        break;
    case WEFT_MESSAGE_OUTCOME:
        on_outcome(m, in, sink);
        break;
    case WEFT_MESSAGE_FENCE:
        on_fence(m, in, sink);
        break;
    default: /* WELCOME has done its work in accept; decode refuses others for this role */
        break;
    }
}

/* The coordinator is silent or stuck: the user is told, the state stays, for the transfer cannot be taken
 * back. */
static void on_deadline(machine_t *m, const weft_sink_t *sink)
{
    char text[WEFT_MESSAGE_TEXT_BYTES];
    snprintf(text, sizeof text,
             "trainer %u: no outcome for version %llu in %llu ms (state %s); coordinator %u was last "
             "heard %llu ms ago",
             m->rank, (unsigned long long)m->version, (unsigned long long)(patience_us(m) / 1000),
             names[m->state], m->coordinator, (unsigned long long)((m->now_us - m->heard_us) / 1000));
    settle(m, WEFT_OUTCOME_FAILED, WEFT_ERR_TIMEOUT, text, sink);
    if (m->queued != 0)
        notify(sink, m->queued, WEFT_OUTCOME_FAILED, WEFT_ERR_TIMEOUT, text);
    m->queued = 0;
}

static void on_tick(machine_t *m, const weft_sink_t *sink)
{
    if (m->version != 0 && !m->notified && m->now_us >= m->deadline_us)
        on_deadline(m, sink);
    if (m->now_us - m->reported_us >= m->config.beat_us)
        m->report_due = true;
}

/* An answer of the data path to a version that is no longer in hand comes too late to matter. */
static void on_data_path(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    if (event->version != m->version || m->version == 0)
        return;
    switch (event->type) {
    case WEFT_EVENT_SENT:
        on_sent(m, sink);
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
    default: /* not a trainer's event */
        break;
    }
}

void weft_trainer_machine_handle(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    m->now_us = event->now_us;
    switch (event->type) {
    case WEFT_EVENT_TICK:
        on_tick(m, sink);
        break;
    case WEFT_EVENT_MESSAGE:
        on_message(m, event->message, sink);
        break;
    case WEFT_EVENT_PUBLISH:
        on_publish(m, event, sink);
        break;
    default:
        on_data_path(m, event, sink);
        break;
    }
    if (m->report_due)
        report(m, sink);
}
