/* Lanes by themselves: what a mailbox relies on. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/base/clock.h"
#include "src/control/lane.h"

static char endpoint[64]; /* of this process alone: names are the host's */

static weft_lanes_t *open_lanes(const char *key, const char *at)
{
    weft_lanes_t *lanes = weft_lanes_open(key, at);
    assert_non_null(lanes);
    return lanes;
}

static bool send_number(weft_lanes_t *lanes, uint32_t peer, uint32_t number)
{
    const struct iovec part = {&number, sizeof number};
    return weft_lanes_send(lanes, peer, &part, 1);
}

static bool take_number(weft_lanes_t *lanes, uint32_t *number, uint32_t *lane)
{
    struct iovec part = {number, sizeof *number};
    size_t bytes;
    if (!weft_lanes_take(lanes, &part, 1, lane, &bytes))
        return false;
    assert_int_equal(bytes, sizeof *number);
    return true;
}

/* Fill the lane to the peer until it is given up; returns how many messages stand in it. */
static uint32_t fill(weft_lanes_t *lanes, uint32_t peer)
{
    uint32_t sent = 0;
    while (send_number(lanes, peer, sent))
        sent++;
    return sent;
}

static void take_all(weft_lanes_t *lanes, uint32_t count)
{
    uint32_t number, lane;
    for (uint32_t i = 0; i < count; i++) {
        assert_true(take_number(lanes, &number, &lane));
        assert_int_equal(number, i);
    }
    assert_false(take_number(lanes, &number, &lane));
}

/* A server, and a client that it knows as 5. */
static weft_lanes_t *open_both(weft_lanes_t **client)
{
    weft_lanes_t *server = open_lanes("key", endpoint);
    uint32_t number, lane;
    *client = open_lanes("key", NULL);
    weft_lanes_connect(*client, 0, endpoint);
    assert_true(send_number(*client, 0, 1));
    assert_true(take_number(server, &number, &lane));
    assert_true(weft_lanes_name(server, lane, 5));
    return server;
}

static void test_there_and_back(void **state)
{
    (void)state;
    weft_lanes_t *server = open_lanes("key", endpoint), *client = open_lanes("key", NULL);
    uint32_t number, lane;
    assert_false(send_number(client, 0, 1));
    weft_lanes_connect(client, 0, endpoint);
    assert_true(send_number(client, 0, 17));
    assert_false(send_number(server, 5, 1)); /* it has not said who it is */
    assert_true(take_number(server, &number, &lane));
    assert_int_equal(number, 17);
    assert_true(weft_lanes_name(server, lane, 5));
    assert_false(weft_lanes_name(server, lane, 6));
    assert_true(send_number(server, 5, 18));
    assert_true(take_number(client, &number, &lane));
    assert_int_equal(number, 18);
    assert_true(weft_lanes_name(client, lane, 0));
    assert_false(weft_lanes_name(client, lane, 1));
    assert_false(take_number(client, &number, &lane));
    weft_lanes_close(client);
    assert_false(take_number(server, &number, &lane));
    assert_false(send_number(server, 5, 1));
    weft_lanes_close(server);
}

static void test_other_keys_and_places(void **state)
{
    (void)state;
    weft_lanes_t *server = open_lanes("key", endpoint), *client = open_lanes("other key", NULL);
    weft_lanes_connect(client, 0, endpoint);
    assert_false(send_number(client, 0, 1));
    weft_lanes_close(client);
    client = open_lanes("key", NULL);
    weft_lanes_connect(client, 0, "tcp://another.host:1");
    assert_false(send_number(client, 0, 1));
    weft_lanes_close(client);
    weft_lanes_close(server);
}

