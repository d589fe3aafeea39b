/* A trainer of the main job: holds its shards of a checkpoint in memory of its own, as a trainer would, and
 * publishes the next checkpoint when the rollout asks for it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/options.h"
#include "launch/weft/run.h"
#include "launch/weft/shards.h"
#include "src/base/clock.h"
#include "src/base/error.h"

typedef struct trainer_state {
    run_job_t *job;
    weft_trainer_t *trainer;
    shards_t shards;
} trainer_state_t;

/* The first leader says when; the wait gives the core away, because rollouts decode meanwhile. False when
 * there is to be no more. */
static bool wait_for_go(run_job_t *job, uint32_t index)
{
    uint32_t asked;
    int leader = (int)weft_plan_num_trainers(job->plan), arrived = 0;
    MPI_Request request;
    MPI_Irecv(&asked, 1, MPI_UINT32_T, leader, RUN_TAG_GO, job->world, &request);
    for (;;) {
        MPI_Test(&request, &arrived, MPI_STATUS_IGNORE);
        if (arrived)
            break;
        run_tell_stop(job);
        weft_sleep_us(200);
    }
    if (asked != index && asked != RUN_NO_MORE)
        run_abort(job, &(weft_error_t){WEFT_ERR_PROTOCOL,
                                       "the rollout asked for another version than the trainers hold next"});
    return asked == index;
}

static void tell_result(run_job_t *job, uint32_t index, bool failed)
{
    run_result_t result = {index, failed};
    uint32_t trainers = weft_plan_num_trainers(job->plan), tp = weft_plan_tp(job->plan);
    for (uint32_t leader = trainers; job->rank == 0 && leader < job->num_ranks; leader += tp)
        MPI_Send(&result, sizeof result, MPI_BYTE, (int)leader, RUN_TAG_RESULT, job->world);
}

static weft_status_t publish_one(trainer_state_t *state, uint32_t index, int *code, weft_error_t *error)
{
    run_job_t *job = state->job;
    const char *dir = run_source(job, index);
    WEFT_TRY(shards_load(&state->shards, dir, error));
    WEFT_TRY(weft_trainer_publish(state->trainer, index + 1, error));
    weft_status_t status =
        weft_trainer_wait(state->trainer, index + 1, WEFT_PUBLISH_RELEASED, job->options.timeout_us, error);
    if (status == WEFT_OK)
        status = weft_trainer_wait(state->trainer, index + 1, WEFT_PUBLISH_APPLIED, job->options.timeout_us,
                                   error);
    if (status != WEFT_OK && weft_status_group(status) != WEFT_STATUS_GROUP_VERSION)
        return status;
    if (status != WEFT_OK) {
        *code = EXIT_CHECK_FAILED;
        if (job->rank == 0)
            fprintf(stderr, "\nweft run: %s (%s)\n", error->message, dir);
    }
    weft_trainer_stats_t stats;
    weft_trainer_get_stats(state->trainer, &stats);
    job->account.sent_bytes += stats.payload_bytes;
    tell_result(job, index, status != WEFT_OK);
    return WEFT_OK;
}

int run_trainer(run_job_t *job)
{
    weft_error_t error;
    int code = EXIT_OK;
    trainer_state_t state = {.job = job};
    weft_status_t status = weft_trainer_create(job->session, &state.trainer, &error);
    if (status == WEFT_OK)
        status = shards_create(job, state.trainer, &state.shards, &error);
    weft_session_place(job->session, job->account.place, sizeof job->account.place);
    for (uint32_t index = job->num_loaded; index < job->num_versions && status == WEFT_OK; index++) {
        if (index > 0 && !wait_for_go(job, index)) {
            tell_result(job, RUN_NO_MORE, false);
            job->num_versions = index;
            break;
        }
        status = publish_one(&state, index, &code, &error);
        run_sample_memory(job, index + 1);
    }
    if (status != WEFT_OK)
        run_abort(job, &error);
    weft_trainer_destroy(state.trainer);
    shards_destroy(&state.shards);
    return code;
}
