/* ZeroMQ's faults, between this process (rank 0) and another one (rank 1), which does what a test says and is
 * killed or stopped; and frames that a third party sends to rank 0, with or without knowing the generation.
 * What works is the conformance suite's matter. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/base/clock.h"
#include "src/base/hash.h"
#include "transport/zmq/backend.h"

#define LONG_US   10000000u
#define LOST_US   2500000u /* 2 s is promised; the machine may be busy */
#define BIG_BYTES ((size_t)24 << 20)

static const weft_transport_ops_t *const ops = &weft_zmq_ops;

/* ---- A bootstrap between two processes ---- */

typedef struct pair {
    weft_transport_base_t base;
    int fd;
} pair_t;

static bool move_all(int fd, void *data, size_t bytes, bool out)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t moved =
            out ? write(fd, (char *)data + at, bytes - at) : read(fd, (char *)data + at, bytes - at);
        if (moved <= 0)
            return false;
        at += (size_t)moved;
    }
    return true;
}

static weft_status_t gather_pair(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error)
{
    const pair_t *pair = (const pair_t *)transport;
    (void)error;
    memcpy((char *)all + pair->base.rank * bytes, mine, bytes);
    bool met = move_all(pair->fd, (char *)all + pair->base.rank * bytes, bytes, true) &&
               move_all(pair->fd, (char *)all + (1 - pair->base.rank) * bytes, bytes, false);
    return met ? WEFT_OK : WEFT_ERR_PEER_LOST;
}

static const weft_transport_ops_t pair_ops = {.name = "pair", .allgather = gather_pair};

typedef struct side {
    weft_transport_t *transport;
    weft_group_t *group;
    int fd;
    uint8_t *data;
} side_t;

static weft_zmq_options_t options; /* of both */

static bool open_side(side_t *side, uint32_t rank, int fd)
{
    static pair_t pair; /* one in each process */
    static const uint32_t ranks[] = {0, 1};
    weft_error_t error;
    pair = (pair_t){{&pair_ops, rank, 2, "host", -1}, fd};
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.bootstrap = (weft_transport_t *)&pair;
    config.zmq = &options;
    *side = (side_t){.fd = fd, .data = calloc(1, BIG_BYTES)};
    return side->data && weft_transport_open("zmq", &config, &side->transport, &error) == WEFT_OK &&
           ops->group_create(side->transport, 4, ranks, 2, &side->group, &error) == WEFT_OK;
}

static void close_side(side_t *side)
{
    weft_transport_close(side->transport);
    free(side->data);
    close(side->fd);
}

/* Test until the operation ends or `limit_us` has passed (WEFT_ERR_TIMEOUT). */
static weft_status_t finish(side_t *side, weft_op_t *op, uint64_t limit_us, weft_error_t *error)
{
    bool done = false;
    uint64_t deadline_us = weft_now_us() + limit_us;
    weft_status_t status = WEFT_OK;
    while (!done && weft_now_us() < deadline_us)
        status = ops->test(side->transport, op, &done, error);
    return done ? status : WEFT_ERR_TIMEOUT;
}

static weft_status_t broadcast(side_t *side, uint32_t root, size_t bytes, weft_error_t *error)
{
    weft_op_t *op;
    weft_status_t status = ops->broadcast_start(side->transport, side->group, root, side->data, bytes, &op);
    return status == WEFT_OK ? finish(side, op, LONG_US, error) : status;
}

/* ---- What rank 1 does ---- */

static void wait_for_end(side_t *side)
{
    char byte;
    move_all(side->fd, &byte, 1, false); /* rank 0 closes its end */
}

/* Opens, and says nothing more. */
static void be_idle(side_t *side)
{
    wait_for_end(side);
}

/* Takes part in broadcasts from rank 1 until rank 0 has gone: one byte on the pair asks for one. */
static void be_root(side_t *side)
{
    char byte;
    weft_error_t error;
    while (move_all(side->fd, &byte, 1, false))
        if (broadcast(side, 1, BIG_BYTES / 3 + 1, &error) != WEFT_OK)
            return;
}

/* Takes a part of what rank 0 sends, and dies. */
static void die(side_t *side)
{
    weft_op_t *op;
    weft_error_t error;
    ops->broadcast_start(side->transport, side->group, 0, side->data, BIG_BYTES, &op);
    finish(side, op, 2000, &error);
    raise(SIGKILL);
}

static void stop(side_t *side)
{
    (void)side;
    raise(SIGSTOP);
}

