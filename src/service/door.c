/* In: connections and questions of anybody who reaches the address. Out: answers, to those whose key is on
 * the list. Invariants: a question is looked at only behind ZeroMQ's handshake with a key on the list; the
 * roster is written down before an answer that depends on it leaves. */
#include "src/service/door.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/base/log.h"
#include "src/service/gather.h"
#include "src/socket/socket.h"

#define MAX_FRAME_BYTES  8192 /* beyond it ZeroMQ cuts the connection */
#define LINGER_MS        200
#define HANDSHAKE_MS     3000 /* a connection that says nothing is cut */
#define GONE_MS          5000 /* what was sent is not acknowledged, by the peer's kernel */
#define LOG_INTERVAL_US  1000000
#define MONITOR_ENDPOINT "inproc://weft-door-monitor"
#define ZAP_ENDPOINT     "inproc://zeromq.zap.01" /* where libzmq looks for it */
#define ZAP_PARTS        7u
#define ZAP_PART_BYTES   256u
#define KEY_BYTES        32u

_Static_assert(WEFT_WIRE_MAX_QUESTION_BYTES <= MAX_FRAME_BYTES, "a question fits into a frame");

struct weft_door {
    weft_door_config_t config;
    weft_gathers_t gathers;
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
    void *context, *router, *zap, *monitor;
    uint8_t *answer; /* as large as the largest */
    size_t answer_capacity;
    uint64_t refused, logged_us;
    weft_status_t failed; /* the roster cannot be written */
    weft_error_t failure;
};

/* Whoever knocks could fill the log: one line a second. */
static void refuse(weft_door_t *d, const char *what)
{
    d->refused++;
    uint64_t now_us = weft_now_us();
    if (d->logged_us && now_us - d->logged_us < LOG_INTERVAL_US)
        return;
    d->logged_us = now_us;
    weft_log_line(&d->config.log, WEFT_LOG_WARNING, "coordinator: refused %s (%llu so far)", what,
                  (unsigned long long)d->refused);
}

uint64_t weft_door_refused(const weft_door_t *d)
{
    return d->refused;
}

const char *weft_door_endpoint(const weft_door_t *d)
{
    return d->endpoint;
}

/* ---- who comes in: ZeroMQ asks (RFC 27) ---- */

static bool may_enter(const weft_door_t *d, const weft_socket_part_t *parts, size_t count)
{
    char key[WEFT_KEY_TEXT_BYTES];
    bool curve = count == ZAP_PARTS && parts[5].bytes == 5 && memcmp(parts[5].data, "CURVE", 5) == 0;
    return curve && parts[6].bytes == KEY_BYTES && zmq_z85_encode(key, parts[6].data, KEY_BYTES) &&
           weft_keys_have(d->config.clients, key);
}

