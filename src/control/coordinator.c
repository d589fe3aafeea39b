/* In: reports and ticks. Out: an up-to-date view of every peer, with the dead marked.
 * Invariant: once out of RECOVERING, every peer that is not dead has reported in this term. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>
#include <string.h>

#include "src/control/mutate.h"

static const char *const names[WEFT_COORDINATOR_STATE_COUNT] = {
    "RECOVERING", "IDLE", "TRANSFER", "STOPPING", "DRAINING", "BREAKING", "DEPOSED",
};
static const char *const replica_names[WEFT_REPLICA_STATE_COUNT] = {
    "IDLE", "RECEIVING", "AUTHORIZED", "DROPPED", "APPLIED", "ABORTED", "LOST",
};

#define TO(id) (1u << WEFT_COORDINATOR_##id)

/* From each state, where it may go. RECOVERING is entered again when a dead rank comes back with a higher
 * term. */
static const unsigned transitions[WEFT_COORDINATOR_STATE_COUNT] = {
    [WEFT_COORDINATOR_RECOVERING] = TO(IDLE) | TO(TRANSFER) | TO(STOPPING) | TO(DRAINING) | TO(DEPOSED),
    [WEFT_COORDINATOR_IDLE] = TO(TRANSFER) | TO(RECOVERING) | TO(DEPOSED),
    [WEFT_COORDINATOR_TRANSFER] = TO(IDLE) | TO(STOPPING) | TO(BREAKING) | TO(RECOVERING) | TO(DEPOSED),
    [WEFT_COORDINATOR_STOPPING] = TO(DRAINING) | TO(BREAKING) | TO(RECOVERING) | TO(DEPOSED),
    [WEFT_COORDINATOR_DRAINING] = TO(IDLE) | TO(BREAKING) | TO(RECOVERING) | TO(DEPOSED),
    [WEFT_COORDINATOR_BREAKING] = TO(IDLE) | TO(RECOVERING) | TO(DEPOSED),
    [WEFT_COORDINATOR_DEPOSED] = 0,
};

#define REPLICA_TO(id) (1u << WEFT_REPLICA_##id)

/* AUTHORIZED can only be left by what the replica's ranks have done: no stop reaches it. */
static const unsigned replica_transitions[WEFT_REPLICA_STATE_COUNT] = {
    [WEFT_REPLICA_IDLE] = ~0u, /* a version begins, or is recovered */
    [WEFT_REPLICA_RECEIVING] = REPLICA_TO(IDLE) | REPLICA_TO(AUTHORIZED) | REPLICA_TO(DROPPED) |
                               REPLICA_TO(ABORTED) | REPLICA_TO(LOST),
    [WEFT_REPLICA_AUTHORIZED] =
        REPLICA_TO(IDLE) | REPLICA_TO(APPLIED) | REPLICA_TO(ABORTED) | REPLICA_TO(LOST),
    [WEFT_REPLICA_DROPPED] = REPLICA_TO(IDLE) | REPLICA_TO(ABORTED) | REPLICA_TO(LOST),
    [WEFT_REPLICA_APPLIED] = REPLICA_TO(IDLE) | REPLICA_TO(LOST),
    [WEFT_REPLICA_ABORTED] = REPLICA_TO(IDLE) | REPLICA_TO(LOST),
    [WEFT_REPLICA_LOST] = REPLICA_TO(LOST) | REPLICA_TO(IDLE), /* admitted anew */
};

const char *weft_coordinator_state_name(weft_coordinator_state_t state)
{
    return (unsigned)state < WEFT_COORDINATOR_STATE_COUNT ? names[state] : "?";
}

const char *weft_replica_state_name(weft_replica_state_t state)
{
    return (unsigned)state < WEFT_REPLICA_STATE_COUNT ? replica_names[state] : "?";
}

bool weft_coordinator_set_state(weft_coordinator_t *c, weft_coordinator_state_t state,
                                const weft_sink_t *sink)
{
    bool allowed = (transitions[c->state] & 1u << state) != 0;
    weft_emit_log(sink, allowed ? WEFT_LOG_INFO : WEFT_LOG_ERROR, "coordinator: version %llu: %s%s -> %s",
                  (unsigned long long)c->version, allowed ? "" : "no way from ", names[c->state],
                  names[state]);
    if (allowed)
        c->state = state;
    return allowed;
}

void weft_coordinator_set_replica(weft_coordinator_t *c, uint32_t replica, weft_replica_state_t state,
                                  const weft_sink_t *sink)
{
    bool allowed = (replica_transitions[c->replica[replica]] & 1u << state) != 0;
    weft_emit_log(sink, allowed ? WEFT_LOG_DEBUG : WEFT_LOG_ERROR,
                  "coordinator: version %llu: replica %u: %s%s -> %s", (unsigned long long)c->version,
                  replica, allowed ? "" : "no way from ", replica_names[c->replica[replica]],
                  replica_names[state]);
    if (allowed)
        c->replica[replica] = state;
}

