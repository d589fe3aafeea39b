/* A rank's side of the coordinator's door: it joins, learns which life it is and the session's token, says where its mailbox
 * is, and gathers with the others when transports meet (wire.h).
 *
 *     weft_service_open(&join, &service, &error);
 *     weft_service_register(service, weft_mailbox_endpoint(mailbox), &error);
 *     weft_service_find(service, leader, endpoint, &error);
 *     ... weft_service_begin(service, version, members); transport->renew(...) ...
 *     weft_service_close(service);
 *
 * **Threads** one at a time; the progress thread once it runs. */
#ifndef WEFT_SERVICE_SERVICE_H
#define WEFT_SERVICE_SERVICE_H

#include <stdatomic.h>

#include "src/service/wire.h"
#include "transport/transport.h"

typedef struct weft_service weft_service_t;

typedef struct weft_service_join {
    const char *coordinator; /* host:port */
    const char *keys;        /* folder: NAME.key and server.pub */
    const char *key_name;
    uint32_t rank;
    weft_topology_t topology;
    weft_digest_t plan_hash;
    uint64_t timeout_us;
    const _Atomic uint64_t *given_up; /* the version that nobody waits for any more, UINT64_MAX: all; borrowed */
} weft_service_join_t;

/* Join. **Returns** WEFT_OK; WEFT_ERR_TIMEOUT (nobody answers); WEFT_ERR_TRANSPORT (the coordinator refuses this key);
 * WEFT_ERR_PLAN_MISMATCH, WEFT_ERR_ARGUMENT (another topology); WEFT_ERR_IO, WEFT_ERR_FILE (the keys);
 * WEFT_ERR_UNSUPPORTED, WEFT_ERR_NO_MEMORY. **Blocks** up to `timeout_us`. */
weft_status_t weft_service_open(const weft_service_join_t *join, weft_service_t **service, weft_error_t *error);
void weft_service_close(weft_service_t *service);

uint64_t weft_service_incarnation(const weft_service_t *service);
const uint8_t *weft_service_token(const weft_service_t *service); /* [WEFT_MAILBOX_TOKEN_BYTES] */
const char *weft_service_control(const weft_service_t *service);  /* endpoint of the coordinator's mailbox */

/* Say where this rank's mailbox is. */
weft_status_t weft_service_register(weft_service_t *service, const char *endpoint, weft_error_t *error);

/* Ask where `rank` of this rank's replica is, until it has come in the same life. If that rank is ahead, because it has ended and
 * come back meanwhile, this one joins again, so look at weft_service_incarnation afterwards. **Blocks** up to the timeout. */
weft_status_t weft_service_find(weft_service_t *service, uint32_t rank, char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES],
                                weft_error_t *error);

/* The bootstrap of a transport: it gathers, and says who is present. Until weft_service_begin that is this rank alone. */
weft_transport_t *weft_service_bootstrap(weft_service_t *service);

/* From now on gatherings are among all trainers and `members`, a series of its own for `version`. */
void weft_service_begin(weft_service_t *service, uint64_t version, weft_members_t members);

#endif
