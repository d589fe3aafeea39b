/* What a coordinator must remember: who has been there, in which life, and the session's secret. Kept in a file
 * when one is given, so that a coordinator that starts again goes on with the same session.
 *
 * A *life* is one process in the place of one rank: 16 random bytes that the process makes up. The roster gives each life
 * an incarnation number, higher than that of every life before it there; the ranks of a replica, which are started
 * together, get the same. */
#ifndef WEFT_SERVICE_ROSTER_H
#define WEFT_SERVICE_ROSTER_H

#include "src/control/machine.h"
#include "src/control/mailbox.h"

#define WEFT_LIFE_BYTES 16

typedef struct weft_roster_peer {
    uint64_t incarnation; /* 0: nobody has been there */
    uint8_t life[WEFT_LIFE_BYTES];
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES]; /* of its mailbox; "": not told yet */
} weft_roster_peer_t;

typedef struct weft_roster {
    weft_topology_t topology;
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES]; /* the session's secret */
    bool plan_known;
    weft_digest_t plan_hash;                   /* of the first who joined */
    char control[WEFT_MAILBOX_ENDPOINT_BYTES]; /* host:port of the coordinator's mailbox; "": not bound yet */
    uint64_t term;                             /* 0: the session has not begun */
    uint32_t epoch;
    weft_roster_peer_t *peers; /* [ranks] */
    char *path;                /* NULL: in memory only */
    int lock;                  /* held while this process is the coordinator; -1: none */
} weft_roster_t;

/* Read the roster from `path`, or begin one there when there is no such file; NULL: in memory only. One process at a time
 * has it. **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (the file is of another topology); WEFT_ERR_FILE; WEFT_ERR_IO
 * (also when others can read it, or another coordinator has it); WEFT_ERR_SYSTEM (no random bytes);
 * WEFT_ERR_NO_MEMORY. **Ownership** close it, after a failure too. */
weft_status_t weft_roster_open(const char *path, const weft_topology_t *topology, weft_roster_t *roster,
                               weft_error_t *error);
void weft_roster_close(weft_roster_t *roster);

/* Write it down, as a whole and durably. **Returns** WEFT_OK, WEFT_ERR_IO, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_roster_save(const weft_roster_t *roster, weft_error_t *error);

/* A process says that it is `rank`; the same life gets the same number again. Not saved yet. */
uint64_t weft_roster_admit(weft_roster_t *roster, uint32_t rank, const uint8_t life[WEFT_LIFE_BYTES]);

#endif