static pid_t start(side_t *side, void (*behave)(side_t *side))
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        side_t other;
        close(fds[0]);
        if (open_side(&other, 1, fds[1]))
            behave(&other);
        _exit(0);
    }
    close(fds[1]);
    assert_true(open_side(side, 0, fds[0]));
    return child;
}

static void end(side_t *side, pid_t child)
{
    close_side(side);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* ---- Peers that are lost ---- */

static void check_lost(void (*behave)(side_t *side))
{
    side_t side;
    weft_error_t error = {0};
    weft_op_t *op;
    pid_t child = start(&side, behave);
    uint64_t start_us = weft_now_us();
    assert_int_equal(broadcast(&side, 0, BIG_BYTES, &error), WEFT_ERR_PEER_LOST);
    uint64_t took_us = weft_now_us() - start_us;
    print_message("lost after %.3f s: %s\n", (double)took_us * 1e-6, error.message);
    assert_true(took_us < LOST_US);
    assert_non_null(strstr(error.message, "rank 1"));
    assert_non_null(strstr(error.message, "of 25165824 bytes went"));
    /* No connection is made again. */
    assert_int_equal(ops->send_start(side.transport, 1, side.data, 8, &op), WEFT_OK);
    assert_int_equal(finish(&side, op, LONG_US, &error), WEFT_ERR_PEER_LOST);
    weft_zmq_counters_t counters = weft_zmq_counters(side.transport);
    assert_int_equal(counters.lent, counters.released);
    assert_true(counters.lent > 0);
    end(&side, child);
}

static void test_killed(void **state)
{
    (void)state;
    check_lost(die);
}

static void test_stopped(void **state)
{
    (void)state;
    check_lost(stop);
}

/* ---- Flow ---- */

/* A receiver that does not test is sent a window, and no more. */
static void test_window(void **state)
{
    (void)state;
    side_t side;
    weft_error_t error;
    weft_op_t *op;
    pid_t child = start(&side, be_idle);
    assert_int_equal(ops->broadcast_start(side.transport, side.group, 0, side.data, BIG_BYTES, &op), WEFT_OK);
    assert_int_equal(finish(&side, op, 300000, &error), WEFT_ERR_TIMEOUT);
    assert_in_range(weft_zmq_counters(side.transport).lent, WEFT_ZMQ_WINDOW - 2, WEFT_ZMQ_WINDOW);
    char text[160];
    ops->describe(side.transport, op, text, sizeof text);
    assert_non_null(strstr(text, "to rank 1, which consumes none since 0."));
    assert_true(ops->abort(side.transport));
    weft_zmq_counters_t counters = weft_zmq_counters(side.transport);
    assert_int_equal(counters.lent, counters.released);
    end(&side, child);
}

/* ---- Frames of a third party ---- */

typedef struct forger {
    void *context, *socket;
} forger_t;

static forger_t reach(const side_t *side)
{
    forger_t forger = {.context = zmq_ctx_new()};
    int no = 0;
    forger.socket = zmq_socket(forger.context, ZMQ_PUSH);
    zmq_setsockopt(forger.socket, ZMQ_LINGER, &no, sizeof no);
    assert_int_equal(zmq_connect(forger.socket, side->transport->all[0].endpoint), 0);
    return forger;
}

static void leave(forger_t *forger)
{
    zmq_close(forger->socket);
    zmq_ctx_term(forger->context);
}

/* The next frame of rank 1's stream, a whole operation of `bytes`, as far as rank 0 knows. */
static weft_zmq_header_t next_frame(const side_t *side, uint32_t bytes)
{
    weft_zmq_world_t world = side->transport->world;
    const weft_zmq_stream_t *stream = &side->transport->peers[1].stream;
    static const uint8_t zeros[64];
    weft_zmq_header_t h;
    world.rank = 1;
    weft_zmq_frame_begin(&h, &world, WEFT_ZMQ_DATA, 0);
    h.sequence = stream->sequence;
    h.operation = stream->operation;
    h.channel = 4;
    h.total = h.length = bytes;
    h.digest = weft_hash64(zeros, bytes);
    return h;
}

static void forge(forger_t *forger, weft_zmq_header_t h, size_t payload_bytes)
{
    static const uint8_t zeros[64];
    weft_zmq_frame_seal(&h);
    assert_int_equal(zmq_send(forger->socket, &h, sizeof h, ZMQ_SNDMORE), sizeof h);
    assert_int_equal(zmq_send(forger->socket, zeros, payload_bytes, 0), payload_bytes);
}

static void await_dropped(side_t *side, uint64_t expected)
{
    uint64_t deadline_us = weft_now_us() + LONG_US;
    while (weft_zmq_counters(side->transport).dropped < expected && weft_now_us() < deadline_us)
        weft_zmq_progress(side->transport);
    assert_int_equal(weft_zmq_counters(side->transport).dropped, expected);
}

/* Garbage, an earlier generation, duplicates: counted, and what really comes is as if they were not. */
static void test_strangers(void **state)
{
    (void)state;
    side_t side;
    weft_error_t error;
    pid_t child = start(&side, be_root);
    forger_t forger = reach(&side);
    weft_zmq_header_t h = next_frame(&side, 40);
    h.generation[3] ^= 1;
    forge(&forger, h, 40);
    h = next_frame(&side, 40);
    h.sequence--; /* one that rank 1 sent when the group formed */
    forge(&forger, h, 40);
    zmq_send(forger.socket, "hello", 5, 0);
    zmq_send(forger.socket, "", 0, 0);
    for (int i = 0; i < 5; i++)
        zmq_send(forger.socket, &h, sizeof h, i < 4 ? ZMQ_SNDMORE : 0);
    await_dropped(&side, 5);
    for (int i = 0; i < 2; i++) {
        memset(side.data, 0xff, BIG_BYTES);
        assert_true(move_all(side.fd, (char[]){1}, 1, true));
        assert_int_equal(broadcast(&side, 1, BIG_BYTES / 3 + 1, &error), WEFT_OK);
        for (size_t at = 0; at < BIG_BYTES / 3 + 1; at++)
            assert_int_equal(side.data[at], 0);
        assert_int_equal(side.data[BIG_BYTES / 3 + 1], 0xff);
    }
    leave(&forger);
    end(&side, child);
}

typedef struct forgery {
    const char *says;
    void (*change)(weft_zmq_header_t *h);
    size_t payload_bytes;
} forgery_t;

static void skip_one(weft_zmq_header_t *h)
{
    h->sequence++;
}

static void change_operation(weft_zmq_header_t *h)
{
    h->operation++;
}

static void change_channel(weft_zmq_header_t *h)
{
    h->channel++;
}

static void change_content(weft_zmq_header_t *h)
{
    h->digest++;
}

static void change_total(weft_zmq_header_t *h)
{
    h->total = h->length = 41;
    h->digest = weft_hash64((uint8_t[64]){0}, 41);
}

static void keep(weft_zmq_header_t *h)
{
    (void)h;
}

/* Who knows the generation and is wrong all the same fails the operation, and nothing is written past its
 * end. */
static void test_faults(void **state)
{
    (void)state;
    static const forgery_t forgeries[] = {
        {"frames before it are missing", skip_one, 40},
        {"not the next piece", change_operation, 40},
        {"of another group", change_channel, 40},
        {"changed on the way", change_content, 40},
        {"41 bytes where 40 were expected", change_total, 41},
        {"cut off", keep, 39},
    };
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++) {
        side_t side;
        weft_error_t error = {0};
        weft_op_t *op;
        pid_t child = start(&side, be_idle);
        forger_t forger = reach(&side);
        memset(side.data, 0xff, 64);
        assert_int_equal(ops->broadcast_start(side.transport, side.group, 1, side.data, 40, &op), WEFT_OK);
        weft_zmq_header_t h = next_frame(&side, 40);
        forgeries[i].change(&h);
        forge(&forger, h, forgeries[i].payload_bytes);
        assert_int_equal(finish(&side, op, LONG_US, &error), WEFT_ERR_TRANSPORT);
        if (!strstr(error.message, forgeries[i].says))
            fail_msg("%s: %s", forgeries[i].says, error.message);
        assert_int_equal(side.data[40], 0xff);
        leave(&forger);
        end(&side, child);
    }
}

