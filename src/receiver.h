/* The receiver: posts the buckets of granted rounds and says which have arrived. Direct routes and relays
 * alike.
 *
 *     direct:  broadcast from the source                         -> arrived
 *     relay:   receive from the source, broadcast to the set     -> arrived   (this rank is the relay)
 *              broadcast from the relay                          -> arrived   (another rank of the set is)
 */
#ifndef WEFT_RECEIVER_H
#define WEFT_RECEIVER_H

#include "src/assemble/staging.h"
#include "src/session_private.h"

typedef struct weft_receiver weft_receiver_t;

weft_status_t weft_receiver_create(weft_session_t *session, const weft_program_t *program,
                                   const weft_staging_t *staging, weft_receiver_t **receiver);
void weft_receiver_destroy(weft_receiver_t *receiver);

/* Post all buckets of `round`. Its slot must be free. **Returns** WEFT_OK or a transport's failure, named in
 * `error`. */
weft_status_t weft_receiver_post(weft_receiver_t *receiver, uint32_t round, const bool *selected,
                                 weft_error_t *error);

/* Move things forward; true with the index of a bucket that has arrived, each once. On failure *status is not
 * WEFT_OK. */
bool weft_receiver_poll(weft_receiver_t *receiver, uint32_t *bucket, weft_status_t *status,
                        weft_error_t *error);

/* Whether nothing of `round` is in flight: a relay has a bucket before it has passed it on, and its slot is
 * not free until then. */
bool weft_receiver_round_idle(const weft_receiver_t *receiver, uint32_t round);

/* Whether nothing is in flight, sends to the other ranks of a set included. */
bool weft_receiver_idle(const weft_receiver_t *receiver);

/* Forget what was in flight, after the transport was aborted. */
void weft_receiver_clear(weft_receiver_t *receiver);

#endif