void weft_coordinator_init(weft_coordinator_t *c, const weft_control_config_t *config, uint32_t rank,
                           uint64_t stored_term, uint64_t now_us)
{
    memset(c, 0, offsetof(weft_coordinator_t, peer));
    c->config = *config;
    c->rank = rank;
    c->ranks = weft_topology_ranks(&config->topology);
    memset(c->peer, 0, c->ranks * sizeof *c->peer);
    c->state = WEFT_COORDINATOR_RECOVERING;
    c->heard_term = stored_term;
    c->epoch = config->epoch;
    c->has_term = false;
    c->started_us = c->now_us = c->ticked_us = now_us;
}

/* ---- terms ---- */

/* A term above the last one could not be told: no rank would take the message. */
static void take_term(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (c->heard_term >= WEFT_MAX_TERM) {
        weft_emit_log(sink, WEFT_LOG_ERROR, "coordinator: term %llu is the last: open a new session",
                      (unsigned long long)c->heard_term);
        weft_coordinator_set_state(c, WEFT_COORDINATOR_DEPOSED, sink);
        return;
    }
    c->heard_term += WEFT_BROKEN(KEEP_TERM) && c->heard_term != 0 ? 0 : 1;
    c->term = c->heard_term;
    c->has_term = true;
    c->started_us = c->now_us;
    for (uint32_t p = 0; p < c->ranks; p++)
        c->peer[p].heard = false;
    weft_action_t action = {.type = WEFT_ACTION_STORE_TERM, .term = c->term, .epoch = c->epoch, .text = ""};
    sink->emit(sink->user, &action);
    weft_emit_log(sink, WEFT_LOG_INFO, "coordinator: term %llu", (unsigned long long)c->term);
    weft_coordinator_welcome_all(c, sink);
}

static bool all_heard(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (!c->peer[p].dead && !c->peer[p].heard)
            return false;
    return true;
}

/* Not having stored a term it listens first: any rank that obeyed an earlier coordinator tells its term. */
static void in_recovering(weft_coordinator_t *c, const weft_sink_t *sink)
{
    bool patience_over = c->now_us - c->started_us >= c->config.hello_us;
    if (!c->has_term) {
        if (c->heard_term != 0 || all_heard(c) || patience_over)
            take_term(c, sink); /* too low a guess is outbid before anything is asked for */
        return;
    }
    if (patience_over)
        for (uint32_t p = 0; p < c->ranks; p++)
            if (!c->peer[p].heard && !c->peer[p].dead)
                weft_coordinator_lose(c, p, true, WEFT_ERR_PEER_LOST, "did not answer a new coordinator",
                                      sink);
    if (all_heard(c))
        weft_coordinator_recover(c, sink);
}

/* Someone knows a higher term than ours. **Returns** true when this coordinator goes on (with a higher one
 * still, if there is one). */
static bool outbid(weft_coordinator_t *c, const weft_peer_view_t *peer, const weft_sink_t *sink)
{
    if (c->state != WEFT_COORDINATOR_RECOVERING && !peer->dead) {
        /* Every live rank had agreed to our term: so there is a newer coordinator. */
        weft_coordinator_set_state(c, WEFT_COORDINATOR_DEPOSED, sink);
        return false;
    }
    if (c->state != WEFT_COORDINATOR_RECOVERING)
        weft_coordinator_set_state(c, WEFT_COORDINATOR_RECOVERING, sink);
    take_term(c, sink);
    return c->state != WEFT_COORDINATOR_DEPOSED;
}

/* ---- its own absence ---- */

/* How long a coordinator that is a process of its own has been alone: nobody was heard, when several beats of anybody should
 * have been. 0 for one that lives in a rank, which it always hears. Its network is gone then, and with it everybody who
 * could be told of anybody's death: it waits, as if it had stood still. */
static uint64_t alone_us(const weft_coordinator_t *c)
{
    uint64_t heard_us = 0;
    for (uint32_t p = 0; p < c->ranks; p++)
        heard_us = c->peer[p].heard_us > heard_us ? c->peer[p].heard_us : heard_us;
    bool alone = c->config.rejoins && heard_us != 0 && c->now_us - heard_us > c->config.dead_us / 2;
    return alone ? c->now_us - heard_us : 0;
}

/* Everyone looks silent and late, and it is this process that was away: give them their time again. */
static void forgive(weft_coordinator_t *c, uint64_t gap_us)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        c->peer[p].heard_us = c->now_us;
    c->deadline_us += gap_us;
    c->waiting_until_us += gap_us;
    c->started_us += gap_us;
    c->commit_deadline_us += c->commit_deadline_us != 0 ? gap_us : 0;
}

/* ---- reports ---- */

