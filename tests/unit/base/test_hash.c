#include "src/base/hash.h"
#include "tests/support/random.h"

static bool same(weft_digest_t a, weft_digest_t b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

/* XXH3-128 of nothing, as its specification has it. */
static void test_known_answer(void **state)
{
    (void)state;
    weft_digest_t nothing = weft_hash("", 0);
    assert_true(nothing.word[0] == 0x6001c324468d497f && nothing.word[1] == 0x99aa06d3014798d8);
    assert_true(weft_hash64("", 0) == 0x2d06800538d394c2);
}

static void test_any_pieces_give_the_same(void **state)
{
    (void)state;
    random_t random = random_begin("test_any_pieces_give_the_same");
    uint8_t bytes[3000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)random_u64(&random);
    weft_hasher_t *hasher = weft_hasher_create();
    for (unsigned i = 0; i < 50; i++) {
        weft_hasher_reset(hasher);
        for (size_t at = 0; at < sizeof bytes;) {
            size_t piece = random_in(&random, 0, 300);
            piece = piece < sizeof bytes - at ? piece : sizeof bytes - at;
            weft_hasher_add(hasher, bytes + at, piece);
            at += piece;
        }
        assert_true(same(weft_hasher_digest(hasher), weft_hash(bytes, sizeof bytes)));
    }
    weft_hasher_destroy(hasher);
    weft_hasher_destroy(NULL);
}

static void test_texts_do_not_run_together(void **state)
{
    (void)state;
    weft_hasher_t *a = weft_hasher_create(), *b = weft_hasher_create();
    weft_hasher_add_text(a, "ab");
    weft_hasher_add_text(a, "c");
    weft_hasher_add_text(b, "a");
    weft_hasher_add_text(b, "bc");
    assert_false(same(weft_hasher_digest(a), weft_hasher_digest(b)));
    weft_hasher_reset(b);
    weft_hasher_add(b, "ab\0c", 5);
    assert_true(same(weft_hasher_digest(a), weft_hasher_digest(b)));
    weft_hasher_add_u64(b, 0);
    assert_false(same(weft_hasher_digest(a), weft_hasher_digest(b)));
    weft_hasher_destroy(a);
    weft_hasher_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answer),
        cmocka_unit_test(test_any_pieces_give_the_same),
        cmocka_unit_test(test_texts_do_not_run_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
