/* Workers of the host's queue: starts one after the other, their items side by side, tickets behind what they are for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/host/pool.h"
#include "src/base/clock.h"
#include "tests/support/random.h"

#define STAGES 3000 /* more than wait at once */
#define WIDTH  16

typedef struct board {
    uint32_t stage;              /* that is being done */
    uint32_t cells[WIDTH];       /* each item writes its own */
    _Atomic uint32_t wrong;
    uint32_t naps_us;
} board_t;

/* Every item of a stage must find what all items of the stage before have left. */
static weft_status_t write_cell(void *user, uint32_t item)
{
    board_t *board = user;
    uint32_t stage = item / WIDTH, cell = item % WIDTH;
    board->wrong += board->cells[cell] != stage;
    if (board->naps_us && cell == stage % WIDTH)
        weft_sleep_us(board->naps_us);
    board->cells[cell] = stage + 1;
    return WEFT_OK;
}

static weft_status_t check_stage(void *user, uint32_t stage)
{
    board_t *board = user;
    for (uint32_t cell = 0; cell < WIDTH; cell++)
        board->wrong += board->cells[cell] != stage + 1;
    return WEFT_OK;
}

static void run_stages(uint32_t workers, uint32_t stages, uint32_t naps_us)
{
    board_t board = {.naps_us = naps_us};
    weft_pool_t *pool;
    uint64_t ticket = 0, done;
    assert_int_equal(weft_pool_create(workers, &pool), WEFT_OK);
    for (uint32_t stage = 0; stage < stages; stage++) {
        weft_pool_start(pool, write_cell, &board, stage * WIDTH, WIDTH, false);
        weft_pool_start(pool, check_stage, &board, stage, 1, false);
        ticket = weft_pool_mark(pool);
        assert_int_equal(ticket, stage + 1);
    }
    do
        assert_int_equal(weft_pool_poll(pool, &done), WEFT_OK);
    while (done < ticket);
    assert_int_equal(board.cells[0], stages);
    assert_int_equal(board.wrong, 0);
    weft_pool_destroy(pool);
}

static void test_starts_follow_each_other(void **state)
{
    (void)state;
    run_stages(1, STAGES, 0);
    run_stages(3, STAGES, 0);
    run_stages(7, STAGES / 4, 20);
}

/* ---- starts that are apart ---- */

typedef struct gate {
    _Atomic uint32_t waiting, passed;
    _Atomic bool together; /* two starts were seen at work at the same time */
} gate_t;

/* Ends when another start's item is there too, or after a while. */
static weft_status_t meet_other(void *user, uint32_t item)
{
    gate_t *gate = user;
    (void)item;
    gate->waiting++;
    for (uint32_t i = 0; i < 500 && !gate->together; i++) {
        if (gate->waiting > 1)
            gate->together = true;
        weft_sleep_us(200);
    }
    gate->waiting--;
    gate->passed++;
    return WEFT_OK;
}

static bool meet_beside(bool first_apart, bool second_apart)
{
    gate_t gate = {0};
    weft_pool_t *pool;
    assert_int_equal(weft_pool_create(2, &pool), WEFT_OK);
    weft_pool_start(pool, meet_other, &gate, 0, 1, first_apart);
    weft_pool_mark(pool);
    weft_pool_start(pool, meet_other, &gate, 0, 1, second_apart);
    weft_pool_destroy(pool);
    assert_int_equal(gate.passed, 2);
    return gate.together;
}

static void test_starts_that_are_apart(void **state)
{
    (void)state;
    assert_true(meet_beside(true, true));
    assert_false(meet_beside(true, false));
    assert_false(meet_beside(false, true));
    assert_false(meet_beside(false, false));
}

/* Three runs of starts that are apart, with one between them that is not: it sees all of the run before and nothing of the
 * one behind. */
static void test_a_start_between(void **state)
{
    (void)state;
    weft_pool_t *pool;
    for (uint32_t round = 0; round < 200; round++) {
        board_t board = {.naps_us = round % 50};
        assert_int_equal(weft_pool_create(3, &pool), WEFT_OK);
        for (uint32_t stage = 0; stage < 3; stage++) {
            for (uint32_t cell = 0; cell < WIDTH; cell++) {
                weft_pool_start(pool, write_cell, &board, stage * WIDTH + cell, 1, true);
                if (cell % 3 == 0)
                    weft_pool_mark(pool);
            }
            weft_pool_start(pool, check_stage, &board, stage, 1, false);
        }
        weft_pool_destroy(pool);
        assert_int_equal(board.wrong, 0);
        assert_int_equal(board.cells[WIDTH - 1], 3);
    }
}

