/* In: frames of all peers, in one socket. Out: bytes in slots, and frames that pass them on. Invariant: of a
 * stream at most WEFT_ZMQ_WINDOW frames are neither consumed nor credited, so what is stashed and what ZeroMQ
 * holds is bounded, whatever a peer sends. */
#include <string.h>

#include "src/base/clock.h"
#include "src/base/hash.h"
#include "transport/zmq/backend.h"

#define MOST_FRAMES_AT_ONCE 8     /* a test never takes longer than to copy so many */
#define LOOK_INTERVAL_US    10000 /* between looks at the connections */
#define LEND_FROM_BYTES     8192  /* below it a copy is cheaper than a release */

void weft_zmq_give_up(weft_transport_t *t, uint32_t rank, weft_status_t status, const char *why)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    if (peer->status != WEFT_OK)
        return;
    peer->status = status;
    peer->why = why;
}

/* Its connection is over: what ZeroMQ still held for it is released, what it sent may still be in the inbox.
 */
static void depart(weft_transport_t *t, uint32_t rank, const char *why)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    weft_zmq_give_up(t, rank, WEFT_ERR_PEER_LOST, why);
    if (peer->departed)
        return;
    peer->departed = true;
    peer->heard_us = weft_now_us();
    weft_zmq_disconnect(peer, 0);
}

/* ---- sending ---- */

/* ZeroMQ's I/O thread, or the closing one: the last use of `op` here is the decrement. */
static void release(void *data, void *hint)
{
    (void)data;
    weft_op_t *op = hint;
    atomic_fetch_add(&op->transport->released, 1);
    atomic_fetch_sub_explicit(&op->lent, 1, memory_order_release);
}

/* A message of `length` bytes at `data`: lent where it is worth it, else copied. */
static bool make_payload(weft_transport_t *t, weft_op_t *op, uint8_t *data, uint32_t length,
                         zmq_msg_t *payload)
{
    if (length >= LEND_FROM_BYTES) {
        if (zmq_msg_init_data(payload, data, length, release, op) != 0)
            return false;
        atomic_fetch_add(&op->lent, 1);
        t->counters.lent++;
        return true;
    }
    if (zmq_msg_init_size(payload, length) != 0)
        return false;
    if (length)
        memcpy(zmq_msg_data(payload), data, length);
    t->counters.copied++;
    return true;
}

/* The payload goes last: once it is lent the frame is on its way, or the message's end releases it. */
static bool send_parts(void *socket, const weft_zmq_header_t *header, zmq_msg_t *payload)
{
    if (zmq_send(socket, header, sizeof *header, ZMQ_DONTWAIT | (payload ? ZMQ_SNDMORE : 0)) < 0)
        return false;
    return !payload || zmq_msg_send(payload, socket, ZMQ_DONTWAIT) >= 0;
}

/* Whether the operation has a frame to send now. What is passed on goes as it came, chunk by chunk. */
static bool may_send(const weft_op_t *op)
{
    if (op->in == WEFT_ZMQ_NOBODY || op->in_done)
        return !op->refused;
    return !op->refused && op->arrived > op->sent;
}

static bool send_chunk(weft_transport_t *t, uint32_t rank, weft_op_t *op)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    weft_zmq_header_t header;
    zmq_msg_t payload;
    uint32_t length = weft_zmq_frame_length(op->bytes, op->sent);
    weft_zmq_frame_begin(&header, &t->world, WEFT_ZMQ_DATA, rank);
    header.sequence = peer->sent;
    header.operation = op->out_number;
    header.channel = op->channel;
    header.length = length;
    header.total = op->bytes;
    header.offset = op->sent;
    header.digest =
        op->digests ? op->digests[op->sent / WEFT_ZMQ_CHUNK_BYTES] : weft_hash64(op->data + op->sent, length);
    weft_zmq_frame_seal(&header);
    if (!make_payload(t, op, op->data + op->sent, length, &payload))
        return false;
    bool went = send_parts(peer->socket, &header, &payload);
    if (!went)
        zmq_msg_close(&payload);
    return went;
}

