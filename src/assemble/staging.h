/* Staging: the memory that buckets land in. Two slots that rounds alternate between, and three tables for
 * amax vectors, because round r is still being quantized with its table while r+1's is complete and r+2's
 * arrives.
 *
 *     slot 0: round r     slot 1: round r+1      table r mod 3, (r+1) mod 3, (r+2) mod 3
 *     [bucket][bucket]..  [bucket]..             [bf16 a row]..
 */
#ifndef WEFT_ASSEMBLE_STAGING_H
#define WEFT_ASSEMBLE_STAGING_H

#include "src/plan/program.h"

#define WEFT_STAGING_SLOTS  2u
#define WEFT_STAGING_TABLES 3u

typedef struct weft_staging {
    const weft_program_t *program;
    uint8_t *memory;
    size_t bytes; /* of all of it: what a rank really stages */
    uint8_t *slots[WEFT_STAGING_SLOTS];
    uint16_t *tables[WEFT_STAGING_TABLES];
} weft_staging_t;

/* Allocate what the program's largest round needs. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_staging_create(const weft_program_t *program, weft_staging_t *staging);
void weft_staging_destroy(weft_staging_t *staging);

/* Where a bucket lands. */
uint8_t *weft_staging_bucket(const weft_staging_t *staging, const weft_bucket_t *bucket);

/* Where a fragment is once its bucket has arrived. */
const uint8_t *weft_staging_fragment(const weft_staging_t *staging, const weft_fragment_t *fragment);

/* Forget the amax of round `round`, before anything that carries it is posted. */
void weft_staging_clear_amax(const weft_staging_t *staging, uint32_t round);

/* Take the maximum of an arrived amax fragment into the table of its unit's round (the one after its
 * bucket's). */
void weft_staging_fold_amax(const weft_staging_t *staging, const weft_fragment_t *fragment);

/* The amax of a unit's rows, or NULL when none was sent ahead. */
const uint16_t *weft_staging_amax(const weft_staging_t *staging, uint32_t round, const weft_unit_t *unit);

#endif
