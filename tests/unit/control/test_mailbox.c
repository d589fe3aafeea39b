/* Mailboxes over 127.0.0.1, most of them driven from one thread: what is sent is polled for at the other
 * side. All tests run twice: over ZeroMQ alone, and with lanes. */
#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "src/base/clock.h"
#include "src/control/lane.h"
#include "src/control/mailbox.h"

#define LONG_US  10000000u /* what must happen happens within this */
#define SHORT_US 300000u   /* what must not happen is waited for this long */

static bool no_lanes;

static weft_mailbox_t *open_with(uint32_t rank, const char *host, uint8_t token, const weft_log_t *log)
{
    weft_mailbox_config_t config = {.rank = rank, .host = host, .log = log, .no_lanes = no_lanes};
    memset(config.token, token, sizeof config.token);
    weft_mailbox_t *mailbox = NULL;
    weft_error_t error = {0};
    if (weft_mailbox_open(&config, &mailbox, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return mailbox;
}

static weft_mailbox_t *open_bound(uint32_t rank)
{
    return open_with(rank, "127.0.0.1", 7, NULL);
}

static weft_mailbox_t *open_connected(uint32_t rank, uint32_t peer, const char *endpoint)
{
    weft_mailbox_t *mailbox = open_with(rank, NULL, 7, NULL);
    assert_int_equal(weft_mailbox_connect(mailbox, peer, endpoint, NULL), WEFT_OK);
    return mailbox;
}

static void send_text(weft_mailbox_t *mailbox, uint32_t peer, const char *text)
{
    assert_int_equal(weft_mailbox_send(mailbox, peer, text, strlen(text)), WEFT_OK);
}

static void expect_text(weft_mailbox_t *mailbox, uint32_t from, const char *text)
{
    char data[WEFT_MAILBOX_MAX_BYTES + 1];
    uint32_t peer;
    size_t bytes;
    assert_int_equal(weft_mailbox_poll(mailbox, LONG_US, &peer, data, &bytes), WEFT_OK);
    data[bytes] = 0;
    assert_int_equal(peer, from);
    assert_string_equal(data, text);
}

static void expect_nothing(weft_mailbox_t *mailbox, uint64_t timeout_us)
{
    char data[WEFT_MAILBOX_MAX_BYTES];
    uint32_t peer = 99;
    size_t bytes = 99;
    assert_int_equal(weft_mailbox_poll(mailbox, timeout_us, &peer, data, &bytes), WEFT_ERR_TIMEOUT);
    assert_int_equal(peer, 99);
    assert_int_equal(bytes, 99);
}

/* A rank that has connected can be answered once its connection stands. */
static void send_when_connected(weft_mailbox_t *mailbox, uint32_t peer, const char *text)
{
    uint64_t deadline_us = weft_now_us() + LONG_US;
    while (weft_mailbox_send(mailbox, peer, text, strlen(text)) != WEFT_OK) {
        assert_true(weft_now_us() < deadline_us);
        weft_sleep_us(1000);
    }
}

static void expect_dropped(weft_mailbox_t *mailbox, uint64_t at_least)
{
    uint64_t deadline_us = weft_now_us() + LONG_US;
    while (weft_mailbox_dropped(mailbox) < at_least) {
        assert_true(weft_now_us() < deadline_us);
        expect_nothing(mailbox, 10000);
    }
}

static void test_both_ways(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    assert_memory_equal(weft_mailbox_endpoint(server), "tcp://127.0.0.1:", 16);
    weft_mailbox_t *client = open_connected(3, 0, weft_mailbox_endpoint(server));
    assert_string_equal(weft_mailbox_endpoint(client), "");
    send_text(client, 0, "hello");
    expect_text(server, 3, "hello");
    send_text(server, 3, "");
    expect_text(client, 0, "");
    weft_mailbox_close(client);
    weft_mailbox_close(server);
}

static void test_peer_answers_before_it_heard(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *client = open_connected(256, 0, weft_mailbox_endpoint(server));
    send_when_connected(server, 256, "first");
    expect_text(client, 0, "first");
    weft_mailbox_close(client);
    weft_mailbox_close(server);
}

static void test_both_bound_and_connected(void **state)
{
    (void)state;
    weft_mailbox_t *a = open_bound(1), *b = open_bound(2);
    assert_int_equal(weft_mailbox_connect(a, 2, weft_mailbox_endpoint(b), NULL), WEFT_OK);
    assert_int_equal(weft_mailbox_connect(b, 1, weft_mailbox_endpoint(a), NULL), WEFT_OK);
    send_text(a, 2, "from a");
    send_text(b, 1, "from b");
    expect_text(a, 2, "from b");
    expect_text(b, 1, "from a");
    weft_mailbox_close(a);
    weft_mailbox_close(b);
}

static void test_to_itself(void **state)
{
    (void)state;
    weft_mailbox_t *mailbox = open_with(5, NULL, 7, NULL);
    assert_int_equal(weft_mailbox_connect(mailbox, 5, "tcp://127.0.0.1:1", NULL), WEFT_OK);
    send_text(mailbox, 5, "one");
    send_text(mailbox, 5, "two");
    expect_text(mailbox, 5, "one");
    expect_text(mailbox, 5, "two");
    send_text(mailbox, 5, "never read");
    weft_mailbox_close(mailbox);
}

static void test_unknown_peer(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0), *alone = open_with(1, NULL, 7, NULL);
    assert_int_equal(weft_mailbox_send(server, 4, "x", 1), WEFT_ERR_PEER_LOST);
    assert_int_equal(weft_mailbox_send(alone, 4, "x", 1), WEFT_ERR_PEER_LOST);
    weft_mailbox_close(alone);
    weft_mailbox_close(server);
}

static void test_lost_peer(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *client = open_connected(1, 0, weft_mailbox_endpoint(server));
    send_text(client, 0, "here");
    expect_text(server, 1, "here");
    weft_mailbox_close(client);
    uint64_t deadline_us = weft_now_us() + LONG_US;
    while (weft_mailbox_send(server, 1, "x", 1) == WEFT_OK) {
        assert_true(weft_now_us() < deadline_us);
        weft_sleep_us(1000);
    }
    weft_mailbox_close(server);
}

static void test_sizes(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 255, 256, 1024, WEFT_MAILBOX_MAX_BYTES};
    static uint8_t data[WEFT_MAILBOX_MAX_BYTES + 1], back[WEFT_MAILBOX_MAX_BYTES];
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *client = open_connected(1, 0, weft_mailbox_endpoint(server));
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint32_t peer;
        size_t bytes;
        assert_int_equal(weft_mailbox_send(client, 0, data, sizes[i]), WEFT_OK);
        assert_int_equal(weft_mailbox_poll(server, LONG_US, &peer, back, &bytes), WEFT_OK);
        assert_int_equal(bytes, sizes[i]);
        assert_memory_equal(back, data, bytes);
    }
    assert_int_equal(weft_mailbox_send(client, 0, data, sizeof data), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_mailbox_send(client, 1, data, sizeof data), WEFT_ERR_ARGUMENT);
    weft_mailbox_close(client);
    weft_mailbox_close(server);
}

