/* One rollout rank: takes a version in, stages it, and makes it live when its leader says at which step.
 *
 *            BEGIN               TRANSFER_DONE         ARM                COMMIT
 *   +------+       +-----------+         +----------+      +-------+           +-----------+
 *   | IDLE |------>| RECEIVING |-------->| PREPARED |----->| ARMED |---------->| COMMITTED |
 *   +------+       +-----------+         +----------+      +-------+           +-----------+
 *      ^  ^          |       | STOP     STOP |   |FREEZE       |FREEZE   FREEZE |   ^  |
 *      |  |  REFUSED |       |       +-------+   |             v                v   |  | swap
 *      |  |          v       v       v           |         +--------+ <---------+   |  |
 *      |  |   +---------+  +----------+          +-------->| FROZEN |---------------+  |
 *      |  |   | REFUSED |->| STOPPING |                    +--------+    COMMIT        |
 *      |  |   +---------+  +----------+                        |                       |
 *      |  |                      | STOP_AT                     | ABORT (ARMED, FROZEN) |
 *      |  |   DRAINED      +----------+                        |                       |
 *      |  +----------------| DRAINING |                        |                       |
 *      |   old weights     +----------+        old weights     |          new weights  |
 *      +-------------------------------------------------------+-----------------------+
 *
 * Not drawn: ABORT_TRANSFER leads from every state before ARMED to IDLE, DROP from PREPARED; FENCE and a
 * failed swap lead from everywhere to FENCED, which is never left.
 *
 * ARMED and FROZEN are promises made under a ballot. What comes with a lower ballot afterwards is not obeyed:
 * a COMMIT that was delayed past a FREEZE would otherwise thaw one rank and tear the step.
 */
#ifndef WEFT_CONTROL_RANK_MACHINE_H
#define WEFT_CONTROL_RANK_MACHINE_H

#include "src/control/machine.h"
#include "src/swap/guard.h"

typedef enum weft_rank_state {
    WEFT_RANK_IDLE,      /* nothing in hand; `live` serves */
    WEFT_RANK_RECEIVING, /* rounds come in, or files are read */
    WEFT_RANK_REFUSED,   /* the version cannot be used; rounds go on until STOP */
    WEFT_RANK_STOPPING,  /* posts nothing more; `posted` tells how far it got once the data path has said */
    WEFT_RANK_DRAINING,  /* finishes the rounds below stop_round */
    WEFT_RANK_PREPARED,  /* the whole version is staged */
    WEFT_RANK_ARMED,     /* has promised a limit above the step it was in */
    WEFT_RANK_FROZEN,    /* has promised to start no further step */
    WEFT_RANK_COMMITTED, /* swaps before at_step */
    WEFT_RANK_FENCED,    /* its replica is lost, or its own weights are: serves nothing */
    WEFT_RANK_STATE_COUNT,
} weft_rank_state_t;

typedef struct weft_rank_machine {
    weft_control_config_t config;
    weft_guard_t *guard;
    uint32_t rank;
    uint32_t coordinator;
    weft_rank_state_t state;
    bool posted_known, stop_known, broken;
    bool joins;  /* not admitted yet */
    bool leaves; /* has been told to take its replica out */
    bool report_due; /* something changed, or the coordinator asked */
    bool leader_due; /* the leader asked, or waits for what changed */
    uint32_t epoch;
    uint32_t posted, stop_round;
    uint64_t term;
    uint64_t sequence;
    uint64_t version;       /* in hand, 0: none */
    uint64_t live;          /* serves */
    uint64_t done;          /* highest that is applied or given up */
    uint64_t newest;        /* the highest version that any replica serves, as far as this rank was told */
    uint64_t wants;         /* to load, until the outcome is known; 0: none */
    weft_ballot_t promised; /* highest ballot answered */
    weft_ballot_t accepted; /* ballot of the COMMIT obeyed */
    uint64_t limit;         /* promised under `promised` */
    uint64_t at_step;       /* of the commit obeyed, or 0 */
    uint64_t live_at_step;  /* the first step on `live` */
    weft_digest_t digest;   /* of the version in hand once PREPARED, else of `live` */
    weft_digest_t live_digest;
    weft_content_t content; /* of `version` */
    weft_members_t members;
    uint64_t now_us;
    uint64_t reported_us;
    uint64_t stepped_us; /* when a step was last seen to be open or to have begun */
    uint64_t seen_step;
    uint32_t reported_flags;
    weft_status_t status;
    char text[WEFT_MESSAGE_TEXT_BYTES];
} weft_rank_machine_t;

const char *weft_rank_state_name(weft_rank_state_t state);

/* `guard` outlives the machine, which alone arms, freezes, commits, releases and fences it. */
void weft_rank_machine_init(weft_rank_machine_t *machine, const weft_control_config_t *config, uint32_t rank,
                            weft_guard_t *guard);

/* Tell that `version` was loaded from disk before any transfer (weft_guard_load succeeded). */
void weft_rank_machine_loaded(weft_rank_machine_t *machine, uint64_t version, weft_digest_t digest);

/* Handle one event: LOAD, LEAVE, TRANSFER_DONE, TRANSFER_REFUSED, TRANSFER_FAILED, POSTED, DRAINED, SWAPPED, SWAP_FAILED,
 * MESSAGE, TICK. */
void weft_rank_machine_handle(weft_rank_machine_t *machine, const weft_event_t *event,
                              const weft_sink_t *sink);

#endif
