/* Loopback's faults. All ranks live in this one thread, which decides what happens when; only the calls that
 * block get threads. What works is the conformance suite's matter. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "src/base/clock.h"
#include "transport/transport.h"

#define MAX_RANKS 3

typedef struct world {
    weft_loopback_t *hub;
    uint32_t num_ranks;
    weft_transport_t *ranks[MAX_RANKS]; /* NULL: closed */
    weft_group_t *groups[MAX_RANKS];    /* of all ranks */
} world_t;

static const weft_transport_ops_t *const ops = &weft_loopback_ops;
static const uint32_t all_ranks[MAX_RANKS] = {0, 1, 2};

static weft_transport_t *open_rank(world_t *world, uint32_t rank, uint64_t timeout_us)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.loopback = world->hub;
    config.rank = rank;
    config.timeout_us = timeout_us;
    weft_error_t error;
    if (weft_transport_open("loopback", &config, &world->ranks[rank], &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return world->ranks[rank];
}

typedef struct creation {
    world_t *world;
    uint32_t rank, id;
    weft_status_t status;
    pthread_t thread;
} creation_t;

static void *create_group(void *argument)
{
    creation_t *creation = argument;
    world_t *world = creation->world;
    weft_error_t error;
    creation->status = ops->group_create(world->ranks[creation->rank], creation->id, all_ranks,
                                         world->num_ranks, &world->groups[creation->rank], &error);
    return NULL;
}

/* Make a group of all ranks; world->groups forgets the one before, which the hub frees. */
static void form_groups(world_t *world, uint32_t id)
{
    creation_t creations[MAX_RANKS];
    for (uint32_t i = 0; i < world->num_ranks; i++) {
        creations[i] = (creation_t){.world = world, .rank = i, .id = id};
        pthread_create(&creations[i].thread, NULL, create_group, &creations[i]);
    }
    for (uint32_t i = 0; i < world->num_ranks; i++) {
        pthread_join(creations[i].thread, NULL);
        assert_int_equal(creations[i].status, WEFT_OK);
    }
}

static void open_world(world_t *world, uint32_t num_ranks)
{
    *world = (world_t){.num_ranks = num_ranks};
    assert_int_equal(weft_loopback_create(num_ranks, &world->hub), WEFT_OK);
    for (uint32_t i = 0; i < num_ranks; i++)
        open_rank(world, i, 10000000);
    form_groups(world, 0);
}

static void close_rank(world_t *world, uint32_t rank)
{
    weft_transport_close(world->ranks[rank]);
    world->ranks[rank] = NULL;
}

static void close_world(world_t *world)
{
    for (uint32_t i = 0; i < world->num_ranks; i++)
        close_rank(world, i);
    weft_loopback_destroy(world->hub);
}

static weft_op_t *broadcast_in(world_t *world, uint32_t rank, weft_group_t *group, uint32_t root, void *data,
                               size_t bytes)
{
    weft_op_t *op = NULL;
    assert_int_equal(ops->broadcast_start(world->ranks[rank], group, root, data, bytes, &op), WEFT_OK);
    return op;
}

static weft_op_t *broadcast(world_t *world, uint32_t rank, uint32_t root, void *data, size_t bytes)
{
    return broadcast_in(world, rank, world->groups[rank], root, data, bytes);
}

static void expect_pending(world_t *world, uint32_t rank, weft_op_t *op)
{
    bool done = true;
    assert_int_equal(ops->test(world->ranks[rank], op, &done, NULL), WEFT_OK);
    assert_false(done);
}

static void expect_done(world_t *world, uint32_t rank, weft_op_t *op)
{
    bool done = false;
    assert_int_equal(ops->test(world->ranks[rank], op, &done, NULL), WEFT_OK);
    assert_true(done);
}

/* Fails with `status`, and the message has `words`. */
static void expect_failed(world_t *world, uint32_t rank, weft_op_t *op, weft_status_t status,
                          const char *words)
{
    bool done = false;
    weft_error_t error = {0};
    assert_int_equal(ops->test(world->ranks[rank], op, &done, &error), status);
    assert_true(done);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, words))
        fail_msg("\"%s\" lacks \"%s\"", error.message, words);
}

