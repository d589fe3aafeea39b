#include "tests/conformance/suite.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"

#define DEADLINE_US 20000000u
#define MIB         ((size_t)1 << 20)
#define ORDER_COUNT 32 /* messages from each rank to each */
#define ORDER_BYTES 64

/* Write the first failure down and leave the case. */
#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            return failed(suite, __VA_ARGS__);                                                               \
    } while (0)

#define TRY(expression)                                                                                      \
    do {                                                                                                     \
        if (!(expression))                                                                                   \
            return false;                                                                                    \
    } while (0)

static bool failed(suite_t *suite, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool failed(suite_t *suite, const char *format, ...)
{
    if (suite->note[0])
        return false;
    int used = snprintf(suite->note, sizeof suite->note, "rank %u of %u, %s, seed %llu: ", suite->rank,
                        suite->num_ranks, suite->name, (unsigned long long)suite->seed);
    va_list args;
    va_start(args, format);
    vsnprintf(suite->note + used, sizeof suite->note - (size_t)used, format, args);
    va_end(args);
    return false;
}

/* A message in flight: what it must hold is known from `seed`, on the receiving side it is compared at the
 * end. */
typedef struct message {
    weft_op_t *op; /* NULL: not started, or ended */
    unsigned char *data;
    size_t bytes;
    uint64_t seed;
} message_t;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t state = a * 0x9e3779b97f4a7c15u + b;
    return next_random(&state);
}

static unsigned char expected_byte(uint64_t seed, size_t i)
{
    return (unsigned char)((seed >> (i % 8 * 8)) + i / 8 * 37);
}

static void *allocate_host(size_t bytes)
{
    return malloc(bytes);
}

static bool copy_host(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return true;
}

static const suite_memory_t host_memory = {
    .allocate = allocate_host, .release = free, .write = copy_host, .read = copy_host};

/* Memory with the message's content, or with something else where it is still to come. One byte more is
 * guarded. */
static bool prepare(suite_t *suite, message_t *message, size_t bytes, uint64_t seed, bool sends)
{
    const suite_memory_t *memory = suite->options.memory;
    unsigned char *content = malloc(bytes + 1);
    *message = (message_t){.data = memory->allocate(bytes + 1), .bytes = bytes, .seed = seed};
    for (size_t i = 0; content && i < bytes; i++)
        content[i] = (unsigned char)(expected_byte(seed, i) ^ (sends ? 0 : 0xff));
    if (content)
        content[bytes] = 0xa5;
    bool written = content && message->data && memory->write(message->data, content, bytes + 1);
    free(content);
    CHECK(written, "no memory for a message of %zu bytes", bytes);
    return true;
}

static bool compare(suite_t *suite, const message_t *message, const unsigned char *content)
{
    for (size_t i = 0; i < message->bytes; i++)
        CHECK(content[i] == expected_byte(message->seed, i), "byte %zu of %zu is %u, not %u", i,
              message->bytes, content[i], expected_byte(message->seed, i));
    CHECK(content[message->bytes] == 0xa5, "written past the end of %zu bytes", message->bytes);
    return true;
}

static bool check(suite_t *suite, const message_t *message)
{
    unsigned char *content = malloc(message->bytes + 1);
    CHECK(content, "out of memory");
    bool read = suite->options.memory->read(content, message->data, message->bytes + 1);
    bool equal = read && compare(suite, message, content);
    free(content);
    CHECK(read, "%zu bytes cannot be read", message->bytes);
    return equal;
}

static bool test(suite_t *suite, message_t *message, bool *done)
{
    weft_error_t error = {0};
    weft_status_t status = suite->ops->test(suite->transport, message->op, done, &error);
    CHECK(status == WEFT_OK, "%s: %s", weft_status_name(status), error.message);
    if (!*done)
        return true;
    message->op = NULL;
    return check(suite, message);
}

