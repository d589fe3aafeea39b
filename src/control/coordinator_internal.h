/* The parts of the coordinator, for each other only: coordinator.c takes reports in and finds out who is
 * dead, _view.c reads them, _members.c keeps account of who is in, _begin.c, _version.c and _replica.c decide, _recover.c does so after a restart, _send.c
 * tells each rank what it lacks. */
#ifndef WEFT_CONTROL_COORDINATOR_INTERNAL_H
#define WEFT_CONTROL_COORDINATOR_INTERNAL_H

#include "src/control/coordinator.h"

static inline bool weft_is_trainer(const weft_coordinator_t *c, uint32_t peer)
{
    return weft_topology_is_trainer(&c->config.topology, peer);
}

/* First rank of a replica, and one past its last. */
static inline uint32_t weft_replica_begin(const weft_coordinator_t *c, uint32_t replica)
{
    return weft_topology_leader(&c->config.topology, replica);
}

static inline uint32_t weft_replica_end(const weft_coordinator_t *c, uint32_t replica)
{
    return weft_replica_begin(c, replica) + c->config.topology.tp;
}

static inline weft_replica_state_t weft_replica_of(const weft_coordinator_t *c, uint32_t peer)
{
    return c->replica[weft_topology_replica(&c->config.topology, peer)];
}

/* coordinator.c */
bool weft_coordinator_set_state(weft_coordinator_t *c, weft_coordinator_state_t state,
                                const weft_sink_t *sink);
void weft_coordinator_set_replica(weft_coordinator_t *c, uint32_t replica, weft_replica_state_t state,
                                  const weft_sink_t *sink);

/* coordinator_view.c: a peer by number, or its view */
typedef bool (*weft_peer_test_t)(const weft_coordinator_t *c, uint32_t peer);
typedef bool (*weft_view_test_t)(const weft_coordinator_t *c, const weft_peer_view_t *view);

bool weft_peer_takes_part(const weft_coordinator_t *c, uint32_t peer);
bool weft_peer_is_through(const weft_coordinator_t *c, uint32_t peer); /* needs no more of the transfer */
const char *weft_peer_kind(const weft_coordinator_t *c, uint32_t peer);
bool weft_view_holds(const weft_coordinator_t *c, const weft_peer_view_t *view);
bool weft_view_is_prepared(const weft_coordinator_t *c, const weft_peer_view_t *view); /* or further */
bool weft_view_lacks_base(const weft_coordinator_t *c,
                          const weft_peer_view_t *view); /* of a subset, to go over */
bool weft_view_has_applied(const weft_coordinator_t *c, const weft_peer_view_t *view);
bool weft_view_gave_up(const weft_coordinator_t *c, const weft_peer_view_t *view);

/* Count the ranks of a replica for which `test` holds. */
uint32_t weft_replica_count(const weft_coordinator_t *c, uint32_t replica, weft_view_test_t test);

/* Keep the first failure of the version in flight, as a text, as "kind N: text", or as the peers that are
 * missing: those that `asked` includes and `test` does not hold for. */
void weft_coordinator_note_reason(weft_coordinator_t *c, weft_status_t status, const char *text);
void weft_coordinator_note_peer(weft_coordinator_t *c, uint32_t peer, weft_status_t status, const char *text);
void weft_coordinator_note_missing(weft_coordinator_t *c, const char *what, weft_peer_test_t asked,
                                   weft_peer_test_t test);

/* coordinator_members.c */

/* An incarnation speaks. **Returns** false for a life that is over. A later life than the one known means that the
 * one known is dead. */
bool weft_coordinator_take_life(weft_coordinator_t *c, uint32_t peer, const weft_message_t *in,
                                const weft_sink_t *sink);

/* After its view is up to date: whether it waits outside. */
void weft_coordinator_note_joiner(weft_coordinator_t *c, uint32_t peer, const weft_sink_t *sink);

/* Between two versions: let replicas leave, admit whoever waits. */
void weft_coordinator_renew_members(weft_coordinator_t *c, const weft_sink_t *sink);

