/* The three parts of the coordinator, for each other only: coordinator.c takes reports in and finds out who is dead,
 * coordinator_version.c decides, coordinator_send.c tells each rank what its state lacks. */
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
bool weft_coordinator_set_state(weft_coordinator_t *c, weft_coordinator_state_t state, const weft_sink_t *sink);
void weft_coordinator_set_replica(weft_coordinator_t *c, uint32_t replica, weft_replica_state_t state,
                                  const weft_sink_t *sink);

/* coordinator_version.c */

/* Compare what was reported with what is wanted, and move on until nothing changes. */
void weft_coordinator_advance(weft_coordinator_t *c, const weft_sink_t *sink);

/* Every live rank has reported in this term: find the version in flight, if any, and how far it is. */
void weft_coordinator_recover(weft_coordinator_t *c, const weft_sink_t *sink);

/* `peer` is dead: its replica is lost, and so is a transfer that still needs it. `text` says how it was noticed. */
void weft_coordinator_lose(weft_coordinator_t *c, uint32_t peer, weft_status_t status, const char *text,
                           const weft_sink_t *sink);

/* coordinator_send.c */

/* Send each peer what its last report lacks, unless it was told within a beat. */
void weft_coordinator_command_all(weft_coordinator_t *c, const weft_sink_t *sink);

/* The same for one peer that has just reported. */
void weft_coordinator_command(weft_coordinator_t *c, uint32_t peer, const weft_sink_t *sink);

void weft_coordinator_welcome_all(weft_coordinator_t *c, const weft_sink_t *sink);

#endif