static void test_poll_times_out(void **state)
{
    (void)state;
    weft_mailbox_t *mailbox = open_bound(0);
    uint64_t start_us = weft_now_us();
    expect_nothing(mailbox, 30000);
    assert_true(weft_now_us() - start_us >= 30000);
    expect_nothing(mailbox, 0);
    weft_mailbox_close(mailbox);
}

static void *wake_soon(void *mailbox)
{
    weft_sleep_us(50000);
    weft_mailbox_wake(mailbox);
    return NULL;
}

static void test_wake(void **state)
{
    (void)state;
    weft_mailbox_t *mailbox = open_bound(0);
    pthread_t thread;
    pthread_create(&thread, NULL, wake_soon, mailbox);
    uint64_t start_us = weft_now_us();
    expect_nothing(mailbox, UINT64_MAX);
    assert_true(weft_now_us() - start_us < LONG_US);
    pthread_join(thread, NULL);

    /* Before the poll, and several at once count as one. */
    weft_mailbox_wake(mailbox);
    weft_mailbox_wake(mailbox);
    start_us = weft_now_us();
    expect_nothing(mailbox, LONG_US);
    assert_true(weft_now_us() - start_us < LONG_US);
    start_us = weft_now_us();
    expect_nothing(mailbox, 20000);
    assert_true(weft_now_us() - start_us >= 20000);
    weft_mailbox_close(mailbox);
}

#define NUM_SENDERS  4
#define NUM_MESSAGES 500

typedef struct sender {
    uint32_t rank;
    const char *endpoint;
    int failures;
    pthread_t thread;
} sender_t;

