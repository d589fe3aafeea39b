/* The NCCL transport's state machine over a fake of NCCL and CUDA: what is called when, and when an operation
 * may be reported done. Under the fake no call is ever grouped or started while another goes on (it asserts
 * so). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/transport/nccl/fake.h"

static const uint32_t all_ranks[] = {0, 1, 2};
static unsigned char data[64];

typedef struct fixture {
    weft_transport_t *transport;
    const weft_transport_ops_t *ops;
    weft_group_t *first, *second;
    uint32_t calls; /* before the test */
} fixture_t;

static weft_transport_config_t config_of(uint32_t rank)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.bootstrap = fake_bootstrap(rank, 3);
    config.shared_gpu = true;
    config.timeout_us = 20000;
    return config;
}

/* Rank 0 of 3, in two groups of all. */
static fixture_t open_fixture(void)
{
    fake_reset();
    fixture_t f = {0};
    weft_error_t error;
    weft_transport_config_t config = config_of(0);
    assert_int_equal(weft_transport_open("nccl", &config, &f.transport, &error), WEFT_OK);
    f.ops = weft_transport_table(f.transport);
    assert_int_equal(f.ops->group_create(f.transport, 1, all_ranks, 3, &f.first, &error), WEFT_OK);
    assert_int_equal(f.ops->group_create(f.transport, 2, all_ranks, 3, &f.second, &error), WEFT_OK);
    f.calls = fake.num_calls;
    return f;
}

/* Whatever happened, nothing is left behind. */
static void close_fixture(fixture_t *f)
{
    weft_transport_close(f->transport);
    assert_int_equal(fake.num_streams, 0);
    assert_int_equal(fake.num_events, 0);
    assert_int_equal(fake.num_allocations, 0);
    assert_int_equal(fake.num_aborted + fake.num_destroyed, fake.num_comms);
    assert_false(fake.not_ready_kept);
}

static weft_op_t *broadcast(fixture_t *f, weft_group_t *group)
{
    weft_op_t *op = NULL;
    assert_int_equal(f->ops->broadcast_start(f->transport, group, 0, data, sizeof data, &op), WEFT_OK);
    return op;
}

static weft_op_t *send_to(fixture_t *f, uint32_t peer)
{
    weft_op_t *op = NULL;
    assert_int_equal(f->ops->send_start(f->transport, peer, data, sizeof data, &op), WEFT_OK);
    return op;
}

static weft_op_t *receive_from(fixture_t *f, uint32_t peer)
{
    weft_op_t *op = NULL;
    assert_int_equal(f->ops->recv_start(f->transport, peer, data, sizeof data, &op), WEFT_OK);
    return op;
}

static bool done(fixture_t *f, weft_op_t *op)
{
    bool ended = false;
    weft_error_t error = {.message = ""};
    weft_status_t status = f->ops->test(f->transport, op, &ended, &error);
    if (status != WEFT_OK)
        fail_msg("%s", error.message);
    return ended;
}

static void fails(fixture_t *f, weft_op_t *op, weft_status_t expected, const char *named)
{
    bool ended = false;
    weft_error_t error = {.message = ""};
    assert_int_equal(f->ops->test(f->transport, op, &ended, &error), expected);
    assert_true(ended);
    assert_non_null(strstr(error.message, "rank 0"));
    assert_non_null(strstr(error.message, named));
}

static void test_opening(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    assert_int_equal(fake.num_comms, 3); /* the world, two groups */
    assert_int_equal(f.calls, 2);        /* each group is connected */
    assert_int_equal(fake.config.blocking, 0);
    assert_int_equal(fake.config.maxCTAs, 4);
    assert_int_equal(fake.last_stream->flags, cudaStreamNonBlocking);
    assert_int_equal(fake.last_stream->priority, 3); /* the least */
    assert_string_equal(getenv("NCCL_HOSTID"), "weft-r0");
    assert_string_equal(getenv("NCCL_NET"), "Socket");
    assert_string_equal(getenv("NCCL_NVLS_ENABLE"), "0");
    f.ops->group_destroy(f.transport, f.first);
    assert_int_equal(fake.num_destroyed, 1);
    close_fixture(&f);
    assert_int_equal(fake.num_finalized, 3);
    assert_int_equal(fake.num_destroyed, 3);
}

