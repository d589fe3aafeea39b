/* Listening, meeting over the bootstrap transport, connecting, and leaving. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/socket/socket.h"
#include "transport/zmq/backend.h"

#define QUEUE_PARTS     256  /* of one connection: more than a window of frames and the credits for one */
#define HEARTBEAT_MS    250  /* between signs of life of a connection */
#define DEAD_AFTER_MS   1500 /* without one the peer counts as gone */
#define HANDSHAKE_MS    5000
#define CLOSE_LINGER_MS 1000 /* what was sent last may take so long to leave */
#define CURVE_BYTES     64   /* and more than a part grows by when it is encrypted (33) */
#define MOST_PENDING    1024 /* connections not accepted yet */
#define MONITOR_BYTES   48
/* Not ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL, which says too little and costs too much: telling it, libzmq 4.3.4
 * forgets that the connection is over, and ends the process with the next heartbeat (!_io_error, its issue
 * 4364). */
#define CONNECTION_IS_OVER                                                                                   \
    (ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |                      \
     ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

_Static_assert(QUEUE_PARTS >= 4 * WEFT_ZMQ_WINDOW, "a window of two-part frames never fills a queue");

/* ---- Options ---- */

static bool is_key(const char *text)
{
    uint8_t key[32];
    return strlen(text) == WEFT_ZMQ_KEY_BYTES - 1 && zmq_z85_decode(key, text) != NULL;
}

static weft_status_t check_key(uint32_t rank, const char *name, const char *text, weft_error_t *error)
{
    return !text || is_key(text)
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_ARGUMENT,
                           "rank %u: zmq: %s is not a key: expected 40 characters of Z85, found %zu", rank,
                           name, strlen(text));
}

/* Names of interfaces and IPv4 addresses; not "*", which peers could not connect to, and no port. */
static bool is_address(const char *text)
{
    size_t length = strlen(text);
    bool plain =
        length > 0 && length < sizeof((weft_transport_t *)0)->address && strcmp(text, "0.0.0.0") != 0;
    for (size_t i = 0; i < length; i++)
        plain = plain && (isalnum((unsigned char)text[i]) || strchr(".-_@", text[i]));
    return plain;
}

static weft_status_t check_options(uint32_t rank, const weft_zmq_options_t *o, weft_error_t *error)
{
    if (o->struct_size != sizeof *o)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "weft_zmq_options_t has %zu bytes, expected %zu: start from WEFT_ZMQ_OPTIONS",
                         o->struct_size, sizeof *o);
    if (o->address && !is_address(o->address))
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "rank %u: zmq: \"%s\" is no address to listen on: expected an IPv4 address of this host or the "
            "name of an interface, such as eth0, without a port",
            rank, o->address);
    if (o->new_keys && (o->public_key || o->secret_key || o->server_key))
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "rank %u: zmq: new_keys are made by the transport: give no others with them", rank);
    if (!o->public_key != !o->secret_key || (o->server_key && !o->secret_key))
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "rank %u: zmq: keys come in pairs: give public_key and secret_key, and server_key only with "
            "them",
            rank);
    WEFT_TRY(check_key(rank, "public_key", o->public_key, error));
    WEFT_TRY(check_key(rank, "secret_key", o->secret_key, error));
    WEFT_TRY(check_key(rank, "server_key", o->server_key, error));
    if ((o->secret_key || o->new_keys) && !zmq_has("curve"))
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "rank %u: zmq: this libzmq has no CURVE, and keys were given: use one that has, or loopback "
            "addresses without keys",
            rank);
    return WEFT_OK;
}

static weft_status_t take_options(weft_transport_t *t, const weft_zmq_options_t *o, weft_error_t *error)
{
    WEFT_TRY(check_options(t->base.rank, o, error));
    snprintf(t->address, sizeof t->address, "%s", o->address ? o->address : "127.0.0.1");
    t->new_keys = o->new_keys;
    t->curve = o->new_keys || o->secret_key;
    if (o->secret_key) {
        memcpy(t->public, o->public_key, WEFT_ZMQ_KEY_BYTES);
        memcpy(t->secret, o->secret_key, WEFT_ZMQ_KEY_BYTES);
    }
    if (o->server_key)
        memcpy(t->server, o->server_key, WEFT_ZMQ_KEY_BYTES);
    return WEFT_OK;
}

/* ---- Sockets ---- */