static void answer_zap(weft_door_t *d, const weft_socket_part_t *request_id, bool enters)
{
    const char *parts[] = {enters ? "200" : "400", enters ? "OK" : "this key is not on the list", "", ""};
    zmq_send(d->zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(d->zap, request_id->data, request_id->bytes, ZMQ_SNDMORE);
    for (size_t i = 0; i < 4; i++)
        zmq_send(d->zap, parts[i], strlen(parts[i]), i < 3 ? ZMQ_SNDMORE : 0);
}

/* Parts: version, request id, domain, address, identity, mechanism, key. */
static void serve_zap(weft_door_t *d)
{
    uint8_t space[ZAP_PARTS][ZAP_PART_BYTES];
    weft_socket_part_t parts[ZAP_PARTS];
    for (size_t i = 0; i < ZAP_PARTS; i++)
        parts[i] = (weft_socket_part_t){space[i], ZAP_PART_BYTES, 0};
    for (size_t count; (count = weft_socket_read(d->zap, parts, ZAP_PARTS)) != 0;) {
        char what[ZAP_PART_BYTES + 64];
        bool whole = count >= 2 && parts[1].bytes <= ZAP_PART_BYTES;
        bool enters = whole && may_enter(d, parts, count);
        int address = count > 3 && parts[3].bytes <= ZAP_PART_BYTES ? (int)parts[3].bytes : 0;
        snprintf(what, sizeof what, "a connection from %.*s with a key that is not on the list", address,
                 (const char *)parts[3].data);
        if (!enters)
            refuse(d, what);
        if (!whole)
            parts[1].bytes = 0;
        answer_zap(d, &parts[1], enters);
    }
}

/* Connections that got no further than the handshake: no keys, another coordinator's key, not ZeroMQ. */
static void serve_monitor(weft_door_t *d)
{
    uint8_t event[8], address[ZAP_PART_BYTES];
    weft_socket_part_t parts[2] = {{event, sizeof event, 0}, {address, sizeof address, 0}};
    while (weft_socket_read(d->monitor, parts, 2))
        refuse(d,
               "a connection that failed its handshake: without keys, for another coordinator, or not weft");
}

/* ---- answers ---- */

static bool send_answer(weft_door_t *d, const weft_gather_asker_t *to, weft_wire_type_t type,
                        weft_status_t status, const void *body, size_t bytes)
{
    weft_wire_answer_t head = {
        .version = WEFT_WIRE_VERSION, .type = type, .status = status, .serial = to->serial};
    weft_wire_set_magic(head.magic);
    if (sizeof head + bytes > d->answer_capacity) {
        uint8_t *larger = realloc(d->answer, sizeof head + bytes);
        if (!larger)
            return false;
        d->answer = larger;
        d->answer_capacity = sizeof head + bytes;
    }
    memcpy(d->answer, &head, sizeof head);
    if (bytes)
        memcpy(d->answer + sizeof head, body, bytes);
    bool sent = zmq_send(d->router, to->identity, to->identity_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
                zmq_send(d->router, d->answer, sizeof head + bytes, ZMQ_DONTWAIT) >= 0;
    explicit_bzero(d->answer, sizeof head + bytes); /* JOIN's holds the token */
    return sent;
}

static void send_refusal(weft_door_t *d, const weft_gather_asker_t *to, weft_wire_type_t type,
                         weft_status_t status, const char *format, ...) __attribute__((format(printf, 5, 6)));

static void send_refusal(weft_door_t *d, const weft_gather_asker_t *to, weft_wire_type_t type,
                         weft_status_t status, const char *format, ...)
{
    char text[WEFT_WIRE_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    send_answer(d, to, type, status, text, strlen(text) + 1);
}

/* False when the coordinator cannot go on: what it would say next could be contradicted after a restart. */
static bool save(weft_door_t *d)
{
    if (d->failed == WEFT_OK)
        d->failed = weft_roster_save(d->config.roster, &d->failure);
    return d->failed == WEFT_OK;
}

/* ---- questions ---- */

typedef struct asked {
    weft_wire_question_t head;
    const uint8_t *body;
    size_t bytes;
    weft_gather_asker_t from;
} asked_t;

static bool check_join(weft_door_t *d, const asked_t *q, const weft_wire_join_t *join)
{
    const weft_topology_t *t = &d->config.roster->topology;
    weft_roster_t *r = d->config.roster;
    if (join->trainers != t->trainers || join->replicas != t->replicas || join->tp != t->tp) {
        send_refusal(d, &q->from, WEFT_WIRE_JOIN, WEFT_ERR_ARGUMENT,
                     "rank %u: its plan has %u trainers and %u replicas of %u ranks, the coordinator was "
                     "started for %u and "
                     "%u of %u",
                     q->head.rank, join->trainers, join->replicas, join->tp, t->trainers, t->replicas, t->tp);
        return false;
    }
    if (r->plan_known && memcmp(&join->plan_hash, &r->plan_hash, sizeof r->plan_hash) != 0) {
        send_refusal(
            d, &q->from, WEFT_WIRE_JOIN, WEFT_ERR_PLAN_MISMATCH,
            "rank %u has plan %016llx%016llx, the session has %016llx%016llx: model, layouts, scheme and "
            "options "
            "must be the same on all ranks; another plan is another session, with another state file",
            q->head.rank, (unsigned long long)join->plan_hash.word[0],
            (unsigned long long)join->plan_hash.word[1], (unsigned long long)r->plan_hash.word[0],
            (unsigned long long)r->plan_hash.word[1]);
        return false;
    }
    return true;
}

static void on_join(weft_door_t *d, const asked_t *q)
{
    weft_roster_t *r = d->config.roster;
    weft_wire_join_t join;
    if (q->bytes != sizeof join) {
        refuse(d, "a question of the wrong size");
        return;
    }
    memcpy(&join, q->body, sizeof join);
    if (!check_join(d, q, &join))
        return;
    uint64_t before = r->peers[q->head.rank].incarnation;
    weft_wire_joined_t joined = {.incarnation = weft_roster_admit(r, q->head.rank, join.life)};
    r->plan_hash = join.plan_hash;
    r->plan_known = true;
    if (!save(d))
        return;
    if (joined.incarnation != before)
        weft_log_line(&d->config.log, WEFT_LOG_INFO, "coordinator: rank %u has come, incarnation %llu",
                      q->head.rank, (unsigned long long)joined.incarnation);
    memcpy(joined.token, r->token, sizeof joined.token);
    memcpy(joined.control, r->control, sizeof joined.control);
    send_answer(d, &q->from, WEFT_WIRE_JOIN, WEFT_OK, &joined, sizeof joined);
    explicit_bzero(&joined, sizeof joined);
}

static void on_register(weft_door_t *d, const asked_t *q)
{
    weft_roster_peer_t *peer = &d->config.roster->peers[q->head.rank];
    weft_wire_place_t place;
    if (q->bytes == sizeof place)
        memcpy(&place, q->body, sizeof place);
    if (q->bytes != sizeof place || !weft_wire_is_endpoint(place.endpoint)) {
        refuse(d, "a place that is none");
        return;
    }
    memset(peer->endpoint, 0, sizeof peer->endpoint);
    strcpy(peer->endpoint, place.endpoint);
    if (save(d))
        send_answer(d, &q->from, WEFT_WIRE_REGISTER, WEFT_OK, NULL, 0);
}

static void on_find(weft_door_t *d, const asked_t *q)
{
    const weft_roster_t *r = d->config.roster;
    weft_wire_find_t find;
    weft_wire_found_t found = {.incarnation = 0};
    if (q->bytes == sizeof find)
        memcpy(&find, q->body, sizeof find);
    if (q->bytes != sizeof find || find.rank >= weft_topology_ranks(&r->topology)) {
        refuse(d, "a question for a rank that there is not");
        return;
    }
    found.incarnation = r->peers[find.rank].incarnation;
    if (found.incarnation == find.incarnation)
        memcpy(found.endpoint, r->peers[find.rank].endpoint, sizeof found.endpoint);
    send_answer(d, &q->from, WEFT_WIRE_FIND, WEFT_OK, &found, sizeof found);
}

static size_t gathered_bytes(const weft_door_t *d, const weft_gather_t *gather)
{
    return (size_t)weft_topology_ranks(&d->config.roster->topology) * gather->of.bytes;
}

static void answer_gathering(weft_door_t *d)
{
    const weft_gather_t *gather = &d->gathers.current;
    for (uint32_t p = 0; p < weft_topology_ranks(&d->config.roster->topology); p++)
        if (gather->askers[p].identity_bytes)
            send_answer(d, &gather->askers[p], WEFT_WIRE_GATHER, WEFT_OK, gather->data,
                        gathered_bytes(d, gather));
    weft_gathers_conclude(&d->gathers);
}

static void forsake(void *user, const weft_gather_asker_t *asker)
{
    send_refusal(user, asker, WEFT_WIRE_GATHER, WEFT_ERR_ABORTED, "the ranks meet for a later version");
}

static void on_gather(weft_door_t *d, const asked_t *q)
{
    weft_wire_gather_t of;
    if (q->bytes >= sizeof of)
        memcpy(&of, q->body, sizeof of);
    if (q->bytes < sizeof of || of.bytes > WEFT_WIRE_MAX_GATHER_BYTES || q->bytes != sizeof of + of.bytes) {
        refuse(d, "a question of the wrong size");
        return;
    }
    switch (weft_gathers_take(&d->gathers, q->head.rank, &of, q->body + sizeof of, &q->from, forsake, d)) {
    case WEFT_GATHER_WAITS:
        break;
    case WEFT_GATHER_COMPLETE:
        answer_gathering(d);
        break;
    case WEFT_GATHER_REPEATED:
        send_answer(d, &q->from, WEFT_WIRE_GATHER, WEFT_OK, d->gathers.last.data,
                    gathered_bytes(d, &d->gathers.last));
        break;
    case WEFT_GATHER_OVERTAKEN:
        forsake(d, &q->from);
        break;
    case WEFT_GATHER_NO_MEMORY:
        send_refusal(d, &q->from, WEFT_WIRE_GATHER, WEFT_ERR_NO_MEMORY, "the coordinator has no memory");
        break;
    case WEFT_GATHER_MALFORMED:
        send_refusal(d, &q->from, WEFT_WIRE_GATHER, WEFT_ERR_PROTOCOL,
                     "rank %u gathers with others than the rest, or is no member", q->head.rank);
        break;
    }
}

/* A life that another has replaced gets nothing more. */
static bool is_current(weft_door_t *d, const asked_t *q)
{
    const weft_roster_peer_t *peer = &d->config.roster->peers[q->head.rank];
    if (q->head.incarnation != 0 && q->head.incarnation == peer->incarnation)
        return true;
    send_refusal(
        d, &q->from, (weft_wire_type_t)q->head.type, WEFT_ERR_PEER_LOST,
        "another process has come as rank %u: this one (incarnation %llu, now %llu) has no place any more",
        q->head.rank, (unsigned long long)q->head.incarnation, (unsigned long long)peer->incarnation);
    return false;
}

static void on_question(weft_door_t *d, const asked_t *q)
{
    if (q->head.type == WEFT_WIRE_JOIN)
        on_join(d, q);
    else if (q->head.type < WEFT_WIRE_JOIN || q->head.type > WEFT_WIRE_GATHER)
        refuse(d, "a question of an unknown type");
    else if (!is_current(d, q))
        return;
    else if (q->head.type == WEFT_WIRE_REGISTER)
        on_register(d, q);
    else if (q->head.type == WEFT_WIRE_FIND)
        on_find(d, q);
    else
        on_gather(d, q);
}

/* What the parts of a message are a question of; false for what is none. */
static bool read_question(weft_door_t *d, const weft_socket_part_t *parts, size_t count, asked_t *q)
{
    if (count != 2 || parts[0].bytes == 0 || parts[0].bytes > WEFT_GATHER_IDENTITY_BYTES ||
        parts[1].bytes < sizeof q->head || parts[1].bytes > WEFT_WIRE_MAX_QUESTION_BYTES)
        return false;
    memcpy(&q->head, parts[1].data, sizeof q->head);
    memcpy(q->from.identity, parts[0].data, parts[0].bytes);
    q->from.identity_bytes = (uint32_t)parts[0].bytes;
    q->from.serial = q->head.serial;
    q->body = (const uint8_t *)parts[1].data + sizeof q->head;
    q->bytes = parts[1].bytes - sizeof q->head;
    if (!weft_wire_has_magic(q->head.magic) ||
        q->head.rank >= weft_topology_ranks(&d->config.roster->topology))
        return false;
    if (q->head.version == WEFT_WIRE_VERSION)
        return true;
    send_refusal(d, &q->from, (weft_wire_type_t)q->head.type, WEFT_ERR_PROTOCOL,
                 "rank %u speaks version %u of this protocol, the coordinator %u: run the same build of weft",
                 q->head.rank, q->head.version, WEFT_WIRE_VERSION);
    return false;
}

static void serve_questions(weft_door_t *d)
{
    uint8_t identity[256], body[WEFT_WIRE_MAX_QUESTION_BYTES];
    weft_socket_part_t parts[2] = {{identity, sizeof identity, 0}, {body, sizeof body, 0}};
    for (size_t count; (count = weft_socket_read(d->router, parts, 2)) != 0;) {
        asked_t question = {.from = {.identity_bytes = 0}};
        if (read_question(d, parts, count, &question))
            on_question(d, &question);
        else
            refuse(d, "a message that is no question of a rank of this session");
    }
}

weft_status_t weft_door_serve(weft_door_t *d, weft_error_t *error)
{
    serve_zap(d);
    serve_monitor(d);
    serve_questions(d);
    return d->failed == WEFT_OK ? WEFT_OK : weft_fail(error, d->failed, "%s", d->failure.message);
}

/* ---- life ---- */

weft_status_t weft_door_check_address(const char *address, weft_error_t *error)
{
    char host[64];
    unsigned port;
    int used = 0;
    struct in_addr ip;
    bool form =
        sscanf(address, "%63[^:]:%5u%n", host, &port, &used) == 2 && address[used] == '\0' && port <= 65535;
    if (!form || inet_pton(AF_INET, host, &ip) != 1)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "\"%s\" is no address to bind to: give ADDRESS:PORT, such as 127.0.0.1:7000",
                         address);
    if (ip.s_addr == htonl(INADDR_ANY))
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "\"%s\" would listen on every interface: name the address of one, such as 127.0.0.1",
                         address);
    return WEFT_OK;
}

static bool set_options(const weft_door_t *d)
{
    const weft_socket_int_t at_once = {ZMQ_LINGER, 0};
    /* Not ZeroMQ's heartbeats: src/control/mailbox.c says why. */
    const weft_socket_int_t options[] = {
        {ZMQ_LINGER, LINGER_MS},    {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS}, {ZMQ_TCP_MAXRT, GONE_MS},
        {ZMQ_TCP_KEEPALIVE, 1},     {ZMQ_TCP_KEEPALIVE_IDLE, 1},       {ZMQ_TCP_KEEPALIVE_INTVL, 1},
        {ZMQ_TCP_KEEPALIVE_CNT, 5}, {ZMQ_ROUTER_MANDATORY, 1},
    };
    return weft_socket_set(d->zap, &at_once, 1, -1) &&
           weft_socket_set(d->router, options, sizeof options / sizeof *options, MAX_FRAME_BYTES) &&
           zmq_setsockopt(d->router, ZMQ_ZAP_DOMAIN, "weft", 4) == 0 &&
           weft_socket_serve_with_key(d->router, d->config.keys->secret);
}

static weft_status_t open_sockets(weft_door_t *d, weft_error_t *error)
{
    char wanted[WEFT_MAILBOX_ENDPOINT_BYTES];
    int events = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
    snprintf(wanted, sizeof wanted, "tcp://%s", d->config.bind);
    d->context = zmq_ctx_new();
    d->zap = d->context ? zmq_socket(d->context, ZMQ_REP) : NULL;
    d->router = d->zap ? zmq_socket(d->context, ZMQ_ROUTER) : NULL;
    d->monitor = d->router ? zmq_socket(d->context, ZMQ_PAIR) : NULL;
    if (!d->monitor || !set_options(d))
        return weft_fail(error, WEFT_ERR_SYSTEM, "coordinator: %s", zmq_strerror(zmq_errno()));
    if (zmq_bind(d->zap, ZAP_ENDPOINT) || zmq_socket_monitor(d->router, MONITOR_ENDPOINT, events) ||
        zmq_connect(d->monitor, MONITOR_ENDPOINT))
        return weft_fail(error, WEFT_ERR_SYSTEM, "coordinator: %s", zmq_strerror(zmq_errno()));
    if (zmq_bind(d->router, wanted))
        return weft_fail(error, WEFT_ERR_SYSTEM, "coordinator: cannot bind to %s: %s", d->config.bind,
                         zmq_strerror(zmq_errno()));
    size_t size = sizeof d->endpoint;
    zmq_getsockopt(d->router, ZMQ_LAST_ENDPOINT, d->endpoint, &size);
    return WEFT_OK;
}

weft_status_t weft_door_open(const weft_door_config_t *config, weft_door_t **door, weft_error_t *error)
{
    WEFT_TRY(weft_door_check_address(config->bind, error));
    if (!zmq_has("curve"))
        return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                         "this libzmq has no CURVE: a coordinator would let anybody in");
    weft_door_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the coordinator's door");
    made->config = *config;
    weft_status_t status = weft_gathers_create(&config->roster->topology, &made->gathers);
    status = status == WEFT_OK ? open_sockets(made, error)
                               : weft_fail(error, status, "no memory for the coordinator's door");
    if (status != WEFT_OK) {
        weft_door_close(made);
        return status;
    }
    *door = made;
    return WEFT_OK;
}

void weft_door_close(weft_door_t *d)
{
    if (!d)
        return;
    void *sockets[] = {d->router, d->monitor, d->zap};
    for (size_t i = 0; i < 3; i++)
        if (sockets[i])
            zmq_close(sockets[i]);
    if (d->context)
        zmq_ctx_term(d->context);
    weft_gathers_destroy(&d->gathers);
    free(d->answer);
    free(d);
}