static void test_done_needs_call_event_and_health(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    fake.hold_calls = fake.hold_events = true;
    fake.last_event = NULL;
    weft_op_t *op = broadcast(&f, f.first);
    assert_false(done(&f, op));
    assert_null(fake.last_event); /* nothing is recorded before the call has ended */

    fake_end_calls(ncclSuccess);
    assert_false(done(&f, op));
    assert_non_null(fake.last_event);
    cudaEvent_t event = fake.last_event;

    fake.comms[1].state = ncclInProgress;
    event->reached = true;
    assert_false(done(&f, op)); /* reached, but the communicator is not at rest */
    fake.comms[1].state = ncclSuccess;
    assert_true(done(&f, op));
    close_fixture(&f);
}

static void test_error_outweighs_the_event(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    fake.hold_events = true;
    weft_op_t *sent = broadcast(&f, f.first);
    fake.last_event->reached = true;
    weft_op_t *other = broadcast(&f, f.second);
    fake.hold_calls = true;
    weft_op_t *called = broadcast(&f, f.first), *queued = broadcast(&f, f.first);
    uint32_t calls = fake.num_calls;
    fake.last_event->reached = true;
    fake.comms[1].state = ncclRemoteError;
    fails(&f, sent, WEFT_ERR_PEER_LOST, "group 1");
    fails(&f, called, WEFT_ERR_PEER_LOST, "remote error");
    fails(&f, queued, WEFT_ERR_PEER_LOST, "last error");
    assert_int_equal(fake.num_calls, calls);

    weft_op_t *late = broadcast(&f, f.first);
    fails(&f, late, WEFT_ERR_PEER_LOST, "group 1");
    assert_true(done(&f, other)); /* another group does not suffer */

    fake.hold_calls = false;
    weft_op_t *lone = broadcast(&f, f.second);
    fake.last_event->reached = true;
    fake.comms[2].state = ncclInternalError;
    fails(&f, lone, WEFT_ERR_TRANSPORT, "group 2");
    close_fixture(&f);
    assert_int_equal(fake.num_aborted, 3);
}

static void test_one_broadcast_call_at_a_time(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    fake.hold_calls = true;
    weft_op_t *ops[4] = {broadcast(&f, f.first), broadcast(&f, f.second), broadcast(&f, f.second),
                         broadcast(&f, f.first)};
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(fake.num_calls, f.calls + i + 1);
        assert_false(done(&f, ops[i]));
        fake_end_calls(ncclSuccess);
        assert_true(done(&f, ops[i])); /* although the next call has begun, maybe on the same communicator */
    }
    assert_int_equal(fake.comms[1].calls, 3);
    assert_int_equal(fake.comms[2].calls, 3);
    close_fixture(&f);
}

static void test_first_message_waits_for_those_before(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    fake.hold_events = true;
    weft_op_t *one = send_to(&f, 1), *two = send_to(&f, 2);
    assert_false(done(&f, two));
    assert_int_equal(fake.num_calls, f.calls + 1); /* rank 2 is not met, rank 1's message is not over */
    fake.last_event->reached = true;
    assert_true(done(&f, one));
    assert_false(done(&f, two));
    assert_int_equal(fake.num_calls, f.calls + 2);
    fake.last_event->reached = true;
    assert_true(done(&f, two));

    weft_op_t *more[2] = {send_to(&f, 1), send_to(&f, 2)}; /* both are met */
    assert_int_equal(fake.num_calls, f.calls + 4);
    fake.hold_events = false;
    weft_op_t *third = send_to(&f, 1);
    assert_false(done(&f, third)); /* in order, whatever its own event says */
    f.ops->abort(f.transport);
    (void)more;
    close_fixture(&f);
}