/* The queues have room for a window, so what they refuse has no connection to go to. */
void weft_zmq_pump(weft_transport_t *t, uint32_t rank)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    while (peer->status == WEFT_OK && peer->out && may_send(peer->out) &&
           peer->sent - peer->acknowledged < WEFT_ZMQ_WINDOW) {
        weft_op_t *op = peer->out;
        if (!send_chunk(t, rank, op)) {
            depart(t, rank, "there is no connection to it any more");
            return;
        }
        peer->sent++;
        op->sent += weft_zmq_frame_length(op->bytes, op->sent);
        op->progress_us = weft_now_us();
        op->out_done = op->sent == op->bytes;
        if (op->out_done)
            peer->out = op->next_out;
    }
}

/* Half a window at a time: the other half keeps the sender busy meanwhile. */
static void send_credit(weft_transport_t *t, uint32_t rank)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    if (peer->status != WEFT_OK || !peer->socket || peer->consumed - peer->credited < WEFT_ZMQ_WINDOW / 2)
        return;
    weft_zmq_header_t header;
    weft_zmq_frame_begin(&header, &t->world, WEFT_ZMQ_CREDIT, rank);
    header.sequence = peer->consumed;
    weft_zmq_frame_seal(&header);
    if (send_parts(peer->socket, &header, NULL))
        peer->credited = peer->consumed;
}

/* ---- taking ---- */

static bool is_first(const weft_zmq_header_t *header)
{
    return header->offset == 0;
}

static bool belongs(weft_transport_t *t, uint32_t rank, weft_op_t *op, const weft_zmq_header_t *header)
{
    if (header->channel != op->channel || header->operation != op->in_number) {
        weft_zmq_give_up(
            t, rank, WEFT_ERR_TRANSPORT,
            "its operation is of another group than the one started here: ranks start operations in "
            "different orders");
        return false;
    }
    if (is_first(header) && header->total != op->bytes) {
        op->refused = true;
        op->found_bytes = header->total;
    }
    return true;
}

static void end_in(weft_zmq_peer_t *peer, weft_op_t *op)
{
    op->in_done = true;
    peer->in = op->next_in;
}

/* Put an accepted frame's payload where the oldest operation wants it. */
static void consume(weft_transport_t *t, uint32_t rank, const weft_zmq_header_t *header, zmq_msg_t *payload)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    weft_op_t *op = peer->in;
    const uint8_t *data = zmq_msg_data(payload);
    if (!belongs(t, rank, op, header))
        return;
    if (weft_hash64(data, header->length) != header->digest) {
        weft_zmq_give_up(t, rank, WEFT_ERR_TRANSPORT, "bytes that it sent were changed on the way");
        return;
    }
    if (!op->refused) {
        if (header->length)
            memcpy(op->data + header->offset, data, header->length);
        if (op->digests)
            op->digests[header->offset / WEFT_ZMQ_CHUNK_BYTES] = header->digest;
        op->arrived += header->length;
    }
    op->progress_us = weft_now_us();
    peer->consumed++;
    if (header->offset + header->length == header->total)
        end_in(peer, op);
    if (op->out != WEFT_ZMQ_NOBODY)
        weft_zmq_pump(t, op->out);
}

void weft_zmq_take_stashed(weft_transport_t *t, uint32_t rank)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    while (peer->num_stashed && peer->in && peer->status != WEFT_ERR_TRANSPORT) {
        weft_zmq_stashed_t *oldest = &peer->stash[peer->first_stashed];
        consume(t, rank, &oldest->header, &oldest->payload);
        zmq_msg_close(&oldest->payload);
        peer->first_stashed = (peer->first_stashed + 1) % WEFT_ZMQ_WINDOW;
        peer->num_stashed--;
    }
    send_credit(t, rank);
}

static void stash(weft_transport_t *t, uint32_t rank, const weft_zmq_header_t *header, zmq_msg_t *payload)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    if (peer->num_stashed == WEFT_ZMQ_WINDOW) {
        weft_zmq_give_up(t, rank, WEFT_ERR_TRANSPORT, "it sent more than it was given credit for");
        return;
    }
    weft_zmq_stashed_t *place = &peer->stash[(peer->first_stashed + peer->num_stashed++) % WEFT_ZMQ_WINDOW];
    place->header = *header;
    zmq_msg_init(&place->payload);
    zmq_msg_move(&place->payload, payload);
}

