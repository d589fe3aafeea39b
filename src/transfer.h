/* How far a transfer may go: what the control plane has said about stopping it. Shared by trainer and
 * rollout. */
#ifndef WEFT_TRANSFER_H
#define WEFT_TRANSFER_H

#include "src/session_private.h"

typedef struct weft_transfer {
    uint64_t version;
    uint32_t num_rounds;
    uint32_t posted;  /* rounds posted so far, a begun one included */
    uint32_t stop_at; /* rounds from here on never start; num_rounds unless stopped */
    bool active;      /* the progress thread is moving it */
    bool held;        /* asked how far it got: nothing more starts until stop_at is told */
    bool stopped;     /* stop_at was told */
    bool aborted;     /* the transport is to be aborted */
} weft_transfer_t;

void weft_transfer_begin(weft_transfer_t *transfer, uint64_t version, uint32_t num_rounds);

/* Take a command that concerns a transfer, and answer it. Commands for other versions are ignored. */
void weft_transfer_obey(weft_session_t *session, weft_transfer_t *transfer, const weft_command_t *command);

/* Rounds below this one may start now. */
uint32_t weft_transfer_limit(const weft_transfer_t *transfer);

/* Take the commands that wait, up to one that aborts the transfer: what comes behind is of the next version. Until then
 * none of another kind comes that counts. */
void weft_transfer_obey_all(weft_session_t *session, weft_transfer_t *transfer);

#endif
