/* In: a bucket of the program and the shards. Out: its bytes, as every receiver of the route expects them.
 * Invariant: each fragment's rows are contiguous at its offset, whatever the shard's leading dimension. */
#include "src/assemble/packer.h"

#include <string.h>

const uint8_t *weft_shard_at(const weft_shard_t *shard, size_t element_bytes, uint32_t row, uint32_t col)
{
    return shard->data +
           ((size_t)(row - shard->box.row) * shard->ld_elems + (col - shard->box.col)) * element_bytes;
}

bool weft_bucket_in_place(const weft_program_t *program, const weft_shard_t *shards,
                          const weft_bucket_t *bucket)
{
    const weft_shard_t *shard = &shards[program->fragments[bucket->first_fragment].tensor];
    bool one_row = bucket->num_fragments == 1 && program->fragments[bucket->first_fragment].rect.rows == 1;
    return bucket->contiguous && (one_row || shard->ld_elems == shard->box.cols);
}

static void pack_amax(const weft_kernels_t *kernels, const weft_shard_t *shard, weft_dtype_t dtype,
                      const weft_fragment_t *fragment, uint8_t *out)
{
    weft_rect_t rect = fragment->rect;
    uint32_t row, col; /* a NaN is refused where it is quantized; here only the finite ones count */
    memset(out, 0, fragment->bytes);
    kernels->amax(weft_shard_at(shard, weft_dtype_bytes(dtype), rect.row, rect.col), shard->ld_elems,
                  rect.rows, rect.cols, dtype, (uint16_t *)out, &row, &col);
}

static void pack_fragment(const weft_program_t *program, const weft_kernels_t *kernels,
                          const weft_shard_t *shards, const weft_fragment_t *fragment, uint8_t *out)
{
    const weft_shard_t *shard = &shards[fragment->tensor];
    weft_dtype_t dtype = weft_model_tensor(program->plan->model, fragment->tensor)->dtype;
    size_t element = weft_dtype_bytes(dtype);
    weft_rect_t rect = fragment->rect;
    if (fragment->kind == WEFT_PIECE_AMAX)
        pack_amax(kernels, shard, dtype, fragment, out);
    else if (fragment->kind == WEFT_PIECE_DATA)
        kernels->pack(weft_shard_at(shard, element, rect.row, rect.col), shard->ld_elems * element, rect.rows,
                      rect.cols * element, out);
}

void weft_pack_bucket(const weft_program_t *program, const weft_kernels_t *kernels,
                      const weft_shard_t *shards, const weft_bucket_t *bucket, uint8_t *out)
{
    uint32_t end = 0;
    for (uint32_t i = 0; i < bucket->num_fragments; i++) {
        const weft_fragment_t *fragment = &program->fragments[bucket->first_fragment + i];
        memset(out + end, 0, fragment->offset - end);
        pack_fragment(program, kernels, shards, fragment, out + fragment->offset);
        end = fragment->offset + fragment->bytes;
    }
}
