/* weft join: what its files share. */
#ifndef WEFT_LAUNCH_JOIN_H
#define WEFT_LAUNCH_JOIN_H

#include "launch/weft/run.h"

typedef struct join_options {
    uint32_t first;      /* trainer: number of its first version */
    uint32_t pause_ms;   /* trainer: between two versions */
    uint32_t until;      /* rollout: leave once this version is live; 0: serve until SIGTERM */
    uint32_t step_us;    /* rollout: how long a step takes */
    uint32_t grace_s;    /* from a signal to the end of what is orderly */
} join_options_t;

/* Both return the exit code, when their work is done or SIGTERM has come. */
int join_trainer(run_job_t *job, const join_options_t *options);
int join_rollout(run_job_t *job, const join_options_t *options);

/* Sleep `us`, or until SIGTERM or SIGINT has come. */
void join_rest(uint64_t us);

#endif