/* Test until all have ended. Messages may end in any order. */
static bool finish(suite_t *suite, message_t *messages, size_t count)
{
    uint64_t deadline_us = weft_now_us() + DEADLINE_US;
    for (size_t pending = count; pending > 0;) {
        pending = 0;
        for (size_t i = 0; i < count; i++) {
            bool done;
            if (!messages[i].op)
                continue;
            TRY(test(suite, &messages[i], &done));
            pending += !done;
        }
        CHECK(weft_now_us() < deadline_us, "%zu of %zu operations do not end", pending, count);
        if (pending)
            weft_sleep_us(20);
    }
    return true;
}

static void release(suite_t *suite, message_t *messages, size_t count)
{
    for (size_t i = 0; i < count; i++)
        suite->options.memory->release(messages[i].data);
    free(messages);
}

static message_t *new_messages(size_t count)
{
    return calloc(count + 1, sizeof(message_t));
}

/* A group with its ranks in order, as all of them create it. */
typedef struct ring {
    weft_group_t *group;
    uint32_t ranks[64], count;
    bool mine;
} ring_t;

static bool create(suite_t *suite, ring_t *ring)
{
    uint32_t id = suite->next_group++;
    for (uint32_t i = 0; i < ring->count; i++)
        ring->mine = ring->mine || ring->ranks[i] == suite->rank;
    if (!ring->mine)
        return true;
    weft_error_t error;
    CHECK(suite->ops->group_create(suite->transport, id, ring->ranks, ring->count, &ring->group, &error) ==
              WEFT_OK,
          "%s", error.message);
    return true;
}

static void destroy(suite_t *suite, ring_t *ring)
{
    suite->ops->group_destroy(suite->transport, ring->group);
}

static bool create_world(suite_t *suite, ring_t *world)
{
    *world = (ring_t){.count = suite->num_ranks};
    for (uint32_t i = 0; i < world->count; i++)
        world->ranks[i] = i;
    return create(suite, world);
}

static bool start_broadcast(suite_t *suite, const ring_t *ring, uint32_t root, size_t bytes, uint64_t seed,
                            message_t *message)
{
    TRY(prepare(suite, message, bytes, seed, ring->ranks[root] == suite->rank));
    weft_status_t status =
        suite->ops->broadcast_start(suite->transport, ring->group, root, message->data, bytes, &message->op);
    CHECK(status == WEFT_OK, "broadcast_start: %s", weft_status_name(status));
    return true;
}

static bool start_send(suite_t *suite, uint32_t peer, size_t bytes, uint64_t seed, message_t *message)
{
    TRY(prepare(suite, message, bytes, seed, true));
    weft_status_t status = suite->ops->send_start(suite->transport, peer, message->data, bytes, &message->op);
    CHECK(status == WEFT_OK, "send_start: %s", weft_status_name(status));
    return true;
}

static bool start_receive(suite_t *suite, uint32_t peer, size_t bytes, uint64_t seed, message_t *message)
{
    TRY(prepare(suite, message, bytes, seed, false));
    weft_status_t status = suite->ops->recv_start(suite->transport, peer, message->data, bytes, &message->op);
    CHECK(status == WEFT_OK, "recv_start: %s", weft_status_name(status));
    return true;
}

static bool case_allgather(suite_t *suite)
{
    static const size_t sizes[] = {0, 1, 8, 1000};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        unsigned char mine[1000], all[64 * 1000];
        weft_error_t error;
        for (size_t i = 0; i < sizes[k]; i++)
            mine[i] = expected_byte(mix(suite->rank, k), i);
        CHECK(suite->ops->allgather(suite->transport, mine, sizes[k], all, &error) == WEFT_OK, "%s",
              error.message);
        for (uint32_t rank = 0; rank < suite->num_ranks; rank++)
            for (size_t i = 0; i < sizes[k]; i++)
                CHECK(all[rank * sizes[k] + i] == expected_byte(mix(rank, k), i), "rank %u's bytes differ",
                      rank);
    }
    return true;
}

static bool case_broadcast_sizes(suite_t *suite)
{
    static const size_t sizes[] = {0, 1, 255, 256, MIB + 3};
    ring_t world;
    TRY(create_world(suite, &world));
    for (uint32_t root = 0; root < suite->num_ranks; root++)
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            message_t *message = new_messages(1);
            bool ok = start_broadcast(suite, &world, root, sizes[k], mix(root, k), message) &&
                      finish(suite, message, 1);
            release(suite, message, 1);
            TRY(ok);
        }
    destroy(suite, &world);
    return true;
}

