/* What is believed of frames: one good frame, then each field wrong in turn; streams and credits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "transport/transport.h"
#include "transport/zmq/frame.h"

static const weft_zmq_world_t reader = {.generation = "of this opening", .rank = 1, .num_ranks = 3};
static const weft_zmq_world_t writer = {.generation = "of this opening", .rank = 2, .num_ranks = 3};

/* The second chunk, the last one, of an operation of 300,000 bytes. */
static weft_zmq_header_t good(void)
{
    weft_zmq_header_t h;
    weft_zmq_frame_begin(&h, &writer, WEFT_ZMQ_DATA, reader.rank);
    h.sequence = 8;
    h.operation = 3;
    h.channel = 5;
    h.total = 300000;
    h.offset = WEFT_ZMQ_CHUNK_BYTES;
    h.length = 300000 - WEFT_ZMQ_CHUNK_BYTES;
    return h;
}

static weft_zmq_verdict_t judge(weft_zmq_header_t h, unsigned parts, size_t payload_bytes)
{
    weft_zmq_header_t read;
    const char *why = NULL;
    weft_zmq_frame_seal(&h);
    weft_zmq_verdict_t verdict =
        weft_zmq_frame_read(&reader, parts, &h, sizeof h, payload_bytes, &read, &why);
    assert_non_null(why);
    assert_int_equal(verdict == WEFT_ZMQ_TAKE, why[0] == 0);
    if (verdict == WEFT_ZMQ_TAKE)
        assert_memory_equal(&read, &h, sizeof h);
    return verdict;
}

static void test_good(void **state)
{
    (void)state;
    weft_zmq_header_t h = good();
    assert_int_equal(judge(h, 2, h.length), WEFT_ZMQ_TAKE);
    h.total = h.offset = h.length = 0;
    assert_int_equal(judge(h, 2, 0), WEFT_ZMQ_TAKE);
    weft_zmq_frame_begin(&h, &writer, WEFT_ZMQ_CREDIT, reader.rank);
    assert_int_equal(judge(h, 1, 0), WEFT_ZMQ_TAKE);
}

/* Strangers' frames harm nobody. */
static void test_foreign(void **state)
{
    (void)state;
    weft_zmq_header_t h = good();
    h.magic[0] ^= 1;
    assert_int_equal(judge(h, 2, h.length), WEFT_ZMQ_DROP);
    h = good();
    h.generation[15] ^= 1;
    assert_int_equal(judge(h, 2, h.length), WEFT_ZMQ_DROP);
    h = good();
    h.target = 0;
    assert_int_equal(judge(h, 2, h.length), WEFT_ZMQ_DROP);
    for (uint32_t source = 1; source != 7; source += source == 1 ? 2 : 4) { /* itself, none, none */
        h = good();
        h.source = source;
        assert_int_equal(judge(h, 2, h.length), WEFT_ZMQ_DROP);
    }
    h = good();
    assert_int_equal(judge(h, 0, 0), WEFT_ZMQ_DROP);
    assert_int_equal(judge(h, 3, h.length), WEFT_ZMQ_DROP);
}

/* Every bit of a sealed header is covered; a header that is cut off is none. */
static void test_changed(void **state)
{
    (void)state;
    weft_zmq_header_t h = good(), read;
    const char *why;
    weft_zmq_frame_seal(&h);
    for (size_t bit = 0; bit < 8 * sizeof h; bit++) {
        weft_zmq_header_t changed = h;
        ((uint8_t *)&changed)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(weft_zmq_frame_read(&reader, 2, &changed, sizeof changed, h.length, &read, &why),
                         WEFT_ZMQ_DROP);
    }
    for (size_t bytes = 0; bytes < sizeof h; bytes++)
        assert_int_equal(weft_zmq_frame_read(&reader, 2, &h, bytes, h.length, &read, &why), WEFT_ZMQ_DROP);
}

static void expect_fault(weft_zmq_header_t h, unsigned parts, size_t payload_bytes)
{
    assert_int_equal(judge(h, parts, payload_bytes), WEFT_ZMQ_FAULT);
}