/* Send numbers, wait for the answer that all have come. */
static void *send_numbers(void *argument)
{
    sender_t *sender = argument;
    weft_mailbox_config_t config = {.rank = sender->rank, .no_lanes = no_lanes};
    memset(config.token, 7, sizeof config.token);
    weft_mailbox_t *mailbox;
    if (weft_mailbox_open(&config, &mailbox, NULL) != WEFT_OK)
        return sender->failures++, NULL;
    sender->failures += weft_mailbox_connect(mailbox, 0, sender->endpoint, NULL) != WEFT_OK;
    for (uint32_t i = 0; i < NUM_MESSAGES; i++)
        sender->failures += weft_mailbox_send(mailbox, 0, &i, sizeof i) != WEFT_OK;
    uint8_t answer[WEFT_MAILBOX_MAX_BYTES];
    uint32_t peer;
    size_t bytes;
    sender->failures += weft_mailbox_poll(mailbox, LONG_US, &peer, answer, &bytes) != WEFT_OK || peer != 0;
    weft_mailbox_close(mailbox);
    return NULL;
}

static void test_many_to_one_in_order(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    sender_t senders[NUM_SENDERS];
    for (uint32_t i = 0; i < NUM_SENDERS; i++) {
        senders[i] = (sender_t){.rank = i + 1, .endpoint = weft_mailbox_endpoint(server)};
        pthread_create(&senders[i].thread, NULL, send_numbers, &senders[i]);
    }
    uint32_t next[NUM_SENDERS + 1] = {0};
    for (uint32_t i = 0; i < NUM_SENDERS * NUM_MESSAGES; i++) {
        uint32_t peer, data[WEFT_MAILBOX_MAX_BYTES / 4];
        size_t bytes;
        assert_int_equal(weft_mailbox_poll(server, LONG_US, &peer, data, &bytes), WEFT_OK);
        assert_in_range(peer, 1, NUM_SENDERS);
        assert_int_equal(bytes, 4);
        assert_int_equal(data[0], next[peer]++);
    }
    for (uint32_t i = 0; i < NUM_SENDERS; i++) {
        send_text(server, i + 1, "all came");
        pthread_join(senders[i].thread, NULL);
        assert_int_equal(senders[i].failures, 0);
    }
    weft_mailbox_close(server);
}

static void test_full_queue(void **state)
{
    (void)state;
    /* Nobody listens there. */
    weft_mailbox_t *client = open_connected(1, 0, "tcp://127.0.0.1:1");
    weft_status_t status = WEFT_OK;
    for (int i = 0; i < 5000 && status == WEFT_OK; i++)
        status = weft_mailbox_send(client, 0, "x", 1);
    assert_int_equal(status, WEFT_ERR_PEER_LOST);
    weft_mailbox_close(client);
}

static void test_reconnect(void **state)
{
    (void)state;
    char endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
    weft_mailbox_t *server = open_bound(0);
    strcpy(endpoint, weft_mailbox_endpoint(server));
    weft_mailbox_t *client = open_connected(1, 0, endpoint);
    send_text(client, 0, "to the first");
    expect_text(server, 1, "to the first");
    weft_mailbox_close(server);

    server = open_with(0, endpoint + strlen("tcp://"), 7, NULL);
    assert_string_equal(weft_mailbox_endpoint(server), endpoint);
    send_when_connected(server, 1, "from the second");
    expect_text(client, 0, "from the second");
    send_text(client, 0, "to the second");
    expect_text(server, 1, "to the second");
    weft_mailbox_close(client);
    weft_mailbox_close(server);
}

/* One that another has taken over from speaks on, and then its connection breaks: nobody takes its messages any more, and
 * nothing else comes of it. (ZeroMQ's heartbeats end the process here.) */
static void test_one_that_was_taken_over_from(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *first = open_connected(1, 0, weft_mailbox_endpoint(server));
    send_text(first, 0, "first life");
    expect_text(server, 1, "first life");
    weft_mailbox_t *second = open_connected(1, 0, weft_mailbox_endpoint(server));
    send_text(second, 0, "second life");
    expect_text(server, 1, "second life");
    send_text(first, 0, "to nobody");
    if (no_lanes)
        weft_sleep_us(100000); /* it has come */
    else
        expect_text(server, 1, "to nobody"); /* a lane is listened to until it ends */
    weft_mailbox_close(first);
    for (uint64_t end_us = weft_now_us() + 800000; weft_now_us() < end_us;) { /* three heartbeats, if there were any */
        send_text(second, 0, "on and on");
        expect_text(server, 1, "on and on");
        weft_sleep_us(20000);
    }
    weft_mailbox_close(second);
    weft_mailbox_close(server);
}

