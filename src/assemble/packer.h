/* The packer: from a trainer's shards to the bytes of a bucket. */
#ifndef WEFT_ASSEMBLE_PACKER_H
#define WEFT_ASSEMBLE_PACKER_H

#include "kernels/queue.h"
#include "src/assemble/shard.h"

/* Where the bytes of fragment `fragment` (an index of the program) of a bucket go; NULL: nowhere, they are read
 * where they lie. */
typedef uint8_t *(*weft_place_fn)(void *user, uint32_t bucket, uint32_t fragment);

typedef struct weft_packer {
    const weft_program_t *program;
    weft_queue_t *queue;
    weft_pack_list_t *packs;
    weft_amax_list_t *maxima;
    uint32_t *first_pack, *first_max; /* [buckets + 1] */
} weft_packer_t;

/* Whether a bucket can be sent from where it lies: contiguous by the plan, and the shard's rows touch each
 * other. */
bool weft_bucket_in_place(const weft_program_t *program, const weft_shard_t *shards,
                          const weft_bucket_t *bucket);

/* **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_packer_create(const weft_program_t *program, weft_queue_t *queue, weft_packer_t *packer);
void weft_packer_destroy(weft_packer_t *packer);

/* List what each bucket is made of: data fragments copied, amax vectors found; digests are the caller's. Again when
 * shards or places have moved. `shards` is indexed by tensor.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY, WEFT_ERR_ARGUMENT (a shard that the kernels cannot read). */
weft_status_t weft_packer_prepare(weft_packer_t *packer, const weft_shard_t *shards, weft_place_fn place, void *user);

/* Start making the bytes of `bucket`; *any says whether there was something to make. */
weft_status_t weft_packer_run(const weft_packer_t *packer, uint32_t bucket, bool *any);

#endif
