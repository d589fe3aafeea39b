/* Frames of the zmq transport, as whoever reaches its port would send them.
 *
 * Input: frames. Of each one byte (bit 0: the check stays as it is in the input, else it is made right; bits
 * 1 and up: how many bytes of the header are missing), one byte of parts, four of payload bytes, then the
 * header. The generation is 16 times 'g', so that a fuzzer can come past it. Three ranks; rank 1 reads. */
#include "tests/fuzz/fuzz.h"
#include "transport/transport.h"
#include "transport/zmq/frame.h"

#define RANKS 3
#define RANK  1
#define SENT  16 /* frames that rank 1 has sent to each */

typedef struct state {
    weft_zmq_world_t world;
    weft_zmq_stream_t streams[RANKS];
    uint64_t acknowledged[RANKS];
} state_t;

static void check_bounds(const weft_zmq_header_t *h, size_t payload_bytes)
{
    FUZZ_CHECK(h->source < RANKS && h->source != RANK);
    if (h->kind == WEFT_ZMQ_CREDIT)
        return;
    FUZZ_CHECK(h->kind == WEFT_ZMQ_DATA && h->length == payload_bytes && h->length <= WEFT_ZMQ_CHUNK_BYTES);
    FUZZ_CHECK(h->total <= WEFT_MAX_MESSAGE_BYTES && h->offset <= h->total &&
               h->length <= h->total - h->offset);
}

/* The stream moves on by this frame alone, and its pieces tile the operation. */
static void take_data(state_t *s, const weft_zmq_header_t *h)
{
    weft_zmq_stream_t before = s->streams[h->source], *stream = &s->streams[h->source];
    const char *why = NULL;
    weft_zmq_verdict_t verdict = weft_zmq_stream_accept(stream, h, &why);
    FUZZ_CHECK(why);
    if (verdict != WEFT_ZMQ_TAKE) {
        FUZZ_CHECK(memcmp(stream, &before, sizeof before) == 0);
        return;
    }
    FUZZ_CHECK(stream->sequence == before.sequence + 1 && h->offset == before.offset);
    FUZZ_CHECK(before.offset == 0 || (h->total == before.total && h->channel == before.channel));
    bool ended = h->offset + h->length == h->total;
    FUZZ_CHECK(stream->operation == before.operation + ended);
    FUZZ_CHECK(stream->offset == (ended ? 0 : h->offset + h->length) && stream->offset <= stream->total);
}

static void take_credit(state_t *s, const weft_zmq_header_t *h)
{
    uint64_t before = s->acknowledged[h->source], *acknowledged = &s->acknowledged[h->source];
    const char *why;
    weft_zmq_verdict_t verdict = weft_zmq_credit_accept(acknowledged, SENT, h, &why);
    FUZZ_CHECK(*acknowledged <= SENT && *acknowledged >= before);
    FUZZ_CHECK((verdict == WEFT_ZMQ_TAKE) == (*acknowledged != before));
}

static void take_frame(state_t *s, fuzz_input_t *input)
{
    uint8_t how = (uint8_t)fuzz_number(input, 1), parts = (uint8_t)fuzz_number(input, 1);
    size_t payload_bytes = fuzz_number(input, 4), bytes = sizeof(weft_zmq_header_t);
    weft_zmq_header_t header = {0}, read;
    size_t given = input->left < bytes ? input->left : bytes;
    memcpy(&header, input->at, given);
    input->at += given;
    input->left -= given;
    if (!(how & 1))
        weft_zmq_frame_seal(&header);
    bytes -= how / 2 < bytes ? how / 2 : bytes;
    uint8_t *exact = malloc(bytes + 1); /* a read past its end is seen */
    FUZZ_CHECK(exact);
    memcpy(exact, &header, bytes);
    const char *why = NULL;
    weft_zmq_verdict_t verdict =
        weft_zmq_frame_read(&s->world, parts, exact, bytes, payload_bytes, &read, &why);
    free(exact);
    FUZZ_CHECK(why && (verdict == WEFT_ZMQ_TAKE) == (why[0] == 0));
    FUZZ_CHECK(verdict == WEFT_ZMQ_DROP || (read.source < RANKS && read.source != RANK));
    if (verdict != WEFT_ZMQ_TAKE)
        return;
    check_bounds(&read, payload_bytes);
    if (read.kind == WEFT_ZMQ_DATA)
        take_data(s, &read);
    else
        take_credit(s, &read);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    state_t state = {.world = {.rank = RANK, .num_ranks = RANKS}};
    memset(state.world.generation, 'g', sizeof state.world.generation);
    while (input.left)
        take_frame(&state, &input);
    return 0;
}
