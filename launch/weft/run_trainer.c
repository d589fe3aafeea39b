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
    uint8_t *bounce; /* the largest of them in host memory, on its way to a GPU */
} trainer_state_t;

static weft_status_t make_shards(trainer_state_t *state, weft_error_t *error)
{
    WEFT_TRY(shards_create(state->job, state->trainer, &state->shards, error));
    state->bounce = malloc(state->shards.largest + 1);
    return state->bounce ? WEFT_OK
                         : weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for a shard",
                                     state->job->rank);
}

/* Row `row` of the box, counted through all dimensions but the last, as a row of the tensor. */
static uint64_t tensor_row(const weft_tensor_t *tensor, const weft_box_t *box, uint64_t row)
{
    if (box->num_dims < 3)
        return box->num_dims > 1 ? box->offset[0] + row : 0;
    return (box->offset[0] + row / box->extent[1]) * tensor->shape[1] + box->offset[1] + row % box->extent[1];
}

static void copy_box(const weft_tensor_t *tensor, const weft_box_t *box, uint64_t rows, uint64_t cols,
                     uint8_t *out)
{
    size_t element = weft_dtype_bytes(tensor->dtype);
    uint64_t ld = tensor->shape[tensor->num_dims - 1], first_col = box->offset[box->num_dims - 1];
    for (uint64_t row = 0; row < rows; row++)
        memcpy(out + row * cols * element,
               (const uint8_t *)tensor->data + (tensor_row(tensor, box, row) * ld + first_col) * element,
               cols * element);
}

static weft_status_t load_shard(trainer_state_t *state, uint32_t index, const weft_tensor_t *tensor,
                                weft_error_t *error)
{
    weft_queue_t *queue = state->job->queue;
    weft_box_t box;
    uint64_t rows, cols;
    size_t bytes = shards_box(&state->shards, index, &box, &rows, &cols);
    if (bytes == 0)
        return WEFT_OK;
    uint8_t *out = queue->ops->on_host ? state->shards.at[index] : state->bounce;
    copy_box(tensor, &box, rows, cols, out);
    weft_status_t status =
        queue->ops->on_host ? WEFT_OK : queue->ops->write(queue, state->shards.at[index], out, bytes);
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "trainer rank %u: tensor %s could not be written to its GPU: %s",
                           state->job->rank, tensor->name, weft_status_text(status));
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
        if (!found || found->bytes != expected->bytes)
            status = weft_fail(error, WEFT_ERR_SHAPE, "%s has changed since the job began: tensor %s", dir,
                               expected->name);
        if (status == WEFT_OK)
            status = load_shard(state, i, found, error);
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

static weft_status_t publish_one(trainer_state_t *state, uint32_t index, int *code, weft_error_t *error)
{
    run_job_t *job = state->job;
    const char *dir = run_source(job, index);
    WEFT_TRY(load_shards(state, dir, error));
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
        status = make_shards(&state, &error);
    weft_session_place(job->session, job->account.place, sizeof job->account.place);
    for (uint32_t index = job->num_loaded; index < job->num_versions && status == WEFT_OK; index++) {
        if (index > 0)
            wait_for_go(job, index);
        status = publish_one(&state, index, &code, &error);
        run_sample_memory(job, index + 1);
    }
    if (status != WEFT_OK)
        run_abort(job, &error);
    weft_trainer_destroy(state.trainer);
    shards_destroy(&state.shards);
    free(state.bounce);
    return code;
}