/* A ticket never says more than what has ended. */
static void test_tickets(void **state)
{
    (void)state;
    random_t random = random_begin("pool");
    weft_pool_t *pool;
    uint64_t done;
    assert_int_equal(weft_pool_create(2, &pool), WEFT_OK);
    for (uint32_t round = 0; round < 300; round++) {
        board_t board = {.naps_us = random_in(&random, 0, 200)};
        uint32_t stages = random_in(&random, 1, 4);
        for (uint32_t stage = 0; stage < stages; stage++)
            weft_pool_start(pool, write_cell, &board, stage * WIDTH, WIDTH, false);
        uint64_t ticket = weft_pool_mark(pool);
        do
            weft_pool_poll(pool, &done);
        while (done < ticket);
        for (uint32_t cell = 0; cell < WIDTH; cell++)
            assert_int_equal(board.cells[cell], stages);
        if (random_once_in(&random, 10))
            weft_sleep_us(2000); /* long enough for workers to sleep */
    }
    weft_pool_destroy(pool);
}

/* A mark with nothing before it is done at once. */
static void test_empty(void **state)
{
    (void)state;
    weft_pool_t *pool;
    uint64_t done;
    assert_int_equal(weft_pool_create(2, &pool), WEFT_OK);
    weft_pool_start(pool, write_cell, NULL, 5, 0, false);
    assert_int_equal(weft_pool_mark(pool), 1);
    assert_int_equal(weft_pool_poll(pool, &done), WEFT_OK);
    assert_int_equal(done, 1);
    weft_pool_drain(pool);
    weft_pool_destroy(pool);
    weft_pool_destroy(NULL);
}

static weft_status_t fail_sevenths(void *user, uint32_t item)
{
    (void)user;
    return item % 7 == 6 ? WEFT_ERR_ARGUMENT : WEFT_OK;
}

static void test_failures_are_told(void **state)
{
    (void)state;
    weft_pool_t *pool;
    uint64_t done;
    assert_int_equal(weft_pool_create(2, &pool), WEFT_OK);
    weft_pool_start(pool, fail_sevenths, NULL, 0, 20, false);
    uint64_t ticket = weft_pool_mark(pool);
    weft_pool_drain(pool);
    assert_int_equal(weft_pool_poll(pool, &done), WEFT_ERR_ARGUMENT);
    assert_int_equal(done, ticket);
    weft_pool_destroy(pool);
}

/* What a copy takes along may change when the call returns; it lands in its turn. */
static void test_copies(void **state)
{
    (void)state;
    weft_pool_t *pool;
    uint8_t from[WEFT_POOL_PAYLOAD], to[WEFT_POOL_PAYLOAD] = {0};
    board_t board = {.naps_us = 500};
    assert_int_equal(weft_pool_create(2, &pool), WEFT_OK);
    for (uint32_t i = 0; i < 50; i++) {
        weft_pool_start(pool, write_cell, &board, i * WIDTH, WIDTH, false);
        memset(from, (int)i, sizeof from);
        weft_pool_start_copy(pool, to, from, sizeof from);
        memset(from, 0xEE, sizeof from);
    }
    weft_pool_drain(pool);
    assert_int_equal(to[0], 49);
    assert_int_equal(to[WEFT_POOL_PAYLOAD - 1], 49);
    weft_pool_destroy(pool);
}

/* The end waits for what was started. */
static void test_destroy_finishes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 50; i++) {
        board_t board = {.naps_us = 50};
        weft_pool_t *pool;
        assert_int_equal(weft_pool_create(1 + i % 4, &pool), WEFT_OK);
        for (uint32_t stage = 0; stage < 20; stage++)
            weft_pool_start(pool, write_cell, &board, stage * WIDTH, WIDTH, false);
        weft_pool_destroy(pool);
        assert_int_equal(board.cells[WIDTH - 1], 20);
        assert_int_equal(board.wrong, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_follow_each_other), cmocka_unit_test(test_tickets), cmocka_unit_test(test_empty),
        cmocka_unit_test(test_failures_are_told),        cmocka_unit_test(test_copies),  cmocka_unit_test(test_destroy_finishes),
        cmocka_unit_test(test_starts_that_are_apart),    cmocka_unit_test(test_a_start_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
