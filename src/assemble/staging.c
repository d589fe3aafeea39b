#include "src/assemble/staging.h"

#include <stdlib.h>
#include <string.h>

static size_t align_up(size_t bytes)
{
    return (bytes + WEFT_FRAGMENT_ALIGN - 1) / WEFT_FRAGMENT_ALIGN * WEFT_FRAGMENT_ALIGN;
}

weft_status_t weft_staging_create(const weft_program_t *program, weft_staging_t *staging)
{
    size_t slot = align_up(program->slot_bytes);
    size_t table = align_up(program->amax_rows * sizeof(uint16_t));
    weft_staging_t made = {.program = program,
                           .bytes = WEFT_STAGING_SLOTS * slot + WEFT_STAGING_TABLES * table};
    made.memory = aligned_alloc(WEFT_FRAGMENT_ALIGN, made.bytes ? made.bytes : WEFT_FRAGMENT_ALIGN);
    if (!made.memory)
        return WEFT_ERR_NO_MEMORY;
    for (unsigned i = 0; i < WEFT_STAGING_SLOTS; i++)
        made.slots[i] = made.memory + i * slot;
    for (unsigned i = 0; i < WEFT_STAGING_TABLES; i++)
        made.tables[i] = (uint16_t *)(made.memory + WEFT_STAGING_SLOTS * slot + i * table);
    *staging = made;
    return WEFT_OK;
}

void weft_staging_destroy(weft_staging_t *staging)
{
    free(staging->memory);
    *staging = (weft_staging_t){0};
}

uint8_t *weft_staging_bucket(const weft_staging_t *staging, const weft_bucket_t *bucket)
{
    return staging->slots[bucket->round % WEFT_STAGING_SLOTS] + bucket->slot;
}

const uint8_t *weft_staging_fragment(const weft_staging_t *staging, const weft_fragment_t *fragment)
{
    return weft_staging_bucket(staging, &staging->program->buckets[fragment->bucket]) + fragment->offset;
}

void weft_staging_clear_amax(const weft_staging_t *staging, uint32_t round)
{
    if (round < staging->program->num_rounds)
        memset(staging->tables[round % WEFT_STAGING_TABLES], 0,
               staging->program->rounds[round].amax_rows * sizeof(uint16_t));
}

void weft_staging_fold_amax(const weft_staging_t *staging, const weft_fragment_t *fragment)
{
    const weft_program_t *program = staging->program;
    uint32_t round = program->buckets[fragment->bucket].round + 1;
    uint16_t *table = staging->tables[round % WEFT_STAGING_TABLES] + program->units[fragment->unit].amax_row;
    const uint16_t *sent = (const uint16_t *)weft_staging_fragment(staging, fragment);
    for (uint32_t row = 0; row < fragment->rect.rows; row++)
        if (sent[row] > table[fragment->to_row + row])
            table[fragment->to_row + row] = sent[row];
}

const uint16_t *weft_staging_amax(const weft_staging_t *staging, uint32_t round, const weft_unit_t *unit)
{
    return unit->amax_row == UINT32_MAX ? NULL
                                        : staging->tables[round % WEFT_STAGING_TABLES] + unit->amax_row;
}
