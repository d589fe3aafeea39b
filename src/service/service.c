/* In: a coordinator's address, keys. Out: a place in its session. Invariant: one question is open at a time;
 * an answer with another serial number is of an earlier one, and is dropped. */
#include "src/service/service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <zmq.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/service/keys.h"
#include "src/socket/socket.h"

#define SLICE_MS         20
#define REPEAT_US        1000000u /* a question without an answer is asked again */
#define FIND_US          50000u
#define HANDSHAKE_MS     3000
#define MONITOR_ENDPOINT "inproc://weft-service-monitor"

typedef struct bootstrap {
    weft_transport_base_t base;
    weft_service_t *service;
} bootstrap_t;

struct weft_service {
    weft_service_join_t join;
    bootstrap_t bootstrap;
    uint8_t life[WEFT_LIFE_BYTES];
    weft_wire_joined_t joined;
    weft_wire_place_t place; /* of this rank's mailbox */
    void *context, *socket, *monitor;
    uint64_t serial;
    uint64_t key; /* of gatherings; 0: this rank is alone */
    uint32_t sequence;
    weft_members_t members;
    uint8_t *answer; /* [answer_bytes] */
    size_t answer_bytes;
};

static uint32_t num_ranks(const weft_service_t *s)
{
    return weft_topology_ranks(&s->join.topology);
}

/* ---- questions ---- */

typedef struct question {
    weft_wire_type_t type;
    const void *head; /* of the body */
    size_t head_bytes;
    const void *tail;
    size_t tail_bytes;
    void *out; /* the body of the answer */
    size_t out_bytes;
} question_t;

static void send_question(weft_service_t *s, const question_t *q)
{
    uint8_t bytes[WEFT_WIRE_MAX_QUESTION_BYTES];
    weft_wire_question_t head = {.version = WEFT_WIRE_VERSION,
                                 .type = q->type,
                                 .rank = s->join.rank,
                                 .incarnation = s->joined.incarnation,
                                 .serial = s->serial};
    weft_wire_set_magic(head.magic);
    memcpy(bytes, &head, sizeof head);
    if (q->head_bytes)
        memcpy(bytes + sizeof head, q->head, q->head_bytes);
    if (q->tail_bytes)
        memcpy(bytes + sizeof head + q->head_bytes, q->tail, q->tail_bytes);
    zmq_send(s->socket, bytes, sizeof head + q->head_bytes + q->tail_bytes, ZMQ_DONTWAIT);
}

/* Take what an answer says. False for what is no answer to this question. */
static bool read_answer(weft_service_t *s, const question_t *q, size_t bytes, weft_status_t *status,
                        weft_error_t *error)
{
    weft_wire_answer_t head;
    if (bytes < sizeof head || bytes > s->answer_bytes)
        return false;
    memcpy(&head, s->answer, sizeof head);
    if (!weft_wire_has_magic(head.magic) || head.serial != s->serial || head.type != (uint32_t)q->type)
        return false;
    size_t body = bytes - sizeof head;
    const char *text = (const char *)s->answer + sizeof head;
    if (head.status != WEFT_OK) {
        bool known = head.status < (uint32_t)WEFT_ERR_INTERNAL && body > 0 && text[body - 1] == '\0';
        *status = weft_fail(error, known ? (weft_status_t)head.status : WEFT_ERR_PROTOCOL,
                            "the coordinator says: %s", known ? text : "something that is not understood");
        return true;
    }
    if (body != q->out_bytes) {
        *status = weft_fail(
            error, WEFT_ERR_PROTOCOL,
            "rank %u: the coordinator's answer has %zu bytes, expected %zu: run the same build of weft",
            s->join.rank, body, q->out_bytes);
        return true;
    }
    if (body)
        memcpy(q->out, text, body);
    *status = WEFT_OK;
    return true;
}

