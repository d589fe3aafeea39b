/* Judging frames. Bounds come before trust, trust before order. */
#include "transport/zmq/frame.h"

#include <string.h>

#include "src/base/hash.h"
#include "transport/transport.h"

static const uint8_t magic[4] = {'w', 'e', 'f', 'z'};

void weft_zmq_frame_begin(weft_zmq_header_t *header, const weft_zmq_world_t *world, weft_zmq_kind_t kind,
                          uint32_t target)
{
    memset(header, 0, sizeof *header);
    memcpy(header->magic, magic, sizeof magic);
    memcpy(header->generation, world->generation, sizeof world->generation);
    header->kind = kind;
    header->source = world->rank;
    header->target = target;
}

static uint64_t check_of(const weft_zmq_header_t *header)
{
    return weft_hash64(header, offsetof(weft_zmq_header_t, check));
}

void weft_zmq_frame_seal(weft_zmq_header_t *header)
{
    header->check = check_of(header);
}

uint32_t weft_zmq_frame_length(uint64_t total, uint64_t offset)
{
    uint64_t left = total - offset;
    return left < WEFT_ZMQ_CHUNK_BYTES ? (uint32_t)left : WEFT_ZMQ_CHUNK_BYTES;
}

static weft_zmq_verdict_t say(weft_zmq_verdict_t verdict, const char *text, const char **why)
{
    *why = text;
    return verdict;
}

/* What a stranger or an earlier self sends fails here. */
static const char *find_foreign(const weft_zmq_world_t *world, unsigned num_parts, size_t bytes,
                                const weft_zmq_header_t *header)
{
    if (num_parts < 1 || num_parts > 2 || bytes != sizeof *header ||
        memcmp(header->magic, magic, sizeof magic) != 0)
        return "it is not a frame of weft's";
    if (memcmp(header->generation, world->generation, sizeof world->generation) != 0)
        return "it is of another generation";
    if (header->check != check_of(header))
        return "its header was changed on the way";
    if (header->target != world->rank || header->source >= world->num_ranks || header->source == world->rank)
        return "it is from or for another rank";
    return NULL;
}

static const char *find_fault(const weft_zmq_header_t *h, unsigned num_parts, size_t payload_bytes)
{
    if (h->kind == WEFT_ZMQ_CREDIT)
        return num_parts == 1 && !h->length && !h->total && !h->offset ? NULL : "a credit carries data";
    if (h->kind != WEFT_ZMQ_DATA)
        return "its kind is unknown";
    if (h->length > WEFT_ZMQ_CHUNK_BYTES || payload_bytes > WEFT_ZMQ_CHUNK_BYTES)
        return "it is larger than a frame may be";
    if (num_parts != 2 || payload_bytes != h->length)
        return "it is cut off: its payload is not as long as its header says";
    if (h->total > WEFT_MAX_MESSAGE_BYTES || h->offset > h->total || h->offset % WEFT_ZMQ_CHUNK_BYTES != 0 ||
        h->length != weft_zmq_frame_length(h->total, h->offset) || (h->length == 0 && h->total != 0))
        return "it lies outside its operation";
    return NULL;
}

weft_zmq_verdict_t weft_zmq_frame_read(const weft_zmq_world_t *world, unsigned num_parts, const void *data,
                                       size_t bytes, size_t payload_bytes, weft_zmq_header_t *header,
                                       const char **why)
{
    memset(header, 0, sizeof *header);
    if (bytes == sizeof *header)
        memcpy(header, data, sizeof *header);
    const char *foreign = find_foreign(world, num_parts, bytes, header);
    if (foreign)
        return say(WEFT_ZMQ_DROP, foreign, why);
    const char *fault = find_fault(header, num_parts, payload_bytes);
    return fault ? say(WEFT_ZMQ_FAULT, fault, why) : say(WEFT_ZMQ_TAKE, "", why);
}

weft_zmq_verdict_t weft_zmq_stream_accept(weft_zmq_stream_t *stream, const weft_zmq_header_t *h,
                                          const char **why)
{
    if (h->sequence < stream->sequence)
        return say(WEFT_ZMQ_DROP, "it came before", why);
    if (h->sequence > stream->sequence)
        return say(WEFT_ZMQ_FAULT, "frames before it are missing", why);
    if (h->operation != stream->operation || h->offset != stream->offset)
        return say(WEFT_ZMQ_FAULT, "it is not the next piece of the operation under way", why);
    if (stream->offset && (h->total != stream->total || h->channel != stream->channel))
        return say(WEFT_ZMQ_FAULT, "its operation was another one before", why);
    stream->sequence++;
    stream->total = h->total;
    stream->channel = h->channel;
    stream->offset += h->length;
    if (stream->offset == stream->total) {
        stream->operation++;
        stream->offset = stream->total = 0;
    }
    return say(WEFT_ZMQ_TAKE, "", why);
}

weft_zmq_verdict_t weft_zmq_credit_accept(uint64_t *acknowledged, uint64_t sent,
                                          const weft_zmq_header_t *header, const char **why)
{
    if (header->sequence > sent)
        return say(WEFT_ZMQ_FAULT, "it acknowledges frames that were never sent", why);
    if (header->sequence <= *acknowledged)
        return say(WEFT_ZMQ_DROP, "it came before", why);
    *acknowledged = header->sequence;
    return say(WEFT_ZMQ_TAKE, "", why);
}
