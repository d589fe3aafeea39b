/* Options that do not take are noticed, keys above all; a message is read to its end, whatever its parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <zmq.h>

#include "src/socket/socket.h"

static void *context;

static int begin(void **state)
{
    (void)state;
    context = zmq_ctx_new();
    return context ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    return zmq_ctx_term(context);
}

static void test_options(void **state)
{
    (void)state;
    void *socket = zmq_socket(context, ZMQ_PULL);
    const weft_socket_int_t good[] = {{ZMQ_LINGER, 0}, {ZMQ_RCVHWM, 7}}, bad[] = {{ZMQ_LINGER, 0}, {ZMQ_RCVHWM, -7}};
    int64_t most = 0;
    int hwm = 0;
    size_t bytes = sizeof most, hwm_bytes = sizeof hwm;
    assert_true(weft_socket_set(socket, good, 2, 1234));
    assert_int_equal(zmq_getsockopt(socket, ZMQ_MAXMSGSIZE, &most, &bytes), 0);
    assert_int_equal(zmq_getsockopt(socket, ZMQ_RCVHWM, &hwm, &hwm_bytes), 0);
    assert_true(most == 1234 && hwm == 7);
    assert_false(weft_socket_set(socket, bad, 2, 1234));
    assert_int_equal(zmq_errno(), EINVAL);
    weft_socket_give_up(socket);
    assert_int_equal(zmq_errno(), EINVAL);
}

static void test_keys(void **state)
{
    (void)state;
    if (!zmq_has("curve"))
        skip();
    char public[41], secret[41];
    assert_int_equal(zmq_curve_keypair(public, secret), 0);
    void *server = zmq_socket(context, ZMQ_PULL), *client = zmq_socket(context, ZMQ_PUSH);
    assert_true(weft_socket_serve_with_key(server, secret));
    assert_true(weft_socket_connect_with_keys(client, public, secret, public));
    const char *const bad[] = {"", "too short", "this key is as long as one, is none of Z"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(weft_socket_serve_with_key(server, bad[i]));
        assert_false(weft_socket_connect_with_keys(client, bad[i], secret, public));
        assert_false(weft_socket_connect_with_keys(client, public, bad[i], public));
        assert_false(weft_socket_connect_with_keys(client, public, secret, bad[i]));
    }
    zmq_close(server);
    zmq_close(client);
}

static void test_parts(void **state)
{
    (void)state;
    void *from = zmq_socket(context, ZMQ_PAIR), *to = zmq_socket(context, ZMQ_PAIR);
    assert_int_equal(zmq_bind(to, "inproc://parts"), 0);
    assert_int_equal(zmq_connect(from, "inproc://parts"), 0);
    char first[4], second[2];
    weft_socket_part_t parts[2] = {{first, sizeof first, 0}, {second, sizeof second, 0}};
    assert_int_equal(weft_socket_read(to, parts, 2), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(zmq_send(from, "abc", 3, i < 2 ? ZMQ_SNDMORE : 0), 3);
    assert_int_equal(zmq_send(from, "next", 4, 0), 4);
    assert_int_equal(weft_socket_read(to, parts, 2), 3); /* the third is not kept, the second is cut */
    assert_true(parts[0].bytes == 3 && parts[1].bytes == 3 && !memcmp(first, "abc", 3) && !memcmp(second, "ab", 2));
    assert_int_equal(weft_socket_read(to, parts, 2), 1);
    assert_memory_equal(first, "next", 4);
    assert_int_equal(weft_socket_read(to, parts, 2), 0);
    zmq_close(from);
    zmq_close(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