static bool case_pair_sizes(suite_t *suite)
{
    static const size_t sizes[] = {0, 1, 255, 256, MIB + 3};
    uint32_t to = (suite->rank + 1) % suite->num_ranks,
             from = (suite->rank + suite->num_ranks - 1) % suite->num_ranks;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        message_t *messages = new_messages(2);
        bool sends_first = suite->rank < from; /* messages stand in the order of their senders */
        bool ok = (sends_first || start_receive(suite, from, sizes[k], mix(from, k), &messages[0])) &&
                  start_send(suite, to, sizes[k], mix(suite->rank, k), &messages[1]) &&
                  (!sends_first || start_receive(suite, from, sizes[k], mix(from, k), &messages[0])) &&
                  finish(suite, messages, 2);
        release(suite, messages, 2);
        TRY(ok);
    }
    return true;
}

static bool case_many_in_flight(suite_t *suite)
{
    enum { COUNT = 300 };
    ring_t world;
    TRY(create_world(suite, &world));
    message_t *messages = new_messages(COUNT);
    bool ok = true;
    for (uint32_t i = 0; ok && i < COUNT; i++)
        ok = start_broadcast(suite, &world, i % suite->num_ranks, i * 17 % 5000, mix(1, i), &messages[i]);
    ok = ok && finish(suite, messages, COUNT);
    release(suite, messages, COUNT);
    TRY(ok);
    destroy(suite, &world);
    return true;
}

/* All pairs of neighbours, the even ranks, all ranks in reverse: each rank is in several. */
static bool create_overlapping(suite_t *suite, ring_t *rings, size_t *count)
{
    size_t n = 0;
    for (uint32_t i = 0; i + 1 < suite->num_ranks; i++)
        rings[n++] = (ring_t){.ranks = {i, i + 1}, .count = 2};
    ring_t *even = &rings[n++], *reverse = &rings[n++];
    *even = *reverse = (ring_t){.count = 0};
    for (uint32_t i = 0; i < suite->num_ranks; i += 2)
        even->ranks[even->count++] = i;
    for (uint32_t i = suite->num_ranks; i > 0; i--)
        reverse->ranks[reverse->count++] = i - 1;
    for (size_t i = 0; i < n; i++)
        TRY(create(suite, &rings[i]));
    *count = n;
    return true;
}

static void destroy_all(suite_t *suite, ring_t *rings, size_t count)
{
    for (size_t i = 0; i < count; i++)
        destroy(suite, &rings[i]);
}

static bool case_overlapping_groups(suite_t *suite)
{
    enum { ROUNDS = 12 };
    ring_t rings[66];
    size_t num_rings, started = 0;
    TRY(create_overlapping(suite, rings, &num_rings));
    message_t *messages = new_messages(ROUNDS * num_rings);
    bool ok = true;
    for (uint32_t round = 0; round < ROUNDS; round++)
        for (size_t i = 0; ok && i < num_rings; i++)
            if (rings[i].mine)
                ok = start_broadcast(suite, &rings[i], round % rings[i].count, 100 + round * 997 * (i + 1),
                                     mix(round, i), &messages[started++]);
    ok = ok && finish(suite, messages, started);
    release(suite, messages, started);
    TRY(ok);
    destroy_all(suite, rings, num_rings);
    return true;
}

/* As a routed bucket travels: from rank 0 to one member of a set, then by broadcast through the set. */
static bool case_pairs_and_broadcasts(suite_t *suite)
{
    enum { ROUNDS = 40 };
    ring_t world;
    TRY(create_world(suite, &world));
    message_t *messages = new_messages(4 * ROUNDS);
    size_t started = 0;
    bool ok = true;
    for (uint32_t round = 0; ok && round < ROUNDS; round++) {
        uint32_t head = round % suite->num_ranks;
        size_t bytes = round * 1999;
        if (suite->rank == 0)
            ok = ok && start_send(suite, head, bytes, mix(2, round), &messages[started++]);
        if (suite->rank == head)
            ok = ok && start_receive(suite, 0, bytes, mix(2, round), &messages[started++]);
        ok = ok && start_broadcast(suite, &world, head, bytes, mix(3, round), &messages[started++]);
    }
    ok = ok && finish(suite, messages, started);
    release(suite, messages, started);
    TRY(ok);
    destroy(suite, &world);
    return true;
}

