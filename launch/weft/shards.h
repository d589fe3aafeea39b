/* The shards of a trainer rank: its boxes of all tensors, dense, in one allocation, as few as a colocated
 * rank has to map. */
#ifndef WEFT_LAUNCH_SHARDS_H
#define WEFT_LAUNCH_SHARDS_H

#include "launch/weft/run.h"

typedef struct shards {
    run_job_t *job;
    weft_trainer_t *trainer;
    uint8_t *memory;       /* of the job's queue, or lendable */
    size_t bytes, largest; /* of all, of the largest */
    uint8_t **at;          /* [tensors of the model]; NULL where this rank holds nothing */
    uint8_t *bounce;       /* the largest of them in host memory, on its way to a GPU */
} shards_t;

/* Allocate and bind. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY, what bind says. */
weft_status_t shards_create(run_job_t *job, weft_trainer_t *trainer, shards_t *shards, weft_error_t *error);

/* The optimizer's step, as it were: this rank's boxes of the checkpoint in `dir`. **Returns** WEFT_OK; WEFT_ERR_SHAPE when it
 * is not of the job's model; what opening says. */
weft_status_t shards_load(const shards_t *shards, const char *dir, weft_error_t *error);

/* Free; after the trainer is destroyed. One that was never created is accepted if it is zeros. */
void shards_destroy(shards_t *shards);

/* This rank's box of tensor `index`, seen as a matrix, and its bytes: 0 when it holds nothing of it. */
size_t shards_box(const shards_t *shards, uint32_t index, weft_box_t *box, uint64_t *rows, uint64_t *cols);

#endif
