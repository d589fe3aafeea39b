/* Rollouts: ranks that serve the newest weights, and decode while the next ones arrive.
 *
 * The engine brackets every decode step. Whatever step_begin says the version is, it is for the whole step,
 * and the same on every rank of the replica for that step number.
 *
 *     weft_rollout_create(session, &config, &rollout, &error);
 *     weft_rollout_get(rollout, "model.layers.0.self_attn.qkv_proj.weight", &view);    addresses never change
 *     for (step = 1;; step++) {
 *         weft_rollout_step_begin(rollout, step, timeout_us, &version, &error);
 *         ... one decode step on the live weights ...
 *         weft_rollout_step_end(rollout, step);
 *     }
 *     weft_rollout_destroy(rollout);
 */
#ifndef WEFT_ROLLOUT_H
#define WEFT_ROLLOUT_H

#include <weft/session.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_rollout weft_rollout_t;

typedef struct weft_rollout_config {
    size_t struct_size;
    const char *swap; /* "flip" (default), "copy" or "layerwise" */
} weft_rollout_config_t;

#define WEFT_ROLLOUT_CONFIG                                                                                  \
    ((weft_rollout_config_t){.struct_size = sizeof(weft_rollout_config_t), .swap = "flip"})

/* Make the rollout of this rank; the session must be a rollout's. Allocates live range, stage and staging,
 * starts the progress thread.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT, WEFT_ERR_UNKNOWN_NAME (swap), WEFT_ERR_NO_MEMORY, WEFT_ERR_SYSTEM.
 */
WEFT_API weft_status_t weft_rollout_create(weft_session_t *session, const weft_rollout_config_t *config,
                                           weft_rollout_t **rollout, weft_error_t *error);

/* Stop and free, the live weights included. NULL is accepted. */
WEFT_API void weft_rollout_destroy(weft_rollout_t *rollout);

/* The kernel-format tensors of this rank, in plan order. `data` is the live address, constant for the
 * rollout's life; its bytes are zero until the first version and change only between steps. */
WEFT_API uint32_t weft_rollout_num_tensors(const weft_rollout_t *rollout);
WEFT_API weft_tensor_t weft_rollout_tensor(const weft_rollout_t *rollout, uint32_t index);

/* Find one by its kernel-format name. **Returns** WEFT_OK, WEFT_ERR_MISSING_TENSOR. */
WEFT_API weft_status_t weft_rollout_get(const weft_rollout_t *rollout, const char *name,
                                        weft_tensor_t *tensor);

/* Swap "layerwise" has no stage: layer by layer, a version is written over the weights that serve, while no step runs. The
 * engine says when: pause, with no step open and on all ranks of a replica after the same step, lets no further step
 * begin until the next version is live; a version that comes waits for it. resume takes that back while nothing has been written.
 * A version that is given up after that leaves the rank TAINTED: it serves nothing until a whole version has come. No pause is
 * needed before the first version, and in the other modes it does nothing.
 * **Returns** pause: WEFT_OK, WEFT_ERR_STEP_ORDER while a step is open. resume: WEFT_OK; WEFT_ERR_NOT_READY while a version
 * is being written; WEFT_ERR_TAINTED. **Threads** the step thread. */
WEFT_API weft_status_t weft_rollout_pause(weft_rollout_t *rollout, weft_error_t *error);
WEFT_API weft_status_t weft_rollout_resume(weft_rollout_t *rollout, weft_error_t *error);

/* Use the caller's memory as the live place of tensor `name` (swap "copy" only, before the first version).
 * **Returns** WEFT_OK, WEFT_ERR_MISSING_TENSOR, WEFT_ERR_ARGUMENT. **Ownership** the memory must outlive the
 * rollout. */
WEFT_API weft_status_t weft_rollout_bind(weft_rollout_t *rollout, const char *name, void *memory,
                                         weft_error_t *error);

/* Say on which cudaStream_t steps are enqueued, between step_begin and step_end, where the live weights are in GPU
 * memory; without it, on the legacy default stream. weft orders swaps behind the work of ended steps on it.
 * With swap "copy" nothing may be captured on it while no step is open: a swap may be enqueued then.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT after the first step. **Ownership** the stream must outlive the rollout. */
WEFT_API weft_status_t weft_rollout_set_stream(weft_rollout_t *rollout, void *stream);

/* Begin step `step`: the first call fixes the number, later ones must rise by one. May perform a due swap
 * before it returns.
 * **Returns** WEFT_OK and the version that serves this step; WEFT_ERR_STEP_ORDER (found and expected in
 * `error`; nothing begun); WEFT_ERR_NOT_READY before the first version; WEFT_ERR_FENCED when no decision came
 * within `timeout_us` while the rank stands at its limit: call again with the same number; WEFT_ERR_PEER_LOST
 * when the replica lost a rank; WEFT_ERR_TAINTED (swap "layerwise").
 * **Blocks** only at the limit of an armed version, or while paused, up to `timeout_us`. **Threads** one step thread a
 * rollout. */