static void test_root_is_done_when_all_have_copied(void **state)
{
    (void)state;
    world_t world;
    open_world(&world, 3);
    char from[4] = "abc", to[2][4] = {"", ""};
    weft_op_t *give = broadcast(&world, 0, 0, from, 4);
    weft_op_t *first = broadcast(&world, 1, 0, to[0], 4);
    expect_pending(&world, 0, give);
    expect_done(&world, 1, first);
    expect_pending(&world, 0, give);
    weft_op_t *second = broadcast(&world, 2, 0, to[1], 4);
    expect_done(&world, 2, second);
    expect_done(&world, 0, give);
    assert_string_equal(to[0], "abc");
    assert_string_equal(to[1], "abc");
    close_world(&world);
}

/* Two groups of the same ranks; one rank starts their broadcasts the other way round. A backend that carries
 * out a rank's broadcasts one after the other would wait for ever, so this one does. */
static void test_orders_of_broadcasts_must_agree(void **state)
{
    (void)state;
    world_t world;
    open_world(&world, 2);
    weft_group_t *first[2] = {world.groups[0], world.groups[1]};
    form_groups(&world, 1);
    weft_group_t *const *second = world.groups;
    char from[2] = "a", to[2] = "";
    weft_op_t *in_flight[2][2] = {
        {broadcast_in(&world, 0, first[0], 0, from, 2), broadcast_in(&world, 0, second[0], 1, to, 2)},
        {broadcast_in(&world, 1, second[1], 1, from, 2), broadcast_in(&world, 1, first[1], 0, to, 2)},
    };
    for (int i = 0; i < 12; i++)
        expect_pending(&world, i & 1, in_flight[i & 1][i / 2 & 1]);
    close_world(&world);
}

/* The root leaves with half of the ranks served. */
static void root_leaves(bool by_abort)
{
    world_t world;
    open_world(&world, 3);
    char from[4] = "abc", to[2][4] = {"", ""};
    broadcast(&world, 0, 0, from, 4);
    weft_op_t *served = broadcast(&world, 1, 0, to[0], 4), *waiting = broadcast(&world, 2, 0, to[1], 4);
    expect_done(&world, 1, served);
    if (by_abort)
        assert_true(ops->abort(world.ranks[0]));
    else
        close_rank(&world, 0);
    memset(from, 'x', sizeof from);
    expect_failed(&world, 2, waiting, WEFT_ERR_PEER_LOST, "rank 2: rank 0 left");
    assert_string_equal(to[1], "");
    /* What starts later fails too. */
    expect_failed(&world, 1, broadcast(&world, 1, 0, to[0], 4), WEFT_ERR_PEER_LOST, "rank 0");
    close_world(&world);
}

static void test_root_aborts(void **state)
{
    (void)state;
    root_leaves(true);
}

static void test_root_closes(void **state)
{
    (void)state;
    root_leaves(false);
}

/* A receiver leaves: the root learns it once the others are served, who lose nothing. */
static void receiver_leaves(bool by_abort)
{
    world_t world;
    open_world(&world, 3);
    char from[4] = "abc", to[2][4] = {"", ""};
    weft_op_t *give = broadcast(&world, 0, 0, from, 4);
    broadcast(&world, 1, 0, to[0], 4);
    if (by_abort)
        assert_true(ops->abort(world.ranks[1]));
    else
        close_rank(&world, 1);
    expect_pending(&world, 0, give);
    weft_op_t *living = broadcast(&world, 2, 0, to[1], 4);
    expect_done(&world, 2, living);
    expect_failed(&world, 0, give, WEFT_ERR_PEER_LOST, "rank 0: rank 1 left");
    assert_string_equal(to[0], "");
    assert_string_equal(to[1], "abc");
    close_world(&world);
}

