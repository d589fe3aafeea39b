#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/control/machine.h"

static weft_message_t full_message(void)
{
    weft_message_t m = {
        .type = WEFT_MESSAGE_RANK_STATE,
        .role = WEFT_ROLE_LEADER,
        .state = 6,
        .flags = WEFT_FLAG_PARKED,
        .from = 3,
        .to = 2,
        .epoch = 9,
        .status = WEFT_ERR_NONFINITE,
        .term = 5,
        .incarnation = 15,
        .sequence = 77,
        .version = UINT64_C(0x0123456789abcdef),
        .live = 11,
        .done = 12,
        .wants = 13,
        .newest = 14,
        .ballot = weft_ballot(5, 3),
        .step = 1000,
        .limit = 1004,
        .at_step = 1005,
        .round = 4,
        .stop_round = 6,
        .digest = {{1, UINT64_MAX}},
        .members = {{3, 1}},
    };
    weft_copy_text(m.text, "rank 3: NaN in layers.0.qkv_proj at 17");
    m.content.base = 41;
    m.content.load = 1;
    snprintf(m.content.subset, sizeof m.content.subset, "model.layers.3.*,lm_head");
    return m;
}

static void round_trip_keeps_every_field(void **state)
{
    (void)state;
    weft_message_t in = full_message(), out;
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    size_t size = weft_message_encode(&in, bytes);
    assert_int_equal(weft_message_decode(bytes, size, &out, NULL), WEFT_OK);
    assert_memory_equal(&in, &out, sizeof in);
}

static void wire_is_little_endian(void **state)
{
    (void)state;
    weft_message_t in = full_message();
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    size_t size = weft_message_encode(&in, bytes);
    assert_memory_equal(bytes, "weft\x04\x00", 6);
    assert_int_equal(bytes[6] | bytes[7] << 8, size);
    const uint8_t version[] = {0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01};
    assert_memory_equal(bytes + 56, version, sizeof version);
}

static void expect_refused(const weft_message_t *message, const char *field)
{
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    weft_message_t out;
    weft_error_t error;
    size_t size = weft_message_encode(message, bytes);
    assert_int_equal(weft_message_decode(bytes, size, &out, &error), WEFT_ERR_PROTOCOL);
    assert_non_null(strstr(error.message, field));
}

#define REFUSED(field, value, name)                                                                          \
    do {                                                                                                     \
        m = full_message();                                                                                  \
        m.field = value;                                                                                     \
        expect_refused(&m, name);                                                                            \
    } while (0)

static void wrong_fields_are_named(void **state)
{
    (void)state;
    weft_message_t m;
    REFUSED(type, WEFT_MESSAGE_TYPE_COUNT, "type");
    REFUSED(role, WEFT_ROLE_TRAINER, "role");
    REFUSED(state, 200, "state");
    REFUSED(outcome, WEFT_OUTCOME_COUNT, "outcome");
    REFUSED(flags, WEFT_FLAG_ALL + 1, "flags");
    REFUSED(from, WEFT_CONTROL_MAX_RANKS, "sender");
    REFUSED(status, 1000, "status");
    REFUSED(term, WEFT_MAX_TERM + 1, "term");
    REFUSED(step, UINT64_MAX, "step");
    REFUSED(content.load, 2, "content");
    m = full_message();
    m.text[3] = '\n';
    expect_refused(&m, "text");
}

static void truncation_and_growth_are_refused(void **state)
{
    (void)state;
    weft_message_t in = full_message(), out;
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES + 1] = {0};
    size_t size = weft_message_encode(&in, bytes);
    for (size_t other = 0; other <= sizeof bytes; other++)
        if (other != size)
            assert_int_equal(weft_message_decode(bytes, other, &out, NULL), WEFT_ERR_PROTOCOL);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return *seed >> 33;
}

/* Whatever is accepted is in range, and says the same when encoded again. */
static void garbage_is_refused_or_in_range(void **state)
{
    (void)state;
    uint64_t seed = 20251;
    print_message("seed %llu\n", (unsigned long long)seed);
    unsigned accepted = 0;
    for (int i = 0; i < 200000; i++) {
        weft_message_t in = full_message(), out;
        uint8_t bytes[WEFT_MESSAGE_MAX_BYTES], again[WEFT_MESSAGE_MAX_BYTES];
        size_t size = weft_message_encode(&in, bytes);
        for (uint64_t flips = 1 + next_random(&seed) % 4; flips > 0; flips--)
            bytes[next_random(&seed) % size] = (uint8_t)next_random(&seed);
        if (weft_message_decode(bytes, size, &out, NULL) != WEFT_OK)
            continue;
        accepted++;
        assert_true(out.type < WEFT_MESSAGE_TYPE_COUNT && out.role < WEFT_ROLE_COUNT &&
                    out.from < WEFT_CONTROL_MAX_RANKS);
        assert_int_equal(weft_message_encode(&out, again), size);
        assert_memory_equal(bytes, again, size);
    }
    assert_true(accepted > 0);
}

static void noise_is_refused(void **state)
{
    (void)state;
    uint64_t seed = 4;
    for (int i = 0; i < 20000; i++) {
        uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
        weft_message_t out;
        for (size_t b = 0; b < sizeof bytes; b++)
            bytes[b] = (uint8_t)next_random(&seed);
        assert_int_equal(weft_message_decode(bytes, next_random(&seed) % sizeof bytes, &out, NULL),
                         WEFT_ERR_PROTOCOL);
    }
}

static void ballots_order_by_term_then_sequence(void **state)
{
    (void)state;
    assert_true(weft_ballot(2, 0) > weft_ballot(1, 999999));
    assert_true(weft_ballot(2, 2) > weft_ballot(2, 1));
    assert_int_equal(weft_ballot_term(weft_ballot(WEFT_MAX_TERM, 5)), WEFT_MAX_TERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_keeps_every_field),
        cmocka_unit_test(wire_is_little_endian),
        cmocka_unit_test(wrong_fields_are_named),
        cmocka_unit_test(truncation_and_growth_are_refused),
        cmocka_unit_test(garbage_is_refused_or_in_range),
        cmocka_unit_test(noise_is_refused),
        cmocka_unit_test(ballots_order_by_term_then_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
