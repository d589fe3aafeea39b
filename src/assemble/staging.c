#include "src/assemble/staging.h"

#include <stdlib.h>
#include <string.h>

static size_t align_up(size_t bytes)
{
    return (bytes + WEFT_FRAGMENT_ALIGN - 1) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
}

weft_status_t weft_staging_create(const weft_program_t *program, weft_queue_t *queue, bool lands,
                                  weft_staging_t *staging)
{
    size_t slot = lands ? align_up(program->slot_bytes) : 0;
    size_t table = align_up(program->amax_rows * sizeof(uint16_t));
    weft_staging_t made = {.program = program,
                           .queue = queue,
                           .bytes = WEFT_STAGING_SLOTS * slot + WEFT_STAGING_TABLES * table,
                           .first_fold = calloc(program->num_buckets + 1, sizeof *made.first_fold)};
    if (!made.first_fold || queue->ops->alloc(queue, made.bytes, (void **)&made.memory) != WEFT_OK) {
        weft_staging_destroy(&made);
        return WEFT_ERR_NO_MEMORY;
    }
    for (unsigned i = 0; i < WEFT_STAGING_SLOTS && lands; i++)
        made.slots[i] = made.memory + i * slot;
    for (unsigned i = 0; i < WEFT_STAGING_TABLES; i++)
        made.tables[i] = (uint16_t *)(void *)(made.memory + WEFT_STAGING_SLOTS * slot + i * table);
    *staging = made;
    return WEFT_OK;
}

void weft_staging_destroy(weft_staging_t *staging)
{
    if (staging->queue) {
        staging->queue->ops->amax_destroy(staging->folds);
        staging->queue->ops->free(staging->queue, staging->memory);
    }
    free(staging->first_fold);
    *staging = (weft_staging_t){0};
}

uint8_t *weft_staging_bucket(const weft_staging_t *staging, const weft_bucket_t *bucket)
{
    uint8_t *slot = staging->slots[bucket->round % WEFT_STAGING_SLOTS];
    return slot ? slot + bucket->slot : NULL;
}

const void *weft_staging_locate(void *user, const weft_fragment_t *fragment, size_t *ld_elems)
{
    const weft_staging_t *staging = user;
    *ld_elems = fragment->kind == WEFT_PIECE_AMAX ? 1 : fragment->rect.cols;
    return weft_staging_bucket(staging, &staging->program->buckets[fragment->bucket]) + fragment->offset;
}

/* ---- amax ---- */

/* An amax vector is a column of bf16 (fp16 for fp16 sources), all of it finite and without sign: its row maxima are
 * itself. */
static weft_amax_job_t fold_job(const weft_staging_t *staging, const weft_fragment_t *fragment, weft_locate_fn locate,
                                void *user)
{
    const weft_program_t *p = staging->program;
    uint32_t round = p->buckets[fragment->bucket].round + 1;
    uint16_t *table = staging->tables[round % WEFT_STAGING_TABLES] + p->units[fragment->unit].amax_row;
    weft_dtype_t dtype = weft_model_tensor(p->plan->model, fragment->tensor)->dtype;
    size_t ld_elems;
    const void *sent = locate(user, fragment, &ld_elems);
    return (weft_amax_job_t){.data = sent,
                             .ld_elems = ld_elems,
                             .rows = weft_fragment_rows(fragment),
                             .cols = 1,
                             .dtype = dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : WEFT_DTYPE_BF16,
                             .amax = table + fragment->to_row};
}

weft_status_t weft_staging_prepare(weft_staging_t *staging, weft_locate_fn locate, void *user)
{
    const weft_program_t *p = staging->program;
    weft_amax_job_t *jobs = calloc(p->num_fragments + 1, sizeof *jobs);
    uint32_t count = 0;
    if (!jobs)
        return WEFT_ERR_NO_MEMORY;
    for (size_t b = 0; b < p->num_buckets; b++) {
        const weft_fragment_t *fragments = &p->fragments[p->buckets[b].first_fragment];
        staging->first_fold[b] = count;
        for (uint32_t i = 0; i < p->buckets[b].num_fragments; i++)
            if (fragments[i].kind == WEFT_PIECE_AMAX)
                jobs[count++] = fold_job(staging, &fragments[i], locate, user);
    }
    staging->first_fold[p->num_buckets] = count;
    staging->queue->ops->amax_destroy(staging->folds);
    staging->folds = NULL;
    weft_status_t status = staging->queue->ops->amax_create(staging->queue, jobs, count, &staging->folds);
    free(jobs);
    return status;
}

weft_status_t weft_staging_clear_amax(const weft_staging_t *staging, uint32_t round)
{
    const weft_program_t *p = staging->program;
    if (round >= p->num_rounds || !p->rounds[round].amax_rows)
        return WEFT_OK;
    return staging->queue->ops->clear(staging->queue, staging->tables[round % WEFT_STAGING_TABLES],
                                      p->rounds[round].amax_rows * sizeof(uint16_t));
}

weft_status_t weft_staging_fold_amax(const weft_staging_t *staging, uint32_t bucket, bool *any)
{
    uint32_t first = staging->first_fold[bucket], count = staging->first_fold[bucket + 1] - first;
    *any = count > 0;
    return count ? staging->queue->ops->amax_run(staging->folds, first, count) : WEFT_OK;
}

const uint16_t *weft_staging_amax(const weft_staging_t *staging, uint32_t round, const weft_unit_t *unit)
{
    return unit->amax_row == UINT32_MAX ? NULL
                                        : staging->tables[round % WEFT_STAGING_TABLES] + unit->amax_row;
}
