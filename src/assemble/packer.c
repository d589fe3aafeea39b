/* In: a bucket of the program and the shards. Out: its bytes, as every receiver of the route expects them.
 * Invariant: each fragment's rows are contiguous at its place, whatever the shard's leading dimension. */
#include "src/assemble/packer.h"

#include <stdlib.h>

#include "src/base/error.h"

bool weft_bucket_in_place(const weft_program_t *program, const weft_shard_t *shards,
                          const weft_bucket_t *bucket)
{
    const weft_fragment_t *first = &program->fragments[bucket->first_fragment];
    const weft_shard_t *shard = &shards[first->tensor];
    bool one_row = bucket->num_fragments == 1 && first->rect.rows == 1;
    return first->kind == WEFT_PIECE_DATA && bucket->contiguous &&
           (one_row || shard->ld_elems == shard->box.cols);
}

weft_status_t weft_packer_create(const weft_program_t *program, weft_queue_t *queue, weft_packer_t *packer)
{
    *packer = (weft_packer_t){.program = program, .queue = queue};
    packer->first_pack = calloc(program->num_buckets + 1, sizeof *packer->first_pack);
    packer->first_max = calloc(program->num_buckets + 1, sizeof *packer->first_max);
    if (packer->first_pack && packer->first_max)
        return WEFT_OK;
    weft_packer_destroy(packer);
    return WEFT_ERR_NO_MEMORY;
}

static void drop_lists(weft_packer_t *packer)
{
    packer->queue->ops->pack_destroy(packer->packs);
    packer->queue->ops->amax_destroy(packer->maxima);
    packer->packs = NULL;
    packer->maxima = NULL;
}

void weft_packer_destroy(weft_packer_t *packer)
{
    if (packer->queue)
        drop_lists(packer);
    free(packer->first_pack);
    free(packer->first_max);
    *packer = (weft_packer_t){0};
}

/* What prepare works with. */
typedef struct draft {
    const weft_shard_t *shards;
    weft_place_fn place;
    void *user;
    weft_pack_job_t *packs;
    weft_amax_job_t *maxima;
    uint32_t num_packs, num_maxima;
} draft_t;

/* An amax vector begins as zeros and then takes the maxima; a NaN is refused where it is quantized. */
static void draft_amax(draft_t *draft, const weft_shard_t *shard, weft_dtype_t dtype, const weft_fragment_t *f,
                       uint8_t *out)
{
    draft->packs[draft->num_packs++] = (weft_pack_job_t){.rows = 1, .row_bytes = f->bytes, .out = out};
    draft->maxima[draft->num_maxima++] =
        (weft_amax_job_t){.data = weft_shard_at(shard, weft_dtype_bytes(dtype), f->rect.row, f->rect.col),
                          .ld_elems = shard->ld_elems,
                          .rows = f->rect.rows,
                          .cols = f->rect.cols,
                          .dtype = dtype,
                          .by_column = f->transposed,
                          .amax = (uint16_t *)(void *)out};
}

static void draft_fragment(const weft_program_t *program, draft_t *draft, uint32_t bucket, uint32_t index)
{
    const weft_fragment_t *f = &program->fragments[index];
    uint8_t *out = f->kind == WEFT_PIECE_DIGEST ? NULL : draft->place(draft->user, bucket, index);
    if (!out)
        return;
    const weft_shard_t *shard = &draft->shards[f->tensor];
    weft_dtype_t dtype = weft_model_tensor(program->plan->model, f->tensor)->dtype;
    size_t element = weft_dtype_bytes(dtype);
    if (f->kind == WEFT_PIECE_AMAX)
        draft_amax(draft, shard, dtype, f, out);
    else
        draft->packs[draft->num_packs++] =
            (weft_pack_job_t){.data = weft_shard_at(shard, element, f->rect.row, f->rect.col),
                              .ld_bytes = shard->ld_elems * element,
                              .rows = f->rect.rows,
                              .row_bytes = f->rect.cols * element,
                              .out = out};
}

static weft_status_t make_lists(weft_packer_t *packer, draft_t *draft)
{
    const weft_program_t *p = packer->program;
    for (uint32_t b = 0; b < p->num_buckets; b++) {
        packer->first_pack[b] = draft->num_packs;
        packer->first_max[b] = draft->num_maxima;
        for (uint32_t i = 0; i < p->buckets[b].num_fragments; i++)
            draft_fragment(p, draft, b, p->buckets[b].first_fragment + i);
    }
    packer->first_pack[p->num_buckets] = draft->num_packs;
    packer->first_max[p->num_buckets] = draft->num_maxima;
    WEFT_TRY(packer->queue->ops->pack_create(packer->queue, draft->packs, draft->num_packs, &packer->packs));
    return packer->queue->ops->amax_create(packer->queue, draft->maxima, draft->num_maxima, &packer->maxima);
}

weft_status_t weft_packer_prepare(weft_packer_t *packer, const weft_shard_t *shards, weft_place_fn place, void *user)
{
    size_t most = packer->program->num_fragments + 1;
    draft_t draft = {.shards = shards,
                     .place = place,
                     .user = user,
                     .packs = calloc(most, sizeof *draft.packs),
                     .maxima = calloc(most, sizeof *draft.maxima)};
    drop_lists(packer);
    weft_status_t status = draft.packs && draft.maxima ? make_lists(packer, &draft) : WEFT_ERR_NO_MEMORY;
    free(draft.packs);
    free(draft.maxima);
    return status;
}

weft_status_t weft_packer_run(const weft_packer_t *packer, uint32_t bucket, bool *any)
{
    const weft_queue_ops_t *ops = packer->queue->ops;
    uint32_t pack = packer->first_pack[bucket], packs = packer->first_pack[bucket + 1] - pack;
    uint32_t max = packer->first_max[bucket], maxima = packer->first_max[bucket + 1] - max;
    *any = packs || maxima;
    if (packs)
        WEFT_TRY(ops->pack_run(packer->packs, pack, packs));
    return maxima ? ops->amax_run(packer->maxima, max, maxima) : WEFT_OK;
}
