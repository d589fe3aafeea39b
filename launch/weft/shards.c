#include "launch/weft/shards.h"

#include <stdlib.h>

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
    return WEFT_OK;
}

void shards_destroy(shards_t *shards)
{
    if (shards->job)
        run_free(shards->job, shards->memory);
    free(shards->at);
    *shards = (shards_t){0};
}
