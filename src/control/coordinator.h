/* The coordinator: begins a version when every trainer has published it, or every rank asks to load it, authorizes each replica by itself,
 * stops a transfer that failed, finds out who is dead, and tells the trainers what became of their version.
 *
 *   of a version                                          of a replica in it
 *                                                                       BEGIN
 *   +------------+ all ranks heard, or dead                +------+            +-----------+
 *   | RECOVERING |---------+                               | IDLE |----------->| RECEIVING |--------+
 *   +------------+         v   every trainer published     +------+            +-----------+        |
 *                      +------+        +----------+                             |   |   | one digest differs
 *                +---->| IDLE |------->| TRANSFER |               all PREPARED, |   |   v            |
 *                |     +------+        +----------+               digests agree |   | +---------+    |
 *      finished  |                 failed |    | a rank died                    v   | | DROPPED |    |
 *      (outcome) |            +-----------+    v                 +------------+     | +---------+    |
 *                |            v          +----------+            | AUTHORIZED |     |   |            |
 *                |      +----------+     | BREAKING |            +------------+     |   |       stopped or
 *                |      | STOPPING |---->+----------+             |         |       |   |       broken
 *                |      +----------+        ^   |                 v         v       |   v            v
 *                |            | all POSTED  |   |            +---------+  +---------+--------------------+
 *                |            v             |   |            | APPLIED |  |           ABORTED            |
 *                |      +----------+        |   |            +---------+  +------------------------------+
 *                |      | DRAINING |--------+   |
 *                |      +----------+            |            LOST: a rank of it is dead; from everywhere, for
 * good
 *                +------------+-----------------+
 *
 * It is level-triggered: it keeps the last state every rank told it, and `weft_coordinator_advance` compares
 * that with what is wanted. A new coordinator therefore needs nothing from the old one but a higher term.
 */
#ifndef WEFT_CONTROL_COORDINATOR_H
#define WEFT_CONTROL_COORDINATOR_H

#include "src/control/machine.h"
#include "src/control/rank_machine.h"
#include "src/control/trainer_machine.h"

typedef enum weft_coordinator_state {
    WEFT_COORDINATOR_RECOVERING, /* learns terms and states; asks for nothing yet */
    WEFT_COORDINATOR_IDLE,       /* no version is in flight */
    WEFT_COORDINATOR_TRANSFER,   /* rounds run, replicas are authorized as they get ready */
    WEFT_COORDINATOR_STOPPING,   /* collects how far each rank has posted */
    WEFT_COORDINATOR_DRAINING,   /* stop_round is decided */
    WEFT_COORDINATOR_BREAKING,   /* a peer is dead: transports are aborted */
    WEFT_COORDINATOR_DEPOSED,    /* a higher term exists: says nothing any more */
    WEFT_COORDINATOR_STATE_COUNT,
} weft_coordinator_state_t;

typedef enum weft_replica_state {
    WEFT_REPLICA_IDLE,       /* not in the version */
    WEFT_REPLICA_RECEIVING,  /* some rank is not prepared yet */
    WEFT_REPLICA_AUTHORIZED, /* its leader commits; no stop can reach it */
    WEFT_REPLICA_DROPPED,    /* prepared, but told to forget the version */
    WEFT_REPLICA_APPLIED,    /* serves the version */
    WEFT_REPLICA_ABORTED,    /* goes on with the version before */
    WEFT_REPLICA_LOST,       /* a rank of it is dead */
    WEFT_REPLICA_STATE_COUNT,
} weft_replica_state_t;

/* What a trainer or rank last said. */
typedef struct weft_peer_view {
    uint64_t heard_us; /* when */
    uint64_t told_us;  /* when it was last sent a command */
    uint8_t told_type; /* which */
    bool heard;        /* in this term */
    bool dead;
    bool joins; /* dead, but a later life of it, or a late one, waits to be admitted */
    uint8_t state;
    uint32_t flags, epoch;
    uint64_t incarnation, admitted; /* heard last, and taken into an epoch by this coordinator */
    uint32_t round, stop_round, status;
    uint64_t sequence, term, version, live, done, wants, newest, told_version;
    weft_digest_t digest;
    weft_members_t members;
    weft_content_t content;
    char text[WEFT_MESSAGE_TEXT_BYTES]; /* why `status` */
} weft_peer_view_t;

typedef struct weft_coordinator {
    weft_control_config_t config;
    uint32_t rank;
    uint32_t ranks;
    weft_coordinator_state_t state;
    bool has_term;     /* false: still asks which terms there were */
    bool broken;       /* no further version can be sent in this session */
    bool recovered;    /* the version in flight was begun by an earlier coordinator */
    bool stop_decided; /* stop_round holds */
    uint32_t stop_round;
    uint32_t epoch;
    uint64_t term;
    uint64_t version;         /* in flight, or the last one that was */
    uint64_t done;            /* highest with an outcome */
    uint64_t newest;          /* highest that a rank was heard to serve */
    uint64_t waiting_version; /* published by some trainers, not by all */
    uint64_t waiting_until_us;
    uint64_t now_us;
    uint64_t started_us;         /* of this term */
    uint64_t ticked_us;          /* the last TICK: a gap means that this process itself stood still */
    uint64_t deadline_us;        /* of the state */
    uint64_t commit_deadline_us; /* 0: some rank is still in transfer */
    uint64_t welcomed_us;
    uint64_t heard_term; /* highest told by any rank */
    weft_members_t members;
    weft_content_t content; /* of `version` */
    weft_outcome_t outcome; /* of `done` */
    bool outcome_of_load;   /* ... which ranks have loaded; trainers may have published the same number */
    weft_status_t outcome_status;
    char outcome_text[WEFT_MESSAGE_TEXT_BYTES];
    weft_status_t reason; /* first failure of the version in flight */
    char reason_text[WEFT_MESSAGE_TEXT_BYTES];
    char broken_text[WEFT_MESSAGE_TEXT_BYTES]; /* why `broken` */
    bool digest_known[WEFT_CONTROL_MAX_TP];
    weft_digest_t digest[WEFT_CONTROL_MAX_TP]; /* first reported for each TP index */
    weft_replica_state_t replica[WEFT_CONTROL_MAX_REPLICAS];
    weft_peer_view_t peer[WEFT_CONTROL_MAX_RANKS];
} weft_coordinator_t;

const char *weft_coordinator_state_name(weft_coordinator_state_t state);
const char *weft_replica_state_name(weft_replica_state_t state);

/* Set up a coordinator. `config->epoch`: the last one given to STORE_TERM, or the session's first. `stored_term`: the last one given to STORE_TERM, or 0 when nothing was stored: then
 * it first asks every rank. `now_us` starts the clock by which silent ranks are dead. About 600 KiB: allocate
 * it. */
void weft_coordinator_init(weft_coordinator_t *coordinator, const weft_control_config_t *config,
                           uint32_t rank, uint64_t stored_term, uint64_t now_us);

/* Handle one event: MESSAGE, TICK. */
void weft_coordinator_handle(weft_coordinator_t *coordinator, const weft_event_t *event,
                             const weft_sink_t *sink);

#endif