/* Equal sizes, so that only the content tells one message from the next. */
static bool start_messages(suite_t *suite, message_t *messages, size_t *started)
{
    uint32_t n = suite->num_ranks;
    for (uint32_t i = 0; i < ORDER_COUNT; i++)
        for (uint32_t from = 0; from < n; from++)
            for (uint32_t to = 0; to < n; to++) {
                uint64_t seed = mix((uint64_t)from * n + to, i);
                if (from == suite->rank)
                    TRY(start_send(suite, to, ORDER_BYTES, seed, &messages[(*started)++]));
                if (to == suite->rank)
                    TRY(start_receive(suite, from, ORDER_BYTES, seed, &messages[(*started)++]));
            }
    return true;
}

static bool case_message_order(suite_t *suite)
{
    size_t started = 0, most = 2 * (size_t)ORDER_COUNT * suite->num_ranks;
    message_t *messages = new_messages(most);
    bool ok = start_messages(suite, messages, &started);
    ok = ok && finish(suite, messages, started);
    release(suite, messages, most);
    return ok;
}

static bool case_group_of_one(suite_t *suite)
{
    for (uint32_t i = 0; i < suite->num_ranks; i++) {
        ring_t alone = {.ranks = {i}, .count = 1};
        TRY(create(suite, &alone));
        if (!alone.mine)
            continue;
        message_t *message = new_messages(1);
        bool ok = start_broadcast(suite, &alone, 0, 1000, mix(4, i), message) && finish(suite, message, 1);
        release(suite, message, 1);
        TRY(ok);
        destroy(suite, &alone);
    }
    return true;
}

static bool case_groups_come_and_go(suite_t *suite)
{
    int rounds = suite->options.costly_group ? 2 : 20;
    for (int round = 0; round < rounds; round++) {
        ring_t rings[66];
        size_t num_rings;
        TRY(create_overlapping(suite, rings, &num_rings));
        destroy_all(suite, rings, num_rings);
    }
    return true;
}

/* The root starts only after every other rank has tested its receives often: were a test to wait for it,
 * nothing would go on. */
static bool test_in_vain(suite_t *suite, const ring_t *world, message_t *messages)
{
    bool done;
    TRY(start_broadcast(suite, world, 0, 5000, 5, &messages[0]));
    TRY(start_receive(suite, 0, 5000, 6, &messages[1]));
    for (int i = 0; i < 200; i++)
        for (int k = 0; k < 2; k++) {
            TRY(test(suite, &messages[k], &done));
            CHECK(!done, "an operation ended before its other side began");
        }
    suite->options.meet(suite->options.user);
    return finish(suite, messages, 2);
}

static bool root_comes_late(suite_t *suite, const ring_t *world, message_t *messages)
{
    uint32_t others = suite->num_ranks - 1;
    suite->options.meet(suite->options.user);
    TRY(start_broadcast(suite, world, 0, 5000, 5, &messages[0]));
    for (uint32_t i = 0; i < others; i++)
        TRY(start_send(suite, i + 1, 5000, 6, &messages[1 + i]));
    return finish(suite, messages, 1 + others);
}

static bool case_test_never_blocks(suite_t *suite)
{
    ring_t world;
    TRY(create_world(suite, &world));
    size_t count = suite->num_ranks + 2;
    message_t *messages = new_messages(count);
    bool ok = suite->rank ? test_in_vain(suite, &world, messages) : root_comes_late(suite, &world, messages);
    release(suite, messages, count);
    TRY(ok);
    destroy(suite, &world);
    return true;
}

