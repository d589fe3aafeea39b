/* weft bench sync: what its files share. */
#ifndef WEFT_LAUNCH_BENCH_SYNC_H
#define WEFT_LAUNCH_BENCH_SYNC_H

#include "launch/weft/bench_ranks.h"
#include "launch/weft/shards.h"

typedef struct bench_engine bench_engine_t;

typedef struct bench_sync {
    bench_world_t world;
    const char *shape, *decode;
    double baseline_s; /* of decoding without an update */
    uint32_t tokens;   /* KV cache of the decoder */

    bench_random_t random;
    weft_program_t *program; /* what this rank does, for bare and check */
    weft_outputs_t outputs;
    weft_trainer_t *trainer; /* one of the two */
    weft_rollout_t *rollout;
    shards_t shards;
    uint8_t *scratch; /* for bare or floor */
    size_t scratch_bytes;
    weft_digest_list_t *warmth; /* what keeps a GPU at work until an update begins */
    bool idle;                  /* --idle: nothing does */
    bench_engine_t *engine; /* rollout, with --decode */
    uint64_t version;       /* published last */

    /* of the last version on a rollout rank, from its timeline: weft_now_ns */
    _Atomic uint64_t begun_ns, swapped_ns;
} bench_sync_t;

/* Publish the next version on the trainers, wait until it is applied. Collective, in that order of calls;
 * returns when this rank heard of it. */
weft_status_t bench_sync_publish(bench_sync_t *s, uint64_t *published_ns, uint64_t *heard_ns,
                                 weft_error_t *error);

/* ---- bench_sync_check.c ---- */

/* Write this trainer rank's shards as they are in the version of `seed`. */
weft_status_t bench_sync_fill(bench_sync_t *s, uint64_t seed, weft_error_t *error);

/* Compare live weights of this rollout rank with what the host's reference makes of the version of `seed`:
 * all layers, or of large models a sample. *checked: bytes looked at. */
weft_status_t bench_sync_check(bench_sync_t *s, uint64_t seed, double *wrong, double *checked,
                               weft_error_t *error);

/* ---- bench_sync_decode.c ---- */

/* Make the decoder of this rollout rank, before its first step. Destroy accepts NULL. */
weft_status_t bench_engine_create(bench_sync_t *s, weft_error_t *error);
void bench_engine_destroy(bench_engine_t *engine);

/* Run a few steps. */
weft_status_t bench_engine_run(bench_sync_t *s, uint32_t steps, weft_error_t *error);

/* Decode without a pause while versions are published, and print what that costs. Collective. */
weft_status_t bench_sync_decode(bench_sync_t *s, weft_error_t *error);

#endif
