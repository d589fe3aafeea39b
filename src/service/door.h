/* The coordinator's door: who comes in, and what they ask before and between versions (wire.h).
 *
 * Nobody gets past the handshake without a key on the list: the socket is a CURVE server, and ZeroMQ asks the list (ZAP)
 * before it lets a connection speak. What fails is counted and logged, and told nothing. Frames are capped before they are
 * read.
 *
 *     weft_door_open(&config, &door, &error);
 *     for (;;) weft_door_serve(door);      it never blocks: call it every few milliseconds
 *     weft_door_close(door);
 *
 * **Threads** one. */
#ifndef WEFT_SERVICE_DOOR_H
#define WEFT_SERVICE_DOOR_H

#include "src/service/keys.h"
#include "src/service/roster.h"

typedef struct weft_door weft_door_t;

typedef struct weft_door_config {
    const char *bind;               /* "127.0.0.1:7000"; an address of this host, no wildcard */
    const weft_key_pair_t *keys;    /* the coordinator's; borrowed */
    const weft_key_list_t *clients; /* who may come in; borrowed */
    weft_roster_t *roster;          /* borrowed; its `control` is told to those who join */
    weft_log_t log;
} weft_door_config_t;

/* Bind. **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (no address and port); WEFT_ERR_SYSTEM (it cannot be bound);
 * WEFT_ERR_UNSUPPORTED (no CURVE); WEFT_ERR_NO_MEMORY. */
weft_status_t weft_door_open(const weft_door_config_t *config, weft_door_t **door, weft_error_t *error);
void weft_door_close(weft_door_t *door);

/* Answer everything that waits. **Returns** WEFT_OK; WEFT_ERR_IO when the roster cannot be written down any more:
 * end the coordinator. */
weft_status_t weft_door_serve(weft_door_t *door, weft_error_t *error);

/* Such as "tcp://127.0.0.1:7000". */
const char *weft_door_endpoint(const weft_door_t *door);

/* Connections refused so far, and questions that were not understood. */
uint64_t weft_door_refused(const weft_door_t *door);

/* Check that "HOST:PORT" is a numeric address of one interface: no wildcard, no name. **Returns** WEFT_OK,
 * WEFT_ERR_ARGUMENT. */
weft_status_t weft_door_check_address(const char *address, weft_error_t *error);

#endif
