#include "src/control/mailbox.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <zmq.h>

#include "src/base/array.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/socket/socket.h"
#include "src/base/log.h"
#include "src/control/lane.h"

#define KEY_TEXT_BYTES   41 /* a key in Z85, with its NUL */
#define IDENTITY_BYTES   5
#define QUEUE_MESSAGES   1024  /* kept for a peer that does not read */
#define MAX_WIRE_BYTES   16384 /* more than any message of ours: beyond it ZeroMQ cuts the connection */
#define LINGER_MS        100
#define HANDSHAKE_MS     5000 /* a connection that says nothing is cut */
#define GONE_MS          1500 /* what was sent is not acknowledged, by the peer's kernel */
#define LOG_INTERVAL_US  1000000
#define LONGEST_WAIT_US  3600000000u /* what one zmq_poll is asked to wait at most */
#define MONITOR_ENDPOINT "inproc://weft-mailbox-monitor"

/* The first part of every message; the second is the caller's. Ranks are little-endian, as the hosts are. */
typedef struct header {
    uint8_t magic[4];
    uint32_t rank; /* the sender */
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES];
} header_t;

_Static_assert(sizeof(header_t) == 40, "a header has no padding");

static const uint8_t magic[4] = {'w', 'e', 'f', '1'};

/* A socket that messages come from: the one router, or a dealer connected to `peer`. */
typedef struct channel {
    void *socket;
    bool router;
    uint32_t peer;
} channel_t;

typedef struct own_message {
    struct own_message *next;
    size_t bytes;
    uint8_t data[];
} own_message_t;

struct weft_mailbox {
    uint32_t rank;
    header_t header; /* what this rank's messages begin with */
    weft_log_t log;
    bool curve;
    char secret[KEY_TEXT_BYTES], public[KEY_TEXT_BYTES];
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
    void *context;
    void *monitor; /* tells of connections to the router that failed their handshake; NULL when nothing is
                      bound */
    int wake_fd;
    WEFT_ARRAY(channel_t) channels;
    WEFT_ARRAY(zmq_pollitem_t) items; /* the wake descriptor, the monitor, the lanes, then the channels */
    size_t next_channel;              /* where the next poll begins to look, so that nobody starves */
    own_message_t *own, **own_end;    /* from this rank to itself */
    weft_lanes_t *lanes;              /* NULL: all goes over ZeroMQ */
    uint64_t dropped, logged_us;
};

static void drop(weft_mailbox_t *mailbox, const char *reason)
{
    mailbox->dropped++;
    uint64_t now_us = weft_now_us();
    if (mailbox->logged_us && now_us - mailbox->logged_us < LOG_INTERVAL_US)
        return;
    mailbox->logged_us = now_us;
    weft_log_line(&mailbox->log, WEFT_LOG_WARNING, "rank %u: mailbox: dropped %s (%llu dropped so far)",
                  mailbox->rank, reason, (unsigned long long)mailbox->dropped);
}

uint64_t weft_mailbox_dropped(const weft_mailbox_t *mailbox)
{
    return mailbox->dropped;
}

void weft_mailbox_about(char *text, size_t bytes)
{
    int major, minor, patch;
    zmq_version(&major, &minor, &patch);
    snprintf(text, bytes, "ZeroMQ %d.%d.%d %s", major, minor, patch,
             zmq_has("curve") ? "with CURVE" : "without CURVE: control messages stay on 127.0.0.1");
}

/* What ROUTER sockets know a rank by. ZeroMQ keeps names that begin with a zero byte for itself. */
static void make_identity(uint32_t rank, uint8_t identity[IDENTITY_BYTES])
{
    identity[0] = 'w';
    memcpy(identity + 1, &rank, sizeof rank);
}

static bool is_local(const char *host)
{
    static const char local[] = "127.0.0.1";
    size_t length = sizeof local - 1;
    return !strncmp(host, local, length) && (host[length] == 0 || host[length] == ':');
}

