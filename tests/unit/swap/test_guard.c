#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "src/swap/guard.h"

static uint64_t version;

static weft_guard_t serving(uint64_t live, uint64_t steps)
{
    weft_guard_t guard;
    weft_guard_init(&guard);
    assert_true(weft_guard_load(&guard, live));
    for (uint64_t step = 1; step <= steps; step++) {
        assert_int_equal(weft_guard_step_begin(&guard, step, &version), WEFT_STEP_OK);
        assert_true(weft_guard_step_end(&guard));
    }
    return guard;
}

static void nothing_live_is_not_ready(void **state)
{
    (void)state;
    weft_guard_t guard;
    weft_guard_init(&guard);
    assert_int_equal(weft_guard_step_begin(&guard, 1, &version), WEFT_STEP_NOT_READY);
    assert_false(weft_guard_step_end(&guard));
}

static void steps_rise_by_one(void **state)
{
    (void)state;
    weft_guard_t guard = serving(5, 0);
    assert_int_equal(weft_guard_step_begin(&guard, 40, &version),
                     WEFT_STEP_OK); /* the first fixes the numbering */
    assert_int_equal(version, 5);
    assert_int_equal(weft_guard_step_begin(&guard, 41, &version), WEFT_STEP_ORDER); /* one is open */
    assert_true(weft_guard_step_end(&guard));
    assert_int_equal(weft_guard_step_begin(&guard, 42, &version), WEFT_STEP_ORDER);
    assert_int_equal(weft_guard_step_begin(&guard, 40, &version), WEFT_STEP_ORDER);
    assert_int_equal(weft_guard_step_begin(&guard, 41, &version), WEFT_STEP_OK);
    assert_false(weft_guard_load(&guard, 6)); /* too late */
}

static void arm_limits_and_release_lifts(void **state)
{
    (void)state;
    weft_guard_t guard = serving(1, 3);
    uint64_t step, limit;
    weft_guard_arm(&guard, 2, &step, &limit);
    assert_int_equal(step, 3);
    assert_int_equal(limit, 5);
    for (uint64_t s = 4; s <= 5; s++) {
        assert_int_equal(weft_guard_step_begin(&guard, s, &version), WEFT_STEP_OK);
        weft_guard_step_end(&guard);
    }
    assert_int_equal(weft_guard_step_begin(&guard, 6, &version), WEFT_STEP_AT_LIMIT);
    assert_true(weft_guard_release(&guard));
    assert_int_equal(weft_guard_step_begin(&guard, 6, &version), WEFT_STEP_OK);
}

static void version_is_a_function_of_the_step(void **state)
{
    (void)state;
    weft_guard_t guard = serving(1, 3);
    uint64_t step, limit, at_step, next;
    weft_guard_arm(&guard, 2, &step, &limit);
    assert_true(weft_guard_commit(&guard, 2, 6));
    for (uint64_t s = 4; s <= 5; s++) {
        assert_false(weft_guard_swap_begin(&guard, &next, &at_step));
        assert_int_equal(weft_guard_step_begin(&guard, s, &version), WEFT_STEP_OK);
        assert_int_equal(version, 1);
        assert_false(weft_guard_swap_due(&guard)); /* open */
        weft_guard_step_end(&guard);
    }
    assert_int_equal(weft_guard_step_begin(&guard, 6, &version), WEFT_STEP_MUST_SWAP);
    assert_true(weft_guard_swap_begin(&guard, &next, &at_step));
    assert_int_equal(next, 2);
    assert_int_equal(at_step, 6);
    assert_false(weft_guard_swap_begin(&guard, &next, &at_step)); /* one wins */
    assert_int_equal(weft_guard_step_begin(&guard, 6, &version), WEFT_STEP_SWAPPING);
    assert_false(weft_guard_arm(&guard, 2, &step, &limit));
    assert_false(weft_guard_freeze(&guard, &step));
    assert_false(weft_guard_release(&guard));
    weft_guard_swap_end(&guard, true);
    assert_int_equal(weft_guard_step_begin(&guard, 6, &version), WEFT_STEP_OK);
    assert_int_equal(version, 2);
    assert_true(weft_guard_look(&guard).limit == WEFT_GUARD_NO_LIMIT);
}

static void freeze_forgets_a_commit(void **state)
{
    (void)state;
    weft_guard_t guard = serving(1, 3);
    uint64_t step, limit, at_step;
    weft_guard_arm(&guard, 4, &step, &limit);
    assert_true(weft_guard_commit(&guard, 2, 8));
    assert_true(weft_guard_freeze(&guard, &step));
    assert_int_equal(step, 3);
    assert_int_equal(weft_guard_step_begin(&guard, 4, &version), WEFT_STEP_AT_LIMIT);
    assert_false(weft_guard_swap_due(&guard));
    assert_true(weft_guard_commit(&guard, 2, 4));
    assert_true(weft_guard_swap_begin(&guard, &version, &at_step)); /* parked: at once */
    assert_int_equal(at_step, 4);
}

static void commit_of_a_begun_step_is_refused(void **state)
{
    (void)state;
    weft_guard_t guard = serving(1, 3);
    assert_false(weft_guard_commit(&guard, 2, 3));
    assert_true(weft_guard_commit(&guard, 2, 4));
}

