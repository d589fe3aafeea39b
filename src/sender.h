/* The sender: packs a trainer's buckets and starts them, in order, with bounded memory. */
#ifndef WEFT_SENDER_H
#define WEFT_SENDER_H

#include "src/assemble/packer.h"
#include "src/assemble/wire_digest.h"
#include "src/lender.h"
#include "src/session_private.h"

typedef struct weft_sender weft_sender_t;

/* Pack buffers are allocated here, within the plan's budget; none when a `lender` lends what is to be sent (else NULL).
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_sender_create(weft_session_t *session, const weft_program_t *program, weft_queue_t *queue,
                                 weft_lender_t *lender, weft_sender_t **sender);
void weft_sender_destroy(weft_sender_t *sender);

/* Look at where the shards are; again when one was bound anew. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY,
 * WEFT_ERR_ARGUMENT. */
weft_status_t weft_sender_prepare(weft_sender_t *sender, const weft_shard_t *shards, weft_error_t *error);

/* Begin a version: nothing is in flight. */
void weft_sender_begin(weft_sender_t *sender, const bool *selected);

/* Whether a bucket can be started now: a pack buffer is free, the rate allows it, and for one of digests, what it
 * speaks of is known. */
bool weft_sender_ready(const weft_sender_t *sender, uint32_t bucket);

/* Begin to pack bucket `bucket`, or to send it from where it lies. Only when weft_sender_ready, in order. */
weft_status_t weft_sender_start(weft_sender_t *sender, uint32_t bucket, weft_error_t *error);

/* Move things forward: send what is packed, free the buffers of what has left. */
weft_status_t weft_sender_poll(weft_sender_t *sender, weft_error_t *error);

bool weft_sender_idle(const weft_sender_t *sender);

/* Forget what was in flight after the transport was aborted. Unless its buffers are free, they are never used
 * nor freed again. **Blocks** until the queue has ended what was started: it reads the shards no more. */
void weft_sender_clear(weft_sender_t *sender, bool buffers_free);

/* Bytes of pack buffers; microseconds of this thread spent packing since the last call. */
size_t weft_sender_bytes(const weft_sender_t *sender);
uint64_t weft_sender_take_pack_us(weft_sender_t *sender);

#endif
