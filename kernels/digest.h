/* The digest of weft: two 64-bit sums over the 8-byte words of a tensor, each word multiplied with its place.
 *
 *     byte   0        8        16       24
 *            +--------+--------+--------+--------+
 *            | word 0 | word 1 | word 2 |len word|   the last word of data padded with zeros, then one more
 * word:
 *            +--------+--------+--------+--------+   the unpadded length in bytes
 *
 * A plain sum: runs may be added in any order, by any number of threads, on host or device. It catches
 * faults, not attackers. Formula: docs/numerics.md.
 */
#ifndef WEFT_KERNELS_DIGEST_H
#define WEFT_KERNELS_DIGEST_H

#include "kernels/arith.h"
#include "kernels/kernels.h"

#define WEFT_DIGEST_WORD_BYTES 8
#define WEFT_DIGEST_A0         0x9E3779B1u
#define WEFT_DIGEST_A1         0xC2B2AE3Du
#define WEFT_DIGEST_B0         0x85EBCA77u
#define WEFT_DIGEST_B1         0x27D4EB2Fu

/* One word's term of one sum; `index` counts words of the tensor, modulo 2^32. */
WEFT_HD uint64_t weft_digest_term(uint64_t word, uint32_t index, uint32_t a, uint32_t b)
{
    uint32_t lo = (uint32_t)word + a * index;
    uint32_t hi = (uint32_t)(word >> 32) + (b * index | 1);
    return (uint64_t)lo * hi;
}

/* Add one word to both sums. */
WEFT_HD void weft_digest_add(uint64_t word, uint32_t index, weft_digest_t *sums)
{
    sums->word[0] += weft_digest_term(word, index, WEFT_DIGEST_A0, WEFT_DIGEST_B0);
    sums->word[1] += weft_digest_term(word, index, WEFT_DIGEST_A1, WEFT_DIGEST_B1);
}

#endif