WEFT_API weft_status_t weft_rollout_step_begin(weft_rollout_t *rollout, uint64_t step, uint64_t timeout_us,
                                               uint64_t *version, weft_error_t *error);

/* End it: weft may swap from now on. **Returns** WEFT_OK, WEFT_ERR_STEP_ORDER when that step is not open. */
WEFT_API weft_status_t weft_rollout_step_end(weft_rollout_t *rollout, uint64_t step);

/* Wait, with no step open, until this rank serves `version` or a later one.
 * **Returns** WEFT_OK, WEFT_ERR_TIMEOUT, WEFT_ERR_PEER_LOST (of its replica, or the coordinator is silent); of a version that was to be loaded why it was not. **Blocks** up to `timeout_us`. */
WEFT_API weft_status_t weft_rollout_wait(weft_rollout_t *rollout, uint64_t version, uint64_t timeout_us,
                                         weft_error_t *error);

/* Ask for version `version` from the checkpoint in directory `dir` instead of from trainers: to start, or to go back to
 * older weights (as a higher version). Each rank reads its own part, from a checkpoint as a trainer would hold it
 * (config.json and safetensors), quantized on the way, or from what `weft quantize` wrote for this layout, scheme and
 * profile (rank{r}.safetensors), copied. It is staged, compared and committed like a published version, at one step.
 * Returns at once; weft_rollout_wait says what became of it: with weights applied, or with the reason of the first rank
 * that could not, and the old weights serving.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (no version, no directory, another load is open), WEFT_ERR_PEER_LOST.
 * **Collective** over the rollout ranks that live, with the same version; directories may differ. A version that not all
 * ask for within transfer_timeout_us is refused. **Threads** any, one at a time. */
WEFT_API weft_status_t weft_rollout_load(weft_rollout_t *rollout, const char *dir, uint64_t version,
                                         weft_error_t *error);

typedef enum weft_rollout_phase {
    WEFT_ROLLOUT_IDLE,      /* no version in flight */
    WEFT_ROLLOUT_RECEIVING, /* rounds arrive and are quantized */
    WEFT_ROLLOUT_PREPARED,  /* staged whole; waiting for the other ranks */
    WEFT_ROLLOUT_ARMED,     /* steps are limited until the commit */
    WEFT_ROLLOUT_COMMITTED, /* swaps before a known step */
    WEFT_ROLLOUT_LOST,      /* the replica lost a rank: serves nothing */
    WEFT_ROLLOUT_TAINTED,   /* swap "layerwise": serves nothing until a whole version has come */
} weft_rollout_phase_t;

typedef struct weft_rollout_status {
    weft_rollout_phase_t phase;
    uint64_t live_version;                   /* 0: none yet */
    uint64_t pending_version;                /* 0: none */
    uint64_t newest_version; /* the highest that some replica is known to serve: above live_version this one is stale */
    uint64_t received_bytes, expected_bytes; /* of the version in flight: payload */
    uint32_t layers_staged, num_layers;
    bool cut_off; /* the coordinator was not heard for longer than dead_after_us: what serves serves on, and no other version comes until
                     it is heard again, or in a new session */
} weft_rollout_status_t;

WEFT_API void weft_rollout_get_status(const weft_rollout_t *rollout, weft_rollout_status_t *status);

/* What the last applied version cost this rank. */
typedef struct weft_rollout_stats {
    uint64_t version;
    uint64_t payload_bytes, wire_bytes,
        needed_bytes;       /* received: data and amax; with alignment; what the plan says it needs */
    uint64_t receive_us;    /* transfer begun to last bucket arrived */
    uint64_t quantize_us;   /* in the quantizer, digests of results included */
    uint64_t digest_us;     /* digests of what travelled */
    uint64_t prepare_us;    /* transfer begun to prepared */
    uint64_t update_us;     /* transfer begun to applied */
    uint64_t swap_us;       /* the exchange itself */
    uint64_t pause_us;      /* end of the last step on the old version to the start of the first on the new; 0
                               until it began */
    uint64_t at_step;       /* first step on the version */
    uint64_t staging_bytes; /* allocated for receiving, flat over versions */
    weft_digest_t digest;   /* of the whole model in kernel format on this rank */
    bool loaded;            /* read from disk: nothing was received */
} weft_rollout_stats_t;

WEFT_API void weft_rollout_get_stats(const weft_rollout_t *rollout, weft_rollout_stats_t *stats);

/* Which version served which steps: a span from `first_step` on. The log keeps the last 4096. */
typedef struct weft_version_span {
    uint64_t version, first_step;
} weft_version_span_t;

/* Copy the newest `capacity` spans, oldest first; returns how many there were. */
WEFT_API uint32_t weft_rollout_version_log(const weft_rollout_t *rollout, weft_version_span_t *spans,
                                           uint32_t capacity);

#ifdef __cplusplus
}
#endif
#endif