/* More frames than there is credit for, none of them asked for: the stash is no larger than a window. */
static void test_too_many(void **state)
{
    (void)state;
    side_t side;
    weft_error_t error = {0};
    weft_op_t *op;
    pid_t child = start(&side, be_idle);
    forger_t forger = reach(&side);
    for (uint32_t i = 0; i <= WEFT_ZMQ_WINDOW; i++) {
        weft_zmq_header_t h = next_frame(&side, 40);
        h.sequence += i;
        h.operation += i;
        forge(&forger, h, 40);
    }
    uint64_t deadline_us = weft_now_us() + LONG_US;
    while (side.transport->peers[1].status == WEFT_OK && weft_now_us() < deadline_us)
        weft_zmq_progress(side.transport);
    assert_int_equal(side.transport->peers[1].num_stashed, WEFT_ZMQ_WINDOW);
    assert_int_equal(ops->broadcast_start(side.transport, side.group, 1, side.data, 40, &op), WEFT_OK);
    assert_int_equal(finish(&side, op, LONG_US, &error), WEFT_ERR_TRANSPORT);
    assert_non_null(strstr(error.message, "more than it was given credit for"));
    leave(&forger);
    end(&side, child);
}

/* Who knows the inbox's public key, but is no rank, is refused before it can send a byte. */
static void test_gate(void **state)
{
    (void)state;
    if (!zmq_has("curve"))
        skip();
    side_t side;
    weft_error_t error;
    char public[41], secret[41];
    options.new_keys = true;
    pid_t child = start(&side, be_root);
    options.new_keys = false;
    forger_t forger = {.context = zmq_ctx_new()};
    forger.socket = zmq_socket(forger.context, ZMQ_PUSH);
    assert_int_equal(zmq_curve_keypair(public, secret), 0);
    assert_true(weft_socket_set(forger.socket, &(weft_socket_int_t){ZMQ_LINGER, 0}, 1, -1));
    assert_true(weft_socket_connect_with_keys(forger.socket, public, secret, side.transport->all[0].key));
    assert_int_equal(zmq_connect(forger.socket, side.transport->all[0].endpoint), 0);
    zmq_send(forger.socket, "hello", 5, 0);
    uint64_t deadline_us = weft_now_us() + LONG_US;
    while (!weft_zmq_gate_refused(side.transport->gate) && weft_now_us() < deadline_us)
        weft_zmq_progress(side.transport);
    assert_true(weft_zmq_gate_refused(side.transport->gate) > 0);
    assert_true(move_all(side.fd, (char[]){1}, 1, true));
    assert_int_equal(broadcast(&side, 1, BIG_BYTES / 3 + 1, &error), WEFT_OK);
    assert_int_equal(weft_zmq_counters(side.transport).dropped, 0);
    leave(&forger);
    end(&side, child);
}

