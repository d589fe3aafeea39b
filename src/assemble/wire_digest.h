/* What travelled, as one digest a route: the trainer sends its own in the last round, the rollout rank
 * compares.
 *
 * A fragment's digest counts within the fragment as sent (docs/numerics.md); a bucket's is XXH3-128 over
 * those of its fragments, a route's XXH3-128 over those of its buckets in sequence: lost, doubled and swapped
 * fragments all show. Fragments are digested by the queue; what they came to is taken when its ticket is
 * done. */
#ifndef WEFT_ASSEMBLE_WIRE_DIGEST_H
#define WEFT_ASSEMBLE_WIRE_DIGEST_H

#include "kernels/queue.h"
#include "src/plan/program.h"

/* Where bucket `bucket` of the program is, as sent or as arrived. */
typedef const uint8_t *(*weft_bucket_at_fn)(void *user, uint32_t bucket);

typedef struct weft_wire_digests {
    const weft_program_t *program;
    weft_queue_t *queue;
    weft_digest_list_t *list;     /* [fragments] */
    weft_digest_t *buckets;       /* [buckets]: digest of each that was sent or has arrived, once taken */
    weft_digest_t *routes;        /* [routes of the plan]: filled by weft_wire_digests_finish */
    struct weft_hasher **hashers; /* [routes]: NULL where this rank has no part */
    struct weft_hasher *scratch;
    struct weft_wire_pending *pending; /* [buckets] a ring: started, not taken */
    size_t first_pending, num_pending;
    const bool *selected; /* [buckets] of the version; NULL: all */
} weft_wire_digests_t;

weft_status_t weft_wire_digests_create(const weft_program_t *program, weft_queue_t *queue,
                                       weft_wire_digests_t *digests);
void weft_wire_digests_destroy(weft_wire_digests_t *digests);

/* List all fragments; again when they have moved. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_wire_digests_prepare(weft_wire_digests_t *digests, weft_bucket_at_fn bucket_at,
                                        void *user);

/* Forget what is pending of an earlier version. `selected` [buckets] says which buckets travel; NULL: all. It
 * must stay until finish. */
void weft_wire_digests_begin(weft_wire_digests_t *digests, const bool *selected);

/* Start digesting bucket `bucket`, which lies where prepare was told. */
weft_status_t weft_wire_digests_start(weft_wire_digests_t *digests, uint32_t bucket);

/* What was started since the last call is behind `ticket`. */
void weft_wire_digests_mark(weft_wire_digests_t *digests, uint64_t ticket);

/* Take the results of all buckets whose ticket is `done` or less; whether none is pending any more. */
bool weft_wire_digests_take(weft_wire_digests_t *digests, uint64_t done);

/* Combine the buckets of each route, the closing digest bucket left out. None may be pending. */
void weft_wire_digests_finish(weft_wire_digests_t *digests);

#endif
