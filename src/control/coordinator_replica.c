/* In: views of the ranks of one replica. Out: its state in the version in flight.
 * Invariant: RECEIVING becomes AUTHORIZED only in TRANSFER, with every rank prepared and every digest the
 * first reported. */
#include "src/control/coordinator_internal.h"

#include <stdio.h>

#include "src/control/mutate.h"

/* ---- digests ---- */

static bool digests_equal(weft_digest_t a, weft_digest_t b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static void note_digest(weft_coordinator_t *c, uint32_t p)
{
    uint32_t index = weft_topology_tp_rank(&c->config.topology, p);
    const weft_peer_view_t *view = &c->peer[p];
    bool has_bytes = weft_view_is_prepared(c, view) && !weft_view_lacks_base(c, view);
    if (c->digest_known[index] || (!has_bytes && !weft_view_has_applied(c, view)))
        return;
    c->digest_known[index] = true;
    c->digest[index] = view->digest;
}

/* The first rank of a TP index to report sets the digest for that index. */
void weft_coordinator_note_digests(weft_coordinator_t *c, bool (*wanted)(weft_replica_state_t state))
{
    for (uint32_t p = c->config.topology.trainers; p < c->ranks; p++)
        if (wanted(weft_replica_of(c, p)))
            note_digest(c, p);
}

bool weft_replica_is_decided(weft_replica_state_t state)
{
    return state == WEFT_REPLICA_AUTHORIZED || state == WEFT_REPLICA_APPLIED;
}

bool weft_replica_is_receiving(weft_replica_state_t state)
{
    return state == WEFT_REPLICA_RECEIVING;
}

/* **Returns** the first rank of a replica whose digest differs from the first reported one; its end when none
 * does. */
static uint32_t find_mismatch(const weft_coordinator_t *c, uint32_t replica)
{
    uint32_t end = weft_replica_end(c, replica);
    for (uint32_t p = weft_replica_begin(c, replica); p < end; p++)
        if (!digests_equal(c->peer[p].digest, c->digest[weft_topology_tp_rank(&c->config.topology, p)]))
            return p;
    return end;
}

/* ---- transitions of a replica ---- */

/* **Returns** whether a rank of the replica serves another version than the one that a subset goes over. */
static bool drop_without_base(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    if (weft_replica_count(c, replica, weft_view_lacks_base) == 0)
        return false;
    char text[WEFT_MESSAGE_TEXT_BYTES];
    uint32_t p = weft_replica_begin(c, replica);
    snprintf(text, sizeof text,
             "serves version %llu, and the subset is over version %llu: publish a whole version",
             (unsigned long long)c->peer[p].live, (unsigned long long)c->content.base);
    weft_coordinator_note_peer(c, p, WEFT_ERR_BASE, text);
    weft_coordinator_set_replica(c, replica, WEFT_REPLICA_DROPPED, sink);
    return true;
}

static void authorize_or_drop(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    if (drop_without_base(c, replica, sink))
        return;
    uint32_t p = find_mismatch(c, replica);
    if (p == weft_replica_end(c, replica) || WEFT_BROKEN(IGNORE_DIGEST)) {
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_AUTHORIZED, sink);
        return;
    }
    weft_coordinator_note_peer(c, p, WEFT_ERR_DIGEST,
                               "its weights differ from those of the same rank of another replica");
    weft_coordinator_set_replica(c, replica, WEFT_REPLICA_DROPPED, sink);
}

static void advance_receiving(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    uint32_t tp = c->config.topology.tp;
    uint32_t prepared = weft_replica_count(c, replica, weft_view_is_prepared);
    uint32_t gave_up = weft_replica_count(c, replica, weft_view_gave_up);
    bool transfer = c->state == WEFT_COORDINATOR_TRANSFER;
    if (gave_up == tp)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_ABORTED, sink);
    else if (transfer && gave_up != 0 && gave_up + prepared == tp)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_DROPPED,
                                     sink); /* begun by an earlier coordinator */
    else if (transfer && prepared == tp)
        authorize_or_drop(c, replica, sink);
    else if (transfer && WEFT_BROKEN(AUTHORIZE_EARLY) && prepared != 0 && prepared + 1 == tp)
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_AUTHORIZED, sink);
}

static void advance_authorized(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    uint32_t tp = c->config.topology.tp;
    if (weft_replica_count(c, replica, weft_view_has_applied) == tp) {
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_APPLIED, sink);
    } else if (weft_replica_count(c, replica, weft_view_gave_up) == tp) {
        uint32_t p = weft_replica_begin(c, replica);
        weft_coordinator_note_peer(c, p, c->peer[p].status == WEFT_OK ? WEFT_ERR_ABORTED : c->peer[p].status,
                                   c->peer[p].text);
        weft_coordinator_set_replica(c, replica, WEFT_REPLICA_ABORTED, sink);
    }
}

static void advance_replica(weft_coordinator_t *c, uint32_t replica, const weft_sink_t *sink)
{
    switch (c->replica[replica]) {
    case WEFT_REPLICA_RECEIVING:
        advance_receiving(c, replica, sink);
        break;
    case WEFT_REPLICA_AUTHORIZED:
        advance_authorized(c, replica, sink);
        break;
    case WEFT_REPLICA_DROPPED:
        if (weft_replica_count(c, replica, weft_view_gave_up) == c->config.topology.tp)
            weft_coordinator_set_replica(c, replica, WEFT_REPLICA_ABORTED, sink);
        break;
    default:
        break;
    }
}

void weft_coordinator_advance_replicas(weft_coordinator_t *c, const weft_sink_t *sink)
{
    for (uint32_t replica = 0; replica < c->config.topology.replicas; replica++)
        advance_replica(c, replica, sink);
}

uint32_t weft_coordinator_count_replicas(const weft_coordinator_t *c, weft_replica_state_t state)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < c->config.topology.replicas; r++)
        count += c->replica[r] == state && weft_members_has(c->members, r);
    return count;
}
