/* The suite on loopback: every rank is a thread, for 1 to 6 ranks (4 under ThreadSanitizer); three of them open
 * the same hub twice. WEFT_SEED repeats a run, WEFT_CASE names the only case to run. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "src/base/clock.h"
#include "tests/conformance/suite.h"

/* ThreadSanitizer takes twenty times as long, half of it for the two largest worlds. */
#if defined(__SANITIZE_THREAD__)
#define MOST_RANKS 4
#else
#define MOST_RANKS 6
#endif

typedef struct rank {
    weft_transport_config_t config;
    uint64_t seed;
    suite_t suite;
    bool passed;
    pthread_barrier_t *barrier;
    pthread_t thread;
} rank_t;

static void meet(void *barrier)
{
    pthread_barrier_wait(barrier);
}

static void *run_rank(void *argument)
{
    rank_t *rank = argument;
    weft_transport_t *transport;
    weft_error_t error;
    if (weft_transport_open("loopback", &rank->config, &transport, &error) != WEFT_OK) {
        snprintf(rank->suite.note, sizeof rank->suite.note, "%.500s", error.message);
        return NULL;
    }
    const suite_options_t options = {.meet = meet, .user = rank->barrier};
    rank->passed = suite_run(&rank->suite, transport, &options, rank->seed, getenv("WEFT_CASE"));
    weft_transport_close(transport);
    return NULL;
}

static void run_world(weft_loopback_t *hub, uint32_t num_ranks, uint64_t seed)
{
    rank_t ranks[6] = {0};
    pthread_barrier_t barrier;
    assert_int_equal(pthread_barrier_init(&barrier, NULL, num_ranks), 0);
    for (uint32_t i = 0; i < num_ranks; i++) {
        ranks[i].config = WEFT_TRANSPORT_CONFIG;
        ranks[i].config.loopback = hub;
        ranks[i].config.rank = i;
        ranks[i].seed = seed;
        ranks[i].barrier = &barrier;
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]), 0);
    }
    bool passed = true;
    for (uint32_t i = 0; i < num_ranks; i++) {
        pthread_join(ranks[i].thread, NULL);
        passed = passed && ranks[i].passed;
        if (!ranks[i].passed)
            print_error("%s\n", ranks[i].suite.note);
    }
    pthread_barrier_destroy(&barrier);
    assert_true(passed);
}

static void test_suite(void **state)
{
    (void)state;
    const char *given = getenv("WEFT_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : weft_now_ns();
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint32_t num_ranks = 1; num_ranks <= MOST_RANKS; num_ranks++) {
        weft_loopback_t *hub;
        assert_int_equal(weft_loopback_create(num_ranks, &hub), WEFT_OK);
        run_world(hub, num_ranks, seed);
        if (num_ranks == 3)
            run_world(hub, num_ranks, seed + 1);
        weft_loopback_destroy(hub);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_suite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
