/* The door, from the outside: ZeroMQ sockets with and without keys, and whatever bytes an authorized one may
 * send. Everything is in one thread: the door is served while the client waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "src/base/clock.h"
#include "src/service/door.h"
#include "src/service/wire.h"

#define LONG_US  5000000u
#define SHORT_US 300000u

static char dir[64];
static weft_key_pair_t server, client, stranger;
static weft_key_list_t clients;
static weft_roster_t roster;
static weft_door_t *door;
static void *context;
static void *opened[8];
static size_t num_opened;

static const weft_topology_t topology = {1, 2, 2};

static int setup(void **state)
{
    (void)state;
    weft_error_t error = {.message = ""};
    char other[80];
    strcpy(dir, "/tmp/weft-door-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(other, sizeof other, "%s/other", dir);
    mkdir(other, 0700);
    assert_int_equal(weft_keys_write(dir, "server", NULL), WEFT_OK);
    assert_int_equal(weft_keys_write(dir, "client", NULL), WEFT_OK);
    assert_int_equal(weft_keys_write(other, "client", NULL), WEFT_OK);
    assert_int_equal(weft_keys_read(dir, "server", &server, NULL), WEFT_OK);
    assert_int_equal(weft_keys_read(dir, "client", &client, NULL), WEFT_OK);
    assert_int_equal(weft_keys_read(other, "client", &stranger, NULL), WEFT_OK);
    assert_int_equal(weft_keys_read_clients(dir, &clients, NULL), WEFT_OK);
    assert_int_equal(weft_roster_open(NULL, &topology, &roster, NULL), WEFT_OK);
    strcpy(roster.control, "tcp://127.0.0.1:1");
    const weft_door_config_t config = {
        .bind = "127.0.0.1:0", .keys = &server, .clients = &clients, .roster = &roster};
    if (weft_door_open(&config, &door, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    context = zmq_ctx_new();
    return 0;
}

static void close_sockets(void)
{
    while (num_opened)
        zmq_close(opened[--num_opened]);
}

static int teardown(void **state)
{
    (void)state;
    char command[96];
    close_sockets();
    zmq_ctx_term(context);
    weft_door_close(door);
    weft_roster_close(&roster);
    weft_keys_free(&clients);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

/* A socket with `pair`, which knows the coordinator by `key`; NULL: without keys. */
static void *connect_as(const weft_key_pair_t *pair, const char *key)
{
    void *socket = zmq_socket(context, ZMQ_DEALER);
    int none = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
    if (pair) {
        zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, key, WEFT_KEY_TEXT_BYTES);
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, pair->public, WEFT_KEY_TEXT_BYTES);
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, pair->secret, WEFT_KEY_TEXT_BYTES);
    }
    opened[num_opened++] = socket;
    assert_int_equal(zmq_connect(socket, weft_door_endpoint(door)), 0);
    return socket;
}

/* Serve the door until the socket gets something, or the time is over: -1. */
static int await(void *socket, void *data, size_t bytes, uint64_t us)
{
    uint64_t deadline_us = weft_now_us() + us;
    int got;
    do {
        assert_int_equal(weft_door_serve(door, NULL), WEFT_OK);
        got = zmq_recv(socket, data, bytes, ZMQ_DONTWAIT);
        weft_sleep_us(500);
    } while (got < 0 && weft_now_us() < deadline_us);
    return got;
}

typedef struct asked {
    weft_wire_question_t head;
    uint8_t body[WEFT_WIRE_MAX_QUESTION_BYTES];
    size_t bytes;
} asked_t;

static asked_t question(weft_wire_type_t type, uint32_t rank, uint64_t incarnation, const void *body,
                        size_t bytes)
{
    asked_t q = {.head = {.version = WEFT_WIRE_VERSION,
                          .type = type,
                          .rank = rank,
                          .incarnation = incarnation,
                          .serial = 77},
                 .bytes = bytes};
    weft_wire_set_magic(q.head.magic);
    if (bytes)
        memcpy(q.body, body, bytes);
    return q;
}

static void send_question(void *socket, const asked_t *q)
{
    uint8_t bytes[sizeof q->head + sizeof q->body];
    memcpy(bytes, &q->head, sizeof q->head);
    memcpy(bytes + sizeof q->head, q->body, q->bytes);
    zmq_send(socket, bytes, sizeof q->head + q->bytes, ZMQ_DONTWAIT); /* what is lost is missed by `answer` */
}

/* The answer's status; its body into `body` [bytes]. */
static weft_status_t answer(void *socket, void *body, size_t bytes)
{
    uint8_t data[8192];
    weft_wire_answer_t head;
    int got = await(socket, data, sizeof data, LONG_US);
    assert_true(got >= (int)sizeof head);
    memcpy(&head, data, sizeof head);
    assert_true(weft_wire_has_magic(head.magic));
    assert_int_equal(head.serial, 77);
    if (head.status == WEFT_OK) {
        assert_int_equal(got, sizeof head + bytes);
        if (bytes)
            memcpy(body, data + sizeof head, bytes);
    }
    return (weft_status_t)head.status;
}