static void first_step_may_be_far_away(void **state)
{
    (void)state;
    const uint64_t far = UINT64_C(1) << 36;
    weft_guard_t guard;
    weft_guard_init(&guard);
    uint64_t step, limit, at_step;
    weft_guard_arm(&guard, 4, &step, &limit);
    assert_true(weft_guard_commit(&guard, 9, far));
    assert_int_equal(weft_guard_step_begin(&guard, far, &version), WEFT_STEP_MUST_SWAP);
    assert_true(weft_guard_swap_begin(&guard, &version, &at_step));
    assert_int_equal(at_step, far);
    weft_guard_swap_end(&guard, true);
    assert_int_equal(weft_guard_step_begin(&guard, far, &version), WEFT_STEP_OK);
}

static void failed_swap_and_fence_stop_steps(void **state)
{
    (void)state;
    weft_guard_t guard = serving(1, 3);
    uint64_t at_step;
    assert_true(weft_guard_commit(&guard, 2, 4));
    assert_true(weft_guard_swap_begin(&guard, &version, &at_step));
    weft_guard_swap_end(&guard, false);
    assert_int_equal(weft_guard_step_begin(&guard, 4, &version), WEFT_STEP_FENCED);
    assert_int_equal(weft_guard_live(&guard), 1);
    guard = serving(1, 2);
    assert_int_equal(weft_guard_step_begin(&guard, 3, &version), WEFT_STEP_OK);
    weft_guard_fence(&guard);
    assert_true(weft_guard_step_end(&guard)); /* an open step may end */
    assert_int_equal(weft_guard_step_begin(&guard, 4, &version), WEFT_STEP_FENCED);
}

/* ---- step thread, control thread and progress thread at once ---- */

enum { COMMITS = 2000 };

typedef struct stress {
    weft_guard_t guard;
    uint64_t weights; /* plain memory: a race with a swap is the sanitizer's to find, a stale value ours */
    _Atomic uint64_t swaps;
    _Atomic uint64_t bad;
    _Atomic bool stop;
} stress_t;

static bool swap(stress_t *s)
{
    uint64_t next, at_step;
    if (!weft_guard_swap_begin(&s->guard, &next, &at_step))
        return false;
    s->weights = next;
    weft_guard_swap_end(&s->guard, true);
    atomic_fetch_add(&s->swaps, 1);
    return true;
}

static void *run_steps(void *user)
{
    stress_t *s = user;
    uint64_t on;
    for (uint64_t step = 1; !atomic_load(&s->stop);) {
        weft_step_result_t result = weft_guard_step_begin(&s->guard, step, &on);
        if (result == WEFT_STEP_MUST_SWAP)
            swap(s);
        if (result != WEFT_STEP_OK) {
            sched_yield();
            continue;
        }
        if (s->weights != on)
            atomic_fetch_add(&s->bad, 1);
        weft_guard_step_end(&s->guard);
        step++;
    }
    return NULL;
}

static void *run_progress(void *user)
{
    stress_t *s = user;
    while (!atomic_load(&s->stop))
        if (!swap(s))
            sched_yield();
    return NULL;
}

/* One commit, as the leader of a replica of one would do it; every third is lowered by a freeze. */
static void commit_once(stress_t *s, uint64_t next)
{
    uint64_t step, limit, done = atomic_load(&s->swaps);
    assert_true(weft_guard_arm(&s->guard, next % 4, &step, &limit));
    assert_true(weft_guard_commit(&s->guard, next, limit + 1));
    if (next % 3 == 0 && weft_guard_freeze(&s->guard, &step)) {
        if (weft_guard_live(&s->guard) == next)
            weft_guard_release(&s->guard);
        else
            assert_true(weft_guard_commit(&s->guard, next, step + 1));
    }
    while (atomic_load(&s->swaps) == done)
        sched_yield();
}

static void threads_never_see_a_torn_version(void **state)
{
    (void)state;
    static stress_t s;
    weft_guard_init(&s.guard);
    s.weights = 1;
    weft_guard_load(&s.guard, 1);
    pthread_t steps, progress;
    pthread_create(&steps, NULL, run_steps, &s);
    pthread_create(&progress, NULL, run_progress, &s);
    for (uint64_t next = 2; next < 2 + COMMITS; next++)
        commit_once(&s, next);
    atomic_store(&s.stop, true);
    pthread_join(steps, NULL);
    pthread_join(progress, NULL);
    assert_int_equal(atomic_load(&s.bad), 0);
    assert_int_equal(atomic_load(&s.swaps), COMMITS);
    assert_int_equal(weft_guard_live(&s.guard), 1 + COMMITS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_live_is_not_ready),
        cmocka_unit_test(steps_rise_by_one),
        cmocka_unit_test(arm_limits_and_release_lifts),
        cmocka_unit_test(version_is_a_function_of_the_step),
        cmocka_unit_test(freeze_forgets_a_commit),
        cmocka_unit_test(commit_of_a_begun_step_is_refused),
        cmocka_unit_test(first_step_may_be_far_away),
        cmocka_unit_test(failed_swap_and_fence_stop_steps),
        cmocka_unit_test(threads_never_see_a_torn_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
