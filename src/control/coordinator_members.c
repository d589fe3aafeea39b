/* In: who lives, and which life of it speaks. Out: the epoch, and who is in it.
 * Invariant: the epoch changes only while nobody has a version in hand, and a version begins only when everyone in it has
 * heard of the epoch. A life that was lost never comes back: what joins has a higher incarnation, serves nothing, and is
 * brought up by a whole version. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>

#include "src/control/mutate.h"

bool weft_coordinator_replicas_are_idle(const weft_coordinator_t *c)
{
    for (uint32_t p = c->config.topology.trainers; p < c->ranks; p++)
        if (weft_replica_of(c, p) != WEFT_REPLICA_LOST && c->peer[p].state != WEFT_RANK_IDLE)
            return false;
    return true;
}

bool weft_coordinator_any_replica_left(const weft_coordinator_t *c)
{
    for (uint32_t r = 0; r < c->config.topology.replicas; r++)
        if (c->replica[r] != WEFT_REPLICA_LOST)
            return true;
    return false;
}

bool weft_peer_is_in_epoch(const weft_coordinator_t *c, uint32_t p)
{
    const weft_peer_view_t *view = &c->peer[p];
    return view->epoch == c->epoch && (view->flags & WEFT_FLAG_JOINS) == 0;
}

bool weft_peer_leaves(const weft_coordinator_t *c, uint32_t p)
{
    if (weft_is_trainer(c, p))
        return false;
    uint32_t replica = weft_topology_replica(&c->config.topology, p);
    for (uint32_t other = weft_replica_begin(c, replica); other < weft_replica_end(c, replica); other++)
        if ((c->peer[other].flags & WEFT_FLAG_LEAVES) != 0 && c->peer[other].incarnation == c->peer[p].incarnation)
            return true;
    return false;
}

static bool is_out(const weft_coordinator_t *c, uint32_t p)
{
    return c->peer[p].dead || (!weft_is_trainer(c, p) && weft_replica_of(c, p) == WEFT_REPLICA_LOST);
}

bool weft_coordinator_all_in_epoch(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (!is_out(c, p) && !weft_peer_is_in_epoch(c, p))
            return false;
    return true;
}

/* Those who are in hear first: whoever of them is left can tell a new coordinator which number is taken. */
static bool members_know_epoch(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->ranks; p++)
        if (!is_out(c, p) && (c->peer[p].flags & WEFT_FLAG_JOINS) == 0 && c->peer[p].epoch != c->epoch)
            return WEFT_BROKEN(EPOCH_AT_ONCE);
    return true;
}

bool weft_peer_waits(const weft_coordinator_t *c, uint32_t p)
{
    bool told = (c->peer[p].flags & WEFT_FLAG_JOINS) == 0;
    return c->peer[p].joins || (!told && !members_know_epoch(c));
}

/* ---- lives ---- */

bool weft_coordinator_take_life(weft_coordinator_t *c, uint32_t p, const weft_message_t *in, const weft_sink_t *sink)
{
    weft_peer_view_t *peer = &c->peer[p];
    if (in->incarnation <= peer->incarnation)
        return in->incarnation == peer->incarnation;
    if (peer->incarnation != 0 && !peer->dead)
        weft_coordinator_lose(c, p, true, WEFT_ERR_PEER_LOST, "has come back as another process", sink);
    *peer = (weft_peer_view_t){.incarnation = in->incarnation, .dead = peer->dead};
    return true;
}

void weft_coordinator_note_joiner(weft_coordinator_t *c, uint32_t p, const weft_sink_t *sink)
{
    weft_peer_view_t *peer = &c->peer[p];
    bool waits = (peer->flags & WEFT_FLAG_JOINS) != 0 && peer->admitted != peer->incarnation;
    if (waits && !peer->dead) /* an earlier coordinator lost it, or it comes late */
        weft_coordinator_lose(c, p, true, WEFT_ERR_PEER_LOST, "is not admitted yet", sink);
    peer->joins = waits && c->config.rejoins;
}

/* ---- epochs ---- */