/* Whether the coordinator has told that this rank's key is not on its list. */
static bool is_refused(weft_service_t *s)
{
    uint8_t event[8];
    bool refused = false;
    while (zmq_recv(s->monitor, event, sizeof event, ZMQ_DONTWAIT) >= 0) {
        int more;
        size_t size = sizeof more;
        refused = true;
        while (zmq_getsockopt(s->monitor, ZMQ_RCVMORE, &more, &size) == 0 && more)
            zmq_recv(s->monitor, event, sizeof event, 0);
    }
    return refused;
}

static bool is_given_up(const weft_service_t *s)
{
    uint64_t version = s->join.given_up ? atomic_load(s->join.given_up) : 0;
    return version != 0 && (version == UINT64_MAX || version == s->key);
}

static weft_status_t why_not(weft_service_t *s, uint64_t deadline_us, weft_error_t *error)
{
    if (is_refused(s))
        return weft_fail(
            error, WEFT_ERR_TRANSPORT,
            "rank %u: the coordinator at %s refuses the key %s.key of %s: its public half must be in the "
            "coordinator's folder, and the coordinator started after that",
            s->join.rank, s->join.coordinator, s->join.key_name, s->join.keys);
    if (is_given_up(s))
        return weft_fail(error, WEFT_ERR_ABORTED, "rank %u: the version was given up while the ranks met",
                         s->join.rank);
    if (weft_now_us() >= deadline_us)
        return weft_fail(error, WEFT_ERR_TIMEOUT,
                         "rank %u: the coordinator at %s did not answer within %.1f s: it does not run, the "
                         "address is another, "
                         "or %s/server.pub is another coordinator's",
                         s->join.rank, s->join.coordinator, (double)s->join.timeout_us * 1e-6, s->join.keys);
    return WEFT_OK;
}

static weft_status_t ask(weft_service_t *s, const question_t *q, weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + s->join.timeout_us, asked_us = 0;
    weft_status_t status;
    s->serial++;
    for (;;) {
        zmq_pollitem_t items[] = {{s->socket, 0, ZMQ_POLLIN, 0}, {s->monitor, 0, ZMQ_POLLIN, 0}};
        if (!asked_us || weft_now_us() - asked_us >= REPEAT_US) {
            send_question(s, q);
            asked_us = weft_now_us();
        }
        zmq_poll(items, 2, SLICE_MS);
        int bytes;
        while ((bytes = zmq_recv(s->socket, s->answer, s->answer_bytes, ZMQ_DONTWAIT)) >= 0)
            if (read_answer(s, q, (size_t)bytes, &status, error))
                return status;
        WEFT_TRY(why_not(s, deadline_us, error));
    }
}

/* ---- the bootstrap ---- */

void weft_service_begin(weft_service_t *s, uint64_t version, weft_members_t members)
{
    s->key = version;
    s->sequence = 0;
    s->members = members;
}

static bool is_present(const weft_transport_t *transport, uint32_t rank)
{
    const weft_service_t *s = ((const bootstrap_t *)transport)->service;
    if (s->key == 0)
        return rank == s->join.rank;
    return weft_topology_is_trainer(&s->join.topology, rank) ||
           weft_members_has(s->members, weft_topology_replica(&s->join.topology, rank));
}

static bool meeting_is_given_up(const weft_transport_t *transport)
{
    return is_given_up(((const bootstrap_t *)transport)->service);
}

static weft_status_t gather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                            weft_error_t *error)
{
    weft_service_t *s = ((bootstrap_t *)transport)->service;
    if (bytes > WEFT_WIRE_MAX_GATHER_BYTES)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: gathering %zu bytes a rank, at most %u",
                         s->join.rank, bytes, WEFT_WIRE_MAX_GATHER_BYTES);
    if (s->key == 0) {
        memset(all, 0, num_ranks(s) * bytes);
        memcpy((uint8_t *)all + s->join.rank * bytes, mine, bytes);
        return WEFT_OK;
    }
    weft_wire_gather_t of = {
        .key = s->key, .sequence = s->sequence++, .bytes = (uint32_t)bytes, .members = s->members};
    return ask(s,
               &(question_t){.type = WEFT_WIRE_GATHER,
                             .head = &of,
                             .head_bytes = sizeof of,
                             .tail = mine,
                             .tail_bytes = bytes,
                             .out = all,
                             .out_bytes = num_ranks(s) * bytes},
               error);
}

