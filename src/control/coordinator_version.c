/* In: views of all peers. Out: the states of the version and of each replica in it, and the outcome.
 * Invariant: a replica is AUTHORIZED only in TRANSFER, and a stop speaks only to replicas that are RECEIVING,
 * so no version is both committed and stopped on one replica. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>
#include <string.h>

#include "src/control/mutate.h"

static bool has_posted(const weft_coordinator_t *c, uint32_t p)
{
    return weft_view_holds(c, &c->peer[p]) && (c->peer[p].flags & WEFT_FLAG_POSTED) != 0;
}

/* True for those a stop speaks to. */
static bool can_be_stopped(const weft_coordinator_t *c, uint32_t p)
{
    return weft_is_trainer(c, p) ? !c->peer[p].dead && !c->content.load
                                 : weft_replica_of(c, p) == WEFT_REPLICA_RECEIVING;
}

/* ---- transitions of the version ---- */

void weft_coordinator_begin_stop(weft_coordinator_t *c, const weft_sink_t *sink)
{
    c->deadline_us = c->now_us + c->config.drain_us;
    weft_coordinator_set_state(c, WEFT_COORDINATOR_STOPPING, sink);
}

void weft_coordinator_mark_broken(weft_coordinator_t *c, const char *text)
{
    if (!c->broken)
        weft_copy_text(c->broken_text, text);
    c->broken = true;
}

/* The drain cannot complete without the dead: transports are aborted, and with them the session's. A load
 * uses none. */
void weft_coordinator_break_off(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (!c->content.load)
        weft_coordinator_mark_broken(c, c->reason_text);
    weft_coordinator_set_state(c, WEFT_COORDINATOR_BREAKING, sink);
}

static bool transfer_is_open(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (weft_peer_takes_part(c, p) && !weft_peer_is_through(c, p))
            return true; /* the dead too, unless they were through */
    return false;
}

static bool in_flight(const weft_coordinator_t *c)
{
    return c->state == WEFT_COORDINATOR_TRANSFER || c->state == WEFT_COORDINATOR_STOPPING ||
           c->state == WEFT_COORDINATOR_DRAINING;
}

bool weft_coordinator_needs_everyone(const weft_coordinator_t *c)
{
    if (c->content.load) /* no rank waits for another in it */
        return false;
    bool stopping = c->state == WEFT_COORDINATOR_STOPPING || c->state == WEFT_COORDINATOR_DRAINING;
    return stopping || (c->state == WEFT_COORDINATOR_TRANSFER && transfer_is_open(c));
}

void weft_coordinator_lose(weft_coordinator_t *c, uint32_t p, bool silent, weft_status_t status,
                           const char *what, const weft_sink_t *sink)
{
    bool torn = weft_peer_takes_part(c, p) && weft_coordinator_needs_everyone(c);
    char text[WEFT_MESSAGE_TEXT_BYTES + 32];
    snprintf(text, sizeof text, "%s %u %s", weft_peer_kind(c, p), p, what);
    weft_emit_log(sink, WEFT_LOG_WARNING, "coordinator: %s", text);
    bool trainer = weft_is_trainer(c, p);
    c->peer[p].dead = silent || trainer; /* a rank that is merely fenced still talks */
    if (weft_peer_takes_part(c, p))
        weft_coordinator_note_reason(c, status == WEFT_OK ? WEFT_ERR_PEER_LOST : status, text);
    if (trainer)
        weft_coordinator_mark_broken(c, text);
    else
        weft_coordinator_set_replica(c, weft_topology_replica(&c->config.topology, p), WEFT_REPLICA_LOST,
                                     sink);
    if (torn)
        weft_coordinator_break_off(c, sink);
}

/* ---- the outcome ---- */

void weft_coordinator_record_outcome(weft_coordinator_t *c, uint64_t version, bool load, weft_outcome_t outcome,
                                     weft_status_t status, const char *text, const weft_sink_t *sink)
{
    c->done = version;
    c->outcome = outcome;
    c->outcome_of_load = load;
    c->outcome_status = status;
    weft_copy_text(c->outcome_text, text);
    weft_emit_log(sink, outcome == WEFT_OUTCOME_APPLIED ? WEFT_LOG_INFO : WEFT_LOG_WARNING,
                  "coordinator: version %llu: %s %s", (unsigned long long)version, weft_outcome_name(outcome),
                  c->outcome_text);
}

