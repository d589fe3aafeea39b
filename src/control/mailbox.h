/* Small messages between ranks over ZeroMQ: framing, reconnection and ordering are ZeroMQ's, identity and
 * authentication are ours. Between ranks of one host and one user they take a short cut (lane.h). A mailbox is opened by each process; any rank may be reached that was connected
 * to, or that has connected here and said who it is.
 *
 * What connects is encrypted and authenticated by CurveZMQ with keys made from the session's token, so only
 * those who hold the token can connect, read or listen; each message also carries it. A libzmq without CURVE
 * serves 127.0.0.1 only.
 *
 * **Threads** one thread owns a mailbox and makes all calls, except weft_mailbox_wake.
 */
#ifndef WEFT_CONTROL_MAILBOX_H
#define WEFT_CONTROL_MAILBOX_H

#include <weft/types.h>

#define WEFT_MAILBOX_MAX_BYTES      2048
#define WEFT_MAILBOX_TOKEN_BYTES    32
#define WEFT_MAILBOX_ENDPOINT_BYTES 128

typedef struct weft_mailbox weft_mailbox_t;

typedef struct weft_mailbox_config {
    uint32_t rank;
    const char *host; /* the address to bind to, such as "127.0.0.1"; the system chooses the port unless one
                         is given, as in "127.0.0.1:41231". NULL: connects only */
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES]; /* the session's secret, random: whoever lacks it is dropped and
                                                counted */
    const weft_log_t *log;
    bool no_lanes; /* over ZeroMQ alone, as between hosts */
} weft_mailbox_config_t;

/* Open, and bind when a host is given.
 * **Returns** WEFT_OK, WEFT_ERR_SYSTEM (the address cannot be bound), WEFT_ERR_UNSUPPORTED (no CURVE, and the
 * host is not 127.0.0.1), WEFT_ERR_NO_MEMORY. */
weft_status_t weft_mailbox_open(const weft_mailbox_config_t *config, weft_mailbox_t **mailbox,
                                weft_error_t *error);

/* Free everything; NULL is accepted. **Blocks** up to 0.1 s while messages already sent leave. */
void weft_mailbox_close(weft_mailbox_t *mailbox);

/* The endpoint to hand to those who connect, such as "tcp://127.0.0.1:41231"; "" when nothing was bound. */
const char *weft_mailbox_endpoint(const weft_mailbox_t *mailbox);

/* Reach `peer` at `endpoint` from now on, in place of an earlier endpoint. Reconnects by itself: what is sent
 * meanwhile waits, what was on its way is lost. The peer learns this rank with the connection and can answer
 * at once. Nothing to do for this rank itself. */
weft_status_t weft_mailbox_connect(weft_mailbox_t *mailbox, uint32_t peer, const char *endpoint,
                                   weft_error_t *error);

/* Send a message of at most WEFT_MAILBOX_MAX_BYTES; to this rank itself too (it is received by the next
 * poll). Never blocks: when the peer is unknown or its queue is full the message is dropped and
 * WEFT_ERR_PEER_LOST returned. */
weft_status_t weft_mailbox_send(weft_mailbox_t *mailbox, uint32_t peer, const void *data, size_t bytes);

/* Wait up to `timeout_us` for one message. Returns WEFT_OK with *peer, `data` [WEFT_MAILBOX_MAX_BYTES] and
 * *bytes; WEFT_ERR_TIMEOUT when none came or weft_mailbox_wake was called. */
weft_status_t weft_mailbox_poll(weft_mailbox_t *mailbox, uint64_t timeout_us, uint32_t *peer, void *data,
                                size_t *bytes);

/* Make a poll that is waiting (or the next one) return now. Any thread. */
void weft_mailbox_wake(weft_mailbox_t *mailbox);

/* The library beneath, for people: "ZeroMQ 4.3.4 with CURVE". */
void weft_mailbox_about(char *text, size_t bytes);

/* Messages and connections dropped so far: malformed, oversized, without the token or in another rank's name.
 */
uint64_t weft_mailbox_dropped(const weft_mailbox_t *mailbox);

#endif
