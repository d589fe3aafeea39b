/* Sixteen lanes of 32 bits, or eight of 64. */
#include <immintrin.h>

#define LANES 16

typedef __m512i ints_t;
typedef __m512 floats_t;

static inline ints_t ints_all(int32_t x)
{
    return _mm512_set1_epi32(x);
}
static inline ints_t ints_add(ints_t a, ints_t b)
{
    return _mm512_add_epi32(a, b);
}
static inline ints_t ints_sub(ints_t a, ints_t b)
{
    return _mm512_sub_epi32(a, b);
}
static inline ints_t ints_and(ints_t a, ints_t b)
{
    return _mm512_and_si512(a, b);
}
static inline ints_t ints_or(ints_t a, ints_t b)
{
    return _mm512_or_si512(a, b);
}
static inline ints_t ints_min(ints_t a, ints_t b)
{
    return _mm512_min_epi32(a, b);
}
static inline ints_t ints_max(ints_t a, ints_t b)
{
    return _mm512_max_epi32(a, b);
}
#define ints_right(a, by) _mm512_srli_epi32(a, by)

static inline floats_t floats_all(float x)
{
    return _mm512_set1_ps(x);
}
static inline floats_t floats_add(floats_t a, floats_t b)
{
    return _mm512_add_ps(a, b);
}
static inline floats_t floats_sub(floats_t a, floats_t b)
{
    return _mm512_sub_ps(a, b);
}
static inline floats_t floats_mul(floats_t a, floats_t b)
{
    return _mm512_mul_ps(a, b);
}
static inline floats_t floats_div(floats_t a, floats_t b)
{
    return _mm512_div_ps(a, b);
}
static inline ints_t bits_of(floats_t x)
{
    return _mm512_castps_si512(x);
}
static inline floats_t floats_of(ints_t x)
{
    return _mm512_castsi512_ps(x);
}

/* 2 * LANES values of 16 bits. */
static inline ints_t shorts_load(const uint16_t *from)
{
    return _mm512_loadu_si512(from);
}
static inline void shorts_store(uint16_t *to, ints_t x)
{
    _mm512_storeu_si512(to, x);
}
static inline ints_t shorts_all(int16_t x)
{
    return _mm512_set1_epi16(x);
}
static inline ints_t shorts_sub(ints_t a, ints_t b)
{
    return _mm512_sub_epi16(a, b);
}
static inline ints_t shorts_max(ints_t a, ints_t b)
{
    return _mm512_max_epi16(a, b);
}
#define shorts_right(a, by) _mm512_srli_epi16(a, by)

/* One half of them as the upper halves of LANES lanes: bf16 as fp32. shorts_join undoes the split. */
static inline floats_t floats_low(ints_t shorts)
{
    return floats_of(_mm512_unpacklo_epi16(_mm512_setzero_si512(), shorts));
}
static inline floats_t floats_high(ints_t shorts)
{
    return floats_of(_mm512_unpackhi_epi16(_mm512_setzero_si512(), shorts));
}
static inline ints_t shorts_join(ints_t low, ints_t high)
{
    return _mm512_packus_epi32(low, high);
}

/* 4 * LANES codes, the low bytes of the shorts. */
static inline void codes_store(uint8_t *to, ints_t a, ints_t b)
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(a, b)));
}

/* The largest of them, none of which is negative. */
static inline uint16_t shorts_most(ints_t a)
{
    __m256i m = _mm256_max_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i n = _mm_max_epi16(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    n = _mm_max_epi16(n, _mm_srli_si128(n, 8));
    n = _mm_max_epi16(n, _mm_srli_si128(n, 4));
    n = _mm_max_epi16(n, _mm_srli_si128(n, 2));
    return (uint16_t)_mm_cvtsi128_si32(n);
}

/* Words of 64 bits, LANES / 2 of them. */
static inline ints_t words_load(const void *from)
{
    return _mm512_loadu_si512(from);
}
static inline ints_t words_add(ints_t a, ints_t b)
{
    return _mm512_add_epi64(a, b);
}
static inline ints_t words_high(ints_t a)
{
    return _mm512_srli_epi64(a, 32);
}
/* The product of the low halves. */
static inline ints_t words_product(ints_t a, ints_t b)
{
    return _mm512_mul_epu32(a, b);
}
/* first, first + step, first + 2 step, ... in the low halves. */
static inline ints_t words_steps(uint32_t first, uint32_t step)
{
    uint32_t half[16] = {0};
    for (uint32_t i = 0; i < 8; i++)
        half[2 * i] = first + i * step;
    return _mm512_loadu_si512(half);
}

static inline uint64_t words_sum(ints_t a)
{
    uint64_t word[8], sum = 0; /* the intrinsic that reduces adds signed words, whose overflow is undefined */
    _mm512_storeu_si512(word, a);
    for (int i = 0; i < 8; i++)
        sum += word[i];
    return sum;
}
