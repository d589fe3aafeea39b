/* The ZeroMQ transport: host memory over TCP, where there is neither MPI nor a GPU.
 *
 * Each rank binds one socket (PULL) that all others send to, and connects one (PUSH) to each rank that it
 * exchanges something with. So a pair has two connections, one for what each of them sends, and a rank learns
 * from its own connection that the peer is gone. Connections are made once: what breaks stays broken until
 * the transport is opened anew or renewed, with new sockets and a new generation.
 *
 * Between two ranks, one way, operations travel one after the other in the order started, as one stream of
 * frames (frame.h). A broadcast is a chain: the root sends to the next member, each member passes on from its
 * slot what has arrived. So it leaves the root once, and a set's last member lags by a frame for each before
 * it.
 *
 *     start: at the end of in-queue and out-queue      in: from upstream (root: none)
 *       |                                              out: to downstream (last: none)
 *       v
 *     frames come > slot > frames go     at most WEFT_ZMQ_WINDOW frames of a stream are not consumed
 *       |
 *       v
 *     over: all came, all went, and ZeroMQ let go of the slot (`lent` is 0) > test says done
 *
 * Large chunks are lent to ZeroMQ where they lie (zmq_msg_init_data), so sending copies nothing in this
 * process. Frames that come before their operation is started wait in the peer's stash, no more than a window
 * of them. Queues of ZeroMQ are never full: a window and its credits are fewer messages than they hold. */
#ifndef WEFT_TRANSPORT_ZMQ_BACKEND_H
#define WEFT_TRANSPORT_ZMQ_BACKEND_H

#include <stdatomic.h>

#include <zmq.h>

#include "transport/transport.h"
#include "transport/zmq/frame.h"
#include "transport/zmq/gate.h"

#define WEFT_ZMQ_ENDPOINT_BYTES 128
#define WEFT_ZMQ_KEY_BYTES      41 /* a key in Z85, with its NUL */

/* Channels beside the groups' own ids. */
#define WEFT_ZMQ_CHANNEL_PAIR   0xffffffffu
#define WEFT_ZMQ_CHANNEL_GATHER 0xfffffffeu
#define WEFT_ZMQ_CHANNEL_MEET   0x10000u /* + id: a group that forms */

#define WEFT_ZMQ_NOBODY UINT32_MAX

/* What a rank tells all others over the bootstrap before it connects. */
typedef struct weft_zmq_introduction {
    uint8_t generation[WEFT_ZMQ_GENERATION_BYTES]; /* that of the first rank present counts */
    char endpoint[WEFT_ZMQ_ENDPOINT_BYTES];        /* such as tcp://127.0.0.1:41231 */
    char key[WEFT_ZMQ_KEY_BYTES];                  /* public, "" without CURVE */
    uint8_t failed;                                /* it could not bind: nobody goes on */
} weft_zmq_introduction_t;

struct weft_group {
    weft_group_t *previous, *next;
    uint32_t id, count, position;
    uint32_t *ranks; /* [count] */
};

struct weft_op {
    weft_op_t *previous, *next; /* of all in flight */
    weft_op_t *next_in, *next_out;
    weft_transport_t *transport;
    uint32_t in, out; /* ranks, WEFT_ZMQ_NOBODY; a message to this rank itself has one of them, this rank */
    uint32_t channel;
    uint8_t *data;
    uint64_t bytes;
    uint64_t in_number, out_number; /* of this operation in its streams */
    uint64_t arrived, sent;         /* bytes */
    bool in_done, out_done;
    bool refused; /* the other side has `found_bytes` */
    uint64_t found_bytes;
    uint64_t *digests;     /* [chunks] of what has arrived and is passed on; NULL unless both in and out */
    uint64_t progress_us;  /* when something of it moved last */
    _Atomic uint32_t lent; /* frames whose payload ZeroMQ still reads in `data` */
};

typedef struct weft_zmq_stashed {
    weft_zmq_header_t header;
    zmq_msg_t payload;
} weft_zmq_stashed_t;