static bool all_settled(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->config.topology.trainers; p++) {
        uint8_t state = c->peer[p].state;
        if (!c->peer[p].dead && state != WEFT_TRAINER_IDLE && state != WEFT_TRAINER_PUBLISHED)
            return false;
    }
    return weft_coordinator_replicas_are_idle(c);
}

static bool any_trainer_dead(const weft_coordinator_t *c)
{
    for (uint32_t p = 0; p < c->config.topology.trainers; p++)
        if (c->peer[p].dead)
            return true;
    return false;
}

static void open_epoch(weft_coordinator_t *c, const weft_sink_t *sink)
{
    c->epoch++;
    c->broken = any_trainer_dead(c);
    weft_action_t action = {.type = WEFT_ACTION_STORE_TERM, .term = c->term, .epoch = c->epoch, .text = ""};
    sink->emit(sink->user, &action);
    weft_emit_log(sink, WEFT_LOG_INFO, "coordinator: epoch %u", c->epoch);
}

static bool waits(const weft_coordinator_t *c, uint32_t p)
{
    return c->peer[p].joins && c->now_us - c->peer[p].heard_us <= c->config.dead_us;
}

static bool replica_waits(const weft_coordinator_t *c, uint32_t r)
{
    uint32_t first = weft_replica_begin(c, r);
    for (uint32_t p = first; p < weft_replica_end(c, r) && !WEFT_BROKEN(ADMIT_HALF); p++)
        if (!waits(c, p) || (c->peer[p].incarnation != c->peer[first].incarnation && !WEFT_BROKEN(MIX_LIVES)))
            return false;
    return c->replica[r] == WEFT_REPLICA_LOST && waits(c, first) && !weft_peer_leaves(c, first);
}

static void admit(weft_coordinator_t *c, uint32_t p, const weft_sink_t *sink)
{
    weft_peer_view_t *peer = &c->peer[p];
    peer->dead = peer->joins = false;
    peer->admitted = peer->incarnation;
    weft_emit_log(sink, WEFT_LOG_INFO, "coordinator: %s %u is admitted, incarnation %llu", weft_peer_kind(c, p), p,
                  (unsigned long long)peer->incarnation);
}

/* A replica is admitted when all its ranks wait, in the same life: the engine begins anew with all of them or not at
 * all. */
static bool admit_waiting(weft_coordinator_t *c, const weft_sink_t *sink)
{
    bool any = false;
    for (uint32_t p = 0; p < c->config.topology.trainers; p++) {
        if (!waits(c, p))
            continue;
        admit(c, p, sink);
        any = true;
    }
    for (uint32_t r = 0; r < c->config.topology.replicas; r++) {
        if (!replica_waits(c, r))
            continue;
        for (uint32_t p = weft_replica_begin(c, r); p < weft_replica_end(c, r); p++)
            admit(c, p, sink);
        weft_coordinator_set_replica(c, r, WEFT_REPLICA_IDLE, sink);
        any = true;
    }
    return any;
}

static void let_leave(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t p = c->config.topology.trainers; p < c->ranks; p++) {
        if (!weft_peer_leaves(c, p) || weft_replica_of(c, p) == WEFT_REPLICA_LOST)
            continue;
        weft_emit_log(sink, WEFT_LOG_INFO, "coordinator: the replica of rank %u leaves", p);
        weft_coordinator_set_replica(c, weft_topology_replica(&c->config.topology, p), WEFT_REPLICA_LOST, sink);
    }
}

void weft_coordinator_renew_members(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (!all_settled(c) && !WEFT_BROKEN(ADMIT_IN_FLIGHT))
        return;
    let_leave(c, sink);
    if (admit_waiting(c, sink))
        open_epoch(c, sink);
}

bool weft_coordinator_mend(weft_coordinator_t *c, const weft_sink_t *sink)
{
    if (!c->config.rejoins || any_trainer_dead(c) || !weft_coordinator_any_replica_left(c))
        return false;
    if (all_settled(c))
        open_epoch(c, sink);
    return true;
}
