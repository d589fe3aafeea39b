#include "launch/weft/shards.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

#define ALIGN 256u

size_t shards_box(const shards_t *shards, uint32_t index, weft_box_t *box, uint64_t *rows, uint64_t *cols)
{
    const weft_tensor_t *tensor = weft_model_tensor(shards->job->model, index);
    *rows = *cols = 0;
    if (weft_trainer_box(shards->trainer, tensor->name, box) != WEFT_OK)
        return 0;
    *rows = 1;
    for (uint32_t d = 0; d + 1 < box->num_dims; d++)
        *rows *= box->extent[d];
    *cols = box->num_dims ? box->extent[box->num_dims - 1] : 0;
    return *rows * *cols * weft_dtype_bytes(tensor->dtype);
}

static size_t padded_bytes(const shards_t *shards, uint32_t index)
{
    weft_box_t box;
    uint64_t rows, cols;
    return (shards_box(shards, index, &box, &rows, &cols) + ALIGN - 1) / ALIGN * ALIGN;
}

static weft_status_t make_memory(shards_t *shards, uint32_t count, weft_error_t *error)
{
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes = padded_bytes(shards, i);
        shards->bytes += bytes;
        shards->largest = bytes > shards->largest ? bytes : shards->largest;
    }
    shards->at = calloc((size_t)count + 1, sizeof *shards->at);
    if (!shards->at)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for its shards",
                         shards->job->rank);
    return run_alloc(shards->job, shards->bytes, &shards->memory, error);
}

weft_status_t shards_create(run_job_t *job, weft_trainer_t *trainer, shards_t *shards, weft_error_t *error)
{
    uint32_t count = weft_model_num_tensors(job->model);
    size_t at = 0;
    *shards = (shards_t){.job = job, .trainer = trainer};
    WEFT_TRY(make_memory(shards, count, error));
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes = padded_bytes(shards, i);
        if (!bytes)
            continue;
        shards->at[i] = shards->memory + at;
        at += bytes;
        WEFT_TRY(weft_trainer_bind(trainer, weft_model_tensor(job->model, i)->name, shards->at[i], 0, error));
    }
    shards->bounce = malloc(shards->largest + 1);
    return shards->bounce
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_NO_MEMORY, "trainer rank %u: no memory for a shard", job->rank);
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
    uint64_t ld = tensor->num_dims ? tensor->shape[tensor->num_dims - 1] : 1,
             first_col = box->offset[box->num_dims - 1];
    for (uint64_t row = 0; row < rows; row++)
        memcpy(out + row * cols * element,
               (const uint8_t *)tensor->data + (tensor_row(tensor, box, row) * ld + first_col) * element,
               cols * element);
}

static weft_status_t load_shard(const shards_t *shards, uint32_t index, const weft_tensor_t *tensor,
                                weft_error_t *error)
{
    weft_queue_t *queue = shards->job->queue;
    weft_box_t box;
    uint64_t rows, cols;
    size_t bytes = shards_box(shards, index, &box, &rows, &cols);
    if (bytes == 0)
        return WEFT_OK;
    uint8_t *out = queue->ops->on_host ? shards->at[index] : shards->bounce;
    copy_box(tensor, &box, rows, cols, out);
    weft_status_t status =
        queue->ops->on_host ? WEFT_OK : queue->ops->write(queue, shards->at[index], out, bytes);
    return status == WEFT_OK
               ? status
               : weft_fail(error, status, "trainer rank %u: tensor %s could not be written to its GPU: %s",
                           shards->job->rank, tensor->name, weft_status_text(status));
}

weft_status_t shards_load(const shards_t *shards, const char *dir, weft_error_t *error)
{
    weft_model_t *model;
    WEFT_TRY(weft_model_open(dir, &model, error));
    weft_status_t status = WEFT_OK;
    for (uint32_t i = 0; i < weft_model_num_tensors(shards->job->model) && status == WEFT_OK; i++) {
        const weft_tensor_t *expected = weft_model_tensor(shards->job->model, i);
        const weft_tensor_t *found = weft_model_find(model, expected->name);
        if (!found || found->bytes != expected->bytes)
            status = weft_fail(error, WEFT_ERR_SHAPE, "%s has changed since the job began: tensor %s", dir,
                               expected->name);
        if (status == WEFT_OK)
            status = load_shard(shards, i, found, error);
    }
    weft_model_close(model);
    return status;
}

void shards_destroy(shards_t *shards)
{
    if (shards->job)
        run_free(shards->job, shards->memory);
    free(shards->at);
    free(shards->bounce);
    *shards = (shards_t){0};
}