/* Whatever they are: messages both ways, and a broadcast, each handed over when the call before has ended. */
static void test_calls_keep_the_order_started(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    fake.hold_calls = true;
    weft_op_t *out = send_to(&f, 1);
    weft_op_t *all = broadcast(&f, f.first);
    weft_op_t *in = receive_from(&f, 1);
    assert_int_equal(fake.num_calls, f.calls + 1);
    assert_false(done(&f, all));
    fake_end_calls(ncclSuccess);
    assert_true(done(&f, out)); /* and the broadcast is called */
    assert_int_equal(fake.num_calls, f.calls + 2);
    assert_false(done(&f, in));
    fake_end_calls(ncclSuccess);
    assert_true(done(&f, all));
    assert_int_equal(fake.num_calls, f.calls + 3);
    fake_end_calls(ncclSuccess);
    assert_true(done(&f, in));
    close_fixture(&f);
}

static void test_abort(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    fake.hold_calls = fake.hold_events = true;
    weft_op_t *op,
        *started[] = {broadcast(&f, f.first), broadcast(&f, f.second), send_to(&f, 1), receive_from(&f, 0)};
    (void)started;
    uint32_t groups = fake.num_groups;
    assert_true(f.ops->abort(f.transport));
    assert_int_equal(fake.num_groups, groups + 1);
    assert_int_equal(fake.comms_aborted_in_group, 3);
    assert_int_equal(fake.num_aborted, 3);
    assert_int_equal(f.ops->broadcast_start(f.transport, f.first, 0, data, 1, &op), WEFT_ERR_CLOSED);
    assert_int_equal(f.ops->send_start(f.transport, 1, data, 0, &op), WEFT_ERR_CLOSED);
    assert_int_equal(f.ops->allgather(f.transport, data, 1, data, NULL), WEFT_ERR_CLOSED);
    assert_true(f.ops->abort(f.transport));
    assert_int_equal(fake.num_aborted, 3);
    close_fixture(&f);
}

/* Kernels that do not leave keep their buffers. */
static void test_abort_in_vain(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    fake.hold_events = fake.hold_streams = true;
    broadcast(&f, f.first);
    assert_false(f.ops->abort(f.transport));
    assert_false(f.ops->abort(f.transport));
    weft_transport_close(f.transport);
    assert_int_equal(fake.num_allocations, 1); /* the scratch, given up */
    fake_reset();
}

static void test_deadlines(void **state)
{
    (void)state;
    weft_error_t error = {.message = ""};
    weft_transport_t *transport = NULL;
    fake_reset();
    fake.hold_init = true;
    weft_transport_config_t config = config_of(0);
    assert_int_equal(weft_transport_open("nccl", &config, &transport, &error), WEFT_ERR_TIMEOUT);
    assert_null(transport);
    assert_int_equal(fake.num_aborted, 1); /* the half-made one */
    assert_int_equal(fake.num_streams + fake.num_allocations, 0);

    fixture_t f = open_fixture();
    weft_group_t *group = NULL;
    fake.hold_calls = true; /* it comes to be, but does not connect */
    assert_int_equal(f.ops->group_create(f.transport, 3, all_ranks, 3, &group, &error), WEFT_ERR_TIMEOUT);
    assert_null(group);
    assert_non_null(strstr(error.message, "group 3"));
    assert_int_equal(fake.num_aborted, 4);
    assert_int_equal(f.ops->group_create(f.transport, 4, all_ranks, 3, &group, &error), WEFT_ERR_CLOSED);
    close_fixture(&f);
}

