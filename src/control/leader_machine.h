/* The leader of one replica, beside the rank machine of TP rank 0: brings its ranks to swap at one step.
 *
 *                AUTHORIZE            all ARMED, not all parked
 *     +------+               +--------+                        +------------+  all applied
 *     | IDLE |-------------->| ARMING |----------------------->| COMMITTING |------------> IDLE
 *     +------+               +--------+                        +------------+
 *        |                    |      | all ARMED and parked       ^       |
 *        |                    |      v                            |       | all parked below at_step - 1
 *        | AUTHORIZE          |   +----------+  all answered      |       |
 *        | with RECOVER       |   | FREEZING |--------------------+       |
 *        +--------------------|-->+----------+<---------------------------+
 *                             |        |
 *                 cannot      v        v   a rank gave the version up
 *                           +------------+
 *                           |  ABORTING  |----------------------------------> IDLE when no rank holds it
 *                           +------------+
 *
 * Every ARMING and FREEZING has a ballot of its own, above all before. at_step = 1 + the highest limit
 * promised under the ballot, unless some rank has applied already: then its at_step stands.
 */
#ifndef WEFT_CONTROL_LEADER_MACHINE_H
#define WEFT_CONTROL_LEADER_MACHINE_H

#include "src/control/machine.h"
#include "src/control/rank_machine.h"

/* Ranks of one replica whose step numbers differ by more than this have lost each other. */
#define WEFT_LEADER_MAX_SKEW 65536

typedef enum weft_leader_state {
    WEFT_LEADER_IDLE,       /* nothing to commit, or done with it */
    WEFT_LEADER_ARMING,     /* collects limits */
    WEFT_LEADER_FREEZING,   /* collects limits that no longer move */
    WEFT_LEADER_COMMITTING, /* at_step is decided under this ballot */
    WEFT_LEADER_ABORTING,   /* ABORT is decided */
    WEFT_LEADER_STATE_COUNT,
} weft_leader_state_t;

/* What a rank last said. */
typedef struct weft_leader_view {
    uint8_t state;
    uint32_t flags, epoch;
    uint64_t incarnation, sequence, version, live, done, step, limit, at_step;
    weft_ballot_t ballot;
} weft_leader_view_t;

typedef struct weft_leader_machine {
    weft_control_config_t config;
    uint32_t rank; /* of this leader */
    uint32_t replica;
    weft_leader_state_t state;
    uint32_t epoch; /* of the AUTHORIZE; what ranks said in earlier ones does not count */
    uint64_t term; /* of the coordinator that appointed it */
    weft_ballot_t ballot;
    uint64_t version;
    uint64_t at_step;
    uint64_t now_us;
    uint64_t since_us; /* of the state */
    uint64_t repeated_us;
    weft_status_t status; /* why it aborts */
    char text[WEFT_MESSAGE_TEXT_BYTES];
    weft_leader_view_t views[WEFT_CONTROL_MAX_TP];
} weft_leader_machine_t;

const char *weft_leader_state_name(weft_leader_state_t state);

void weft_leader_machine_init(weft_leader_machine_t *machine, const weft_control_config_t *config,
                              uint32_t rank);

/* Handle one event: MESSAGE, TICK. */
void weft_leader_machine_handle(weft_leader_machine_t *machine, const weft_event_t *event,
                                const weft_sink_t *sink);

#endif