/* The kernel says who connects. Root alone can be somebody else. */
static void test_other_user(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    weft_lanes_t *server = open_lanes("key", endpoint);
    uint32_t number, lane;
    pid_t child = fork();
    if (child == 0) {
        weft_lanes_t *client = setuid(65534) == 0 ? weft_lanes_open("key", NULL) : NULL;
        if (!client)
            _exit(1);
        weft_lanes_connect(client, 0, endpoint);
        send_number(client, 0, 17);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_false(take_number(server, &number, &lane));
    weft_lanes_close(server);
}

/* What fits is there, in order, when the lane has been given up; nothing after it is. */
static void test_a_full_lane_is_closed(void **state)
{
    (void)state;
    weft_lanes_t *server = open_lanes("key", endpoint), *client = open_lanes("key", NULL);
    weft_lanes_connect(client, 0, endpoint);
    uint32_t sent = fill(client, 0), number, lane;
    assert_true(sent > 100);
    assert_false(send_number(client, 0, sent));
    take_all(server, sent); /* and its end: closed */
    assert_false(take_number(client, &number, &lane));
    weft_sleep_us(1100000);
    assert_true(send_number(client, 0, 7)); /* tried again */
    assert_true(take_number(server, &number, &lane));
    assert_int_equal(number, 7);
    weft_lanes_close(client);
    weft_lanes_close(server);
}

static void test_both_full_and_nothing_lost(void **state)
{
    (void)state;
    weft_lanes_t *client, *server = open_both(&client);
    uint32_t there = fill(client, 0), back = fill(server, 5);
    take_all(server, there);
    take_all(client, back);
    weft_lanes_close(client);
    weft_lanes_close(server);
}

/* What a peer sent before it went is read, also where it left something of ours unread. */
static void test_a_peer_that_goes_with_mail_unread(void **state)
{
    (void)state;
    weft_lanes_t *client, *server = open_both(&client);
    assert_true(send_number(server, 5, 2));
    for (uint32_t i = 0; i < 3; i++)
        assert_true(send_number(client, 0, i));
    weft_lanes_close(client);
    take_all(server, 3);
    weft_lanes_close(server);
}

/* A child that has not called exec holds the sockets too: this side still forgets them, and the peer sees the
 * end. */
static void test_a_child_holds_the_sockets(void **state)
{
    (void)state;
    weft_lanes_t *client, *server = open_both(&client);
    uint32_t number, lane;
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    assert_true(child > 0);
    weft_lanes_close(client);
    assert_false(take_number(server, &number, &lane)); /* the end, though the child holds the other side */
    assert_false(take_number(server, &number, &lane));
    assert_false(send_number(server, 5, 1));
    struct pollfd waits = {.fd = weft_lanes_fd(server), .events = POLLIN};
    assert_int_equal(poll(&waits, 1, 0), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    weft_lanes_close(server);
}

static void test_the_newest_of_a_peer_counts(void **state)
{
    (void)state;
    weft_lanes_t *server = open_lanes("key", endpoint);
    weft_lanes_t *first = open_lanes("key", NULL), *second = open_lanes("key", NULL);
    uint32_t number, lane;
    weft_lanes_connect(first, 0, endpoint);
    weft_lanes_connect(second, 0, endpoint);
    send_number(first, 0, 1);
    assert_true(take_number(server, &number, &lane));
    assert_true(weft_lanes_name(server, lane, 9));
    send_number(second, 0, 2);
    assert_true(take_number(server, &number, &lane));
    assert_true(weft_lanes_name(server, lane, 9));
    assert_true(send_number(server, 9, 3));
    assert_false(take_number(first, &number, &lane));
    assert_true(take_number(second, &number, &lane));
    assert_int_equal(number, 3);
    weft_lanes_close(first);
    weft_lanes_close(second);
    weft_lanes_close(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_other_keys_and_places),
        cmocka_unit_test(test_other_user),
        cmocka_unit_test(test_a_full_lane_is_closed),
        cmocka_unit_test(test_both_full_and_nothing_lost),
        cmocka_unit_test(test_a_peer_that_goes_with_mail_unread),
        cmocka_unit_test(test_a_child_holds_the_sockets),
        cmocka_unit_test(test_the_newest_of_a_peer_counts),
    };
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%ld", (long)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