static weft_wire_join_t join_of(uint8_t life)
{
    weft_wire_join_t join = {.trainers = 1, .replicas = 2, .tp = 2, .plan_hash = {{1, 2}}};
    memset(join.life, life, sizeof join.life);
    return join;
}

static uint64_t join_as(void *socket, uint32_t rank, uint8_t life)
{
    weft_wire_join_t join = join_of(life);
    weft_wire_joined_t joined;
    asked_t q = question(WEFT_WIRE_JOIN, rank, 0, &join, sizeof join);
    send_question(socket, &q);
    assert_int_equal(answer(socket, &joined, sizeof joined), WEFT_OK);
    assert_memory_equal(joined.token, roster.token, sizeof joined.token);
    assert_string_equal(joined.control, roster.control);
    return joined.incarnation;
}

/* ---- who comes in ---- */

static void test_strangers_get_nothing(void **state)
{
    (void)state;
    char elsewhere[WEFT_KEY_TEXT_BYTES];
    weft_wire_join_t join = join_of(1);
    asked_t q = question(WEFT_WIRE_JOIN, 0, 0, &join, sizeof join);
    strcpy(elsewhere, stranger.public);
    const weft_key_pair_t *pairs[] = {&stranger, &client, NULL};
    const char *believed[] = {server.public, elsewhere, NULL};
    for (size_t i = 0; i < 3; i++) {
        uint8_t data[64];
        uint64_t before = weft_door_refused(door);
        void *socket = connect_as(pairs[i], believed[i]);
        send_question(socket, &q);
        assert_int_equal(await(socket, data, sizeof data, SHORT_US), -1);
        assert_true(weft_door_refused(door) > before);
        close_sockets();
    }
    assert_int_equal(roster.peers[0].incarnation, 0);
    void *known = connect_as(&client, server.public);
    assert_int_equal(join_as(known, 0, 1), 1);
}

/* ---- lives ---- */

static void test_lives(void **state)
{
    (void)state;
    void *socket = connect_as(&client, server.public);
    assert_int_equal(join_as(socket, 1, 10), 1);
    assert_int_equal(join_as(socket, 1, 10), 1); /* asked again */
    assert_int_equal(join_as(socket, 2, 20), 1);
    assert_int_equal(join_as(socket, 1, 11), 2); /* a new process */
    assert_int_equal(join_as(socket, 2, 21), 2); /* its neighbour catches up */
    assert_int_equal(join_as(socket, 2, 22), 3);
    roster.term = 1; /* the session has begun: nobody is a first any more */
    assert_int_equal(join_as(socket, 3, 30), 2);
    assert_int_equal(join_as(socket, 4, 40), 2);
    assert_int_equal(join_as(socket, 0, 50), 2);
    weft_wire_find_t find = {.rank = 1, .incarnation = 2};
    weft_wire_place_t place = {"tcp://127.0.0.1:5"};
    weft_wire_found_t found;
    asked_t old = question(WEFT_WIRE_REGISTER, 1, 1, &place, sizeof place);
    send_question(socket, &old);
    assert_int_equal(answer(socket, NULL, 0), WEFT_ERR_PEER_LOST); /* of the process that was replaced */
    asked_t tells = question(WEFT_WIRE_REGISTER, 1, 2, &place, sizeof place);
    send_question(socket, &tells);
    assert_int_equal(answer(socket, NULL, 0), WEFT_OK);
    asked_t asks = question(WEFT_WIRE_FIND, 2, 3, &find, sizeof find);
    send_question(socket, &asks);
    assert_int_equal(answer(socket, &found, sizeof found), WEFT_OK);
    assert_string_equal(found.endpoint, place.endpoint);
    find.incarnation = 3;
    asks = question(WEFT_WIRE_FIND, 2, 3, &find, sizeof find);
    send_question(socket, &asks);
    assert_int_equal(answer(socket, &found, sizeof found), WEFT_OK);
    assert_string_equal(found.endpoint, "");
}

static void test_other_sessions(void **state)
{
    (void)state;
    void *socket = connect_as(&client, server.public);
    join_as(socket, 0, 1);
    weft_wire_join_t join = join_of(2);
    join.plan_hash.word[1]++;
    asked_t q = question(WEFT_WIRE_JOIN, 1, 0, &join, sizeof join);
    send_question(socket, &q);
    assert_int_equal(answer(socket, NULL, 0), WEFT_ERR_PLAN_MISMATCH);
    join = join_of(2);
    join.tp = 4;
    q = question(WEFT_WIRE_JOIN, 1, 0, &join, sizeof join);
    send_question(socket, &q);
    assert_int_equal(answer(socket, NULL, 0), WEFT_ERR_ARGUMENT);
    q.head.version++;
    send_question(socket, &q);
    assert_int_equal(answer(socket, NULL, 0), WEFT_ERR_PROTOCOL);
    assert_int_equal(roster.peers[1].incarnation, 0);
}

/* ---- gathering ---- */

