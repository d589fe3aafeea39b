/* The borrower: over a transport that moves nothing, where the fragments of a rollout rank are in the memory of the
 * trainers, and whether they are still the version that is being read. See lender.h. */
#ifndef WEFT_BORROWER_H
#define WEFT_BORROWER_H

#include "src/assemble/shard.h"
#include "src/session_private.h"

typedef struct weft_borrower weft_borrower_t;

/* **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_borrower_create(weft_session_t *session, const weft_program_t *program,
                                   weft_borrower_t **borrower);
void weft_borrower_destroy(weft_borrower_t *borrower);

/* Whether every source of this rank lends `version` now; never blocks. *first: the first that does not. */
bool weft_borrower_has(const weft_borrower_t *borrower, uint64_t version, uint32_t *first);

/* WEFT_OK, or that a source of this rank is gone before it lent anything: WEFT_ERR_PEER_LOST naming it. */
weft_status_t weft_borrower_alive(const weft_borrower_t *borrower, weft_error_t *error);

/* Map what the sources lend, if any of it has moved since the last time; *moved says so. Only when
 * weft_borrower_has, with nothing in flight. Blocks when it has. */
weft_status_t weft_borrower_map(weft_borrower_t *borrower, bool *moved, weft_error_t *error);

/* The transport has been renewed: everything is mapped anew with the next version. */
void weft_borrower_forget(weft_borrower_t *borrower);

/* Where a fragment is, in its source's memory: a weft_locate_fn, `user` is the borrower. */
const void *weft_borrower_locate(void *user, const weft_fragment_t *fragment, size_t *ld_elems);

#endif