/* A connection whose other end has gone without a word is given up after GONE_MS by TCP itself, whose peer's
 * kernel no longer answers, and then made anew. ZeroMQ's heartbeats would do that too, but they end the
 * process (an assertion,
 * !_io_error in stream_engine_base.cpp, of 4.3.4 and later) when a connection breaks whose messages nobody
 * takes any more, as that of a rank is which another one has taken over from.
 *
 * One key pair serves all members of a session. A CURVE server without an authenticator accepts whoever knows
 * its public key, and that can only be computed from the secret one. */
static bool set_options(const weft_mailbox_t *mailbox, void *socket, int type)
{
    const weft_socket_int_t options[] = {
        {ZMQ_LINGER, LINGER_MS},           {ZMQ_SNDHWM, QUEUE_MESSAGES},  {ZMQ_RCVHWM, QUEUE_MESSAGES},
        {ZMQ_TCP_MAXRT, GONE_MS},          {ZMQ_TCP_KEEPALIVE, 1},        {ZMQ_TCP_KEEPALIVE_IDLE, 1},
        {ZMQ_TCP_KEEPALIVE_INTVL, 1},      {ZMQ_TCP_KEEPALIVE_CNT, 2},    {ZMQ_RECONNECT_IVL, 50},
        {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS}, {ZMQ_RECONNECT_IVL_MAX, 1000},
    };
    const weft_socket_int_t of_routers[] = {{ZMQ_ROUTER_MANDATORY, 1}, {ZMQ_ROUTER_HANDOVER, 1}};
    const bool router = type == ZMQ_ROUTER;
    if (!weft_socket_set(socket, options, sizeof options / sizeof *options, MAX_WIRE_BYTES) ||
        (router && !weft_socket_set(socket, of_routers, 2, MAX_WIRE_BYTES)))
        return false;
    if (!mailbox->curve)
        return true;
    return router ? weft_socket_serve_with_key(socket, mailbox->secret)
                  : weft_socket_connect_with_keys(socket, mailbox->public, mailbox->secret, mailbox->public);
}

static void *new_socket(const weft_mailbox_t *mailbox, int type)
{
    void *socket = zmq_socket(mailbox->context, type);
    if (!socket)
        return NULL;
    if (set_options(mailbox, socket, type))
        return socket;
    weft_socket_give_up(socket);
    return NULL;
}

static bool add_item(weft_mailbox_t *mailbox, void *socket, int fd)
{
    return WEFT_ARRAY_PUSH(&mailbox->items, (zmq_pollitem_t){socket, fd, ZMQ_POLLIN, 0});
}

/* In front of the channels' items. */
static bool insert_item(weft_mailbox_t *mailbox, int fd)
{
    if (!add_item(mailbox, NULL, fd))
        return false;
    zmq_pollitem_t *items = mailbox->items.items, added = items[mailbox->items.count - 1];
    size_t at = mailbox->items.count - 1 - mailbox->channels.count;
    memmove(&items[at + 1], &items[at], mailbox->channels.count * sizeof *items);
    items[at] = added;
    return true;
}

/* Takes the socket over, also when memory runs out. */
static bool add_channel(weft_mailbox_t *mailbox, void *socket, bool router, uint32_t peer)
{
    if (WEFT_ARRAY_RESERVE(&mailbox->items, mailbox->items.count + 1) &&
        WEFT_ARRAY_PUSH(&mailbox->channels, (channel_t){socket, router, peer}))
        return add_item(mailbox, socket, 0);
    zmq_close(socket);
    return false;
}

static void remove_channel(weft_mailbox_t *mailbox, channel_t *channel)
{
    size_t at = (size_t)(channel - mailbox->channels.items);
    size_t item = mailbox->items.count - mailbox->channels.count + at;
    zmq_close(channel->socket);
    mailbox->channels.items[at] = mailbox->channels.items[--mailbox->channels.count];
    mailbox->items.items[item] = mailbox->items.items[--mailbox->items.count];
}