static void gather(void *socket, uint32_t rank, uint64_t key, uint32_t sequence, uint8_t byte)
{
    uint8_t body[sizeof(weft_wire_gather_t) + 1];
    weft_wire_gather_t of = {.key = key, .sequence = sequence, .bytes = 1, .members = {{1, 0}}};
    memcpy(body, &of, sizeof of);
    body[sizeof of] = byte;
    asked_t q = question(WEFT_WIRE_GATHER, rank, 1, body, sizeof body);
    send_question(socket, &q);
}

/* The trainer and the first replica; the second is no member. */
static void test_gathering(void **state)
{
    (void)state;
    void *sockets[4];
    uint8_t all[5], data[64];
    for (uint32_t i = 0; i < 4; i++) {
        sockets[i] = connect_as(&client, server.public);
        join_as(sockets[i], i, (uint8_t)(i + 1));
    }
    for (uint8_t i = 0; i < 2; i++)
        gather(sockets[i], i, 9, 0, (uint8_t)('a' + i));
    assert_int_equal(await(sockets[0], data, sizeof data, SHORT_US), -1); /* rank 2 is missing */
    gather(sockets[3], 3, 9, 0, 'x');
    assert_int_equal(answer(sockets[3], NULL, 0), WEFT_ERR_PROTOCOL); /* no member */
    gather(sockets[2], 2, 9, 0, 'c');
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(answer(sockets[i], all, sizeof all), WEFT_OK);
        assert_memory_equal(all, "abc\0\0", 5);
    }
    gather(sockets[1], 1, 9, 0, 'z'); /* its answer was lost: the same again */
    assert_int_equal(answer(sockets[1], all, sizeof all), WEFT_OK);
    assert_memory_equal(all, "abc\0\0", 5);
    gather(sockets[0], 0, 9, 1, 'd');
    gather(sockets[1], 1, 12, 0, 'e'); /* a later series: whoever waits in the earlier is told */
    assert_int_equal(answer(sockets[0], NULL, 0), WEFT_ERR_ABORTED);
    gather(sockets[2], 2, 9, 1, 'f');
    assert_int_equal(answer(sockets[2], NULL, 0), WEFT_ERR_ABORTED);
}

/* ---- bytes ---- */

static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Questions of every type and size, with bytes changed; whatever is said, the roster stays one of this
 * session. */
static void test_malformed_questions(void **state)
{
    (void)state;
    uint32_t seed = 20260711;
    void *socket = connect_as(&client, server.public);
    join_as(socket, 0, 1);
    for (int round = 0; round < 3000; round++) {
        uint8_t bytes[WEFT_WIRE_MAX_QUESTION_BYTES + 64], data[8192];
        asked_t q = question((weft_wire_type_t)(next_random(&seed) % 6), next_random(&seed) % 6,
                             next_random(&seed) % 3, NULL, 0);
        size_t size = next_random(&seed) % 4 ? sizeof q.head + next_random(&seed) % 160
                                             : next_random(&seed) % sizeof bytes;
        for (size_t i = 0; i < size; i++)
            bytes[i] = next_random(&seed) % 3 ? 0 : (uint8_t)next_random(&seed);
        memcpy(bytes, &q.head, sizeof q.head < size ? sizeof q.head : size);
        if (next_random(&seed) % 4 == 0 && size)
            bytes[next_random(&seed) % size] ^= (uint8_t)next_random(&seed);
        zmq_send(socket, bytes, size, ZMQ_DONTWAIT);
        while (await(socket, data, sizeof data, 0) >= 0)
            ;
    }
    for (uint32_t p = 0; p < weft_topology_ranks(&topology); p++)
        assert_true(!roster.peers[p].endpoint[0] || weft_wire_is_endpoint(roster.peers[p].endpoint));
    assert_true(weft_door_refused(door) > 0);
    void *other = connect_as(&client, server.public);
    assert_true(join_as(other, 1, 99) > 0); /* it still answers */
}

static void test_oversized_frame(void **state)
{
    (void)state;
    void *socket = connect_as(&client, server.public);
    join_as(socket, 0, 1);
    uint8_t *large = calloc(1, 1 << 20), data[64];
    zmq_send(socket, large, 1 << 20, ZMQ_DONTWAIT);
    assert_int_equal(await(socket, data, sizeof data, SHORT_US), -1);
    assert_int_equal(join_as(socket, 0, 1), 1); /* on a new connection, by itself */
    free(large);
}

static void test_addresses(void **state)
{
    (void)state;
    static const char *const refused[] = {
        "",          ":",   "7000",  "127.0.0.1", "127.0.0.1:",   "127.0.0.1:x", "127.0.0.1:65536",
        "0.0.0.0:1", "*:1", "::1:1", "host:1",    "127.0.0.1:1 ", "256.0.0.1:1"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        assert_int_equal(weft_door_check_address(refused[i], NULL), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_door_check_address("10.1.2.3:65535", NULL), WEFT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_strangers_get_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lives, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gathering, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malformed_questions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_oversized_frame, setup, teardown),
        cmocka_unit_test(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
