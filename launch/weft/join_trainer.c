/* A trainer that joined: it publishes checkpoints one after the other. What becomes of one is no reason to
 * end; that the session has no place for this process any more is. */
#include <stdio.h>

#include "launch/weft/join.h"
#include "launch/weft/options.h"
#include "launch/weft/shards.h"
#include "launch/weft/stop.h"
#include "src/base/clock.h"
#include "src/base/error.h"

#define LOOK_US 100000

/* The version failed, others may follow: what ended it may be mended by then. */
static bool goes_on(weft_status_t status)
{
    return weft_status_group(status) == WEFT_STATUS_GROUP_VERSION || status == WEFT_ERR_PEER_LOST ||
           status == WEFT_ERR_TIMEOUT || status == WEFT_ERR_TRANSPORT;
}

/* While the coordinator is silent nothing is decided: the version, and the shards that are still read for it,
 * wait until it is heard again, or patience is over; after a signal no longer than the grace. */
static weft_status_t await(const join_options_t *options, weft_trainer_t *trainer, uint64_t version,
                           weft_error_t *error)
{
    uint64_t bound_us = UINT64_MAX;
    bool said = false;
    for (;;) {
        weft_status_t status = weft_trainer_wait(trainer, version, WEFT_PUBLISH_APPLIED, LOOK_US, error);
        if (status == WEFT_OK || !weft_trainer_in_flight(trainer, version) || weft_now_us() >= bound_us)
            return status;
        if (stop_asked() && bound_us == UINT64_MAX)
            bound_us = weft_now_us() + (uint64_t)options->grace_s * 1000000;
        if (status == WEFT_ERR_TIMEOUT)
            continue;
        if (!said)
            fprintf(stderr, "weft join: %s\n", error->message);
        said = true;
        weft_sleep_us(LOOK_US);
    }
}

static weft_status_t publish(const join_options_t *options, weft_trainer_t *trainer, uint64_t version,
                             weft_error_t *error)
{
    WEFT_TRY(weft_trainer_publish(trainer, version, error));
    return await(options, trainer, version, error);
}

static weft_status_t publish_all(run_job_t *job, const join_options_t *options, weft_trainer_t *trainer,
                                 const shards_t *shards, int *code, weft_error_t *error)
{
    const run_options_t *o = &job->options;
    uint32_t updates = o->updates == RUN_EACH_ONCE ? o->num_models : o->updates;
    for (uint32_t i = 0; i < updates && !stop_asked(); i++) {
        uint64_t version = (uint64_t)options->first + i;
        WEFT_TRY(shards_load(shards, o->model_dirs[i % o->num_models], error));
        weft_status_t status = publish(options, trainer, version, error);
        if (status != WEFT_OK && !goes_on(status))
            return status;
        printf("version %llu: %s\n", (unsigned long long)version,
               status == WEFT_OK ? "applied" : error->message);
        fflush(stdout);
        *code = status == WEFT_OK ? *code : EXIT_CHECK_FAILED;
        join_rest((uint64_t)options->pause_ms * 1000);
    }
    return WEFT_OK;
}

int join_trainer(run_job_t *job, const join_options_t *options)
{
    weft_error_t error;
    weft_trainer_t *trainer = NULL;
    shards_t shards = {0};
    int code = EXIT_OK;
    weft_status_t status = weft_trainer_create(job->session, &trainer, &error);
    if (status == WEFT_OK)
        status = shards_create(job, trainer, &shards, &error);
    if (status == WEFT_OK)
        status = publish_all(job, options, trainer, &shards, &code, &error);
    weft_trainer_destroy(trainer);
    shards_destroy(&shards);
    return status == WEFT_OK ? code : report_error("join", &error);
}
