/* The sender: packs a trainer's buckets and starts them, in order, with bounded memory. */
#ifndef WEFT_SENDER_H
#define WEFT_SENDER_H

#include "src/assemble/packer.h"
#include "src/assemble/wire_digest.h"
#include "src/session_private.h"

typedef struct weft_sender weft_sender_t;

/* Pack buffers are allocated here, within the plan's budget. */
weft_status_t weft_sender_create(weft_session_t *session, const weft_program_t *program,
                                 const weft_kernels_t *kernels, weft_sender_t **sender);
void weft_sender_destroy(weft_sender_t *sender);

/* Whether a bucket can be started now: a pack buffer is free and the rate allows it. */
bool weft_sender_ready(const weft_sender_t *sender, uint32_t bucket);

/* Pack (or point at) bucket `bucket` and start it on its route. `digests` takes note of it; a digest bucket
 * is filled from digests->routes. Only when weft_sender_ready. */
weft_status_t weft_sender_start(weft_sender_t *sender, uint32_t bucket, const weft_shard_t *shards,
                                weft_wire_digests_t *digests, weft_error_t *error);

/* Move things forward and free the buffers of what has left. */
weft_status_t weft_sender_poll(weft_sender_t *sender, weft_error_t *error);

bool weft_sender_idle(const weft_sender_t *sender);

/* Forget what was in flight after the transport was aborted. Unless its buffers are free, they are never used
 * nor freed again. */
void weft_sender_clear(weft_sender_t *sender, bool buffers_free);

/* Bytes of pack buffers; microseconds spent packing since the last call. */
size_t weft_sender_bytes(const weft_sender_t *sender);
uint64_t weft_sender_take_pack_us(weft_sender_t *sender);

#endif
