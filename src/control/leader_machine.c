#include "src/control/leader_machine.h"

#include <stdio.h>
#include <string.h>

#include "src/control/mutate.h"

typedef weft_leader_machine_t machine_t;
typedef weft_leader_view_t view_t;

static const char *const names[WEFT_LEADER_STATE_COUNT] = {"IDLE", "ARMING", "FREEZING", "COMMITTING",
                                                           "ABORTING"};

#define TO(id) (1u << WEFT_LEADER_##id)

/* From each state, where it may go. A new AUTHORIZE (higher term) starts from any. */
static const unsigned transitions[WEFT_LEADER_STATE_COUNT] = {
    [WEFT_LEADER_IDLE] = TO(ARMING) | TO(FREEZING),
    [WEFT_LEADER_ARMING] = TO(FREEZING) | TO(COMMITTING) | TO(ABORTING) | TO(IDLE),
    [WEFT_LEADER_FREEZING] = TO(FREEZING) | TO(COMMITTING) | TO(ABORTING) | TO(IDLE),
    [WEFT_LEADER_COMMITTING] = TO(FREEZING) | TO(IDLE),
    [WEFT_LEADER_ABORTING] = TO(FREEZING) | TO(IDLE),
};

const char *weft_leader_state_name(weft_leader_state_t state)
{
    return (unsigned)state < WEFT_LEADER_STATE_COUNT ? names[state] : "?";
}

static bool set_state(machine_t *m, weft_leader_state_t state, const weft_sink_t *sink)
{
    bool allowed = (transitions[m->state] & 1u << state) != 0;
    weft_emit_log(sink, allowed ? WEFT_LOG_DEBUG : WEFT_LOG_ERROR, "leader %u: version %llu: %s%s -> %s",
                  m->rank, (unsigned long long)m->version, allowed ? "" : "no way from ", names[m->state],
                  names[state]);
    if (!allowed)
        return false;
    m->state = state;
    m->since_us = m->now_us;
    return true;
}

void weft_leader_machine_init(machine_t *m, const weft_control_config_t *config, uint32_t rank)
{
    memset(m, 0, sizeof *m);
    m->config = *config;
    m->rank = rank;
    m->replica = weft_topology_replica(&config->topology, rank);
}

/* ---- what the ranks have said ---- */

static bool has_applied(const machine_t *m, const view_t *view)
{
    return view->live == m->version;
}

static bool has_given_up(const machine_t *m, const view_t *view)
{
    return view->done >= m->version && view->live != m->version;
}

/* True for an answer to this ballot. */
static bool is_in(const machine_t *m, const view_t *view, weft_rank_state_t state)
{
    return view->version == m->version && view->state == state && view->ballot == m->ballot;
}

typedef bool (*test_t)(const machine_t *m, const view_t *view);

static bool all_are(const machine_t *m, test_t test)
{
    for (uint32_t i = 0; i < m->config.topology.tp; i++)
        if (!test(m, &m->views[i]))
            return false;
    return true;
}

static const view_t *any_is(const machine_t *m, test_t test)
{
    for (uint32_t i = 0; i < m->config.topology.tp; i++)
        if (test(m, &m->views[i]))
            return &m->views[i];
    return NULL;
}

static bool is_armed(const machine_t *m, const view_t *view)
{
    return is_in(m, view, WEFT_RANK_ARMED);
}

static bool is_parked(const machine_t *m, const view_t *view)
{
    (void)m;
    return (view->flags & WEFT_FLAG_PARKED) != 0;
}

static bool is_fenced(const machine_t *m, const view_t *view)
{
    (void)m;
    return view->state == WEFT_RANK_FENCED;
}

static bool has_answered_freeze(const machine_t *m, const view_t *view)
{
    return is_in(m, view, WEFT_RANK_FROZEN) || has_applied(m, view) || has_given_up(m, view);
}

/* A frozen rank tells the at_step of the COMMIT it had obeyed. */
static bool has_obeyed_commit(const machine_t *m, const view_t *view)
{
    return is_in(m, view, WEFT_RANK_FROZEN) && view->at_step != 0;
}

static bool is_committed_and_parked(const machine_t *m, const view_t *view)
{
    return is_in(m, view, WEFT_RANK_COMMITTED) && is_parked(m, view);
}

static bool is_through(const machine_t *m, const view_t *view)
{
    return view->done >= m->version;
}

static bool obeys(const machine_t *m, const view_t *view)
{
    switch (m->state) {
    case WEFT_LEADER_ARMING:
        return is_armed(m, view);
    case WEFT_LEADER_FREEZING:
        return has_answered_freeze(m, view);
    case WEFT_LEADER_COMMITTING:
        return has_applied(m, view) || is_in(m, view, WEFT_RANK_COMMITTED);
    case WEFT_LEADER_ABORTING:
        return is_through(m, view);
    default:
        return true;
    }
}

/* ---- what it asks them ---- */

