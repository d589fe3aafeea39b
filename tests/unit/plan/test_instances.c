/* Classes of instances against the walk of every unit: the same bytes on the same routes. And what is counted
 * without keeping a program against the program. */
#include "src/plan/instances.h"

#include "tests/support/world.h"

typedef struct totals {
    const weft_plan_t *plan;
    uint64_t *data, *amax; /* [routes] */
} totals_t;

static totals_t totals_create(const weft_plan_t *plan)
{
    return (totals_t){plan, calloc(plan->routes.count + 1, sizeof(uint64_t)),
                      calloc(plan->routes.count + 1, sizeof(uint64_t))};
}

static weft_status_t add_class(void *user, const weft_piece_t *piece, uint32_t count)
{
    totals_t *t = user;
    uint32_t route = weft_routes_find(&t->plan->routes, piece->source, piece->set);
    assert_int_not_equal(route, UINT32_MAX);
    (piece->kind == WEFT_PIECE_AMAX ? t->amax : t->data)[route] += weft_piece_bytes(t->plan, piece) * count;
    return WEFT_OK;
}

static weft_status_t add_one(void *user, const weft_piece_t *piece)
{
    return add_class(user, piece, 1);
}

static void walk_all(totals_t *t)
{
    weft_cursor_t cursor = {0};
    do {
        assert_int_equal(weft_plan_walk(t->plan, cursor, WEFT_PIECE_DATA, add_one, t), WEFT_OK);
        assert_int_equal(weft_plan_walk(t->plan, cursor, WEFT_PIECE_AMAX, add_one, t), WEFT_OK);
    } while (weft_cursor_next(t->plan, &cursor));
}

static void compare_totals(const weft_plan_t *plan)
{
    totals_t classes = totals_create(plan), all = totals_create(plan);
    assert_int_equal(weft_plan_walk_classes(plan, add_class, &classes), WEFT_OK);
    walk_all(&all);
    for (size_t i = 0; i < plan->routes.count; i++) {
        assert_true(classes.data[i] == all.data[i] && classes.amax[i] == all.amax[i]);
        assert_true(all.data[i] + all.amax[i] > 0); /* no route without a piece */
    }
    free(classes.data);
    free(classes.amax);
    free(all.data);
    free(all.amax);
}

static void compare_messages(const world_t *w)
{
    for (uint32_t rank = 0; rank < w->num_ranks; rank++) {
        const weft_program_t *program = w->programs[rank];
        weft_messages_t found;
        assert_int_equal(weft_program_messages(w->plan, rank, &found), WEFT_OK);
        uint64_t least = UINT64_MAX, most = 0;
        for (size_t i = 0; i < program->num_buckets; i++) {
            uint64_t bytes = program->buckets[i].bytes;
            least = bytes < least ? bytes : least;
            most = bytes > most ? bytes : most;
        }
        assert_true(found.count == program->num_buckets && found.max_bytes == most);
        assert_true(found.count == 0 ||
                    (found.min_bytes == least && found.median_bytes >= least && found.median_bytes <= most));
    }
}

static void test_random(void **state)
{
    static const char *const trainers[] = {"fsdp:3",      "dp:3",      "tp:2,dp:2", "ep:2,dp:2",
                                           "pp:2,fsdp:2", "dp:2,pp:2", "ep:2",      "fsdp:2,ep:2,pp:2"};
    static const char *const rollouts[] = {"tp:1", "tp:2", "tp:2x2,ep", "tp:4", "tp:4,ep", "tp:1x3"};
    static const char *const schemes[] = {"bf16", "fp8-channel", "fp8-block", "fp8-tensor"};
    random_t base = random_begin("test_instances");
    unsigned planned = 0;
    (void)state;
    for (unsigned i = 0; i < 300; i++) {
        random_t random = random_case(&base, i);
        checkpoint_t cp;
        weft_error_t error;
        const char *scheme = schemes[random_in(&random, 0, 2)];
        checkpoint_random(&random, strcmp(scheme, "fp8-block") == 0, true, &cp);
        world_t *w = world_try(&cp, trainers[random_in(&random, 0, 7)], rollouts[random_in(&random, 0, 5)],
                               scheme, NULL, &error);
        if (!w) {
            assert_int_equal(error.status, WEFT_ERR_MISFIT);
            continue;
        }
        planned++;
        compare_totals(w->plan);
        compare_messages(w);
        world_destroy(w);
    }
    assert_true(planned > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
