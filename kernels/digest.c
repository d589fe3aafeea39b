#include <assert.h>
#include <string.h>

#include "kernels/digest.h"
#include "kernels/ref/ref.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words of the digest are little-endian");

static uint64_t load_word(const unsigned char *bytes, size_t count)
{
    uint64_t word = 0;
    memcpy(&word, bytes, count);
    return word;
}

void weft_ref_digest(const void *data, uint64_t begin, size_t bytes, weft_digest_t *sums)
{
    assert(begin % WEFT_DIGEST_WORD_BYTES == 0);
    const unsigned char *next = data;
    uint32_t index = (uint32_t)(begin / WEFT_DIGEST_WORD_BYTES);
    weft_digest_t local = *sums;
    for (size_t i = bytes / WEFT_DIGEST_WORD_BYTES; i > 0; i--) {
        weft_digest_add(load_word(next, WEFT_DIGEST_WORD_BYTES), index++, &local);
        next += WEFT_DIGEST_WORD_BYTES;
    }
    size_t rest = bytes % WEFT_DIGEST_WORD_BYTES;
    if (rest > 0)
        weft_digest_add(load_word(next, rest), index, &local);
    *sums = local;
}

void weft_digest_finish(uint64_t bytes, weft_digest_t *sums)
{
    uint64_t words = bytes / WEFT_DIGEST_WORD_BYTES + (bytes % WEFT_DIGEST_WORD_BYTES != 0);
    weft_digest_add(bytes, (uint32_t)words, sums);
}

weft_digest_t weft_digest_run(const weft_kernels_t *kernels, const void *data, size_t bytes)
{
    weft_digest_t sums = {{0, 0}};
    kernels->digest(data, 0, bytes, &sums);
    weft_digest_finish(bytes, &sums);
    return sums;
}