static const weft_transport_ops_t bootstrap_ops = {
    .name = "service",
    .allgather = gather,
    .present = is_present,
    .given_up = meeting_is_given_up,
};

weft_transport_t *weft_service_bootstrap(weft_service_t *s)
{
    return (weft_transport_t *)&s->bootstrap;
}

/* ---- life ---- */

static weft_status_t set_keys(weft_service_t *s, weft_error_t *error)
{
    weft_key_pair_t pair;
    char server[WEFT_KEY_TEXT_BYTES];
    WEFT_TRY(weft_keys_read_public(s->join.keys, WEFT_KEYS_SERVER, server, error));
    WEFT_TRY(weft_keys_read(s->join.keys, s->join.key_name, &pair, error));
    bool set = weft_socket_connect_with_keys(s->socket, pair.public, pair.secret, server);
    weft_keys_wipe(&pair);
    return set ? WEFT_OK
               : weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: the keys in %.200s cannot be used: %s",
                           s->join.rank, s->join.keys, zmq_strerror(zmq_errno()));
}

static bool set_options(const weft_service_t *s)
{
    const weft_socket_int_t options[] = {
        {ZMQ_LINGER, 0},           {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS},
        {ZMQ_RECONNECT_IVL, 50},   {ZMQ_RECONNECT_IVL_MAX, 1000},
        {ZMQ_HEARTBEAT_IVL, 1000}, {ZMQ_HEARTBEAT_TIMEOUT, 5000},
        {ZMQ_HEARTBEAT_TTL, 5000},
    };
    return weft_socket_set(s->socket, options, sizeof options / sizeof *options, (int64_t)s->answer_bytes);
}

static weft_status_t open_socket(weft_service_t *s, weft_error_t *error)
{
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
    if (!zmq_has("curve"))
        return weft_fail(error, WEFT_ERR_UNSUPPORTED,
                         "this libzmq has no CURVE: no coordinator can be joined");
    s->context = zmq_ctx_new();
    s->socket = s->context ? zmq_socket(s->context, ZMQ_DEALER) : NULL;
    s->monitor = s->socket ? zmq_socket(s->context, ZMQ_PAIR) : NULL;
    if (!s->monitor || !set_options(s) ||
        zmq_socket_monitor(s->socket, MONITOR_ENDPOINT, ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) ||
        zmq_connect(s->monitor, MONITOR_ENDPOINT))
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: %s", s->join.rank, zmq_strerror(zmq_errno()));
    WEFT_TRY(set_keys(s, error));
    if (snprintf(endpoint, sizeof endpoint, "tcp://%s", s->join.coordinator) >= (int)sizeof endpoint ||
        zmq_connect(s->socket, endpoint))
        return weft_fail(error, WEFT_ERR_ARGUMENT, "\"%s\" is no coordinator's address: give HOST:PORT",
                         s->join.coordinator);
    return WEFT_OK;
}

static weft_status_t join(weft_service_t *s, weft_error_t *error)
{
    weft_wire_join_t mine = {.trainers = s->join.topology.trainers,
                             .replicas = s->join.topology.replicas,
                             .tp = s->join.topology.tp,
                             .plan_hash = s->join.plan_hash};
    weft_wire_joined_t joined;
    if (getrandom(s->life, sizeof s->life, 0) != (ssize_t)sizeof s->life)
        return weft_fail(error, WEFT_ERR_SYSTEM, "rank %u: no random bytes", s->join.rank);
    memcpy(mine.life, s->life, sizeof mine.life);
    question_t question = {.type = WEFT_WIRE_JOIN,
                           .head = &mine,
                           .head_bytes = sizeof mine,
                           .out = &joined,
                           .out_bytes = sizeof joined};
    WEFT_TRY(ask(s, &question, error));
    if (joined.incarnation == 0 || !weft_wire_is_endpoint(joined.control))
        return weft_fail(error, WEFT_ERR_PROTOCOL,
                         "rank %u: the coordinator's answer to joining makes no sense", s->join.rank);
    s->joined = joined;
    explicit_bzero(&joined, sizeof joined);
    explicit_bzero(s->answer, s->answer_bytes);
    return WEFT_OK;
}