static void finish(weft_coordinator_t *c, const weft_sink_t *sink)
{
    uint32_t members =
        (uint32_t)(__builtin_popcountll(c->members.word[0]) + __builtin_popcountll(c->members.word[1]));
    uint32_t applied = weft_coordinator_count_replicas(c, WEFT_REPLICA_APPLIED);
    if (applied == members) {
        weft_coordinator_record_outcome(c, c->version, c->content.load, WEFT_OUTCOME_APPLIED, WEFT_OK, "", sink);
    } else {
        char text[WEFT_MESSAGE_TEXT_BYTES + 64];
        weft_coordinator_note_reason(c, WEFT_ERR_ABORTED, "an earlier coordinator aborted it");
        snprintf(text, sizeof text, "%u of %u replicas serve it; %s", applied, members, c->reason_text);
        weft_coordinator_record_outcome(c, c->version, c->content.load,
                       applied > 0 ? WEFT_OUTCOME_PARTIAL : WEFT_OUTCOME_FAILED, c->reason, text, sink);
    }
    weft_coordinator_set_state(c, WEFT_COORDINATOR_IDLE, sink);
}

static bool is_settled(const weft_coordinator_t *c, uint32_t p)
{
    return weft_replica_of(c, p) != WEFT_REPLICA_AUTHORIZED || c->peer[p].done >= c->version;
}

static bool is_rank(const weft_coordinator_t *c, uint32_t p)
{
    return !weft_is_trainer(c, p);
}

static bool all_trainers_through(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->config.topology.trainers; p++)
        if (!c->peer[p].dead && weft_peer_takes_part(c, p) && !weft_peer_is_through(c, p))
            return false;
    return true;
}

/* Once nothing is on the wire any more, replicas that commit have until the deadline. One that is late goes
 * on committing; the trainers are told that it is. */
static void finish_if_over(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c))
        return;
    if (c->commit_deadline_us == 0)
        c->commit_deadline_us = c->now_us + c->config.commit_us;
    bool settled = weft_coordinator_count_replicas(c, WEFT_REPLICA_AUTHORIZED) +
                       weft_coordinator_count_replicas(c, WEFT_REPLICA_DROPPED) ==
                   0;
    bool late = c->now_us >= c->commit_deadline_us;
    if (late && !settled) {
        c->reason = WEFT_OK; /* that some may yet serve it matters more than why others never will */
        weft_coordinator_note_missing(c, "not applied by its deadline, and may yet be", is_rank, is_settled);
    }
    if (settled || late)
        finish(c, sink);
}

/* The last version may have ended under an earlier coordinator. */
static void note_versions(weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (c->peer[p].dead || c->peer[p].done <= c->done)
            continue;
        c->done = c->peer[p].done;
        c->outcome = WEFT_OUTCOME_NONE;
        c->outcome_of_load = false;
    }
}

/* ---- one handler a state ---- */

static bool has_refused(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    if (!weft_peer_takes_part(c, p) || !weft_view_holds(c, view) || view->dead)
        return false;
    return view->state ==
           (weft_is_trainer(c, p) ? (unsigned)WEFT_TRAINER_REFUSED : (unsigned)WEFT_RANK_REFUSED);
}

static bool awaits_outcome(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    if (weft_is_trainer(c, p))
        return !view->dead && view->version != 0 && view->version <= c->done;
    return weft_replica_of(c, p) != WEFT_REPLICA_LOST && view->wants != 0 && view->wants <= c->done;
}

/* Only the last outcome is kept, so nothing new is decided before all have heard it whose version it is. */
static bool outcome_is_awaited(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (awaits_outcome(c, p))
            return true;
    return false;
}

static void in_idle(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (outcome_is_awaited(c))
        return;
    note_versions(c);
    weft_coordinator_renew_members(c, sink);
    weft_coordinator_try_begin(c, sink);
}

/* A later version wants this one stopped: where it is not authorized yet, it is. */
static bool stop_for_later(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (c->content.load || !weft_coordinator_is_superseded(c, c->version) ||
        weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) == 0)
        return false;
    weft_coordinator_note_reason(c, WEFT_ERR_SUPERSEDED, WEFT_SUPERSEDED_TEXT);
    weft_coordinator_begin_stop(c, sink);
    if (WEFT_BROKEN(SUPERSEDE_UNASKED)) {
        c->stop_decided = true;
        c->stop_round = 0;
    }
    return true;
}