/* The dealer connected to `peer`, or NULL; with `or_router` the router when there is no dealer. */
static channel_t *find_channel(weft_mailbox_t *mailbox, uint32_t peer, bool or_router)
{
    channel_t *router = NULL;
    for (size_t i = 0; i < mailbox->channels.count; i++) {
        channel_t *channel = &mailbox->channels.items[i];
        if (channel->router)
            router = channel;
        else if (channel->peer == peer)
            return channel;
    }
    return or_router ? router : NULL;
}

static weft_status_t watch(weft_mailbox_t *mailbox, void *router, weft_error_t *error)
{
    int events = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                 ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    mailbox->monitor = zmq_socket(mailbox->context, ZMQ_PAIR);
    if (!mailbox->monitor || zmq_socket_monitor(router, MONITOR_ENDPOINT, events) ||
        zmq_connect(mailbox->monitor, MONITOR_ENDPOINT) || !add_item(mailbox, mailbox->monitor, 0))
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: mailbox: cannot watch its socket: %s",
                         mailbox->rank, zmq_strerror(zmq_errno()));
    return WEFT_OK;
}

static weft_status_t bind_router(weft_mailbox_t *mailbox, const char *host, weft_error_t *error)
{
    char wanted[WEFT_MAILBOX_ENDPOINT_BYTES];
    int length = snprintf(wanted, sizeof wanted, strchr(host, ':') ? "tcp://%s" : "tcp://%s:*", host);
    if (length < 0 || (size_t)length >= sizeof wanted)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: mailbox: the host is too long", mailbox->rank);
    if (!mailbox->curve && !is_local(host))
        return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                         "rank %u: mailbox: this libzmq has no CURVE, so it may serve 127.0.0.1 only, not %s",
                         mailbox->rank, host);
    void *router = new_socket(mailbox, ZMQ_ROUTER);
    if (!router)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: mailbox: %s", mailbox->rank,
                         zmq_strerror(zmq_errno()));
    size_t size = sizeof mailbox->endpoint;
    weft_status_t status = watch(mailbox, router, error);
    if (status == WEFT_OK &&
        (zmq_bind(router, wanted) || zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, mailbox->endpoint, &size)))
        status = weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: mailbox: cannot bind to %s: %s", mailbox->rank,
                           wanted, zmq_strerror(zmq_errno()));
    if (status != WEFT_OK) {
        zmq_close(router);
        return status;
    }
    return add_channel(mailbox, router, true, 0)
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: mailbox: out of memory", mailbox->rank);
}

/* The token is the secret key itself: any 32 bytes are one. */
static void make_keys(weft_mailbox_t *mailbox)
{
    mailbox->curve = zmq_has("curve") &&
                     zmq_z85_encode(mailbox->secret, mailbox->header.token, WEFT_MAILBOX_TOKEN_BYTES) &&
                     !zmq_curve_public(mailbox->public, mailbox->secret);
}

/* After the monitor and before any dealer: the channels are the last items. */
static weft_status_t open_lanes(weft_mailbox_t *mailbox, weft_error_t *error)
{
    const char *endpoint = mailbox->endpoint[0] ? mailbox->endpoint : NULL;
    mailbox->lanes = weft_lanes_open(mailbox->public, endpoint);
    return !mailbox->lanes || insert_item(mailbox, weft_lanes_fd(mailbox->lanes))
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: mailbox: out of memory", mailbox->rank);
}

static weft_status_t open_parts(weft_mailbox_t *mailbox, const char *host, weft_error_t *error)
{
    mailbox->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    mailbox->context = zmq_ctx_new();
    if (mailbox->wake_fd < 0 || !mailbox->context || !add_item(mailbox, NULL, mailbox->wake_fd))
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: mailbox: %s", mailbox->rank, strerror(errno));
    return host ? bind_router(mailbox, host, error) : WEFT_OK;
}