static void send_to(machine_t *m, uint32_t index, const weft_sink_t *sink)
{
    static const uint8_t types[WEFT_LEADER_STATE_COUNT] = {
        [WEFT_LEADER_ARMING] = WEFT_MESSAGE_ARM,
        [WEFT_LEADER_FREEZING] = WEFT_MESSAGE_FREEZE,
        [WEFT_LEADER_COMMITTING] = WEFT_MESSAGE_COMMIT,
        [WEFT_LEADER_ABORTING] = WEFT_MESSAGE_ABORT,
    };
    weft_message_t out = {
        .type = types[m->state],
        .role = WEFT_ROLE_RANK,
        .from = m->rank,
        .to = m->rank + index,
        .epoch = m->epoch,
        .status = m->status,
        .term = m->term,
        .version = m->version,
        .ballot = m->ballot,
        .at_step = m->state == WEFT_LEADER_COMMITTING ? m->at_step : 0,
    };
    weft_copy_text(out.text, m->text);
    weft_emit_send(sink, &out);
}

/* Ask every rank that is not yet where this state wants it. */
static void ask(machine_t *m, const weft_sink_t *sink)
{
    m->repeated_us = m->now_us;
    for (uint32_t i = 0; i < m->config.topology.tp && m->state != WEFT_LEADER_IDLE; i++)
        if (!obeys(m, &m->views[i]))
            send_to(m, i, sink);
}

static void enter(machine_t *m, weft_leader_state_t state, const weft_sink_t *sink)
{
    if (state == WEFT_LEADER_ARMING || state == WEFT_LEADER_FREEZING)
        m->ballot++;
    if (set_state(m, state, sink))
        ask(m, sink);
}

/* ---- decisions ---- */

static uint64_t highest_limit(const machine_t *m)
{
    uint64_t highest = 0;
    for (uint32_t i = 0; i < m->config.topology.tp; i++)
        if (m->views[i].limit > highest && m->views[i].version == m->version)
            highest = m->views[i].limit;
    return highest;
}

static uint64_t highest_step(const machine_t *m)
{
    uint64_t highest = 0;
    for (uint32_t i = 0; i < m->config.topology.tp; i++)
        if (m->views[i].step > highest)
            highest = m->views[i].step;
    return highest;
}

/* Every rank has promised under this ballot to start nothing above its limit until a COMMIT with this ballot
 * or a higher one, so no rank has started, or will start, the step above the highest limit on the old
 * version. */
static void commit(machine_t *m, uint64_t at_step, const weft_sink_t *sink)
{
    m->at_step = at_step;
    enter(m, WEFT_LEADER_COMMITTING, sink);
}

static void abort_version(machine_t *m, weft_status_t status, const char *text, const weft_sink_t *sink)
{
    m->status = status;
    weft_copy_text(m->text, text);
    weft_emit_log(sink, WEFT_LOG_WARNING, "leader %u: version %llu is aborted: %s", m->rank,
                  (unsigned long long)m->version, m->text);
    enter(m, WEFT_LEADER_ABORTING, sink);
}

/* Ranks that serve one engine are a step or two apart. **Returns** true when the numbers have nothing in
 * common: then there is no step at which all could swap soon, and the engine is wrong. */
static bool numbering_differs(machine_t *m, const weft_sink_t *sink)
{
    const view_t *low = NULL, *high = NULL;
    for (uint32_t i = 0; i < m->config.topology.tp; i++) {
        const view_t *view = &m->views[i];
        if ((view->flags & WEFT_FLAG_STARTED) == 0)
            continue;
        low = low == NULL || view->step < low->step ? view : low;
        high = high == NULL || view->step > high->step ? view : high;
    }
    if (low == NULL || high->step - low->step <= WEFT_LEADER_MAX_SKEW)
        return false;
    char text[WEFT_MESSAGE_TEXT_BYTES];
    snprintf(text, sizeof text,
             "rank %u is at step %llu but rank %u at step %llu: ranks of a replica number alike",
             m->rank + (uint32_t)(low - m->views), (unsigned long long)low->step,
             m->rank + (uint32_t)(high - m->views), (unsigned long long)high->step);
    abort_version(m, WEFT_ERR_STEP_ORDER, text, sink);
    return true;
}

static void in_arming(machine_t *m, const weft_sink_t *sink)
{
    /* No COMMIT was ever sent for this version (else RECOVER had been asked for), so it may still be aborted.
     */
    if (WEFT_BROKEN(SKIP_ARM)) {
        commit(m, highest_step(m) + 1, sink);
    } else if (any_is(m, has_given_up) != NULL) {
        abort_version(m, WEFT_ERR_ABORTED, "a rank of the replica gave the version up before it was armed",
                      sink);
    } else if (all_are(m, is_armed) && !numbering_differs(m, sink)) {
        if (!all_are(m, is_parked))
            commit(m, highest_limit(m) + !WEFT_BROKEN(MARGIN_OFF_BY_ONE), sink);
        else if (WEFT_BROKEN(LOWER_WITHOUT_FREEZE))
            commit(m, highest_step(m) + 1, sink);
        else
            enter(m, WEFT_LEADER_FREEZING, sink);
    }
}

