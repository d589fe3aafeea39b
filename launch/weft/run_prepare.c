/* Everything that can be found wrong before the first byte moves: each rank looks for itself, run.c makes
 * them agree. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch/weft/run.h"
#include "src/base/error.h"
#include "src/model/stored.h"
#include "src/swap/weights.h"

static weft_status_t check_size(const run_job_t *job, weft_error_t *error)
{
    uint32_t expected = weft_plan_num_trainers(job->plan) + weft_plan_num_rollouts(job->plan);
    if (expected == job->num_ranks)
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_ARGUMENT,
        "trainer %s and rollout %s have %u + %u ranks, but %u processes run: start it with mpirun -n %u",
        weft_plan_trainer_text(job->plan), weft_plan_rollout_text(job->plan),
        weft_plan_num_trainers(job->plan), weft_plan_num_rollouts(job->plan), job->num_ranks, expected);
}

static weft_status_t compare_tensor(const weft_tensor_t *expected, const weft_tensor_t *found,
                                    weft_error_t *error)
{
    if (!found)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR, "no tensor %s, which the first checkpoint has",
                         expected->name);
    if (found->dtype != expected->dtype || found->num_dims != expected->num_dims ||
        memcmp(found->shape, expected->shape, expected->num_dims * sizeof *expected->shape) != 0)
        return weft_fail(error, WEFT_ERR_SHAPE,
                         "tensor %s has another shape or dtype than in the first checkpoint", expected->name);
    return WEFT_OK;
}

/* A version is the same model with other numbers. */
static weft_status_t compare_models(const weft_model_t *first, const weft_model_t *other, weft_error_t *error)
{
    if (strcmp(weft_model_type(first), weft_model_type(other)) != 0)
        return weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "model_type \"%s\", the first checkpoint has \"%s\"",
                         weft_model_type(other), weft_model_type(first));
    for (uint32_t i = 0; i < weft_model_num_tensors(first); i++) {
        const weft_tensor_t *tensor = weft_model_tensor(first, i);
        WEFT_TRY(compare_tensor(tensor, weft_model_find(other, tensor->name), error));
    }
    for (uint32_t i = 0; i < weft_model_num_tensors(other); i++)
        if (!weft_model_find(first, weft_model_tensor(other, i)->name))
            return weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "tensor %s, which the first checkpoint has not",
                             weft_model_tensor(other, i)->name);
    return WEFT_OK;
}

/* Of tensors that are quantized already, what the plan cannot see in those of the first checkpoint: parts
 * that must store the same number. */
static weft_status_t check_numbers(const weft_model_t *model, weft_error_t *error)
{
    weft_layers_t *layers = NULL;
    weft_status_t status = weft_stored_of(model) ? weft_layers_create(model, &layers, error) : WEFT_OK;
    weft_layers_destroy(layers);
    return status;
}

static weft_status_t check_models(const run_job_t *job, weft_error_t *error)
{
    for (uint32_t i = 1; i < job->options.num_models; i++) {
        weft_model_t *model;
        WEFT_TRY(weft_model_open(job->options.model_dirs[i], &model, error));
        weft_status_t status = compare_models(job->model, model, error);
        if (status == WEFT_OK)
            status = check_numbers(model, error);
        weft_model_close(model);
        if (status != WEFT_OK)
            return weft_error_prefix(error, "%s", job->options.model_dirs[i]);
    }
    return WEFT_OK;
}

/* Open for writing without losing what is there: a failure must come before the work, not after it. */
static weft_status_t check_writable(const char *path, weft_error_t *error)
{
    FILE *file = path ? fopen(path, "a") : NULL;
    if (path && !file)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be written: %s", path, strerror(errno));
    if (file)
        fclose(file);
    return WEFT_OK;
}

static weft_status_t check_dump(const char *dir, weft_error_t *error)
{
    struct stat info;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be made: %s", dir, strerror(errno));
    if (stat(dir, &info) != 0 || !S_ISDIR(info.st_mode))
        return weft_fail(error, WEFT_ERR_IO, "%s is not a directory", dir);
    if (access(dir, W_OK | X_OK) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be written: %s", dir, strerror(errno));
    return WEFT_OK;
}

static weft_status_t check_rollout(const run_options_t *o, weft_error_t *error)
{
    WEFT_TRY(weft_weights_check_mode(o->swap, error));
    struct stat info;
    if (o->eval && (access(o->eval, R_OK) != 0 || stat(o->eval, &info) != 0))
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be read: %s", o->eval, strerror(errno));
    if (o->eval && (!S_ISREG(info.st_mode) || info.st_size < 2))
        return weft_fail(error, WEFT_ERR_IO, "%s is no text of 2 bytes or more to score", o->eval);
    if (o->load && access(o->load, R_OK | X_OK) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be read: %s", o->load, strerror(errno));
    return o->dump ? check_dump(o->dump, error) : WEFT_OK;
}

weft_status_t run_prepare(run_job_t *job, weft_error_t *error)
{
    const run_options_t *o = &job->options;
    WEFT_TRY(run_read_keys(job, error));
    WEFT_TRY(weft_model_open(o->model_dirs[0], &job->model, error));
    WEFT_TRY(plan_from_arguments(job->model, &o->plan, &job->plan, error));
    WEFT_TRY(check_size(job, error));
    WEFT_TRY(check_models(job, error));
    if (job->rank == 0) {
        WEFT_TRY(check_writable(o->json, error));
        WEFT_TRY(check_writable(o->trace, error));
    }
    return job->rank < weft_plan_num_trainers(job->plan) ? WEFT_OK : check_rollout(o, error);
}