typedef struct weft_zmq_peer {
    void *socket, *monitor;                   /* NULL until something is exchanged */
    weft_status_t status;                     /* WEFT_OK while it is there and can be believed */
    const char *why;                          /* a constant, why not */
    bool departed;                            /* its connection ended: what it sent before may still come */
    uint64_t heard_us;                        /* when something came last, or it departed */
    weft_op_t *in, *last_in, *out, *last_out; /* operations by stream, the oldest first */
    uint64_t started_in, started_out;
    weft_zmq_stream_t stream; /* from it */
    uint64_t consumed, credited;
    uint64_t sent, acknowledged;               /* frames to it */
    weft_zmq_stashed_t stash[WEFT_ZMQ_WINDOW]; /* a ring */
    uint32_t first_stashed, num_stashed;
} weft_zmq_peer_t;

/* What happened so far. */
typedef struct weft_zmq_counters {
    uint64_t dropped; /* frames not taken: strangers', another generation's, duplicates, of peers given up */
    uint64_t lent, released; /* frames whose payload was lent to ZeroMQ, and was given back */
    uint64_t copied;         /* small ones, which were copied */
} weft_zmq_counters_t;

struct weft_transport {
    weft_transport_base_t base;
    uint64_t timeout_us;
    weft_transport_t *bootstrap;
    weft_zmq_world_t world;
    weft_zmq_introduction_t *all;    /* [num_ranks] */
    uint32_t *present, num_present;  /* ranks that the bootstrap joins, this one among them */
    char address[64];
    bool new_keys; /* made with each meeting */
    char public[WEFT_ZMQ_KEY_BYTES], secret[WEFT_ZMQ_KEY_BYTES], server[WEFT_ZMQ_KEY_BYTES];
    bool curve;
    weft_zmq_gate_t *gate; /* with keys */
    void *context, *inbox;
    weft_zmq_peer_t *peers;             /* [num_ranks] */
    uint32_t *connected, num_connected; /* ranks that have a socket */
    weft_group_t *groups;
    weft_op_t *ops;
    uint64_t looked_us; /* when connections were looked after last */
    bool failed;        /* aborted, or a collective was left unfinished: only close */
    weft_zmq_counters_t counters;
    _Atomic uint64_t released;
};

/* open.c: connect to `rank` unless that is done. */
weft_status_t weft_zmq_connect(weft_transport_t *transport, uint32_t rank);
/* Close the connection to a peer; what is still to go has `linger_ms`. */
void weft_zmq_disconnect(weft_zmq_peer_t *peer, int linger_ms);
/* Close all sockets, without waiting for what they hold. Afterwards ZeroMQ holds nothing of ours. */
void weft_zmq_shut(weft_transport_t *transport);
weft_zmq_counters_t weft_zmq_counters(const weft_transport_t *transport);
/* Check what `rank` said of itself.
 * **Returns** WEFT_OK; WEFT_ERR_PEER_LOST when it failed; WEFT_ERR_PROTOCOL. */
weft_status_t weft_zmq_check_introduction(const weft_zmq_introduction_t *of, uint32_t rank, bool curve,
                                          weft_error_t *error);

/* group.c */
weft_status_t weft_zmq_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error);
weft_status_t weft_zmq_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                    uint32_t count, weft_group_t **group, weft_error_t *error);
void weft_zmq_group_destroy(weft_transport_t *transport, weft_group_t *group);

/* move.c */
weft_status_t weft_zmq_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                       void *data, size_t bytes, weft_op_t **op);
weft_status_t weft_zmq_send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                  weft_op_t **op);
weft_status_t weft_zmq_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                  weft_op_t **op);
weft_status_t weft_zmq_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error);
void weft_zmq_describe(weft_transport_t *transport, const weft_op_t *op, char *text, size_t bytes);
bool weft_zmq_abort(weft_transport_t *transport);
/* Start an operation that takes from `in` and gives to `out`, either WEFT_ZMQ_NOBODY. */
weft_status_t weft_zmq_start(weft_transport_t *transport, uint32_t in, uint32_t out, uint32_t channel,
                             void *data, size_t bytes, weft_op_t **op);

/* inbox.c: take what has come, send what may go, look after the connections. */
void weft_zmq_progress(weft_transport_t *transport);
/* Give `rank` up: operations with it fail, saying why (a constant). The first reason stays. */
void weft_zmq_give_up(weft_transport_t *transport, uint32_t rank, weft_status_t status, const char *why);
/* Take what `rank` sent before its operation was started; send it what may go. */
void weft_zmq_take_stashed(weft_transport_t *transport, uint32_t rank);
void weft_zmq_pump(weft_transport_t *transport, uint32_t rank);

#endif
