#include "src/assemble/staging.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

static size_t align_up(size_t bytes)
{
    return (bytes + WEFT_FRAGMENT_ALIGN - 1) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
}

weft_status_t weft_staging_create(const weft_program_t *program, weft_queue_t *queue, bool lands,
                                  weft_staging_t *staging)
{
    size_t slot = lands ? align_up(program->slot_bytes) : 0;
    size_t table = align_up(program->amax_rows * sizeof(uint16_t));
    size_t tables = WEFT_STAGING_SLOTS * slot, domains = tables + WEFT_STAGING_TABLES * table;
    weft_staging_t made = {.program = program,
                           .queue = queue,
                           .bytes = domains + align_up(program->num_domains * sizeof(uint16_t)),
                           .first_fold = calloc(program->num_buckets + 1, sizeof *made.first_fold)};
    if (!made.first_fold || queue->ops->alloc(queue, made.bytes, (void **)&made.memory) != WEFT_OK) {
        weft_staging_destroy(&made);
        return WEFT_ERR_NO_MEMORY;
    }
    for (unsigned i = 0; i < WEFT_STAGING_SLOTS && lands; i++)
        made.slots[i] = made.memory + i * slot;
    for (unsigned i = 0; i < WEFT_STAGING_TABLES; i++)
        made.tables[i] = (uint16_t *)(void *)(made.memory + tables + i * table);
    made.domains = (uint16_t *)(void *)(made.memory + domains);
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

/* An amax vector is a column of bf16 (fp16 for fp16 sources), all of it finite and without sign: its row
 * maxima are itself. For a domain it is a row, of which one maximum is wanted. */
static weft_amax_job_t fold_job(const weft_staging_t *staging, const weft_fragment_t *fragment,
                                weft_locate_fn locate, void *user)
{
    const weft_program_t *p = staging->program;
    const weft_unit_t *unit = &p->units[fragment->unit];
    uint32_t round = p->buckets[fragment->bucket].round + 1, count = weft_fragment_rows(fragment);
    bool domain = unit->domain != UINT32_MAX;
    uint16_t *rows = staging->tables[round % WEFT_STAGING_TABLES] + unit->amax_row + fragment->to_row;
    weft_dtype_t dtype = weft_model_tensor(p->plan->model, fragment->tensor)->dtype;
    size_t ld_elems;
    const void *sent = locate(user, fragment, &ld_elems);
    return (weft_amax_job_t){.data = sent,
                             .ld_elems = domain ? count : ld_elems,
                             .rows = domain ? 1 : count,
                             .cols = domain ? count : 1,
                             .dtype = dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : WEFT_DTYPE_BF16,
                             .amax = domain ? staging->domains + unit->domain : rows};
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
    const weft_queue_ops_t *ops = staging->queue->ops;
    if (round >= p->num_rounds)
        return WEFT_OK;
    const weft_round_t *r = &p->rounds[round];
    if (r->num_domains)
        WEFT_TRY(ops->clear(staging->queue, staging->domains + r->first_domain,
                            r->num_domains * sizeof(uint16_t)));
    return r->amax_rows ? ops->clear(staging->queue, staging->tables[round % WEFT_STAGING_TABLES],
                                     r->amax_rows * sizeof(uint16_t))
                        : WEFT_OK;
}

weft_status_t weft_staging_fold_amax(const weft_staging_t *staging, uint32_t bucket, bool *any)
{
    uint32_t first = staging->first_fold[bucket], count = staging->first_fold[bucket + 1] - first;
    *any = count > 0;
    return count ? staging->queue->ops->amax_run(staging->folds, first, count) : WEFT_OK;
}

const uint16_t *weft_staging_amax(const weft_staging_t *staging, uint32_t round, const weft_unit_t *unit)
{
    if (unit->domain != UINT32_MAX)
        return staging->domains + unit->domain;
    return unit->amax_row == UINT32_MAX ? NULL
                                        : staging->tables[round % WEFT_STAGING_TABLES] + unit->amax_row;
}
