/* XXH3-128 over a stream of fields: plan hashes and the digests of digests. */
#ifndef WEFT_BASE_HASH_H
#define WEFT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include <weft/types.h>

typedef struct weft_hasher weft_hasher_t;

/* Create a hasher; NULL when memory ran out. */
weft_hasher_t *weft_hasher_create(void);
void weft_hasher_destroy(weft_hasher_t *hasher);

void weft_hasher_add(weft_hasher_t *hasher, const void *data, size_t bytes);
void weft_hasher_add_u64(weft_hasher_t *hasher, uint64_t value);
/* Adds the terminating NUL too, so that "ab","c" and "a","bc" differ. */
void weft_hasher_add_text(weft_hasher_t *hasher, const char *text);

weft_digest_t weft_hasher_digest(const weft_hasher_t *hasher);
void weft_hasher_reset(weft_hasher_t *hasher);

/* XXH3-128 of one run of bytes. */
weft_digest_t weft_hash(const void *data, size_t bytes);

/* XXH3-64 of one run of bytes, for tables. */
uint64_t weft_hash64(const void *data, size_t bytes);

#endif
