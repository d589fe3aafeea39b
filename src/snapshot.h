/* Snapshots: copies of a trainer's shards, so that the memory bound may be written as soon as a version is
 * published.
 *
 *     publish(v, snapshot)  --copy-->  snapshot 0  ==== lent and sent until v is over
 *     publish(v+1, snapshot, supersede)  --copy-->  snapshot 1
 *
 * There are two, because two versions may be in flight; each is allocated when it is first needed.
 */
#ifndef WEFT_SNAPSHOT_H
#define WEFT_SNAPSHOT_H

#include "src/assemble/shard.h"
#include "src/session_private.h"

typedef struct weft_snapshot {
    weft_session_t *session;
    weft_queue_t *queue;
    uint8_t *memory;          /* NULL: not allocated */
    uint64_t bytes;           /* of it */
    weft_shard_t *shards;     /* [tensors] */
    bool moved;               /* the last take laid some shard elsewhere than the one before */
    _Atomic uint64_t version; /* that it was taken for last */
} weft_snapshot_t;

/* Copy `shards` [tensors of the plan's model]: on the host before this returns, on a GPU behind the work that
 * is on `stream` now, which work put on `stream` later cannot overtake.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY, WEFT_ERR_SYSTEM. **Blocks** for an allocation the first time. */
weft_status_t weft_snapshot_take(weft_snapshot_t *snapshot, const weft_shard_t *shards, uint64_t version,
                                 void *stream, weft_error_t *error);

/* Free its memory, with nothing in flight. */
void weft_snapshot_free(weft_snapshot_t *snapshot);

#endif