static weft_zmq_verdict_t take_data(weft_transport_t *t, const weft_zmq_header_t *header, zmq_msg_t *payload,
                                    const char **why)
{
    weft_zmq_peer_t *peer = &t->peers[header->source];
    weft_zmq_verdict_t verdict = weft_zmq_stream_accept(&peer->stream, header, why);
    if (verdict != WEFT_ZMQ_TAKE)
        return verdict;
    if (peer->in && !peer->num_stashed)
        consume(t, header->source, header, payload);
    else
        stash(t, header->source, header, payload);
    send_credit(t, header->source);
    return verdict;
}

static weft_zmq_verdict_t take_credit(weft_transport_t *t, const weft_zmq_header_t *header, const char **why)
{
    weft_zmq_peer_t *peer = &t->peers[header->source];
    weft_zmq_verdict_t verdict = weft_zmq_credit_accept(&peer->acknowledged, peer->sent, header, why);
    if (verdict == WEFT_ZMQ_TAKE)
        weft_zmq_pump(t, header->source);
    return verdict;
}

/* A peer that departed may have sent before; one that cannot be believed is not heard. */
static void take_frame(weft_transport_t *t, unsigned num_parts, zmq_msg_t *first, zmq_msg_t *payload)
{
    weft_zmq_header_t header;
    const char *why;
    weft_zmq_verdict_t verdict = weft_zmq_frame_read(
        &t->world, num_parts, zmq_msg_data(first), zmq_msg_size(first), zmq_msg_size(payload), &header, &why);
    weft_zmq_peer_t *peer = verdict == WEFT_ZMQ_DROP ? NULL : &t->peers[header.source];
    if (peer && peer->status == WEFT_ERR_TRANSPORT)
        verdict = WEFT_ZMQ_DROP;
    if (verdict == WEFT_ZMQ_TAKE) {
        peer->heard_us = weft_now_us();
        verdict = header.kind == WEFT_ZMQ_DATA ? take_data(t, &header, payload, &why)
                                               : take_credit(t, &header, &why);
    }
    if (verdict == WEFT_ZMQ_FAULT)
        weft_zmq_give_up(t, header.source, WEFT_ERR_TRANSPORT, why);
    t->counters.dropped += verdict != WEFT_ZMQ_TAKE;
}

/* Read one message to its end; a third part and what follows are only counted. */
static bool take_message(weft_transport_t *t)
{
    zmq_msg_t parts[3];
    unsigned count = 0;
    for (int i = 0; i < 3; i++)
        zmq_msg_init(&parts[i]);
    bool more = true;
    while (more) {
        zmq_msg_t *part = &parts[count < 2 ? count : 2];
        if (zmq_msg_recv(part, t->inbox, ZMQ_DONTWAIT) < 0)
            break;
        count += count < 3;
        more = zmq_msg_more(part) != 0;
    }
    if (count)
        take_frame(t, count, &parts[0], &parts[1]);
    for (int i = 0; i < 3; i++)
        zmq_msg_close(&parts[i]);
    return count > 0;
}

/* ---- connections ---- */

static const char *name_event(uint16_t event)
{
    switch (event) {
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return "the handshake failed: its keys are others, or it is not weft";
    case ZMQ_EVENT_CLOSED:
        return "it cannot be reached";
    default:
        return "it has died, closed its transport, or lost its connection";
    }
}

static void look_after(weft_transport_t *t, uint32_t rank)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    for (int more = 1, part = 0; more; part++) {
        zmq_msg_t message;
        zmq_msg_init(&message);
        if (zmq_msg_recv(&message, peer->monitor, ZMQ_DONTWAIT) < 0)
            return;
        uint16_t event;
        if (part == 0 && zmq_msg_size(&message) >= sizeof event) {
            memcpy(&event, zmq_msg_data(&message), sizeof event);
            zmq_msg_close(&message);
            depart(t, rank, name_event(event));
            return;
        }
        more = zmq_msg_more(&message);
        zmq_msg_close(&message);
    }
}

void weft_zmq_progress(weft_transport_t *t)
{
    if (!t->inbox)
        return;
    for (int i = 0; i < MOST_FRAMES_AT_ONCE && take_message(t); i++)
        ;
    uint64_t now_us = weft_now_us();
    bool look = now_us - t->looked_us >= LOOK_INTERVAL_US;
    t->looked_us = look ? now_us : t->looked_us;
    for (uint32_t i = 0; i < t->num_connected; i++) {
        uint32_t rank = t->connected[i];
        if (look && t->peers[rank].monitor && !t->peers[rank].departed)
            look_after(t, rank);
        weft_zmq_pump(t, rank);
    }
}