weft_status_t weft_mailbox_open(const weft_mailbox_config_t *config, weft_mailbox_t **mailbox,
                                weft_error_t *error)
{
    weft_mailbox_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: mailbox: out of memory", config->rank);
    made->rank = config->rank;
    made->header.rank = config->rank;
    memcpy(made->header.magic, magic, sizeof magic);
    memcpy(made->header.token, config->token, sizeof config->token);
    if (config->log)
        made->log = *config->log;
    made->own_end = &made->own;
    made->wake_fd = -1;
    make_keys(made);
    weft_status_t status = open_parts(made, config->host, error);
    if (status == WEFT_OK && made->curve && !config->no_lanes)
        status = open_lanes(made, error);
    if (status != WEFT_OK) {
        weft_mailbox_close(made);
        return status;
    }
    *mailbox = made;
    return WEFT_OK;
}

void weft_mailbox_close(weft_mailbox_t *mailbox)
{
    if (!mailbox)
        return;
    for (size_t i = 0; i < mailbox->channels.count; i++)
        zmq_close(mailbox->channels.items[i].socket);
    if (mailbox->monitor)
        zmq_close(mailbox->monitor);
    weft_lanes_close(mailbox->lanes);
    if (mailbox->context)
        zmq_ctx_term(mailbox->context);
    if (mailbox->wake_fd >= 0)
        close(mailbox->wake_fd);
    for (own_message_t *message = mailbox->own, *next; message; message = next) {
        next = message->next;
        free(message);
    }
    WEFT_ARRAY_FREE(&mailbox->channels);
    WEFT_ARRAY_FREE(&mailbox->items);
    explicit_bzero(mailbox, sizeof *mailbox);
    free(mailbox);
}

const char *weft_mailbox_endpoint(const weft_mailbox_t *mailbox)
{
    return mailbox->endpoint;
}

weft_status_t weft_mailbox_connect(weft_mailbox_t *mailbox, uint32_t peer, const char *endpoint,
                                   weft_error_t *error)
{
    if (peer == mailbox->rank)
        return WEFT_OK;
    if (strncmp(endpoint, "tcp://", 6))
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: mailbox: \"%s\" is not like tcp://host:port",
                         mailbox->rank, endpoint);
    if (!mailbox->curve && !is_local(endpoint + 6))
        return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                         "rank %u: mailbox: this libzmq has no CURVE, so it may reach 127.0.0.1 only, not %s",
                         mailbox->rank, endpoint);
    void *dealer = new_socket(mailbox, ZMQ_DEALER);
    if (!dealer)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: mailbox: %s", mailbox->rank,
                         zmq_strerror(zmq_errno()));
    uint8_t identity[IDENTITY_BYTES];
    make_identity(mailbox->rank, identity);
    if (zmq_setsockopt(dealer, ZMQ_ROUTING_ID, identity, sizeof identity) || zmq_connect(dealer, endpoint)) {
        weft_socket_give_up(dealer);
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rank %u: mailbox: cannot connect to \"%s\" for rank %u: %s", mailbox->rank,
                         endpoint, peer, zmq_strerror(zmq_errno()));
    }
    channel_t *earlier = find_channel(mailbox, peer, false);
    if (earlier)
        remove_channel(mailbox, earlier);
    if (!add_channel(mailbox, dealer, false, peer))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: mailbox: out of memory", mailbox->rank);
    if (mailbox->lanes)
        weft_lanes_connect(mailbox->lanes, peer, endpoint);
    return WEFT_OK;
}

static weft_status_t send_own(weft_mailbox_t *mailbox, const void *data, size_t bytes)
{
    own_message_t *message = malloc(sizeof *message + bytes);
    if (!message)
        return WEFT_ERR_NO_MEMORY;
    message->next = NULL;
    message->bytes = bytes;
    if (bytes)
        memcpy(message->data, data, bytes);
    *mailbox->own_end = message;
    mailbox->own_end = &message->next;
    return WEFT_OK;
}