/* A socket with all of its options, or none: one without its keys would be open to all. */
static void *new_socket(weft_transport_t *t, int type, const char *server_key)
{
    const weft_socket_int_t options[] = {
        {ZMQ_SNDHWM, QUEUE_PARTS},   {ZMQ_RCVHWM, QUEUE_PARTS}, {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS},
        {ZMQ_BACKLOG, MOST_PENDING}, {ZMQ_LINGER, 0},
    };
    const weft_socket_int_t of_peers[] = {
        {ZMQ_RECONNECT_IVL, -1},
        {ZMQ_CONNECT_TIMEOUT, HANDSHAKE_MS}, /* the system's own is minutes */
        {ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS},
        {ZMQ_HEARTBEAT_TIMEOUT, DEAD_AFTER_MS}};
    const int64_t most = WEFT_ZMQ_CHUNK_BYTES + CURVE_BYTES;
    const bool inbox = type == ZMQ_PULL;
    void *socket = zmq_socket(t->context, type);
    if (!socket)
        return NULL;
    bool set = weft_socket_set(socket, options, sizeof options / sizeof *options, most) &&
               (inbox || weft_socket_set(socket, of_peers, sizeof of_peers / sizeof *of_peers, most));
    if (set && t->curve)
        set = inbox ? weft_socket_serve_with_key(socket, t->secret)
                    : weft_socket_connect_with_keys(socket, t->public, t->secret, server_key);
    if (set)
        return socket;
    weft_socket_give_up(socket);
    return NULL;
}

static weft_status_t fail_system(const weft_transport_t *t, const char *what, const char *of,
                                 weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: zmq: %s %s: %s", t->base.rank, what, of,
                     zmq_strerror(zmq_errno()));
}

static weft_status_t listen_on(weft_transport_t *t, const char *address, char *endpoint, weft_error_t *error)
{
    char wanted[WEFT_ZMQ_ENDPOINT_BYTES];
    snprintf(wanted, sizeof wanted, "tcp://%s:*", address);
    t->context = zmq_ctx_new();
    if (!t->context)
        return fail_system(t, "starting", "ZeroMQ", error);
    zmq_ctx_set(t->context, ZMQ_MAX_SOCKETS, (int)(3 * t->base.num_ranks + 16));
    t->gate = t->curve ? weft_zmq_gate_open(t->context) : NULL;
    if (t->curve && !t->gate)
        return fail_system(t, "asking", "who connects", error);
    t->inbox = new_socket(t, ZMQ_PULL, NULL);
    if (!t->inbox)
        return fail_system(t, "making", "a socket", error);
    if (zmq_bind(t->inbox, wanted) != 0)
        return fail_system(t, "cannot listen on", address, error);
    size_t size = WEFT_ZMQ_ENDPOINT_BYTES;
    zmq_getsockopt(t->inbox, ZMQ_LAST_ENDPOINT, endpoint, &size);
    if (!t->curve && strncmp(endpoint, "tcp://127.", 10) != 0)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "rank %u: zmq: without keys it listens on loopback addresses only, not on %s: give keys "
            "(weft_zmq_options_t, weft run --keys), so that others on the network can neither read nor send",
            t->base.rank, endpoint);
    return WEFT_OK;
}

/* Events come to `peer->monitor` from now on. */
static bool watch(weft_transport_t *t, uint32_t rank)
{
    char endpoint[MONITOR_BYTES];
    weft_zmq_peer_t *peer = &t->peers[rank];
    snprintf(endpoint, sizeof endpoint, "inproc://weft-zmq-%u", rank);
    peer->monitor = zmq_socket(t->context, ZMQ_PAIR);
    if (!peer->monitor)
        return false;
    return zmq_socket_monitor(peer->socket, endpoint, CONNECTION_IS_OVER) == 0 &&
           zmq_connect(peer->monitor, endpoint) == 0;
}

/* A connection is made once: what was lost of a stream no new one would bring back. */
weft_status_t weft_zmq_connect(weft_transport_t *t, uint32_t rank)
{
    weft_zmq_peer_t *peer = &t->peers[rank];
    if (rank == t->base.rank || peer->socket || peer->status != WEFT_OK)
        return WEFT_OK;
    peer->socket = new_socket(t, ZMQ_PUSH, t->server[0] ? t->server : t->all[rank].key);
    if (!peer->socket)
        return WEFT_ERR_TRANSPORT;
    if (!watch(t, rank) || zmq_connect(peer->socket, t->all[rank].endpoint) != 0) {
        weft_zmq_disconnect(peer, 0);
        return WEFT_ERR_TRANSPORT;
    }
    t->connected[t->num_connected++] = rank;
    return WEFT_OK;
}

