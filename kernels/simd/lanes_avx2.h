/* Eight lanes of 32 bits, or four of 64. */
#include <immintrin.h>

#define LANES 8

typedef __m256i ints_t;
typedef __m256 floats_t;

static inline ints_t ints_all(int32_t x)
{
    return _mm256_set1_epi32(x);
}
static inline ints_t ints_add(ints_t a, ints_t b)
{
    return _mm256_add_epi32(a, b);
}
static inline ints_t ints_sub(ints_t a, ints_t b)
{
    return _mm256_sub_epi32(a, b);
}
static inline ints_t ints_and(ints_t a, ints_t b)
{
    return _mm256_and_si256(a, b);
}
static inline ints_t ints_or(ints_t a, ints_t b)
{
    return _mm256_or_si256(a, b);
}
static inline ints_t ints_min(ints_t a, ints_t b)
{
    return _mm256_min_epi32(a, b);
}
static inline ints_t ints_max(ints_t a, ints_t b)
{
    return _mm256_max_epi32(a, b);
}
#define ints_right(a, by) _mm256_srli_epi32(a, by)

static inline floats_t floats_all(float x)
{
    return _mm256_set1_ps(x);
}
static inline floats_t floats_add(floats_t a, floats_t b)
{
    return _mm256_add_ps(a, b);
}
static inline floats_t floats_sub(floats_t a, floats_t b)
{
    return _mm256_sub_ps(a, b);
}
static inline floats_t floats_mul(floats_t a, floats_t b)
{
    return _mm256_mul_ps(a, b);
}
static inline floats_t floats_div(floats_t a, floats_t b)
{
    return _mm256_div_ps(a, b);
}
static inline ints_t bits_of(floats_t x)
{
    return _mm256_castps_si256(x);
}
static inline floats_t floats_of(ints_t x)
{
    return _mm256_castsi256_ps(x);
}

/* 2 * LANES values of 16 bits. */
static inline ints_t shorts_load(const uint16_t *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}
static inline void shorts_store(uint16_t *to, ints_t x)
{
    _mm256_storeu_si256((__m256i *)to, x);
}
static inline ints_t shorts_all(int16_t x)
{
    return _mm256_set1_epi16(x);
}
static inline ints_t shorts_sub(ints_t a, ints_t b)
{
    return _mm256_sub_epi16(a, b);
}
static inline ints_t shorts_max(ints_t a, ints_t b)
{
    return _mm256_max_epi16(a, b);
}
#define shorts_right(a, by) _mm256_srli_epi16(a, by)

/* One half of them as the upper halves of LANES lanes: bf16 as fp32. shorts_join undoes the split. */
static inline floats_t floats_low(ints_t shorts)
{
    return floats_of(_mm256_unpacklo_epi16(_mm256_setzero_si256(), shorts));
}
static inline floats_t floats_high(ints_t shorts)
{
    return floats_of(_mm256_unpackhi_epi16(_mm256_setzero_si256(), shorts));
}
static inline ints_t shorts_join(ints_t low, ints_t high)
{
    return _mm256_packus_epi32(low, high);
}

/* 4 * LANES codes, the low bytes of the shorts. */
static inline void codes_store(uint8_t *to, ints_t a, ints_t b)
{
    __m256i bytes = _mm256_packus_epi16(a, b);
    _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(bytes, 0xD8));
}

/* The largest of them, none of which is negative. */
static inline uint16_t shorts_most(ints_t a)
{
    __m128i m = _mm_max_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epi16(m, _mm_srli_si128(m, 8));
    m = _mm_max_epi16(m, _mm_srli_si128(m, 4));
    m = _mm_max_epi16(m, _mm_srli_si128(m, 2));
    return (uint16_t)_mm_cvtsi128_si32(m);
}

/* Words of 64 bits, LANES / 2 of them. */
static inline ints_t words_load(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}
static inline ints_t words_add(ints_t a, ints_t b)
{
    return _mm256_add_epi64(a, b);
}
static inline ints_t words_high(ints_t a)
{
    return _mm256_srli_epi64(a, 32);
}
/* The product of the low halves. */
static inline ints_t words_product(ints_t a, ints_t b)
{
    return _mm256_mul_epu32(a, b);
}
/* first, first + step, first + 2 step, ... in the low halves. */
static inline ints_t words_steps(uint32_t first, uint32_t step)
{
    return _mm256_setr_epi32((int)first, 0, (int)(first + step), 0, (int)(first + 2 * step), 0,
                             (int)(first + 3 * step), 0);
}

static inline uint64_t words_sum(ints_t a)
{
    uint64_t word[4];
    _mm256_storeu_si256((__m256i *)word, a);
    return word[0] + word[1] + word[2] + word[3];
}
