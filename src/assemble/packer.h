/* The packer: from a trainer's shards to the bytes of a bucket. */
#ifndef WEFT_ASSEMBLE_PACKER_H
#define WEFT_ASSEMBLE_PACKER_H

#include "src/plan/program.h"

/* A tensor of the trainer: the box it holds, and where. */
typedef struct weft_shard {
    weft_rect_t box;
    const uint8_t *data; /* element (box.row, box.col); NULL until bound */
    size_t ld_elems;     /* from one row to the next */
} weft_shard_t;

/* The address of element (row, col) of the tensor, which must lie in the shard. */
const uint8_t *weft_shard_at(const weft_shard_t *shard, size_t element_bytes, uint32_t row, uint32_t col);

/* Whether a bucket can be sent from where it lies: contiguous by the plan, and the shard's rows touch each
 * other. */
bool weft_bucket_in_place(const weft_program_t *program, const weft_shard_t *shards,
                          const weft_bucket_t *bucket);

/* Write all fragments of `bucket` (data, amax vectors) into `out` [bucket->bytes]; alignment gaps are zeroed.
 * Digest fragments are left to the caller. `shards` is indexed by tensor. */
void weft_pack_bucket(const weft_program_t *program, const weft_kernels_t *kernels,
                      const weft_shard_t *shards, const weft_bucket_t *bucket, uint8_t *out);

#endif
