/* A trainer of the main job: holds its shards of a checkpoint in memory of its own, as a trainer would, and
 * publishes the next checkpoint when the rollout asks for it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/options.h"
#include "launch/weft/run.h"
#include "src/base/clock.h"
#include "src/base/error.h"

typedef struct trainer_state {
    run_job_t *job;
    weft_trainer_t *trainer;
    uint8_t **shards; /* [tensors]: dense copy of the box this rank holds, NULL when it holds nothing */
} trainer_state_t;

/* Rows and columns of a box, seen as a matrix. */
static void box_extent(const weft_box_t *box, uint64_t *rows, uint64_t *cols)
{
    *rows = box->num_dims > 1 ? box->extent[0] : 1;
    *cols = box->num_dims > 1 ? box->extent[1] : box->extent[0];
}

static weft_status_t bind_shard(trainer_state_t *state, uint32_t index, weft_error_t *error)
{
    const weft_tensor_t *tensor = weft_model_tensor(state->job->model, index);
    weft_box_t box;
    uint64_t rows, cols;
    if (weft_trainer_box(state->trainer, tensor->name, &box) != WEFT_OK)
        return WEFT_OK;
    box_extent(&box, &rows, &cols);
    if (rows * cols == 0)
        return WEFT_OK;
    state->shards[index] = aligned_alloc(64, (rows * cols * weft_dtype_bytes(tensor->dtype) + 63) / 64 * 64);
    if (!state->shards[index])
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for its shard of %s",
                         state->job->rank, tensor->name);
    return weft_trainer_bind(state->trainer, tensor->name, state->shards[index], 0, error);
}

static void copy_box(const weft_tensor_t *tensor, const weft_box_t *box, uint8_t *out)
{
    uint64_t rows, cols;
    size_t element = weft_dtype_bytes(tensor->dtype);
    box_extent(box, &rows, &cols);
    uint64_t ld = tensor->shape[tensor->num_dims - 1];
    uint64_t first_row = box->num_dims > 1 ? box->offset[0] : 0, first_col = box->offset[box->num_dims - 1];
    for (uint64_t row = 0; row < rows; row++)
        memcpy(out + row * cols * element,
               (const uint8_t *)tensor->data + ((first_row + row) * ld + first_col) * element,
               cols * element);
}

/* The optimizer's step, as it were: this rank's boxes of the next checkpoint. */
static weft_status_t load_shards(trainer_state_t *state, const char *dir, weft_error_t *error)
{
    weft_model_t *model;
    WEFT_TRY(weft_model_open(dir, &model, error));
    weft_status_t status = WEFT_OK;
    for (uint32_t i = 0; i < weft_model_num_tensors(state->job->model) && status == WEFT_OK; i++) {
        const weft_tensor_t *expected = weft_model_tensor(state->job->model, i);
        const weft_tensor_t *found = weft_model_find(model, expected->name);
        weft_box_t box;
        if (!found || found->bytes != expected->bytes)
            status = weft_fail(error, WEFT_ERR_SHAPE, "%s has changed since the job began: tensor %s", dir,
                               expected->name);
        if (status == WEFT_OK && state->shards[i] &&
            weft_trainer_box(state->trainer, expected->name, &box) == WEFT_OK)
            copy_box(found, &box, state->shards[i]);
    }
    weft_model_close(model);
    return status;
}

/* The first leader says when; the wait gives the core away, because rollouts decode meanwhile. */
static void wait_for_go(run_job_t *job, uint32_t index)
{
    uint32_t asked;
    int leader = (int)weft_plan_num_trainers(job->plan), arrived = 0;
    MPI_Request request;
    MPI_Irecv(&asked, 1, MPI_UINT32_T, leader, RUN_TAG_GO, job->world, &request);
    for (;;) {
        MPI_Test(&request, &arrived, MPI_STATUS_IGNORE);
        if (arrived)
            break;
        weft_sleep_us(200);
    }
    if (asked != index)
        run_abort(job, &(weft_error_t){WEFT_ERR_PROTOCOL,
                                       "the rollout asked for another version than the trainers hold next"});
}

static void tell_result(run_job_t *job, uint32_t index, bool failed)
{
    run_result_t result = {index, failed};
    uint32_t trainers = weft_plan_num_trainers(job->plan), tp = weft_plan_tp(job->plan);
    for (uint32_t leader = trainers; job->rank == 0 && leader < job->num_ranks; leader += tp)
        MPI_Send(&result, sizeof result, MPI_BYTE, (int)leader, RUN_TAG_RESULT, job->world);
}

/* Whether a failed version leaves a session that can take the next one. */
static bool can_go_on(weft_status_t status)
{
    return weft_status_group(status) == WEFT_STATUS_GROUP_VERSION;
}

static weft_status_t publish_one(trainer_state_t *state, uint32_t index, int *code, weft_error_t *error)
{
    run_job_t *job = state->job;
    const char *dir = job->options.model_dirs[index % job->options.num_models];
    WEFT_TRY(load_shards(state, dir, error));
    WEFT_TRY(weft_trainer_publish(state->trainer, index + 1, error));
    weft_status_t status =
        weft_trainer_wait(state->trainer, index + 1, WEFT_PUBLISH_RELEASED, job->options.timeout_us, error);
    if (status == WEFT_OK)
        status = weft_trainer_wait(state->trainer, index + 1, WEFT_PUBLISH_APPLIED, job->options.timeout_us,
                                   error);
    if (status != WEFT_OK && !can_go_on(status))
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

static void sample_memory(run_job_t *job, uint32_t index)
{
    if (index == job->num_versions / 10)
        job->account.rss_early_bytes = run_resident_bytes();
    job->account.rss_late_bytes = run_resident_bytes();
}

int run_trainer(run_job_t *job)
{
    weft_error_t error;
    int code = EXIT_OK;
    trainer_state_t state = {.job = job,
                             .shards = calloc(weft_model_num_tensors(job->model) + 1, sizeof(uint8_t *))};
    weft_status_t status = state.shards ? weft_trainer_create(job->session, &state.trainer, &error)
                                        : weft_fail(&error, WEFT_ERR_NO_MEMORY, "no memory for the shards");
    for (uint32_t i = 0; i < weft_model_num_tensors(job->model) && status == WEFT_OK; i++)
        status = bind_shard(&state, i, &error);
    for (uint32_t index = 0; index < job->num_versions && status == WEFT_OK; index++) {
        if (index > 0)
            wait_for_go(job, index);
        status = publish_one(&state, index, &code, &error);
        sample_memory(job, index);
    }
    if (status != WEFT_OK)
        run_abort(job, &error);
    weft_trainer_destroy(state.trainer);
    for (uint32_t i = 0; i < weft_model_num_tensors(job->model); i++)
        free(state.shards[i]);
    free(state.shards);
    return code;
}