static void test_restarted_rank_takes_over(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *first = open_connected(1, 0, weft_mailbox_endpoint(server));
    send_text(first, 0, "first life");
    expect_text(server, 1, "first life");
    weft_mailbox_t *second = open_connected(1, 0, weft_mailbox_endpoint(server));
    send_text(second, 0, "second life");
    expect_text(server, 1, "second life");
    /* The first lives on here and claims its name back by reconnecting, as a dead one would not. */
    weft_mailbox_close(first);
    char data[WEFT_MAILBOX_MAX_BYTES];
    uint32_t peer;
    size_t bytes;
    uint64_t deadline_us = weft_now_us() + LONG_US;
    do {
        assert_true(weft_now_us() < deadline_us);
        send_when_connected(server, 1, "to the living");
    } while (weft_mailbox_poll(second, 50000, &peer, data, &bytes) != WEFT_OK);
    assert_int_equal(peer, 0);
    weft_mailbox_close(second);
    weft_mailbox_close(server);
}

static void test_moved_peer(void **state)
{
    (void)state;
    weft_mailbox_t *before = open_bound(0), *after = open_bound(0);
    weft_mailbox_t *client = open_connected(1, 0, weft_mailbox_endpoint(before));
    assert_int_equal(weft_mailbox_connect(client, 2, weft_mailbox_endpoint(after), NULL), WEFT_OK);
    assert_int_equal(weft_mailbox_connect(client, 0, weft_mailbox_endpoint(after), NULL), WEFT_OK);
    send_text(client, 0, "moved");
    expect_text(after, 1, "moved");
    weft_mailbox_close(client);
    weft_mailbox_close(before);
    weft_mailbox_close(after);
}

static void test_bad_addresses(void **state)
{
    (void)state;
    weft_mailbox_t *mailbox = open_bound(0), *other = NULL;
    weft_error_t error;
    assert_int_equal(weft_mailbox_connect(mailbox, 1, "nonsense", &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_mailbox_connect(mailbox, 1, "tcp://", &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "rank 1"));
    /* Taken already. */
    weft_mailbox_config_t config = {.rank = 9, .host = weft_mailbox_endpoint(mailbox) + strlen("tcp://")};
    assert_int_equal(weft_mailbox_open(&config, &other, &error), WEFT_ERR_SYSTEM);
    assert_null(other);
    weft_mailbox_close(mailbox);
    weft_mailbox_close(NULL);
}

static void count_line(void *user, weft_log_level_t level, const char *line)
{
    (void)level;
    (void)line;
    ++*(int *)user;
}

static void test_wrong_token(void **state)
{
    (void)state;
    int lines = 0;
    weft_log_t log = {count_line, &lines, WEFT_LOG_WARNING};
    weft_mailbox_t *server = open_with(0, "127.0.0.1", 7, &log);
    weft_mailbox_t *stranger = open_with(1, NULL, 8, NULL);
    assert_int_equal(weft_mailbox_connect(stranger, 0, weft_mailbox_endpoint(server), NULL), WEFT_OK);
    send_text(stranger, 0, "let me in");
    expect_dropped(server, 3);
    assert_in_range(lines, 1, 2);
    assert_int_equal(weft_mailbox_send(server, 1, "x", 1), WEFT_ERR_PEER_LOST);
    expect_nothing(stranger, 0);

    weft_mailbox_t *member = open_connected(1, 0, weft_mailbox_endpoint(server));
    send_text(member, 0, "still fine");
    expect_text(server, 1, "still fine");
    weft_mailbox_close(stranger);
    weft_mailbox_close(member);
    weft_mailbox_close(server);
}

/* A raw socket that holds the session's keys when `token` is its token, and plain when `token` is negative.
 */
static void *raw_dealer(void *context, int token, const void *identity, size_t identity_bytes,
                        const char *endpoint)
{
    void *dealer = zmq_socket(context, ZMQ_DEALER);
    int no = 0;
    zmq_setsockopt(dealer, ZMQ_LINGER, &no, sizeof no);
    zmq_setsockopt(dealer, ZMQ_ROUTING_ID, identity, identity_bytes);
    if (token >= 0) {
        uint8_t bytes[WEFT_MAILBOX_TOKEN_BYTES];
        char secret[41], public[41];
        memset(bytes, token, sizeof bytes);
        zmq_z85_encode(secret, bytes, sizeof bytes);
        zmq_curve_public(public, secret);
        zmq_setsockopt(dealer, ZMQ_CURVE_SECRETKEY, secret, 41);
        zmq_setsockopt(dealer, ZMQ_CURVE_PUBLICKEY, public, 41);
        zmq_setsockopt(dealer, ZMQ_CURVE_SERVERKEY, public, 41);
    }
    assert_int_equal(zmq_connect(dealer, endpoint), 0);
    return dealer;
}

typedef struct raw_header {
    char magic[4];
    uint32_t rank;
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES];
} raw_header_t;

