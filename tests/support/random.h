/* Seeded numbers for property loops. WEFT_TEST_SEED picks another sequence, WEFT_TEST_CASES another length.
 */
#ifndef WEFT_TESTS_SUPPORT_RANDOM_H
#define WEFT_TESTS_SUPPORT_RANDOM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>

#include <cmocka.h>

typedef struct random {
    uint64_t state;
} random_t;

static inline uint64_t mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline uint64_t random_u64(random_t *random)
{
    return mix64(random->state += 0x9E3779B97F4A7C15u);
}

/* A number in [low, high]. */
static inline uint32_t random_in(random_t *random, uint32_t low, uint32_t high)
{
    return low + (uint32_t)(random_u64(random) % (high - low + 1));
}

/* True once in `times`. */
static inline bool random_once_in(random_t *random, uint32_t times)
{
    return random_in(random, 1, times) == 1;
}

/* One of the numbers listed. */
#define RANDOM_OF(random, ...)                                                                               \
    ((const uint32_t[]){                                                                                     \
        __VA_ARGS__}[random_in(random, 0, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t) - 1)])

static inline uint64_t environment_number(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : fallback;
}

static inline random_t random_begin(const char *test)
{
    random_t random = {environment_number("WEFT_TEST_SEED", 1)};
    print_message("%s: WEFT_TEST_SEED=%llu\n", test, (unsigned long long)random.state);
    return random;
}

/* The generator of one case of a loop: case 17 is the same whatever cases before it drew. */
static inline random_t random_case(const random_t *random, uint32_t index)
{
    return (random_t){mix64(random->state + ((uint64_t)index << 32))};
}

/* A sanitizer takes several times as long for a case: the same first third of them. */
static inline uint32_t random_cases(uint32_t fallback)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    fallback = (fallback + 2) / 3;
#endif
    return (uint32_t)environment_number("WEFT_TEST_CASES", fallback);
}

/* Fisher and Yates. */
static inline void random_shuffle(random_t *random, uint32_t *items, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        uint32_t j = random_in(random, 0, (uint32_t)i - 1), swap = items[i - 1];
        items[i - 1] = items[j];
        items[j] = swap;
    }
}

#endif
