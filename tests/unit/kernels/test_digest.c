/* The digest: known values, its formula restated, and runs added in any order. */
#include "fixture.h"

#define MAX_BYTES 5000

static void assert_digests_equal(weft_digest_t a, weft_digest_t b)
{
    assert_true(a.word[0] == b.word[0] && a.word[1] == b.word[1]);
}

static void bytes_0_to_19(void **state)
{
    (void)state;
    unsigned char bytes[20];
    for (int i = 0; i < 20; i++)
        bytes[i] = (unsigned char)i;
    weft_digest_t digest = weft_digest_run(tested, bytes, sizeof bytes);
    assert_true(digest.word[0] == UINT64_C(0xe2c0cfc88df1e07c));
    assert_true(digest.word[1] == UINT64_C(0x7d4a378f864a18ec));
}

/* One sum, byte by byte. */
static uint64_t restated(const unsigned char *bytes, uint64_t count, uint64_t a, uint64_t b)
{
    uint64_t words = (count + 7) / 8, sum = 0;
    for (uint64_t i = 0; i <= words; i++) {
        uint64_t word = 0;
        for (uint64_t k = 0; k < 8; k++)
            word |= i < words && 8 * i + k < count ? (uint64_t)bytes[8 * i + k] << (8 * k) : 0;
        if (i == words)
            word = count;
        uint64_t lo = ((word & 0xFFFFFFFF) + a * i) & 0xFFFFFFFF;
        uint64_t hi = ((word >> 32) + (((b * i) & 0xFFFFFFFF) | 1)) & 0xFFFFFFFF;
        sum += lo * hi;
    }
    return sum;
}

static void equals_the_formula(void **state)
{
    (void)state;
    random_begin("equals_the_formula");
    for (int i = 0; i < 300; i++) {
        unsigned char bytes[MAX_BYTES];
        size_t count = random_in(0, i < 40 ? 40 : MAX_BYTES);
        for (size_t k = 0; k < count; k++)
            bytes[k] = (unsigned char)random_u64();
        weft_digest_t digest = weft_digest_run(tested, bytes, count);
        assert_true(digest.word[0] == restated(bytes, count, 0x9E3779B1, 0x85EBCA77));
        assert_true(digest.word[1] == restated(bytes, count, 0xC2B2AE3D, 0x27D4EB2F));
    }
}

/* Cut a tensor at random words, add the runs in random order, from memory that is not aligned. */
static void runs_in_any_order(void **state)
{
    (void)state;
    random_begin("runs_in_any_order");
    for (int round = 0; round < 200; round++) {
        unsigned char memory[MAX_BYTES + 8], *bytes = memory + random_in(0, 7);
        size_t count = random_in(1, MAX_BYTES), order[MAX_BYTES / 8 + 1], runs = 0,
               step = 8 * random_in(1, 100);
        for (size_t k = 0; k < count; k++)
            bytes[k] = (unsigned char)random_u64();
        for (size_t begin = 0; begin < count; begin += step)
            order[runs++] = begin;
        weft_digest_t sums = {{0, 0}};
        for (; runs > 0; runs--) {
            size_t pick = random_in(0, (uint32_t)runs - 1), begin = order[pick];
            order[pick] = order[runs - 1];
            tested->digest(bytes + begin, begin, count - begin < step ? count - begin : step, &sums);
        }
        weft_digest_finish(count, &sums);
        assert_digests_equal(sums, weft_digest_run(tested, bytes, count));
    }
}

static void length_order_and_bits_matter(void **state)
{
    (void)state;
    unsigned char a[32] = {1, 2, 3}, b[32] = {1, 2, 3};
    weft_digest_t whole = weft_digest_run(tested, a, 32), shorter = weft_digest_run(tested, a, 31);
    assert_true(whole.word[0] != shorter.word[0] && whole.word[1] != shorter.word[1]);
    for (int bit = 0; bit < 256; bit++) {
        b[bit / 8] ^= (unsigned char)(1 << bit % 8);
        weft_digest_t flipped = weft_digest_run(tested, b, 32);
        assert_true(whole.word[0] != flipped.word[0] && whole.word[1] != flipped.word[1]);
        b[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    memcpy(b, a + 8, 8), memcpy(b + 8, a, 8);
    assert_true(weft_digest_run(tested, b, 32).word[0] != whole.word[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_0_to_19),
        cmocka_unit_test(equals_the_formula),
        cmocka_unit_test(runs_in_any_order),
        cmocka_unit_test(length_order_and_bits_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