static void in_transfer(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (!has_refused(c, p))
            continue;
        weft_coordinator_note_peer(c, p, c->peer[p].status, c->peer[p].text);
        weft_coordinator_begin_stop(c, sink);
        return;
    }
    if (stop_for_later(c, sink))
        return;
    bool open = weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c);
    if (open && c->now_us >= c->deadline_us) {
        weft_coordinator_note_missing(c, "not transferred by its deadline", weft_peer_takes_part,
                                      weft_peer_is_through);
        weft_coordinator_begin_stop(c, sink);
        return;
    }
    finish_if_over(c, sink);
}

static bool all_posted(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (can_be_stopped(c, p) && !has_posted(c, p))
            return false;
    return true;
}

/* Whoever has posted a round waits in it for all others: so the highest is finished by all, and no other
 * begins. */
static uint32_t rounds_posted(const weft_coordinator_t *c)
{
    uint32_t rounds = 0, lowest = UINT32_MAX;
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (!can_be_stopped(c, p))
            continue;
        rounds = c->peer[p].round > rounds ? c->peer[p].round : rounds;
        lowest = c->peer[p].round < lowest ? c->peer[p].round : lowest;
    }
    return WEFT_BROKEN(STOP_AT_MIN) ? lowest : rounds;
}

static void in_stopping(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (c->stop_decided || all_posted(c)) {
        c->stop_round = c->stop_decided ? c->stop_round : rounds_posted(c);
        c->stop_decided = true;
        c->deadline_us = c->now_us + c->config.drain_us;
        weft_coordinator_set_state(c, WEFT_COORDINATOR_DRAINING, sink);
    } else if (c->now_us >= c->deadline_us) {
        weft_coordinator_note_missing(c, "did not say how far they posted", can_be_stopped, has_posted);
        weft_coordinator_break_off(c, sink);
    }
}

static void in_draining(weft_coordinator_t *c, const weft_sink_t *sink)
{
    bool open = weft_coordinator_count_replicas(c, WEFT_REPLICA_RECEIVING) != 0 || !all_trainers_through(c);
    if (open && c->now_us >= c->deadline_us) {
        weft_coordinator_note_missing(c, "not drained by its deadline", can_be_stopped, weft_peer_is_through);
        weft_coordinator_break_off(c, sink);
        return;
    }
    finish_if_over(c, sink);
}

/* A rank whose transport failed by itself says so; the session cannot send any more. */
static void find_broken(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        bool told_now = !view->dead && view->epoch == c->epoch; /* what broke in an earlier epoch is replaced */
        bool serves = !is_rank(c, p) || weft_replica_of(c, p) != WEFT_REPLICA_LOST;
        bool ours = weft_peer_takes_part(c, p) || (serves && !WEFT_BROKEN(FORGET_BROKEN));
        if (!told_now || (view->flags & WEFT_FLAG_BROKEN) == 0 || !ours)
            continue;
        if (in_flight(c) && !c->content.load) {
            weft_coordinator_note_peer(c, p, view->status == WEFT_OK ? WEFT_ERR_TRANSPORT : view->status,
                                       view->text);
            weft_coordinator_break_off(c, sink);
        }
        weft_coordinator_mark_broken(c, c->reason_text[0] != '\0' ? c->reason_text : "a transport was aborted");
        return;
    }
}

static void advance_once(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (WEFT_BROKEN(ADMIT_IN_FLIGHT))
        weft_coordinator_renew_members(c, sink);
    find_broken(c, sink);
    weft_coordinator_note_digests(c, weft_replica_is_receiving); /* before a replica is compared with them */
    weft_coordinator_advance_replicas(c, sink);
    switch (c->state) {
    case WEFT_COORDINATOR_IDLE:
        in_idle(c, sink);
        break;
    case WEFT_COORDINATOR_TRANSFER:
        in_transfer(c, sink);
        break;
    case WEFT_COORDINATOR_STOPPING:
        in_stopping(c, sink);
        break;
    case WEFT_COORDINATOR_DRAINING:
        in_draining(c, sink);
        break;
    case WEFT_COORDINATOR_BREAKING:
        finish_if_over(c, sink);
        break;
    default:
        break;
    }
}

void weft_coordinator_advance(weft_coordinator_t *c, const weft_sink_t *sink)
{
    weft_coordinator_state_t before;
    do {
        before = c->state;
        if (before == WEFT_COORDINATOR_RECOVERING || before == WEFT_COORDINATOR_DEPOSED)
            return;
        advance_once(c, sink);
    } while (c->state != before);
    weft_coordinator_command_all(c, sink);
}
