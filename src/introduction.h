/* What each rank tells all others before the first byte: its plan's hash, then where its mailbox is. It comes
 * as bytes from another process, and is checked here before anything is made of it. */
#ifndef WEFT_INTRODUCTION_H
#define WEFT_INTRODUCTION_H

#include <weft/types.h>

#include "src/control/mailbox.h"

typedef struct weft_introduction {
    weft_digest_t plan_hash;
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES]; /* rank 0's is the session's */
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
    uint32_t failed; /* this rank could not get ready: nobody goes on */
} weft_introduction_t;

/* Compare the plans of all ranks, `all` [count], with that of `rank`.
 * **Returns** WEFT_OK; WEFT_ERR_PLAN_MISMATCH with both hashes and what has to be the same. */
weft_status_t weft_introduction_compare(const weft_introduction_t *all, uint32_t count, uint32_t rank,
                                        weft_digest_t hash, weft_error_t *error);

/* Check that all ranks, `all` [count], are ready, and that each endpoint is a text that ends.
 * **Returns** WEFT_OK; WEFT_ERR_PEER_LOST with the rank that failed; WEFT_ERR_PROTOCOL. */
weft_status_t weft_introduction_check(const weft_introduction_t *all, uint32_t count, weft_error_t *error);

#endif
