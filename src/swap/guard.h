/* The guard of one rollout rank: which step may run, up to which step, and on which version.
 *
 * Everything that decides whether a step may start is one 64-bit word, moved by compare-and-swap only:
 *
 *     63                          25 24            5   4    3    2    1    0
 *    +------------------------------+---------------+----+----+----+----+----+
 *    | step: the last one begun     | remaining     | st | fe | co | sw | op |
 *    +------------------------------+---------------+----+----+----+----+----+
 *      remaining  steps that may still begin; all ones: unlimited
 *      op open    step `step` is running             sw swapping   a thread is making the next version live
 *      co commit  the limit is at_step - 1: whoever   fe fenced     no step may begin any more
 *                 meets it swaps                      st started    a first step has fixed the numbering
 *
 * A limit given to another rank ("I start nothing above step s + m") is thus kept by the very CAS that starts
 * a step. The step thread calls step_begin / step_end; the control thread arm, freeze, commit, release and
 * fence; the step thread and the progress thread may both try swap_begin: one wins, the other waits.
 *
 *     weft_guard_t guard;
 *     weft_guard_init(&guard);
 *     switch (weft_guard_step_begin(&guard, step, &version)) ...
 *
 * Nothing here blocks or calls the system: a caller that is told to wait sleeps on its own condition, which
 * the control thread signals after commit, release, fence and a finished swap.
 */
#ifndef WEFT_SWAP_GUARD_H
#define WEFT_SWAP_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WEFT_GUARD_MAX_STEP      ((UINT64_C(1) << 39) - 1) /* 17 years of one step a millisecond */
#define WEFT_GUARD_MAX_REMAINING ((UINT64_C(1) << 20) - 2)
#define WEFT_GUARD_NO_LIMIT      UINT64_MAX

typedef struct weft_guard {
    _Atomic uint64_t word;
    _Atomic uint64_t live;    /* version that serves; 0: none yet. Written only while `swapping` is set */
    _Atomic uint64_t pending; /* version that the next swap makes live. Written only before `commit` is set */
} weft_guard_t;

/* What step_begin found. */
typedef enum weft_step_result {
    WEFT_STEP_OK,        /* the step is open */
    WEFT_STEP_MUST_SWAP, /* first make the committed version live: swap_begin, swap_end, then step_begin again
                          */
    WEFT_STEP_SWAPPING,  /* the other thread is swapping: wait for it, then step_begin again */
    WEFT_STEP_AT_LIMIT, /* promised not to start this step: wait for the leader, at the deadline report FENCED
                         */
    WEFT_STEP_NOT_READY, /* no version is live yet */
    WEFT_STEP_ORDER,     /* the number is not the last one plus one, or a step is still open */
    WEFT_STEP_FENCED,    /* the replica is lost */
} weft_step_result_t;

/* A consistent reading of the word. */
typedef struct weft_guard_view {
    uint64_t step;  /* last begun; 0 before the first */
    uint64_t limit; /* highest step that may begin, or WEFT_GUARD_NO_LIMIT */
    bool open, swapping, committed, fenced, started;
} weft_guard_view_t;

/* Set up: step 0, no limit, nothing live. */
void weft_guard_init(weft_guard_t *guard);

/* Make `version` live before any step has begun (a checkpoint loaded from disk). **Returns** false when a
 * step has begun or a version is on its way. **Threads** the control thread. */
bool weft_guard_load(weft_guard_t *guard, uint64_t version);

weft_guard_view_t weft_guard_look(const weft_guard_t *guard);

/* Return the version that serves, 0 for none. Constant while a step is open. Any thread. */
uint64_t weft_guard_live(const weft_guard_t *guard);

/* Begin step number `step`. The first call fixes the numbering (any step >= 1), each later one must add one.
 * On WEFT_STEP_OK *version is what the step runs on. One load and one CAS when nothing is in the way.
 * **Threads** the step thread. */
weft_step_result_t weft_guard_step_begin(weft_guard_t *guard, uint64_t step, uint64_t *version);

/* End the open step. **Returns** false when none is open. **Threads** the step thread. */
bool weft_guard_step_end(weft_guard_t *guard);

/* Promise to start no step above *limit = *step + margin. **Returns** false, changing nothing, while a swap
 * is under way: its end would lift the limit. **Threads** the control thread, as all below. */
bool weft_guard_arm(weft_guard_t *guard, uint64_t margin, uint64_t *step, uint64_t *limit);

/* Promise to start no step above *step, the current one, and forget a commit that was not yet applied.
 * **Returns** false, changing nothing, when the swap is under way: then the commit stands. */
bool weft_guard_freeze(weft_guard_t *guard, uint64_t *step);

/* Make `version` the one that step `at_step` and all later ones run on. **Returns** false, changing nothing,
 * when step at_step has begun already, a swap is under way, or at_step is out of reach (it cannot be after
 * arm or freeze). */
bool weft_guard_commit(weft_guard_t *guard, uint64_t version, uint64_t at_step);

/* Take a promise back: no limit, nothing committed. **Returns** false when a swap is under way. */
bool weft_guard_release(weft_guard_t *guard);

/* Let no step begin any more; an open one may end. */
void weft_guard_fence(weft_guard_t *guard);

/* True when swap_begin would succeed. Any thread. */
bool weft_guard_swap_due(const weft_guard_t *guard);

/* Claim the swap: succeeds exactly when the step before at_step has ended (or at_step - 1 is where the rank
 * rests), none is open and a version is committed. The winner may change the live weights until swap_end.
 * **Threads** step thread and progress thread. */
bool weft_guard_swap_begin(weft_guard_t *guard, uint64_t *version, uint64_t *at_step);

/* Finish the swap. `applied`: the claimed version is live and steps go on without limit. Otherwise the
 * weights are in an unknown state: the rank is fenced and `live` keeps its value. */
void weft_guard_swap_end(weft_guard_t *guard, bool applied);

#endif
