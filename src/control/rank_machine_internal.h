/* The parts of the rank machine, for each other only: rank_machine.c takes versions in, reports and is told by the
 * coordinator, _commit.c is told by the leader. */
#ifndef WEFT_CONTROL_RANK_MACHINE_INTERNAL_H
#define WEFT_CONTROL_RANK_MACHINE_INTERNAL_H

#include "src/control/rank_machine.h"

/* rank_machine.c */

bool weft_rank_may_become(const weft_rank_machine_t *m, weft_rank_state_t state);

/* **Returns** false, with an error logged, for a change that is not in the table. */
bool weft_rank_set_state(weft_rank_machine_t *m, weft_rank_state_t state, const weft_sink_t *sink);
uint32_t weft_rank_leader(const weft_rank_machine_t *m);

/* The version in hand will not be live; what serves goes on serving. */
void weft_rank_give_up(weft_rank_machine_t *m, const weft_sink_t *sink);

/* The guard has swapped: the version in hand serves. */
void weft_rank_applied(weft_rank_machine_t *m, const weft_sink_t *sink);

/* The replica is lost, or the weights are: no step begins any more. */
void weft_rank_fence(weft_rank_machine_t *m, weft_status_t status, const char *text, const weft_sink_t *sink);
void weft_rank_remember_failure(weft_rank_machine_t *m, weft_status_t status, const char *text);

/* rank_machine_commit.c */
void weft_rank_on_leader(weft_rank_machine_t *m, const weft_message_t *in, const weft_sink_t *sink);

#endif