static void test_faults(void **state)
{
    (void)state;
    weft_zmq_header_t h = good();
    expect_fault(h, 2, h.length - 1); /* truncated */
    expect_fault(h, 2, h.length + 1);
    expect_fault(h, 1, 0);
    h.kind = 7;
    expect_fault(h, 2, h.length);
    h = good();
    h.offset = 1;
    expect_fault(h, 2, h.length);
    h = good();
    h.offset = h.total + WEFT_ZMQ_CHUNK_BYTES;
    expect_fault(h, 2, h.length);
    h = good();
    h.length = 0;
    expect_fault(h, 2, 0);
    h = good();
    h.offset = 0;
    h.length = WEFT_ZMQ_CHUNK_BYTES + 1; /* oversize */
    expect_fault(h, 2, h.length);
    h.length = WEFT_ZMQ_CHUNK_BYTES;
    h.total = (uint64_t)WEFT_MAX_MESSAGE_BYTES + 1;
    expect_fault(h, 2, h.length);
    h.offset = UINT64_MAX - UINT64_MAX % WEFT_ZMQ_CHUNK_BYTES;
    h.total = UINT64_MAX;
    expect_fault(h, 2, h.length);
    weft_zmq_frame_begin(&h, &writer, WEFT_ZMQ_CREDIT, reader.rank);
    expect_fault(h, 2, 0);
    h.total = 1;
    expect_fault(h, 1, 0);
}

static weft_zmq_verdict_t accept(weft_zmq_stream_t *stream, const weft_zmq_header_t *h)
{
    const weft_zmq_stream_t before = *stream;
    const char *why;
    weft_zmq_verdict_t verdict = weft_zmq_stream_accept(stream, h, &why);
    if (verdict != WEFT_ZMQ_TAKE)
        assert_memory_equal(stream, &before, sizeof before);
    return verdict;
}

static void test_stream(void **state)
{
    (void)state;
    weft_zmq_stream_t stream = {.sequence = 7, .operation = 3};
    weft_zmq_header_t h = good(), wrong;
    assert_int_equal(accept(&stream, &h), WEFT_ZMQ_FAULT); /* one is missing */
    h.sequence = 7;
    assert_int_equal(accept(&stream, &h), WEFT_ZMQ_FAULT); /* not where the operation is */
    h.offset = 0;
    h.length = WEFT_ZMQ_CHUNK_BYTES;
    wrong = h;
    wrong.operation = 4;
    assert_int_equal(accept(&stream, &wrong), WEFT_ZMQ_FAULT);
    assert_int_equal(accept(&stream, &h), WEFT_ZMQ_TAKE);
    assert_int_equal(accept(&stream, &h), WEFT_ZMQ_DROP); /* duplicate */
    h = good();
    wrong = h;
    wrong.total++;
    wrong.length++;
    assert_int_equal(accept(&stream, &wrong), WEFT_ZMQ_FAULT);
    wrong = h;
    wrong.channel++;
    assert_int_equal(accept(&stream, &wrong), WEFT_ZMQ_FAULT);
    assert_int_equal(accept(&stream, &h), WEFT_ZMQ_TAKE);
    assert_int_equal(stream.operation, 4);
    assert_int_equal(stream.offset, 0);
    assert_int_equal(stream.sequence, 9);
}

static void test_credit(void **state)
{
    (void)state;
    weft_zmq_header_t h;
    const char *why;
    uint64_t acknowledged = 4;
    weft_zmq_frame_begin(&h, &writer, WEFT_ZMQ_CREDIT, reader.rank);
    h.sequence = 4;
    assert_int_equal(weft_zmq_credit_accept(&acknowledged, 9, &h, &why), WEFT_ZMQ_DROP);
    h.sequence = 10;
    assert_int_equal(weft_zmq_credit_accept(&acknowledged, 9, &h, &why), WEFT_ZMQ_FAULT);
    assert_int_equal(acknowledged, 4);
    h.sequence = 9;
    assert_int_equal(weft_zmq_credit_accept(&acknowledged, 9, &h, &why), WEFT_ZMQ_TAKE);
    assert_int_equal(acknowledged, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good),    cmocka_unit_test(test_foreign),
                                       cmocka_unit_test(test_changed), cmocka_unit_test(test_faults),
                                       cmocka_unit_test(test_stream),  cmocka_unit_test(test_credit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