static void test_receiver_aborts(void **state)
{
    (void)state;
    receiver_leaves(true);
}

static void test_receiver_closes(void **state)
{
    (void)state;
    receiver_leaves(false);
}

static void test_pair_partner_leaves(void **state)
{
    (void)state;
    world_t world;
    open_world(&world, 3);
    char data[3][8];
    weft_op_t *send, *receive, *other;
    assert_int_equal(ops->send_start(world.ranks[0], 1, data[0], 8, &send), WEFT_OK);
    assert_int_equal(ops->recv_start(world.ranks[2], 1, data[2], 8, &receive), WEFT_OK);
    assert_int_equal(ops->recv_start(world.ranks[2], 0, data[1], 8, &other), WEFT_OK);
    close_rank(&world, 1);
    expect_failed(&world, 0, send, WEFT_ERR_PEER_LOST, "rank 0: rank 1 left");
    expect_failed(&world, 2, receive, WEFT_ERR_PEER_LOST, "rank 2: rank 1 left");
    expect_pending(&world, 2, other);
    assert_int_equal(ops->send_start(world.ranks[0], 2, data[0], 8, &send), WEFT_OK);
    expect_done(&world, 2, other);
    expect_done(&world, 0, send);
    close_world(&world);
}

static void test_abort_frees_buffers_and_ends_all(void **state)
{
    (void)state;
    world_t world;
    open_world(&world, 2);
    char data[8] = "before";
    weft_op_t *op;
    broadcast(&world, 1, 0, data, 8);
    assert_int_equal(ops->recv_start(world.ranks[1], 0, data, 8, &op), WEFT_OK);
    assert_true(ops->abort(world.ranks[1]));
    char from[8] = "after";
    expect_failed(&world, 0, broadcast(&world, 0, 0, from, 8), WEFT_ERR_PEER_LOST, "rank 1");
    assert_string_equal(data, "before");

    weft_error_t error;
    weft_group_t *group;
    assert_int_equal(ops->recv_start(world.ranks[1], 0, data, 8, &op), WEFT_ERR_CLOSED);
    assert_int_equal(ops->broadcast_start(world.ranks[1], world.groups[1], 0, data, 8, &op), WEFT_ERR_CLOSED);
    assert_int_equal(ops->allgather(world.ranks[1], data, 1, from, &error), WEFT_ERR_CLOSED);
    assert_int_equal(ops->group_create(world.ranks[1], 1, all_ranks, 2, &group, &error), WEFT_ERR_CLOSED);
    close_world(&world);
}

static void test_unequal_sizes_name_both(void **state)
{
    (void)state;
    world_t world;
    open_world(&world, 3);
    char data[3][64];
    weft_op_t *give = broadcast(&world, 0, 0, data[0], 32);
    weft_op_t *wrong = broadcast(&world, 1, 0, data[1], 48), *right = broadcast(&world, 2, 0, data[2], 32);
    expect_failed(&world, 1, wrong, WEFT_ERR_TRANSPORT, "sent 32 bytes where 48 were expected");
    expect_done(&world, 2, right);
    expect_failed(&world, 0, give, WEFT_ERR_TRANSPORT, "sent 32 bytes where rank 1 expected 48");
    close_world(&world);
}

static void test_deadlines(void **state)
{
    (void)state;
    world_t world = {.num_ranks = 2};
    assert_int_equal(weft_loopback_create(2, &world.hub), WEFT_OK);
    weft_transport_t *rank = open_rank(&world, 0, 50000);
    char all[2];
    weft_group_t *group = NULL;
    weft_error_t error;
    uint64_t start_us = weft_now_us();
    assert_int_equal(ops->allgather(rank, "a", 1, all, &error), WEFT_ERR_TIMEOUT);
    assert_true(weft_now_us() - start_us >= 50000);
    assert_non_null(strstr(error.message, "1 of 2 ranks"));
    assert_int_equal(ops->group_create(rank, 0, all_ranks, 2, &group, &error), WEFT_ERR_TIMEOUT);
    assert_non_null(strstr(error.message, "1 of 2 ranks"));
    assert_null(group);

    /* A peer that has left is not waited for. */
    open_rank(&world, 1, 0);
    close_rank(&world, 1);
    assert_int_equal(ops->allgather(rank, "a", 1, all, &error), WEFT_ERR_PEER_LOST);
    assert_int_equal(ops->group_create(rank, 0, all_ranks, 2, &group, &error), WEFT_ERR_PEER_LOST);
    close_world(&world);
}