static raw_header_t raw_header(uint32_t rank, uint8_t token)
{
    raw_header_t header = {.magic = {'w', 'e', 'f', '1'}, .rank = rank};
    memset(header.token, token, sizeof header.token);
    return header;
}

static void send_raw(void *socket, const raw_header_t *header, size_t header_bytes, size_t body_bytes,
                     int extra_parts)
{
    static const uint8_t body[8192];
    zmq_send(socket, header, header_bytes, ZMQ_SNDMORE);
    zmq_send(socket, body, body_bytes, extra_parts ? ZMQ_SNDMORE : 0);
    for (int i = extra_parts; i > 0; i--)
        zmq_send(socket, body, 5, i > 1 ? ZMQ_SNDMORE : 0);
}

static void test_garbage_from_a_key_holder(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *member = open_connected(1, 0, weft_mailbox_endpoint(server));
    void *context = zmq_ctx_new();
    uint8_t identity[5] = {'w', 2};
    void *raw = raw_dealer(context, zmq_has("curve") ? 7 : -1, identity, sizeof identity,
                           weft_mailbox_endpoint(server));
    raw_header_t good = raw_header(2, 7), token = raw_header(2, 9), name = raw_header(1, 7),
                 magic = raw_header(2, 7);
    magic.magic[0] = 'x';
    zmq_send(raw, "", 0, 0);
    zmq_send(raw, "alone", 5, 0);
    zmq_send(raw, &good, sizeof good, 0);
    send_raw(raw, &good, sizeof good - 1, 4, 0);
    send_raw(raw, &good, sizeof good, 4, 1);
    send_raw(raw, &good, sizeof good, 4, 40);
    send_raw(raw, &good, sizeof good, WEFT_MAILBOX_MAX_BYTES + 1, 0);
    send_raw(raw, &good, sizeof good, 8192, 0);
    send_raw(raw, &token, sizeof token, 4, 0);
    send_raw(raw, &name, sizeof name, 4, 0);
    send_raw(raw, &magic, sizeof magic, 4, 0);
    expect_dropped(server, 11);
    assert_int_equal(weft_mailbox_dropped(server), 11);

    /* The same socket is heard when it speaks properly, and so is everybody else. */
    char data[WEFT_MAILBOX_MAX_BYTES];
    uint32_t peer;
    size_t bytes;
    send_raw(raw, &good, sizeof good, 4, 0);
    assert_int_equal(weft_mailbox_poll(server, LONG_US, &peer, data, &bytes), WEFT_OK);
    assert_int_equal(peer, 2);
    assert_int_equal(bytes, 4);
    send_text(member, 0, "undisturbed");
    expect_text(server, 1, "undisturbed");
    zmq_close(raw);
    zmq_ctx_term(context);
    weft_mailbox_close(member);
    weft_mailbox_close(server);
}

static void test_plain_socket_is_refused(void **state)
{
    (void)state;
    if (!zmq_has("curve"))
        skip();
    weft_mailbox_t *server = open_bound(0);
    void *context = zmq_ctx_new();
    uint8_t identity[5] = {'w', 2};
    void *raw = raw_dealer(context, -1, identity, sizeof identity, weft_mailbox_endpoint(server));
    raw_header_t good = raw_header(2, 7);
    send_raw(raw, &good, sizeof good, 4, 0);
    expect_dropped(server, 1);
    assert_int_equal(weft_mailbox_send(server, 2, "x", 1), WEFT_ERR_PEER_LOST);
    zmq_close(raw);
    zmq_ctx_term(context);
    weft_mailbox_close(server);
}

