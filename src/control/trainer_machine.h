/* One trainer rank: publishes a version, sends it, learns what became of it.
 *
 *             PUBLISH            BEGIN              SENT
 *   +------+        +-----------+       +---------+        +------+
 *   | IDLE |------->| PUBLISHED |------>| SENDING |------->| SENT |
 *   +------+        +-----------+       +---------+        +------+
 *      ^                              cannot |   | STOP       | STOP
 *      |                                     v   v            v
 *      |                         +---------+ STOP +----------+ STOP_AT +----------+        +---------+
 *      |                         | REFUSED |----->| STOPPING |-------->| DRAINING |------->| DRAINED |
 *      |                         +---------+      +----------+         +----------+        +---------+
 *      |
 *      +---- OUTCOME, from PUBLISHED, SENT, DRAINED and BROKEN
 *
 * Not drawn: ABORT_TRANSFER, or a transport that fails by itself, leads from all but IDLE and DRAINED to
 * BROKEN; FENCE leads from everywhere to FENCED, which is never left. A second version may be published
 * meanwhile; it waits, one deep, and may ask for the first to be stopped (SUPERSEDE in reports).
 */
#ifndef WEFT_CONTROL_TRAINER_MACHINE_H
#define WEFT_CONTROL_TRAINER_MACHINE_H

#include "src/control/machine.h"

typedef enum weft_trainer_state {
    WEFT_TRAINER_IDLE,      /* nothing in hand */
    WEFT_TRAINER_PUBLISHED, /* the user has published, the coordinator has not begun */
    WEFT_TRAINER_SENDING,   /* rounds are being posted */
    WEFT_TRAINER_SENT,      /* all rounds have left, the outcome is open */
    WEFT_TRAINER_REFUSED,   /* the data path cannot send this version; rounds go on until STOP */
    WEFT_TRAINER_STOPPING, /* posts nothing more; `posted` tells how far it got once the data path has said */
    WEFT_TRAINER_DRAINING, /* finishes the rounds below stop_round */
    WEFT_TRAINER_DRAINED,  /* drained, the outcome is open */
    WEFT_TRAINER_BROKEN,   /* the transport was aborted, the outcome is open */
    WEFT_TRAINER_FENCED,   /* declared dead: takes part in nothing */
    WEFT_TRAINER_STATE_COUNT,
} weft_trainer_state_t;

typedef struct weft_trainer_machine {
    weft_control_config_t config;
    uint32_t rank;
    uint32_t coordinator;
    weft_trainer_state_t state;
    bool posted_known, stop_known, broken, notified;
    bool joins;      /* not admitted yet */
    bool report_due; /* something changed, or the coordinator asked */
    uint32_t epoch;
    uint32_t posted, stop_round;
    uint64_t term;
    uint64_t sequence;
    uint64_t version; /* in hand, 0: none */
    uint64_t queued;  /* published behind it, 0: none */
    uint64_t highest; /* ever published */
    uint64_t done;    /* highest with an outcome */
    uint64_t deadline_us;
    uint64_t heard_us; /* when the coordinator was last heard */
    uint64_t reported_us;
    uint64_t now_us;
    weft_content_t content; /* of `version` */
    weft_content_t queued_content;
    bool supersedes; /* what is queued wants what is in hand stopped */
    weft_members_t members;
    weft_status_t status;
    char text[WEFT_MESSAGE_TEXT_BYTES];
} weft_trainer_machine_t;

const char *weft_trainer_state_name(weft_trainer_state_t state);

void weft_trainer_machine_init(weft_trainer_machine_t *machine, const weft_control_config_t *config,
                               uint32_t rank);

/* Handle one event: PUBLISH, SENT, TRANSFER_REFUSED, TRANSFER_FAILED, POSTED, DRAINED, MESSAGE, TICK. A
 * PUBLISH that is out of order, or the third one at a time, is answered at once with NOTIFY(FAILED). */
void weft_trainer_machine_handle(weft_trainer_machine_t *machine, const weft_event_t *event,
                                 const weft_sink_t *sink);

/* True when a PUBLISH would find room. */
bool weft_trainer_machine_has_room(const weft_trainer_machine_t *machine);

#endif