static void in_freezing(machine_t *m, const weft_sink_t *sink)
{
    if (!all_are(m, has_answered_freeze))
        return;
    const view_t *first = WEFT_BROKEN(FORGET_APPLIED) ? NULL : any_is(m, has_applied);
    if (first != NULL)
        commit(m, first->at_step, sink);
    else if (any_is(m, has_given_up) != NULL)
        abort_version(m, WEFT_ERR_ABORTED, "an earlier leader aborted the version", sink);
    else if (any_is(m, has_obeyed_commit) != NULL || !numbering_differs(m, sink))
        commit(m, highest_limit(m) + 1, sink);
}

static void in_committing(machine_t *m, const weft_sink_t *sink)
{
    if (all_are(m, has_applied))
        set_state(m, WEFT_LEADER_IDLE, sink);
    else if (all_are(m, is_committed_and_parked) && highest_step(m) + 1 < m->at_step)
        enter(m, WEFT_LEADER_FREEZING, sink); /* no requests: do not wait for steps that may never come */
}

static void in_aborting(machine_t *m, const weft_sink_t *sink)
{
    if (all_are(m, is_through))
        set_state(m, WEFT_LEADER_IDLE, sink);
}

static void advance(machine_t *m, const weft_sink_t *sink)
{
    if (m->state != WEFT_LEADER_IDLE && any_is(m, is_fenced) != NULL) {
        weft_emit_log(sink, WEFT_LOG_WARNING, "leader %u: version %llu: the replica is lost", m->rank,
                      (unsigned long long)m->version);
        m->state = WEFT_LEADER_IDLE;
    }
    switch (m->state) {
    case WEFT_LEADER_ARMING:
        in_arming(m, sink);
        break;
    case WEFT_LEADER_FREEZING:
        in_freezing(m, sink);
        break;
    case WEFT_LEADER_COMMITTING:
        in_committing(m, sink);
        break;
    case WEFT_LEADER_ABORTING:
        in_aborting(m, sink);
        break;
    default:
        break;
    }
}

/* ---- events ---- */

static void on_authorize(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    bool newer = in->term > m->term || (in->term == m->term && in->version > m->version);
    if (!newer)
        return;
    m->term = in->term;
    m->epoch = in->epoch;
    for (uint32_t i = 0; i < m->config.topology.tp && !WEFT_BROKEN(OLD_VIEWS); i++)
        if (m->views[i].epoch < m->epoch)
            m->views[i] = (view_t){.incarnation = m->views[i].incarnation, .sequence = m->views[i].sequence};
    m->version = in->version;
    m->ballot = weft_ballot(in->term, 0);
    m->at_step = 0;
    m->status = WEFT_OK;
    m->text[0] = '\0';
    m->state = WEFT_LEADER_IDLE;
    enter(m, (in->flags & WEFT_FLAG_RECOVER) != 0 ? WEFT_LEADER_FREEZING : WEFT_LEADER_ARMING, sink);
}

static void on_rank_state(machine_t *m, const weft_message_t *in)
{
    uint32_t index = in->from - m->rank;
    if (in->from < m->rank || index >= m->config.topology.tp || in->epoch < m->epoch)
        return;
    const view_t *before = &m->views[index];
    bool older = in->incarnation < before->incarnation ||
                 (in->incarnation == before->incarnation && in->sequence <= before->sequence && !WEFT_BROKEN(COUNT_DUPLICATES));
    if (older)
        return;
    m->views[index] = (view_t){
        .state = in->state,
        .flags = in->flags,
        .epoch = in->epoch,
        .incarnation = in->incarnation,
        .sequence = in->sequence,
        .version = in->version,
        .live = in->live,
        .done = in->done,
        .step = in->step,
        .limit = in->limit,
        .at_step = in->at_step,
        .ballot = in->ballot,
    };
}

static void on_message(machine_t *m, const weft_message_t *in, const weft_sink_t *sink)
{
    if (in->to != m->rank || in->role != WEFT_ROLE_LEADER)
        return;
    if (in->type == WEFT_MESSAGE_AUTHORIZE && in->incarnation == m->config.incarnation)
        on_authorize(m, in, sink);
    else if (in->type == WEFT_MESSAGE_RANK_STATE)
        on_rank_state(m, in);
}

void weft_leader_machine_handle(machine_t *m, const weft_event_t *event, const weft_sink_t *sink)
{
    m->now_us = event->now_us;
    if (event->type == WEFT_EVENT_MESSAGE)
        on_message(m, event->message, sink);
    advance(m, sink);
    if (m->now_us - m->repeated_us >= m->config.beat_us && !WEFT_BROKEN(NO_REPEAT))
        ask(m, sink);
}