/* Open a new epoch when that makes a broken session whole. **Returns** whether it is, or will be once all are idle. */
bool weft_coordinator_mend(weft_coordinator_t *c, const weft_sink_t *sink);

/* True for one that is outside, or that hears of its admission when all who are in have heard of the epoch. */
bool weft_peer_waits(const weft_coordinator_t *c, uint32_t peer);

/* True when a rank of the replica of `peer` wants it to leave. */
bool weft_peer_leaves(const weft_coordinator_t *c, uint32_t peer);

/* True when `peer` takes part and has heard of the epoch. */
bool weft_peer_is_in_epoch(const weft_coordinator_t *c, uint32_t peer);
bool weft_coordinator_all_in_epoch(const weft_coordinator_t *c);

/* True when no replica that is not lost has a version in hand. */
bool weft_coordinator_replicas_are_idle(const weft_coordinator_t *c);
bool weft_coordinator_any_replica_left(const weft_coordinator_t *c);

/* coordinator_replica.c */
bool weft_replica_is_receiving(weft_replica_state_t state);
bool weft_replica_is_decided(weft_replica_state_t state); /* AUTHORIZED or APPLIED */
void weft_coordinator_advance_replicas(weft_coordinator_t *c, const weft_sink_t *sink);
uint32_t weft_coordinator_count_replicas(const weft_coordinator_t *c, weft_replica_state_t state);

/* The first rank of a TP index to report sets the digest for that index; only replicas in a `wanted` state
 * are asked. */
void weft_coordinator_note_digests(weft_coordinator_t *c, bool (*wanted)(weft_replica_state_t state));

/* coordinator_begin.c */
#define WEFT_SUPERSEDED_TEXT "a later version was published to take its place"

/* True when a trainer wants `version` stopped for a later one. */
bool weft_coordinator_is_superseded(const weft_coordinator_t *c, uint64_t version);

/* Begin what comes first, wait for what it lacks, or refuse it. */
void weft_coordinator_try_begin(weft_coordinator_t *c, const weft_sink_t *sink);

/* coordinator_version.c */
void weft_coordinator_record_outcome(weft_coordinator_t *c, uint64_t version, bool load, weft_outcome_t outcome,
                                     weft_status_t status, const char *text, const weft_sink_t *sink);

/* No further version can be sent in this session; the first reason is kept. */
void weft_coordinator_mark_broken(weft_coordinator_t *c, const char *text);

void weft_coordinator_begin_stop(weft_coordinator_t *c, const weft_sink_t *sink);

/* The drain cannot complete without the dead: transports are aborted, and with them the session's. */
void weft_coordinator_break_off(weft_coordinator_t *c, const weft_sink_t *sink);

/* True while the death of a participant leaves others hanging in a round. */
bool weft_coordinator_needs_everyone(const weft_coordinator_t *c);

/* Compare what was reported with what is wanted, and move on until nothing changes. */
void weft_coordinator_advance(weft_coordinator_t *c, const weft_sink_t *sink);

/* `peer` is silent, or says that it is fenced: its replica is lost, and so is a transfer that still needs it.
 * `text` says how it was noticed. */
void weft_coordinator_lose(weft_coordinator_t *c, uint32_t peer, bool silent, weft_status_t status,
                           const char *text, const weft_sink_t *sink);

/* coordinator_recover.c */

/* Every live rank has reported in this term: find the version in flight, if any, and how far it is. */
void weft_coordinator_recover(weft_coordinator_t *c, const weft_sink_t *sink);

/* coordinator_send.c */

/* Send each peer what its last report lacks, unless it was told within a beat. */
void weft_coordinator_command_all(weft_coordinator_t *c, const weft_sink_t *sink);

/* The same for one peer that has just reported. */
void weft_coordinator_command(weft_coordinator_t *c, uint32_t peer, const weft_sink_t *sink);

void weft_coordinator_welcome_all(weft_coordinator_t *c, const weft_sink_t *sink);

#endif