static bool case_refusals(suite_t *suite)
{
    ring_t world;
    TRY(create_world(suite, &world));
    const weft_transport_ops_t *ops = suite->ops;
    weft_transport_t *transport = suite->transport;
    uint32_t out = suite->num_ranks, twice[2] = {suite->rank, suite->rank}, beyond[2] = {suite->rank, out};
    size_t too_many = (size_t)WEFT_MAX_MESSAGE_BYTES + 1;
    unsigned char byte = 0;
    weft_op_t *op = NULL;
    weft_group_t *group = NULL;
    weft_error_t error;
    CHECK(ops->broadcast_start(transport, world.group, out, &byte, 1, &op) == WEFT_ERR_ARGUMENT, "root");
    CHECK(ops->broadcast_start(transport, world.group, 0, &byte, too_many, &op) == WEFT_ERR_ARGUMENT, "size");
    CHECK(ops->send_start(transport, out, &byte, 1, &op) == WEFT_ERR_ARGUMENT, "peer");
    CHECK(ops->send_start(transport, 0, &byte, too_many, &op) == WEFT_ERR_ARGUMENT, "size");
    CHECK(ops->recv_start(transport, out, &byte, 1, &op) == WEFT_ERR_ARGUMENT, "peer");
    CHECK(ops->recv_start(transport, 0, &byte, too_many, &op) == WEFT_ERR_ARGUMENT, "size");
    CHECK(ops->group_create(transport, 9, twice, 2, &group, &error) == WEFT_ERR_ARGUMENT, "twice");
    CHECK(ops->group_create(transport, 9, beyond, 2, &group, &error) == WEFT_ERR_ARGUMENT, "beyond");
    CHECK(ops->group_create(transport, 9, twice, 0, &group, &error) == WEFT_ERR_ARGUMENT, "empty");
    CHECK(ops->group_create(transport, WEFT_MAX_GROUPS, twice, 1, &group, &error) == WEFT_ERR_ARGUMENT, "id");
    CHECK(!op && !group, "an output was written on failure");
    destroy(suite, &world);
    ops->group_destroy(transport, NULL);
    return true;
}

/* Both sides expect another size of one message, then go on with the next. */
static bool case_unequal_sizes(suite_t *suite)
{
    uint32_t partner = suite->rank ^ 1;
    if (partner >= suite->num_ranks || suite->options.equal_sizes)
        return true;
    for (size_t extra = 0; extra < 2; extra++) { /* too long, too short */
        unsigned char out[64] = {0}, in[64] = {0};
        weft_op_t *ops[2];
        bool done[2] = {false, false};
        weft_status_t status[2] = {WEFT_OK, WEFT_OK};
        weft_error_t error = {0};
        if (suite->rank < partner)
            suite->ops->send_start(suite->transport, partner, out, extra ? 32 : 33, &ops[0]);
        suite->ops->recv_start(suite->transport, partner, in, extra ? 33 : 32, &ops[1]);
        if (suite->rank > partner)
            suite->ops->send_start(suite->transport, partner, out, extra ? 32 : 33, &ops[0]);
        uint64_t deadline_us = weft_now_us() + DEADLINE_US;
        while (!done[0] || !done[1]) {
            for (int k = 0; k < 2; k++)
                if (!done[k])
                    status[k] = suite->ops->test(suite->transport, ops[k], &done[k], &error);
            CHECK(weft_now_us() < deadline_us, "a message of another size never ends");
        }
        CHECK(status[1] == WEFT_ERR_TRANSPORT, "32 and 33 bytes are taken as equal");
        CHECK(strstr(error.message, "32"), "\"%s\" does not say what was expected", error.message);
    }
    return true;
}

/* One global list of operations, known to all from the seed; each rank starts its own of them in order, keeps
 * some in flight and tests them in an order of its own. */
typedef struct schedule {
    uint64_t state; /* alike on all ranks */
    ring_t rings[66];
    size_t num_rings;
    message_t *window;
} schedule_t;

enum { WINDOW = 24, SCHEDULE_LENGTH = 1500 };

static bool find_place(suite_t *suite, schedule_t *schedule, uint64_t *own, message_t **place)
{
    uint64_t deadline_us = weft_now_us() + DEADLINE_US;
    for (unsigned tries = 1;; tries++) {
        message_t *message = &schedule->window[next_random(own) % WINDOW];
        bool done = true;
        if (message->op)
            TRY(test(suite, message, &done));
        if (done) {
            suite->options.memory->release(message->data);
            *message = (message_t){0};
            *place = message;
            return true;
        }
        CHECK(weft_now_us() < deadline_us, "the schedule stands still");
        if (tries % WINDOW == 0)
            weft_sleep_us(20);
    }
}