static void update(weft_coordinator_t *c, weft_peer_view_t *peer, const weft_message_t *in)
{
    peer->heard_us = c->now_us;
    if (in->sequence <= peer->sequence && !WEFT_BROKEN(COUNT_DUPLICATES))
        return; /* repeated or overtaken: a sign of life, no news */
    peer->heard = !c->has_term || in->term == c->term;
    peer->state = in->state;
    peer->flags = in->flags;
    peer->round = in->round;
    peer->stop_round = in->stop_round;
    peer->status = in->status;
    peer->sequence = in->sequence;
    peer->term = in->term;
    peer->epoch = in->epoch;
    if (c->state == WEFT_COORDINATOR_RECOVERING && in->epoch > c->epoch)
        c->epoch = in->epoch;
    peer->version = in->version;
    peer->live = in->live;
    peer->done = in->done;
    peer->wants = in->wants;
    peer->newest = in->newest;
    c->newest = in->live > c->newest ? in->live : c->newest;
    peer->digest = in->digest;
    peer->members = in->members;
    peer->content = in->content;
    if (in->status != WEFT_OK)
        weft_copy_text(peer->text, in->text);
}

static bool acceptable(const weft_coordinator_t *c, const weft_message_t *in)
{
    if (in->role != WEFT_ROLE_COORDINATOR || in->from >= c->ranks)
        return false;
    return in->type == (weft_is_trainer(c, in->from) ? WEFT_MESSAGE_TRAINER_STATE : WEFT_MESSAGE_RANK_STATE);
}

static void find_fenced(weft_coordinator_t *c, uint32_t p, const weft_sink_t *sink)
{
    const weft_peer_view_t *peer = &c->peer[p];
    bool trainer = weft_is_trainer(c, p);
    bool fenced = peer->state == (trainer ? (unsigned)WEFT_TRAINER_FENCED : (unsigned)WEFT_RANK_FENCED);
    bool known = peer->dead || (!trainer && weft_replica_of(c, p) == WEFT_REPLICA_LOST);
    if (fenced && !known && c->has_term)
        weft_coordinator_lose(c, p, false, peer->status, peer->text, sink);
}

static void on_message(weft_coordinator_t *c, const weft_message_t *in, const weft_sink_t *sink)
{
    if (!acceptable(c, in))
        return;
    uint64_t away_us = alone_us(c);
    if (away_us != 0)
        forgive(c, away_us);
    weft_peer_view_t *peer = &c->peer[in->from];
    if (in->term > c->heard_term)
        c->heard_term = in->term;
    if (c->has_term && in->term > c->term && !outbid(c, peer, sink))
        return;
    if (!weft_coordinator_take_life(c, in->from, in, sink))
        return;
    update(c, peer, in);
    weft_coordinator_note_joiner(c, in->from, sink);
    find_fenced(c, in->from, sink);
    weft_coordinator_advance(c, sink);
    weft_coordinator_command(c, in->from, sink);
}

/* ---- time ---- */

/* After a stand-still of this process. */
static void forgive_own_gap(weft_coordinator_t *c)
{
    uint64_t gap_us = c->now_us - c->ticked_us;
    c->ticked_us = c->now_us;
    if (gap_us > c->config.dead_us / 2)
        forgive(c, gap_us);
}

static void find_dead(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (alone_us(c) != 0)
        return;
    for (uint32_t p = 0; p < c->ranks; p++) {
        if (c->peer[p].dead || c->now_us - c->peer[p].heard_us <= c->config.dead_us)
            continue;
        char text[64];
        snprintf(text, sizeof text, "was silent for %llu ms",
                 (unsigned long long)((c->now_us - c->peer[p].heard_us) / 1000));
        weft_coordinator_lose(c, p, true, WEFT_ERR_PEER_LOST, text, sink);
    }
}

static void on_tick(weft_coordinator_t *c, const weft_sink_t *sink)
{
    forgive_own_gap(c);
    if (c->state == WEFT_COORDINATOR_RECOVERING)
        in_recovering(c, sink);
    else
        find_dead(c, sink);
    if (c->state == WEFT_COORDINATOR_DEPOSED)
        return;
    weft_coordinator_advance(c, sink);
    if (c->has_term && c->now_us - c->welcomed_us >= c->config.dead_us / 2)
        weft_coordinator_welcome_all(c, sink);
    weft_coordinator_command_all(c, sink);
}

void weft_coordinator_handle(weft_coordinator_t *c, const weft_event_t *event, const weft_sink_t *sink)
{
    c->now_us = event->now_us;
    if (c->state == WEFT_COORDINATOR_DEPOSED)
        return;
    if (event->type == WEFT_EVENT_MESSAGE)
        on_message(c, event->message, sink);
    else if (event->type == WEFT_EVENT_TICK)
        on_tick(c, sink);
}
