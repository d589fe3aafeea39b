/* Trainers: ranks that publish new weights.
 *
 * A trainer binds the memory of its shards once and then publishes versions. Publishing lends that memory: it
 * may be written again when the version is RELEASED on this rank.
 *
 *     weft_trainer_create(session, &trainer, &error);
 *     for each parameter: weft_trainer_bind(trainer, name, pointer, 0, &error);
 *     for (version = 1;; version++) {
 *         ... optimizer step ...
 *         weft_trainer_publish(trainer, version, &error);
 *         weft_trainer_wait(trainer, version, WEFT_PUBLISH_RELEASED, timeout_us, &error);
 *     }
 *     weft_trainer_destroy(trainer);
 */
#ifndef WEFT_TRAINER_H
#define WEFT_TRAINER_H

#include <weft/session.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_trainer weft_trainer_t;

/* Make the trainer of this rank; the session must be a trainer's. Starts its progress thread.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT, WEFT_ERR_NO_MEMORY, WEFT_ERR_SYSTEM. */
WEFT_API weft_status_t weft_trainer_create(weft_session_t *session, weft_trainer_t **trainer,
                                           weft_error_t *error);

/* Stop and free; a version in flight is given up first. NULL is accepted. */
WEFT_API void weft_trainer_destroy(weft_trainer_t *trainer);

/* Ask which box of tensor `name` this rank must hold; extents are 0 when it holds nothing of it. One without dimensions has one, of 1.
 * **Returns** WEFT_OK, WEFT_ERR_MISSING_TENSOR. */
WEFT_API weft_status_t weft_trainer_box(const weft_trainer_t *trainer, const char *name, weft_box_t *box);

/* Bind this rank's box of tensor `name`: row-major, in the tensor's dtype, rows `ld_elems` elements apart (0:
 * dense), so that a slice of a larger tensor is bound where it lies. Of a tensor with three dimensions the matrices lie
 * one after another, each of the box's rows. Not while a version is in flight.
 * **Returns** WEFT_OK, WEFT_ERR_MISSING_TENSOR (no such tensor in the plan), WEFT_ERR_ARGUMENT (misaligned,
 * ld too small).
 * **Ownership** the memory stays the caller's; weft only reads it, between publish and RELEASED. */
WEFT_API weft_status_t weft_trainer_bind(weft_trainer_t *trainer, const char *name, const void *data,
                                         size_t ld_elems, weft_error_t *error);

/* Say on which cudaStream_t the optimizer writes, where the bound memory is a GPU's; without it, the legacy default
 * stream. Whatever was enqueued on it before a publish is part of the version. **Ownership** the stream must outlive the
 * trainer. */
WEFT_API void weft_trainer_set_stream(weft_trainer_t *trainer, void *stream);

/* Publish what the bound memory holds as `version` (1 or more, higher than any before). Returns at once;
 * bytes move when all trainer ranks have published it, on a GPU not before the work that is on the trainer's stream now
 * has ended.
 * **Returns** WEFT_OK; WEFT_ERR_VERSION_ORDER; WEFT_ERR_ARGUMENT naming a tensor that is not bound;
 * WEFT_ERR_PEER_LOST, WEFT_ERR_CLOSED.
 * **Collective** over the trainer ranks, in the same order of versions. */
WEFT_API weft_status_t weft_trainer_publish(weft_trainer_t *trainer, uint64_t version, weft_error_t *error);

typedef struct weft_publish_config {
    size_t struct_size;
    bool snapshot;  /* copy the shards first: the memory bound may be written when publish returns (on a GPU: by work that
                       the trainer's stream gets later) */
    const char *layers; /* NULL: the whole model; else globs of layer names (as weft plan prints them, with leaf or
                           without), separated by commas, at most 199 characters: only these layers travel */
    uint64_t base;  /* of a subset: the version whose other layers stay; 0: the one published before */
    bool supersede; /* stop the version before, where it is not being committed yet, instead of waiting for it */
} weft_publish_config_t;

#define WEFT_PUBLISH_CONFIG ((weft_publish_config_t){.struct_size = sizeof(weft_publish_config_t)})

/* weft_trainer_publish with options (NULL: none). A subset is taken by replicas that serve its base; what it leaves out they
 * carry over from there, and the digests they compare are of the whole model. A replica that serves another version keeps
 * it (WEFT_ERR_BASE) until a whole one comes. With `supersede` a version still in transfer is stopped at a round that
 * all ranks agree on; its waits end with WEFT_ERR_SUPERSEDED. A replica that has begun to commit it goes on and serves it
 * until the later one. Without `snapshot` on the version before, its memory must stay as it was until it is RELEASED or its wait has ended:
 * both together let a trainer publish whenever it likes. A snapshot takes as much memory as the shards, twice that where
 * two versions are in flight; it is kept.
 * **Returns** as weft_trainer_publish; WEFT_ERR_NO_MEMORY for a snapshot; WEFT_ERR_MISSING_TENSOR when no layer has such a
 * name; WEFT_ERR_BASE when there is no version to go over. **Collective** over the trainer ranks, with the same options. */
WEFT_API weft_status_t weft_trainer_publish_with(weft_trainer_t *trainer, uint64_t version,
                                                 const weft_publish_config_t *config, weft_error_t *error);

typedef enum weft_publish_state {
    WEFT_PUBLISH_RELEASED, /* this rank's memory may be written again */
    WEFT_PUBLISH_APPLIED,  /* every replica serves it (or a later one) */
} weft_publish_state_t;

/* Wait until `version` has got that far.
 * **Returns** WEFT_OK; the reason the version failed (WEFT_ERR_NONFINITE, WEFT_ERR_DIGEST, WEFT_ERR_ABORTED, WEFT_ERR_SUPERSEDED,
 * WEFT_ERR_PEER_LOST, WEFT_ERR_TIMEOUT ...) with rank and layer in `error`: the memory is released then too;
 * WEFT_ERR_TIMEOUT also when `timeout_us` passed first; WEFT_ERR_PEER_LOST also while the coordinator is silent (for
 * longer than dead_after_us): then nothing is decided, and the memory may be read until the trainer is destroyed.
 * **Blocks** up to `timeout_us`. */
WEFT_API weft_status_t weft_trainer_wait(weft_trainer_t *trainer, uint64_t version,
                                         weft_publish_state_t state, uint64_t timeout_us,
                                         weft_error_t *error);

/* Say whether `version` is undecided, or its memory still read: after a wait that ended for want of time, or of the coordinator,
 * it is; wait again before the memory is written. **Threads** any. */
WEFT_API bool weft_trainer_in_flight(const weft_trainer_t *trainer, uint64_t version);

/* What this rank did for the last version that was released. */
typedef struct weft_trainer_stats {
    uint64_t version;
    uint64_t payload_bytes, wire_bytes; /* sent: data and amax; with alignment and digests */
    uint64_t pack_us, total_us;         /* packing and digests; first bucket to last */
    uint64_t peak_staging_bytes;
} weft_trainer_stats_t;

WEFT_API void weft_trainer_get_stats(const weft_trainer_t *trainer, weft_trainer_stats_t *stats);

#ifdef __cplusplus
}
#endif
#endif
