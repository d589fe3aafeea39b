/* What travelled, as one digest a route: the trainer sends its own in the last round, the rollout rank
 * compares.
 *
 * A fragment's digest counts within the fragment as sent (docs/numerics.md); a bucket's is XXH3-128 over
 * those of its fragments, a route's XXH3-128 over those of its buckets in sequence: lost, doubled and swapped
 * fragments all show. */
#ifndef WEFT_ASSEMBLE_WIRE_DIGEST_H
#define WEFT_ASSEMBLE_WIRE_DIGEST_H

#include "src/plan/program.h"

typedef struct weft_wire_digests {
    const weft_program_t *program;
    weft_digest_t *buckets;       /* [buckets]: digest of each that was sent or has arrived */
    weft_digest_t *routes;        /* [routes of the plan]: filled by weft_wire_digests_finish */
    struct weft_hasher **hashers; /* [routes]: NULL where this rank has no part */
    struct weft_hasher *scratch;
} weft_wire_digests_t;

weft_status_t weft_wire_digests_create(const weft_program_t *program, weft_wire_digests_t *digests);
void weft_wire_digests_destroy(weft_wire_digests_t *digests);

/* Note the bytes of one bucket, as sent or as arrived. */
void weft_wire_digests_add(weft_wire_digests_t *digests, const weft_kernels_t *kernels, uint32_t bucket,
                           const uint8_t *bytes);

/* Combine the buckets of each route, the closing digest bucket left out. */
void weft_wire_digests_finish(weft_wire_digests_t *digests);

#endif
