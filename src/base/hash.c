#include "src/base/hash.h"

#include <string.h>
#include <xxhash.h>

weft_hasher_t *weft_hasher_create(void)
{
    XXH3_state_t *state = XXH3_createState();
    if (state)
        XXH3_128bits_reset(state);
    return (weft_hasher_t *)state;
}

void weft_hasher_destroy(weft_hasher_t *hasher)
{
    XXH3_freeState((XXH3_state_t *)hasher);
}

void weft_hasher_add(weft_hasher_t *hasher, const void *data, size_t bytes)
{
    XXH3_128bits_update((XXH3_state_t *)hasher, data, bytes);
}

void weft_hasher_add_u64(weft_hasher_t *hasher, uint64_t value)
{
    weft_hasher_add(hasher, &value, sizeof value);
}

void weft_hasher_add_text(weft_hasher_t *hasher, const char *text)
{
    weft_hasher_add(hasher, text, strlen(text) + 1);
}

static weft_digest_t digest_of(XXH128_hash_t hash)
{
    return (weft_digest_t){{hash.low64, hash.high64}};
}

weft_digest_t weft_hasher_digest(const weft_hasher_t *hasher)
{
    return digest_of(XXH3_128bits_digest((const XXH3_state_t *)hasher));
}

void weft_hasher_reset(weft_hasher_t *hasher)
{
    XXH3_128bits_reset((XXH3_state_t *)hasher);
}

weft_digest_t weft_hash(const void *data, size_t bytes)
{
    return digest_of(XXH3_128bits(data, bytes));
}

uint64_t weft_hash64(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}
