/* In: the reports of every live rank in this term. Out: the version in flight, if any, and how far it is.
 * Invariant: every rank refuses lower terms by now, so nothing an earlier coordinator said can change these
 * reports. */
#include "src/control/coordinator_internal.h"

#include <string.h>

#include "src/control/mutate.h"

/* ---- after a restart ---- */

static bool counts(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    if (view->dead)
        return false;
    return weft_is_trainer(c, p) ? view->state != WEFT_TRAINER_FENCED : view->state != WEFT_RANK_FENCED;
}

static uint64_t find_version(const weft_coordinator_t *c)
{
    uint64_t version = 0;
    for (uint32_t p = 0; p < c->ranks; p++) {
        bool begun = !weft_is_trainer(c, p) || c->peer[p].state != WEFT_TRAINER_PUBLISHED;
        if (counts(c, p) && begun && c->peer[p].version > version)
            version = c->peer[p].version;
    }
    return version;
}

static void recover_members(weft_coordinator_t *c)
{
    c->members = (weft_members_t){0};
    for (uint32_t p = 0; p < c->ranks; p++)
        if (counts(c, p) && weft_view_holds(c, &c->peer[p]) &&
            (c->peer[p].members.word[0] | c->peer[p].members.word[1]) != 0)
            c->members = c->peer[p].members;
}

static void recover_content(weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (counts(c, p) && weft_view_holds(c, &c->peer[p]))
            c->content = c->peer[p].content;
}

static void recover_replica(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    if (c->replica[replica] == WEFT_REPLICA_LOST)
        return;
    if (!weft_members_has(c->members, replica)) {
        /* Only a lost replica is left out: one whose ranks stood still and came back, told by nobody so far.
         */
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_LOST, sink);
        return;
    }
    bool decided = weft_replica_count(c, replica, weft_view_has_applied) != 0;
    for (uint32_t p = weft_replica_begin(c, replica); p < weft_replica_end(c, replica); p++)
        decided |= weft_view_is_prepared(c, &c->peer[p]) && c->peer[p].state != WEFT_RANK_PREPARED;
    weft_coordinator_set_replica(c, replica, WEFT_REPLICA_IDLE, sink);
    weft_coordinator_set_replica(c, replica, WEFT_REPLICA_RECEIVING, sink);
    if (decided)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_AUTHORIZED, sink);
}

/* A stop that was begun is finished, at the round that was decided if any rank was told. */
static bool recover_stop(weft_coordinator_t *c)
{
    bool stopping = false;
    c->stop_decided = false;
    for (uint32_t p = 0; p < c->ranks; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        bool about_it = weft_view_holds(c, view) || (view->version == 0 && view->done == c->version);
        if (!counts(c, p) || !about_it)
            continue;
        stopping |= (view->flags & (WEFT_FLAG_POSTED | WEFT_FLAG_STOP_AT)) != 0;
        stopping |= weft_view_holds(c, view) &&
                    view->state == (weft_is_trainer(c, p) ? (unsigned)WEFT_TRAINER_STOPPING
                                                          : (unsigned)WEFT_RANK_STOPPING);
        if ((view->flags & WEFT_FLAG_STOP_AT) != 0) {
            c->stop_decided = true;
            c->stop_round = view->stop_round;
        }
    }
    return stopping;
}

static bool anyone_dead(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (weft_peer_takes_part(c, p) && !counts(c, p))
            return true;
    return false;
}

static void recover_version(weft_coordinator_t *c, const weft_sink_t *sink)
{
    recover_members(c);
    recover_content(c);
    for (uint32_t r = 0; r < c->config.topology.replicas; r++)
        recover_replica(c, r, sink);
    memset(c->digest_known, 0, sizeof c->digest_known);
    weft_coordinator_note_digests(c, weft_replica_is_decided);
    c->deadline_us = c->now_us + c->config.transfer_us;
    c->commit_deadline_us = 0;
    if (c->version <= c->done) {
        weft_coordinator_set_state(c, WEFT_COORDINATOR_IDLE,
                                   sink); /* the outcome is out; replicas may be late */
        return;
    }
    c->done = c->version - 1;
    weft_coordinator_set_state(c, WEFT_COORDINATOR_TRANSFER, sink);
    if (recover_stop(c))
        weft_coordinator_begin_stop(c, sink);
    if (anyone_dead(c) && weft_coordinator_needs_everyone(c))
        weft_coordinator_break_off(c, sink);
}

/* Epochs change while nobody who is in has a version in hand: whoever has one of an earlier epoch was lost to an earlier
 * coordinator, and has not heard of it. */
static void lose_left_behind(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = 0; p < c->ranks; p++) {
        const weft_peer_view_t *view = &c->peer[p];
        bool begun = !weft_is_trainer(c, p) || view->state != WEFT_TRAINER_PUBLISHED;
        if (counts(c, p) && view->epoch < c->epoch && view->version != 0 && begun && !WEFT_BROKEN(KEEP_LEFT_BEHIND))
            weft_coordinator_lose(c, p, true, WEFT_ERR_PEER_LOST, "has a version of an earlier epoch in hand", sink);
    }
}

void weft_coordinator_recover(weft_coordinator_t *c, const weft_sink_t *sink)
{
    lose_left_behind(c, sink);
    c->version = find_version(c);
    c->recovered = true;
    c->waiting_version = 0;
    if (c->version != 0)
        recover_version(c, sink);
    else
        weft_coordinator_set_state(c, WEFT_COORDINATOR_IDLE, sink);
}