/* ---- Meeting ---- */

static bool says_given_up;

static bool is_given_up(const weft_transport_t *transport)
{
    (void)transport;
    return says_given_up;
}

/* A meeting that nobody waits for any more ends at once, not at its deadline. */
static void test_given_up(void **state)
{
    (void)state;
    static weft_transport_ops_t giving_up;
    static const uint32_t ranks[] = {0, 1};
    side_t side;
    weft_group_t *group;
    weft_error_t error;
    pid_t child = start(&side, be_idle);
    pair_t *bootstrap = (pair_t *)side.transport->bootstrap;
    giving_up = pair_ops;
    giving_up.given_up = is_given_up;
    bootstrap->base.ops = &giving_up;
    says_given_up = true;
    uint64_t start_us = weft_now_us();
    assert_int_equal(ops->group_create(side.transport, 5, ranks, 2, &group, &error), WEFT_ERR_ABORTED);
    assert_true(weft_now_us() - start_us < LONG_US);
    assert_non_null(strstr(error.message, "given up"));
    end(&side, child);
}

/* Introductions come from other processes too. */
static void test_introductions(void **state)
{
    (void)state;
    weft_error_t error;
    weft_zmq_introduction_t of = {.endpoint = "tcp://127.0.0.1:2"};
    assert_int_equal(weft_zmq_check_introduction(&of, 1, false, &error), WEFT_OK);
    assert_int_equal(weft_zmq_check_introduction(&of, 1, true, &error), WEFT_ERR_PROTOCOL);
    memset(of.endpoint, 'x', sizeof of.endpoint);
    assert_int_equal(weft_zmq_check_introduction(&of, 1, false, &error), WEFT_ERR_PROTOCOL);
    strcpy(of.endpoint, "ipc:///tmp/x");
    assert_int_equal(weft_zmq_check_introduction(&of, 1, false, &error), WEFT_ERR_PROTOCOL);
    strcpy(of.endpoint, "tcp://127.0.0.1:2");
    memset(of.key, 'k', sizeof of.key);
    assert_int_equal(weft_zmq_check_introduction(&of, 1, false, &error), WEFT_ERR_PROTOCOL);
    of.failed = 1;
    assert_int_equal(weft_zmq_check_introduction(&of, 1, false, &error), WEFT_ERR_PEER_LOST);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    options = WEFT_ZMQ_OPTIONS;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed),        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_window),        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_faults),        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_gate),          cmocka_unit_test(test_given_up),
        cmocka_unit_test(test_introductions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
