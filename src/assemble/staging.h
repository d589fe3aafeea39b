/* Staging: the memory that buckets land in. Two slots that rounds alternate between, and three tables for
 * amax vectors, because round r is still being quantized with its table while r+1's is complete and r+2's
 * arrives.
 *
 *     slot 0: round r     slot 1: round r+1      table r mod 3, (r+1) mod 3, (r+2) mod 3
 *     [bucket][bucket]..  [bucket]..             [bf16 a row]..
 *
 * The amax of a domain, a tensor with one scale, is kept in an entry of its own: its units may be in many rounds.
 *
 * With a transport that lends, nothing lands: there are no slots, and fragments are where their source has them.
 */
#ifndef WEFT_ASSEMBLE_STAGING_H
#define WEFT_ASSEMBLE_STAGING_H

#include "kernels/queue.h"
#include "src/plan/program.h"

#define WEFT_STAGING_SLOTS  2u
#define WEFT_STAGING_TABLES 3u

/* Where a fragment is once its bucket has arrived, and how far apart its rows. */
typedef const void *(*weft_locate_fn)(void *user, const weft_fragment_t *fragment, size_t *ld_elems);

typedef struct weft_staging {
    const weft_program_t *program;
    weft_queue_t *queue;
    uint8_t *memory;
    size_t bytes; /* of all of it: what a rank really stages */
    uint8_t *slots[WEFT_STAGING_SLOTS]; /* NULL without slots */
    uint16_t *tables[WEFT_STAGING_TABLES];
    uint16_t *domains; /* [domains of the program] */
    weft_amax_list_t *folds;
    uint32_t *first_fold; /* [buckets + 1] */
} weft_staging_t;

/* Allocate what the program's largest round needs from `queue`; slots only when `lands`.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_staging_create(const weft_program_t *program, weft_queue_t *queue, bool lands,
                                  weft_staging_t *staging);
void weft_staging_destroy(weft_staging_t *staging);

/* List what folds the amax fragments; again when they have moved. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_staging_prepare(weft_staging_t *staging, weft_locate_fn locate, void *user);

/* Where a bucket lands; NULL without slots. */
uint8_t *weft_staging_bucket(const weft_staging_t *staging, const weft_bucket_t *bucket);

/* Where a fragment is once its bucket has arrived in its slot: a weft_locate_fn, `user` is the staging. */
const void *weft_staging_locate(void *user, const weft_fragment_t *fragment, size_t *ld_elems);

/* Forget the amax of round `round`, before anything that carries it is posted. */
weft_status_t weft_staging_clear_amax(const weft_staging_t *staging, uint32_t round);

/* Take the maxima of a bucket's amax fragments into the tables of their units' round (the one after the bucket's).
 * *any says whether it had any. */
weft_status_t weft_staging_fold_amax(const weft_staging_t *staging, uint32_t bucket, bool *any);

/* The amax of a unit's rows in round `round`, or of its domain; NULL when none was sent ahead. */
const uint16_t *weft_staging_amax(const weft_staging_t *staging, uint32_t round, const weft_unit_t *unit);

#endif