static int connect_tcp(const char *endpoint)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void test_garbage_from_tcp(void **state)
{
    (void)state;
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *member = open_connected(1, 0, weft_mailbox_endpoint(server));
    int silent = connect_tcp(weft_mailbox_endpoint(server));
    uint64_t seed = 12345;
    for (int round = 0; round < 20; round++) {
        uint8_t noise[512];
        for (size_t i = 0; i < sizeof noise; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            noise[i] = (uint8_t)(seed >> 56);
        }
        if (round % 2) /* begins as ZMTP 3.1 with CURVE would, and goes wrong after the greeting */
            memcpy(noise, "\xff\0\0\0\0\0\0\0\1\x7f\3\1CURVE\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 33);
        int fd = connect_tcp(weft_mailbox_endpoint(server));
        assert_true(send(fd, noise, sizeof noise, MSG_NOSIGNAL) > 0);
        close(fd);
        send_text(member, 0, "meanwhile");
        expect_text(server, 1, "meanwhile");
        send_text(server, 1, "and back");
        expect_text(member, 0, "and back");
    }
    expect_dropped(server, 1);
    close(silent);
    weft_mailbox_close(member);
    weft_mailbox_close(server);
}

/* Someone of this user who has found the lane's name, and lacks the token. */
static void test_garbage_on_a_lane(void **state)
{
    (void)state;
    if (no_lanes || !zmq_has("curve"))
        skip();
    uint8_t token[WEFT_MAILBOX_TOKEN_BYTES];
    char secret[41], public[41], text[] = "text";
    memset(token, 7, sizeof token);
    zmq_z85_encode(secret, token, sizeof token);
    zmq_curve_public(public, secret);
    weft_mailbox_t *server = open_bound(0);
    weft_mailbox_t *member = open_connected(1, 0, weft_mailbox_endpoint(server));
    send_text(member, 0, "here");
    expect_text(server, 1, "here");
    raw_header_t token_9 = raw_header(2, 9), name = raw_header(1, 7), good = raw_header(2, 7);
    static uint8_t body[WEFT_MAILBOX_MAX_BYTES + 1];
    struct iovec faults[][2] = {{{text, 4}, {text, 0}},
                                {{&token_9, sizeof token_9}, {text, 4}},
                                {{&good, sizeof good}, {body, sizeof body}},
                                {{&good, sizeof good - 1}, {text, 0}}};
    for (uint64_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        weft_lanes_t *stranger = weft_lanes_open(public, NULL);
        weft_lanes_connect(stranger, 0, weft_mailbox_endpoint(server));
        assert_true(weft_lanes_send(stranger, 0, faults[i], 2));
        expect_dropped(server, i + 1);
        assert_false(weft_lanes_send(stranger, 0, faults[i], 2)); /* the lane is closed */
        weft_lanes_close(stranger);
    }
    /* Two names on one lane: the second is not believed. */
    weft_lanes_t *liar = weft_lanes_open(public, NULL);
    weft_lanes_connect(liar, 0, weft_mailbox_endpoint(server));
    struct iovec first[] = {{&good, sizeof good}, {text, 4}}, second[] = {{&name, sizeof name}, {text, 4}};
    assert_true(weft_lanes_send(liar, 0, first, 2));
    expect_text(server, 2, "text");
    assert_true(weft_lanes_send(liar, 0, second, 2));
    expect_dropped(server, 5);
    weft_lanes_close(liar);

    send_text(member, 0, "undisturbed");
    expect_text(server, 1, "undisturbed");
    weft_mailbox_close(member);
    weft_mailbox_close(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_peer_answers_before_it_heard),
        cmocka_unit_test(test_both_bound_and_connected),
        cmocka_unit_test(test_to_itself),
        cmocka_unit_test(test_unknown_peer),
        cmocka_unit_test(test_lost_peer),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_poll_times_out),
        cmocka_unit_test(test_wake),
        cmocka_unit_test(test_many_to_one_in_order),
        cmocka_unit_test(test_full_queue),
        cmocka_unit_test(test_reconnect),
        cmocka_unit_test(test_restarted_rank_takes_over),
        cmocka_unit_test(test_one_that_was_taken_over_from),
        cmocka_unit_test(test_moved_peer),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_wrong_token),
        cmocka_unit_test(test_garbage_from_a_key_holder),
        cmocka_unit_test(test_plain_socket_is_refused),
        cmocka_unit_test(test_garbage_from_tcp),
        cmocka_unit_test(test_garbage_on_a_lane),
    };
    int failed = cmocka_run_group_tests_name("lanes", tests, NULL, NULL);
    no_lanes = true;
    return failed + cmocka_run_group_tests_name("ZeroMQ alone", tests, NULL, NULL);
}