void weft_zmq_disconnect(weft_zmq_peer_t *peer, int linger_ms)
{
    if (peer->socket) {
        zmq_socket_monitor(peer->socket, NULL, 0);
        zmq_setsockopt(peer->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        zmq_close(peer->socket);
    }
    if (peer->monitor)
        zmq_close(peer->monitor);
    peer->socket = peer->monitor = NULL;
}

static void shut(weft_transport_t *t, int linger_ms)
{
    for (uint32_t i = 0; t->peers && i < t->base.num_ranks; i++) {
        weft_zmq_peer_t *peer = &t->peers[i];
        weft_zmq_disconnect(peer, linger_ms);
        for (; peer->num_stashed; peer->num_stashed--) {
            zmq_msg_close(&peer->stash[peer->first_stashed].payload);
            peer->first_stashed = (peer->first_stashed + 1) % WEFT_ZMQ_WINDOW;
        }
    }
    if (t->inbox)
        zmq_close(t->inbox);
    weft_zmq_gate_close(t->gate);
    t->gate = NULL;
    while (t->context && zmq_ctx_term(t->context) != 0 && errno == EINTR)
        ;
    t->inbox = t->context = NULL;
}

void weft_zmq_shut(weft_transport_t *t)
{
    shut(t, 0);
}

weft_zmq_counters_t weft_zmq_counters(const weft_transport_t *t)
{
    weft_zmq_counters_t counters = t->counters;
    counters.released = atomic_load(&t->released);
    return counters;
}

/* ---- Meeting ---- */

static bool is_text(const char *text, size_t bytes)
{
    size_t length = strnlen(text, bytes);
    for (size_t i = 0; i < length; i++)
        if (!isprint((unsigned char)text[i]))
            return false;
    return length < bytes;
}

weft_status_t weft_zmq_check_introduction(const weft_zmq_introduction_t *of, uint32_t rank, bool curve,
                                          weft_error_t *error)
{
    if (of->failed)
        return weft_fail(error, WEFT_ERR_PEER_LOST, "zmq: rank %u could not open; its own message says why",
                         rank);
    if (!is_text(of->endpoint, sizeof of->endpoint) || strncmp(of->endpoint, "tcp://", 6) != 0)
        return weft_fail(error, WEFT_ERR_PROTOCOL, "zmq: rank %u's address is not like tcp://host:port",
                         rank);
    if (!is_text(of->key, sizeof of->key) || (curve ? !is_key(of->key) : of->key[0] != 0))
        return weft_fail(error, WEFT_ERR_PROTOCOL,
                         "zmq: rank %u has %s, this one %s: give keys to all ranks or to none", rank,
                         of->key[0] ? "keys" : "no keys", curve ? "has" : "has none");
    return WEFT_OK;
}

static void list_present(weft_transport_t *t)
{
    t->num_present = 0;
    for (uint32_t i = 0; i < t->base.num_ranks; i++)
        if (weft_transport_has(t->bootstrap, i))
            t->present[t->num_present++] = i;
}

/* The keys of those that are present may connect. */
static weft_status_t admit_present(weft_transport_t *t, weft_error_t *error)
{
    if (!t->curve)
        return WEFT_OK;
    char(*keys)[WEFT_ZMQ_KEY_BYTES] = malloc(t->num_present * sizeof *keys);
    if (!keys)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: zmq: out of memory", t->base.rank);
    for (uint32_t i = 0; i < t->num_present; i++)
        memcpy(keys[i], t->all[t->present[i]].key, sizeof keys[i]);
    weft_zmq_gate_admit(t->gate, keys, t->num_present);
    return WEFT_OK;
}

/* Exchange addresses. A rank that could not listen says so: nobody waits for it. */
static weft_status_t introduce(weft_transport_t *t, weft_zmq_introduction_t *mine, weft_status_t status,
                               weft_error_t *error)
{
    mine->failed = status != WEFT_OK;
    weft_error_t second;
    weft_status_t met =
        weft_transport_table(t->bootstrap)->allgather(t->bootstrap, mine, sizeof *mine, t->all, &second);
    if (status != WEFT_OK)
        return status;
    if (met != WEFT_OK)
        return weft_fail(error, met, "%s", second.message);
    memcpy(t->world.generation, t->all[t->present[0]].generation, sizeof t->world.generation);
    for (uint32_t i = 0; i < t->num_present; i++)
        WEFT_TRY(weft_zmq_check_introduction(&t->all[t->present[i]], t->present[i], t->curve, error));
    return admit_present(t, error);
}

/* What this rank makes by itself: random bytes, keys, a socket that listens. */
static weft_status_t prepare(weft_transport_t *t, weft_zmq_introduction_t *mine, weft_error_t *error)
{
    if (getrandom(mine->generation, sizeof mine->generation, 0) != sizeof mine->generation)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: zmq: no random bytes", t->base.rank);
    if (t->new_keys && zmq_curve_keypair(t->public, t->secret) != 0)
        return fail_system(t, "making", "keys", error);
    memcpy(mine->key, t->public, sizeof mine->key);
    return listen_on(t, t->address, mine->endpoint, error);
}

/* `options`: NULL when it is not the first time. */
static weft_status_t join(weft_transport_t *t, const weft_zmq_options_t *options, weft_error_t *error)
{
    weft_zmq_introduction_t mine = {0};
    weft_status_t status = options ? take_options(t, options, error) : WEFT_OK;
    if (status == WEFT_OK)
        status = prepare(t, &mine, error);
    list_present(t);
    WEFT_TRY(introduce(t, &mine, status, error));
    uint8_t *all = malloc(t->base.num_ranks);
    if (!all)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: zmq: out of memory", t->base.rank);
    uint8_t here = 1; /* over the sockets: proves that they connect, keys and all */
    status = weft_zmq_allgather(t, &here, 1, all, error);
    free(all);
    return status == WEFT_OK ? status : weft_error_prefix(error, "opening zmq");
}

static void free_groups(weft_transport_t *t)
{
    while (t->groups)
        weft_zmq_group_destroy(t, t->groups);
}

static void free_all(weft_transport_t *t)
{
    free_groups(t);
    free(t->all);
    free(t->present);
    free(t->peers);
    free(t->connected);
    explicit_bzero(t, sizeof *t);
    free(t);
}

static void weft_zmq_close(weft_transport_t *t)
{
    if (t->ops)
        weft_zmq_abort(t);
    shut(t, CLOSE_LINGER_MS);
    free_all(t);
}

/* New sockets, keys of their own if they are the transport's, another generation: what an earlier one still
 * has under way is a stranger's to this one. */
static weft_status_t weft_zmq_renew(weft_transport_t *t, weft_error_t *error)
{
    weft_zmq_abort(t);
    free_groups(t);
    memset(t->peers, 0, t->base.num_ranks * sizeof *t->peers);
    t->num_connected = 0;
    t->failed = false;
    weft_status_t status = join(t, NULL, error);
    if (status != WEFT_OK)
        weft_zmq_abort(t);
    return status;
}

static weft_status_t weft_zmq_open(const weft_transport_config_t *config, weft_transport_t **transport,
                                   weft_error_t *error)
{
    if (!config->bootstrap)
        return weft_fail(
            error, WEFT_ERR_ARGUMENT,
            "zmq: config.bootstrap must be an open transport over the same ranks, by which they tell each "
            "other their addresses");
    const weft_transport_base_t *base = weft_transport_base(config->bootstrap);
    const weft_zmq_options_t defaults = WEFT_ZMQ_OPTIONS;
    weft_transport_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: zmq: out of memory", base->rank);
    made->base = (weft_transport_base_t){&weft_zmq_ops, base->rank, base->num_ranks, "host", -1};
    made->world.rank = base->rank;
    made->world.num_ranks = base->num_ranks;
    made->bootstrap = config->bootstrap;
    made->timeout_us = weft_transport_timeout_us(config);
    made->all = calloc(base->num_ranks, sizeof *made->all);
    made->present = calloc(base->num_ranks, sizeof *made->present);
    made->peers = calloc(base->num_ranks, sizeof *made->peers);
    made->connected = calloc(base->num_ranks, sizeof *made->connected);
    weft_status_t status =
        made->all && made->present && made->peers && made->connected
            ? join(made, config->zmq ? config->zmq : &defaults, error)
            : weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: zmq: out of memory", base->rank);
    if (status != WEFT_OK) {
        weft_zmq_abort(made);
        free_all(made);
        return status;
    }
    *transport = made;
    return WEFT_OK;
}

static void about(char *text, size_t bytes)
{
    int major, minor, patch;
    zmq_version(&major, &minor, &patch);
    snprintf(text, bytes, "ZeroMQ %d.%d.%d %s", major, minor, patch,
             zmq_has("curve") ? "with CURVE" : "without CURVE: loopback addresses only");
}

const weft_transport_ops_t weft_zmq_ops = {
    .name = "zmq",
    .open = weft_zmq_open,
    .allgather = weft_zmq_allgather,
    .group_create = weft_zmq_group_create,
    .group_destroy = weft_zmq_group_destroy,
    .broadcast_start = weft_zmq_broadcast_start,
    .send_start = weft_zmq_send_start,
    .recv_start = weft_zmq_recv_start,
    .test = weft_zmq_test,
    .describe = weft_zmq_describe,
    .abort = weft_zmq_abort,
    .close = weft_zmq_close,
    .renew = weft_zmq_renew,
    .about = about,
};