static void test_refusals(void **state)
{
    (void)state;
    weft_error_t error = {.message = ""};
    weft_transport_t *transport = NULL;
    fake_reset();
    weft_transport_config_t config = config_of(0);
    config.shared_gpu = false;
    assert_int_equal(weft_transport_open("nccl", &config, &transport, &error), WEFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "ranks 0 and 1"));
    assert_non_null(strstr(error.message, "--shared-gpu"));

    config.shared_gpu = true;
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1", 1);
    assert_int_equal(weft_transport_open("nccl", &config, &transport, &error), WEFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "CUDA_DEVICE_MAX_CONNECTIONS"));
    unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");

    config.device = 1;
    assert_int_equal(weft_transport_open("nccl", &config, &transport, &error), WEFT_ERR_ARGUMENT);
    config.device = -1;
    fake.no_gpu = true;
    assert_int_equal(weft_transport_open("nccl", &config, &transport, &error), WEFT_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "no CUDA-capable device"));
    config.bootstrap = NULL;
    assert_int_equal(weft_transport_open("nccl", &config, &transport, &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "bootstrap"));
    assert_null(transport);
    assert_int_equal(fake.num_comms, 0);
    assert_int_equal(fake.num_streams + fake.num_allocations, 0);
}

static void test_nothing_to_move(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    weft_group_t *alone;
    weft_op_t *ops[4];
    assert_int_equal(f.ops->group_create(f.transport, 3, all_ranks, 1, &alone, NULL), WEFT_OK);
    assert_int_equal(f.ops->broadcast_start(f.transport, alone, 0, data, 9, &ops[0]), WEFT_OK);
    assert_int_equal(f.ops->broadcast_start(f.transport, f.first, 1, data, 0, &ops[1]), WEFT_OK);
    assert_int_equal(f.ops->send_start(f.transport, 1, data, 0, &ops[2]), WEFT_OK);
    assert_int_equal(f.ops->recv_start(f.transport, 0, data, 0, &ops[3]), WEFT_OK);
    for (int i = 0; i < 4; i++)
        assert_true(done(&f, ops[i]));
    assert_int_equal(fake.num_calls, f.calls);
    assert_int_equal(fake.num_comms, 3);
    close_fixture(&f);
}

static void test_messages_to_oneself(void **state)
{
    (void)state;
    fixture_t f = open_fixture();
    char from[2][8] = {"first", "second"}, to[2][8] = {"", ""};
    weft_op_t *ops[4];
    for (int i = 0; i < 2; i++)
        assert_int_equal(f.ops->recv_start(f.transport, 0, to[i], 8, &ops[i]), WEFT_OK);
    assert_false(done(&f, ops[0]));
    for (int i = 0; i < 2; i++)
        assert_int_equal(f.ops->send_start(f.transport, 0, from[i], 8, &ops[2 + i]), WEFT_OK);
    for (int i = 0; i < 4; i++)
        assert_true(done(&f, ops[i]));
    assert_string_equal(to[0], "first");
    assert_string_equal(to[1], "second");
    assert_int_equal(fake.num_copies, 2);
    assert_int_equal(fake.num_calls, f.calls);

    assert_int_equal(f.ops->send_start(f.transport, 0, from[0], 8, &ops[0]), WEFT_OK);
    assert_int_equal(f.ops->recv_start(f.transport, 0, to[0], 7, &ops[1]), WEFT_OK);
    fails(&f, ops[0], WEFT_ERR_TRANSPORT, "8 bytes");
    fails(&f, ops[1], WEFT_ERR_TRANSPORT, "7 were expected");
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening),
        cmocka_unit_test(test_done_needs_call_event_and_health),
        cmocka_unit_test(test_error_outweighs_the_event),
        cmocka_unit_test(test_one_broadcast_call_at_a_time),
        cmocka_unit_test(test_first_message_waits_for_those_before),
        cmocka_unit_test(test_calls_keep_the_order_started),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_abort_in_vain),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_nothing_to_move),
        cmocka_unit_test(test_messages_to_oneself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