/* ---- where ranks are ---- */

weft_status_t weft_service_register(weft_service_t *s, const char *endpoint, weft_error_t *error)
{
    memset(&s->place, 0, sizeof s->place);
    snprintf(s->place.endpoint, sizeof s->place.endpoint, "%s", endpoint);
    return ask(s, &(question_t){.type = WEFT_WIRE_REGISTER, .head = &s->place, .head_bytes = sizeof s->place},
               error);
}

static weft_status_t find_once(weft_service_t *s, uint32_t rank, weft_wire_found_t *found,
                               weft_error_t *error)
{
    weft_wire_find_t find = {.rank = rank, .incarnation = s->joined.incarnation};
    question_t question = {.type = WEFT_WIRE_FIND,
                           .head = &find,
                           .head_bytes = sizeof find,
                           .out = found,
                           .out_bytes = sizeof *found};
    return ask(s, &question, error);
}

static weft_status_t catch_up(weft_service_t *s, weft_error_t *error)
{
    weft_wire_place_t place = s->place;
    s->joined.incarnation = 0;
    WEFT_TRY(join(s, error));
    return weft_service_register(s, place.endpoint, error);
}

weft_status_t weft_service_find(weft_service_t *s, uint32_t rank, char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES],
                                weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + s->join.timeout_us;
    weft_wire_found_t found;
    for (;;) {
        WEFT_TRY(find_once(s, rank, &found, error));
        if (weft_wire_is_endpoint(found.endpoint))
            break;
        if (found.incarnation > s->joined.incarnation)
            WEFT_TRY(catch_up(s, error));
        if (weft_now_us() >= deadline_us)
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "rank %u: rank %u of its replica did not join within %.1f s", s->join.rank, rank,
                             (double)s->join.timeout_us * 1e-6);
        weft_sleep_us(FIND_US);
    }
    memcpy(endpoint, found.endpoint, WEFT_MAILBOX_ENDPOINT_BYTES);
    return WEFT_OK;
}

weft_status_t weft_service_open(const weft_service_join_t *wanted, weft_service_t **service,
                                weft_error_t *error)
{
    weft_service_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: out of memory", wanted->rank);
    made->join = *wanted;
    made->bootstrap = (bootstrap_t){{&bootstrap_ops, wanted->rank, num_ranks(made), "host", -1}, made};
    made->answer_bytes = sizeof(weft_wire_answer_t) + num_ranks(made) * (size_t)WEFT_WIRE_MAX_GATHER_BYTES;
    made->answer = malloc(made->answer_bytes);
    weft_status_t status = made->answer
                               ? open_socket(made, error)
                               : weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: out of memory", wanted->rank);
    if (status == WEFT_OK)
        status = join(made, error);
    if (status != WEFT_OK) {
        weft_service_close(made);
        return status;
    }
    *service = made;
    return WEFT_OK;
}

void weft_service_close(weft_service_t *s)
{
    if (!s)
        return;
    if (s->socket)
        zmq_close(s->socket);
    if (s->monitor)
        zmq_close(s->monitor);
    if (s->context)
        zmq_ctx_term(s->context);
    free(s->answer);
    explicit_bzero(s, sizeof *s);
    free(s);
}

uint64_t weft_service_incarnation(const weft_service_t *s)
{
    return s->joined.incarnation;
}

const uint8_t *weft_service_token(const weft_service_t *s)
{
    return s->joined.token;
}

const char *weft_service_control(const weft_service_t *s)
{
    return s->joined.control;
}