static size_t random_size(uint64_t random)
{
    static const size_t limits[] = {1, 64, 4096, 20000, 200000};
    return (random >> 8) % limits[random % 5];
}

static bool schedule_pair(suite_t *suite, schedule_t *schedule, uint64_t *own)
{
    uint32_t from = (uint32_t)(next_random(&schedule->state) % suite->num_ranks);
    uint32_t to = (uint32_t)(next_random(&schedule->state) % suite->num_ranks);
    size_t bytes = random_size(next_random(&schedule->state));
    uint64_t seed = next_random(&schedule->state);
    message_t *place;
    /* A message to oneself takes two places at once: the send must not wait for the place of its receive. */
    if (from == to)
        return true;
    if (suite->rank == from)
        return find_place(suite, schedule, own, &place) && start_send(suite, to, bytes, seed, place);
    if (suite->rank == to)
        return find_place(suite, schedule, own, &place) && start_receive(suite, from, bytes, seed, place);
    return true;
}

static bool schedule_broadcast(suite_t *suite, schedule_t *schedule, uint64_t *own)
{
    const ring_t *ring = &schedule->rings[next_random(&schedule->state) % schedule->num_rings];
    uint32_t root = (uint32_t)(next_random(&schedule->state) % ring->count);
    size_t bytes = random_size(next_random(&schedule->state));
    uint64_t seed = next_random(&schedule->state);
    message_t *place;
    if (!ring->mine)
        return true;
    return find_place(suite, schedule, own, &place) && start_broadcast(suite, ring, root, bytes, seed, place);
}

static bool run_schedule(suite_t *suite, schedule_t *schedule)
{
    uint64_t own = mix(suite->seed, suite->rank + 1);
    for (int i = 0; i < SCHEDULE_LENGTH; i++)
        TRY(next_random(&schedule->state) % 3 == 0 ? schedule_pair(suite, schedule, &own)
                                                   : schedule_broadcast(suite, schedule, &own));
    return finish(suite, schedule->window, WINDOW);
}

static bool case_random_schedule(suite_t *suite)
{
    schedule_t schedule = {.state = suite->seed, .window = new_messages(WINDOW)};
    TRY(create_overlapping(suite, schedule.rings, &schedule.num_rings));
    bool ok = run_schedule(suite, &schedule);
    release(suite, schedule.window, WINDOW);
    TRY(ok);
    destroy_all(suite, schedule.rings, schedule.num_rings);
    return true;
}

static const struct {
    const char *name;
    bool (*run)(suite_t *suite);
} cases[] = {
    {"allgather", case_allgather},
    {"broadcast sizes", case_broadcast_sizes},
    {"pair sizes", case_pair_sizes},
    {"many in flight", case_many_in_flight},
    {"overlapping groups", case_overlapping_groups},
    {"pairs and broadcasts", case_pairs_and_broadcasts},
    {"message order", case_message_order},
    {"group of one", case_group_of_one},
    {"groups come and go", case_groups_come_and_go},
    {"test never blocks", case_test_never_blocks},
    {"refusals", case_refusals},
    {"unequal sizes", case_unequal_sizes},
    {"random schedule", case_random_schedule},
};

bool suite_run(suite_t *suite, weft_transport_t *transport, const suite_options_t *options, uint64_t seed,
               const char *only)
{
    *suite = (suite_t){.transport = transport,
                       .ops = weft_transport_table(transport),
                       .rank = weft_transport_rank(transport),
                       .num_ranks = weft_transport_num_ranks(transport),
                       .options = *options,
                       .seed = seed};
    if (!suite->options.memory)
        suite->options.memory = &host_memory;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        suite->name = cases[i].name;
        if (only && !strstr(suite->name, only))
            continue;
        if (cases[i].run(suite))
            continue;
        suite->ops->abort(transport);
        return false;
    }
    return true;
}