static bool take_own(weft_mailbox_t *mailbox, uint32_t *peer, void *data, size_t *bytes)
{
    own_message_t *message = mailbox->own;
    if (!message)
        return false;
    memcpy(data, message->data, message->bytes);
    *bytes = message->bytes;
    *peer = mailbox->rank;
    mailbox->own = message->next;
    if (!mailbox->own)
        mailbox->own_end = &mailbox->own;
    free(message);
    return true;
}

/* Only a message's first part can be refused for want of room or of a connection; then none of it is sent. */
weft_status_t weft_mailbox_send(weft_mailbox_t *mailbox, uint32_t peer, const void *data, size_t bytes)
{
    if (bytes > WEFT_MAILBOX_MAX_BYTES)
        return WEFT_ERR_ARGUMENT;
    if (peer == mailbox->rank)
        return send_own(mailbox, data, bytes);
    const struct iovec parts[] = {{&mailbox->header, sizeof mailbox->header},
                                  {(void *)(uintptr_t)data, bytes}};
    if (mailbox->lanes && weft_lanes_send(mailbox->lanes, peer, parts, 2))
        return WEFT_OK;
    channel_t *channel = find_channel(mailbox, peer, true);
    if (!channel)
        return WEFT_ERR_PEER_LOST;
    if (channel->router) {
        uint8_t identity[IDENTITY_BYTES];
        make_identity(peer, identity);
        if (zmq_send(channel->socket, identity, sizeof identity, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
            return WEFT_ERR_PEER_LOST;
    }
    if (zmq_send(channel->socket, &mailbox->header, sizeof mailbox->header, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(channel->socket, data, bytes, ZMQ_DONTWAIT) < 0)
        return WEFT_ERR_PEER_LOST;
    return WEFT_OK;
}

/* Takes as long for any two tokens, so that timing tells nothing about how much of a guess was right. */
static bool same_token(const uint8_t *a, const uint8_t *b)
{
    volatile uint8_t difference = 0;
    for (size_t i = 0; i < WEFT_MAILBOX_TOKEN_BYTES; i++)
        difference = difference | (uint8_t)(a[i] ^ b[i]);
    return difference == 0;
}

/* Who may speak in a channel: on a dealer the peer that it is connected to, on the router whoever connected
 * under that rank's identity. */
static bool is_sender(const channel_t *channel, const weft_socket_part_t *identity, uint32_t rank)
{
    if (!channel->router)
        return channel->peer == rank;
    uint8_t expected[IDENTITY_BYTES];
    make_identity(rank, expected);
    return identity->bytes == IDENTITY_BYTES && !memcmp(identity->data, expected, IDENTITY_BYTES);
}

/* Take one message of a channel; false when there is none that may be passed on. */
static bool take_from(weft_mailbox_t *mailbox, const channel_t *channel, uint32_t *peer, void *data,
                      size_t *bytes)
{
    uint8_t identity[IDENTITY_BYTES];
    header_t header;
    weft_socket_part_t parts[3] = {
        {identity, sizeof identity, 0}, {&header, sizeof header, 0}, {data, WEFT_MAILBOX_MAX_BYTES, 0}};
    size_t first = channel->router ? 0 : 1; /* a router puts the identity in front */
    size_t count = weft_socket_read(channel->socket, parts + first, 3 - first);
    if (count == 0)
        return false;
    const char *fault = NULL;
    if (count != 3 - first || parts[1].bytes != sizeof header || memcmp(header.magic, magic, sizeof magic))
        fault = "a message that is not weft's";
    else if (!same_token(header.token, mailbox->header.token))
        fault = "a message without the session's token";
    else if (!is_sender(channel, &parts[0], header.rank))
        fault = "a message in another rank's name";
    else if (parts[2].bytes > WEFT_MAILBOX_MAX_BYTES)
        fault = "an oversized message";
    if (fault) {
        drop(mailbox, fault);
        return false;
    }
    *peer = header.rank;
    *bytes = parts[2].bytes;
    return true;
}

/* Take one message that came by a lane. What is not weft's ends the lane. */
static bool take_from_lanes(weft_mailbox_t *mailbox, uint32_t *peer, void *data, size_t *bytes)
{
    header_t header;
    struct iovec parts[] = {{&header, sizeof header}, {data, WEFT_MAILBOX_MAX_BYTES}};
    uint32_t lane;
    size_t size;
    while (mailbox->lanes && weft_lanes_take(mailbox->lanes, parts, 2, &lane, &size)) {
        const char *fault = NULL;
        if (size < sizeof header || memcmp(header.magic, magic, sizeof magic))
            fault = "a message that is not weft's";
        else if (!same_token(header.token, mailbox->header.token))
            fault = "a message without the session's token";
        else if (size > sizeof header + WEFT_MAILBOX_MAX_BYTES)
            fault = "an oversized message";
        else if (!weft_lanes_name(mailbox->lanes, lane, header.rank))
            fault = "a message in another rank's name";
        if (!fault) {
            *peer = header.rank;
            *bytes = size - sizeof header;
            return true;
        }
        drop(mailbox, fault);
        weft_lanes_drop(mailbox->lanes, lane);
    }
    return false;
}

static bool take_any(weft_mailbox_t *mailbox, uint32_t *peer, void *data, size_t *bytes)
{
    size_t count = mailbox->channels.count;
    for (size_t i = 0; i < count; i++) {
        size_t at = mailbox->next_channel++ % count;
        if (take_from(mailbox, &mailbox->channels.items[at], peer, data, bytes))
            return true;
    }
    return false;
}

static void count_refused_connections(weft_mailbox_t *mailbox)
{
    uint8_t event[8];
    weft_socket_part_t part = {event, sizeof event, 0};
    while (mailbox->monitor && weft_socket_read(mailbox->monitor, &part, 1))
        drop(mailbox, "a connection that failed its handshake: another session's token, or not weft");
}

/* Whether weft_mailbox_wake was called since this was last asked. */
static bool was_woken(weft_mailbox_t *mailbox)
{
    uint64_t wakes;
    return read(mailbox->wake_fd, &wakes, sizeof wakes) == sizeof wakes;
}

void weft_mailbox_wake(weft_mailbox_t *mailbox)
{
    uint64_t one = 1;
    /* Fails only when 2^64 - 2 wakes are waiting already. */
    ssize_t written = write(mailbox->wake_fd, &one, sizeof one);
    (void)written;
}

static void wait_for_any(weft_mailbox_t *mailbox, uint64_t wait_us)
{
    uint64_t asked_us = wait_us < LONGEST_WAIT_US ? wait_us : LONGEST_WAIT_US;
    zmq_poll(mailbox->items.items, (int)mailbox->items.count, (long)((asked_us + 999) / 1000));
}

weft_status_t weft_mailbox_poll(weft_mailbox_t *mailbox, uint64_t timeout_us, uint32_t *peer, void *data,
                                size_t *bytes)
{
    uint64_t start_us = weft_now_us();
    for (;;) {
        if (take_own(mailbox, peer, data, bytes) || take_from_lanes(mailbox, peer, data, bytes) ||
            take_any(mailbox, peer, data, bytes))
            return WEFT_OK;
        count_refused_connections(mailbox);
        uint64_t spent_us = weft_now_us() - start_us;
        if (was_woken(mailbox) || spent_us >= timeout_us)
            return WEFT_ERR_TIMEOUT;
        wait_for_any(mailbox, timeout_us - spent_us);
    }
}