typedef struct gathering {
    weft_transport_t *transport;
    size_t bytes;
    weft_status_t status;
    weft_error_t error;
} gathering_t;

static void *gather(void *argument)
{
    gathering_t *gathering = argument;
    char all[16];
    gathering->status =
        ops->allgather(gathering->transport, "abcdefgh", gathering->bytes, all, &gathering->error);
    return NULL;
}

/* Who comes second learns why it cannot be, who came first waits in vain. */
static void test_allgather_of_unequal_sizes(void **state)
{
    (void)state;
    world_t world = {.num_ranks = 2};
    assert_int_equal(weft_loopback_create(2, &world.hub), WEFT_OK);
    gathering_t gatherings[2] = {{.bytes = 1}, {.bytes = 8}};
    pthread_t threads[2];
    for (uint32_t i = 0; i < 2; i++)
        gatherings[i].transport = open_rank(&world, i, 300000);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, gather, &gatherings[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    const gathering_t *second = &gatherings[gatherings[1].status == WEFT_ERR_TRANSPORT];
    const gathering_t *first = &gatherings[second == &gatherings[0]];
    assert_int_equal(second->status, WEFT_ERR_TRANSPORT);
    assert_non_null(strstr(second->error.message, second->bytes == 1 ? "came with 8" : "came with 1"));
    assert_int_equal(first->status, WEFT_ERR_TIMEOUT);
    close_world(&world);
}

static void test_reopen(void **state)
{
    (void)state;
    world_t world;
    open_world(&world, 2);
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *again = NULL;
    weft_error_t error;
    config.loopback = world.hub;
    config.timeout_us = 20000;
    assert_int_equal(weft_transport_open("loopback", &config, &again, &error), WEFT_ERR_ARGUMENT);
    close_rank(&world, 0);
    assert_int_equal(weft_transport_open("loopback", &config, &again, &error), WEFT_ERR_TIMEOUT);
    close_rank(&world, 1);
    assert_int_equal(weft_transport_open("loopback", &config, &again, &error), WEFT_OK);
    weft_transport_close(again);
    weft_loopback_destroy(world.hub);
}

static void test_hub_arguments(void **state)
{
    (void)state;
    weft_loopback_t *hub = NULL;
    assert_int_equal(weft_loopback_create(0, &hub), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_loopback_create(1, NULL), WEFT_ERR_ARGUMENT);
    assert_null(hub);
    assert_int_equal(weft_loopback_create(2, &hub), WEFT_OK);
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *transport = NULL;
    config.loopback = hub;
    config.rank = 2;
    assert_int_equal(weft_transport_open("loopback", &config, &transport, NULL), WEFT_ERR_ARGUMENT);
    assert_null(transport);
    weft_loopback_destroy(hub);
    weft_loopback_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root_is_done_when_all_have_copied),
        cmocka_unit_test(test_orders_of_broadcasts_must_agree),
        cmocka_unit_test(test_root_aborts),
        cmocka_unit_test(test_root_closes),
        cmocka_unit_test(test_receiver_aborts),
        cmocka_unit_test(test_receiver_closes),
        cmocka_unit_test(test_pair_partner_leaves),
        cmocka_unit_test(test_abort_frees_buffers_and_ends_all),
        cmocka_unit_test(test_unequal_sizes_name_both),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_allgather_of_unequal_sizes),
        cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_hub_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
