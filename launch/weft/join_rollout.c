/* A rollout that joined: an engine that steps without decoding, so that swaps have steps to happen between.
 */
#include <stdio.h>

#include "launch/weft/join.h"
#include "launch/weft/options.h"
#include "launch/weft/stop.h"
#include "src/base/clock.h"
#include "src/base/error.h"

#define STEP_TIMEOUT_US 200000u
#define NOT_READY_US    5000u

/* Says each version once. */
static void note_version(const run_job_t *job, uint64_t version, uint64_t step, uint64_t *last)
{
    if (version == *last)
        return;
    *last = version;
    printf("rank %u: version %llu is live from step %llu\n", job->rank, (unsigned long long)version,
           (unsigned long long)step);
    fflush(stdout);
}

static bool is_wanted(const join_options_t *options, uint64_t version)
{
    return !stop_asked() && (options->until == 0 || version < options->until);
}

/* One step. FENCED: the leader has not spoken yet, the same step is tried again; NOT_READY: no version yet.
 */
static weft_status_t step(weft_rollout_t *rollout, uint64_t *number, uint64_t step_us, uint64_t *version,
                          weft_error_t *error)
{
    weft_status_t status = weft_rollout_step_begin(rollout, *number, STEP_TIMEOUT_US, version, error);
    if (status == WEFT_ERR_NOT_READY)
        weft_sleep_us(NOT_READY_US);
    if (status == WEFT_ERR_NOT_READY || status == WEFT_ERR_FENCED)
        return WEFT_OK;
    WEFT_TRY(status);
    weft_sleep_us((uint32_t)step_us);
    return weft_rollout_step_end(rollout, (*number)++);
}

/* Another rank of the replica has taken it out already, and this one serves what it was to serve. */
static bool is_done(const join_options_t *options, const weft_rollout_t *rollout)
{
    weft_rollout_status_t now;
    weft_rollout_get_status(rollout, &now);
    return stop_asked() || (options->until != 0 && now.live_version >= options->until);
}

static weft_status_t serve(const run_job_t *job, const join_options_t *options, weft_rollout_t *rollout,
                           weft_error_t *error)
{
    uint64_t number = 1, version = 0, last = 0;
    while (is_wanted(options, version)) {
        uint64_t begun = number;
        weft_status_t status = step(rollout, &number, options->step_us, &version, error);
        if (status != WEFT_OK)
            return is_done(options, rollout) ? WEFT_OK : status;
        note_version(job, version, begun, &last);
    }
    return WEFT_OK;
}

/* The weights are written once the replica is out: nothing is committed any more. */
static weft_status_t leave(run_job_t *job, const join_options_t *options, const weft_rollout_t *rollout,
                           weft_error_t *error)
{
    weft_status_t left = weft_session_leave(job->session, (uint64_t)options->grace_s * 1000000, error);
    if (job->options.dump)
        WEFT_TRY(run_dump(job, rollout, error));
    printf("rank %u: %s\n", job->rank, left == WEFT_OK ? "left" : error->message);
    fflush(stdout);
    return left;
}

int join_rollout(run_job_t *job, const join_options_t *options)
{
    weft_error_t error;
    weft_rollout_t *rollout = NULL;
    weft_rollout_config_t config = WEFT_ROLLOUT_CONFIG;
    config.swap = job->options.swap;
    weft_status_t status = weft_rollout_create(job->session, &config, &rollout, &error);
    if (status == WEFT_OK)
        status = serve(job, options, rollout, &error);
    if (status == WEFT_OK)
        status = leave(job, options, rollout, &error);
    weft_rollout_destroy(rollout);
    return status == WEFT_OK ? EXIT_OK : report_error("join", &error);
}
