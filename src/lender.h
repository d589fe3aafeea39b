/* The lender: over a transport that moves nothing, what a trainer rank lends for a version, and where its amax vectors
 * are.
 *
 *     run 0 .. tensors - 1             the bound memory of each tensor that this rank holds
 *     run tensors .. + routes - 1      the amax vectors of each route, one fragment after another
 *
 * The place of an amax fragment within its route's run follows from the route's fragments alone, so both ends compute
 * it by themselves. */
#ifndef WEFT_LENDER_H
#define WEFT_LENDER_H

#include "src/assemble/shard.h"
#include "src/session_private.h"

/* Write each amax fragment's place in its route's run into `offsets` [fragments of the program], and the bytes of each
 * route's run into `bytes` [routes of the plan]. */
void weft_lent_amax_places(const weft_program_t *program, uint64_t *offsets, uint64_t *bytes);

typedef struct weft_lender weft_lender_t;

/* Allocates the memory of the amax vectors, such that it can be lent.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY, what the transport says. */
weft_status_t weft_lender_create(weft_session_t *session, const weft_program_t *program, weft_queue_t *queue,
                                 weft_lender_t **lender, weft_error_t *error);
void weft_lender_destroy(weft_lender_t *lender);

/* Where a fragment is made: amax vectors in their route's run, data nowhere. A weft_place_fn, `user` is the lender. */
uint8_t *weft_lender_place(void *user, uint32_t bucket, uint32_t fragment);

/* Lend for `version`. **Returns** WEFT_OK; WEFT_ERR_ARGUMENT naming tensor and kind of memory that cannot be. */
weft_status_t weft_lender_lend(weft_lender_t *lender, uint64_t version, const weft_shard_t *shards,
                               weft_error_t *error);
void weft_lender_unlend(weft_lender_t *lender);

#endif
