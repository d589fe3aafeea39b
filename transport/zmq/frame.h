/* What travels between two ranks, and what may be believed of it: no sockets here.
 *
 * From one rank to another goes one stream of frames, numbered; they carry that pair's operations one after
 * the other, cut into chunks. The other way come credits: how many frames have been consumed. A frame is two
 * parts, a header and a payload; a credit is a header alone. Every field comes from the network. A frame that
 * does not know the generation (random, new with each open) is a stranger's or an earlier self's: it is
 * dropped and counted, and harms nobody. One that knows it and is wrong all the same means that bytes were
 * lost or ranks disagree, and fails the peer. */
#ifndef WEFT_TRANSPORT_ZMQ_FRAME_H
#define WEFT_TRANSPORT_ZMQ_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WEFT_ZMQ_CHUNK_BYTES                                                                                 \
    262144 /* most payload of a frame: it stays in a core's cache from socket to slot */
#define WEFT_ZMQ_WINDOW           16 /* frames on their way between two ranks, not consumed: 4 MiB */
#define WEFT_ZMQ_GENERATION_BYTES 16

typedef enum weft_zmq_kind {
    WEFT_ZMQ_DATA = 1,
    WEFT_ZMQ_CREDIT = 2, /* `sequence` frames of the target's have been consumed here; all after it is 0 */
} weft_zmq_kind_t;

/* Little-endian, as the hosts are. */
typedef struct weft_zmq_header {
    uint8_t magic[4];
    uint32_t kind;
    uint8_t generation[WEFT_ZMQ_GENERATION_BYTES];
    uint32_t source, target; /* ranks */
    uint64_t sequence;       /* of this frame in the stream, from 0 */
    uint64_t operation;      /* of the stream, from 0 */
    uint32_t channel;        /* what the operation belongs to: a group, messages of the pair */
    uint32_t length;         /* bytes of payload */
    uint64_t total;          /* bytes of the operation */
    uint64_t offset;         /* of the payload in it */
    uint64_t digest;         /* XXH3-64 of the payload */
    uint64_t check;          /* XXH3-64 of all above */
} weft_zmq_header_t;

_Static_assert(sizeof(weft_zmq_header_t) == 88, "a header has no padding");

typedef enum weft_zmq_verdict {
    WEFT_ZMQ_TAKE,
    WEFT_ZMQ_DROP,  /* not for this rank in this generation, or known already: ignore and count */
    WEFT_ZMQ_FAULT, /* from the peer itself, and wrong: nothing of its stream can be believed any more */
} weft_zmq_verdict_t;

/* Who reads. */
typedef struct weft_zmq_world {
    uint8_t generation[WEFT_ZMQ_GENERATION_BYTES];
    uint32_t rank, num_ranks;
} weft_zmq_world_t;

/* One direction between two ranks, as its receiver counts it. */
typedef struct weft_zmq_stream {
    uint64_t sequence;  /* of the next frame */
    uint64_t operation; /* which is under way or next */
    uint64_t offset;    /* its bytes so far */
    uint64_t total;     /* as its first frame said; 0 before */
    uint32_t channel;
} weft_zmq_stream_t;

/* Fill what all frames to `target` have: magic, generation, ranks. */
void weft_zmq_frame_begin(weft_zmq_header_t *header, const weft_zmq_world_t *world, weft_zmq_kind_t kind,
                          uint32_t target);

/* Fill the check; the last thing before a frame is sent. */
void weft_zmq_frame_seal(weft_zmq_header_t *header);

/* Bytes that a chunk of an operation of `total` bytes has at `offset`. */
uint32_t weft_zmq_frame_length(uint64_t total, uint64_t offset);

/* Read the header of a frame that came as `num_parts` parts, the first `data` [bytes], the second of
 * `payload_bytes`. After WEFT_ZMQ_TAKE all fields are within bounds; after WEFT_ZMQ_FAULT `header->source`
 * is. *why: what is wrong with it, a constant. */
weft_zmq_verdict_t weft_zmq_frame_read(const weft_zmq_world_t *world, unsigned num_parts, const void *data,
                                       size_t bytes, size_t payload_bytes, weft_zmq_header_t *header,
                                       const char **why);

/* Whether `header`, of data, is the stream's next; TAKE moves the stream on. A frame that came before is
 * dropped, one too early or of another operation is a fault. */
weft_zmq_verdict_t weft_zmq_stream_accept(weft_zmq_stream_t *stream, const weft_zmq_header_t *header,
                                          const char **why);

/* Whether a credit says something new: `*acknowledged` <= it <= `sent`. TAKE moves *acknowledged. */
weft_zmq_verdict_t weft_zmq_credit_accept(uint64_t *acknowledged, uint64_t sent,
                                          const weft_zmq_header_t *header, const char **why);

#endif
