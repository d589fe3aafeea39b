#include "src/swap/guard.h"

#define OPEN      (UINT64_C(1) << 0)
#define SWAPPING  (UINT64_C(1) << 1)
#define COMMITTED (UINT64_C(1) << 2)
#define FENCED    (UINT64_C(1) << 3)
#define STARTED   (UINT64_C(1) << 4)

#define REMAINING_SHIFT 5
#define REMAINING_BITS  20
#define STEP_SHIFT      (REMAINING_SHIFT + REMAINING_BITS)
#define UNLIMITED       ((UINT64_C(1) << REMAINING_BITS) - 1)
#define REMAINING_MASK  (UNLIMITED << REMAINING_SHIFT)

_Static_assert(STEP_SHIFT + 39 == 64, "the step takes the rest of the word");
_Static_assert(WEFT_GUARD_MAX_REMAINING == UNLIMITED - 1, "all ones stand for unlimited");

static uint64_t step_of(uint64_t word)
{
    return word >> STEP_SHIFT;
}

static uint64_t remaining_of(uint64_t word)
{
    return (word & REMAINING_MASK) >> REMAINING_SHIFT;
}

static uint64_t with_remaining(uint64_t word, uint64_t remaining)
{
    return (word & ~REMAINING_MASK) | remaining << REMAINING_SHIFT;
}

static uint64_t with_step(uint64_t word, uint64_t step)
{
    return (word & ((UINT64_C(1) << STEP_SHIFT) - 1)) | step << STEP_SHIFT;
}

/* Orders, for every CAS below:
 *  - step_end releases, swap_begin acquires: what the last old step read from the weights happens before the
 * swap writes them.
 *  - swap_end releases, step_begin acquires: the first new step sees the new weights and `live`.
 *  - commit releases, swap_begin acquires: the winner sees `pending`, and the stage that was complete before.
 * A read-modify-write in between (an arm, a fence) continues the release sequence, so the pairs hold across
 * it. */
static bool move(weft_guard_t *guard, uint64_t *word, uint64_t next)
{
    return atomic_compare_exchange_weak_explicit(&guard->word, word, next, memory_order_acq_rel,
                                                 memory_order_acquire);
}

static uint64_t look(const weft_guard_t *guard)
{
    return atomic_load_explicit(&guard->word, memory_order_acquire);
}

void weft_guard_init(weft_guard_t *guard)
{
    atomic_init(&guard->word, with_remaining(0, UNLIMITED));
    atomic_init(&guard->live, 0);
    atomic_init(&guard->pending, 0);
}

bool weft_guard_load(weft_guard_t *guard, uint64_t version)
{
    uint64_t word = look(guard);
    if ((word & (STARTED | OPEN | SWAPPING | COMMITTED)) != 0 || remaining_of(word) != UNLIMITED)
        return false;
    /* The step thread passes NOT_READY only after it has seen this store, so release is enough. */
    atomic_store_explicit(&guard->live, version, memory_order_release);
    return true;
}

weft_guard_view_t weft_guard_look(const weft_guard_t *guard)
{
    uint64_t word = look(guard);
    uint64_t remaining = remaining_of(word);
    return (weft_guard_view_t){
        .step = step_of(word),
        .limit = remaining == UNLIMITED ? WEFT_GUARD_NO_LIMIT : step_of(word) + remaining,
        .open = (word & OPEN) != 0,
        .swapping = (word & SWAPPING) != 0,
        .committed = (word & COMMITTED) != 0,
        .fenced = (word & FENCED) != 0,
        .started = (word & STARTED) != 0,
    };
}

uint64_t weft_guard_live(const weft_guard_t *guard)
{
    return atomic_load_explicit(&guard->live, memory_order_acquire);
}

/* What stands in the way of `step`, WEFT_STEP_OK for nothing. */
static weft_step_result_t obstacle(const weft_guard_t *guard, uint64_t word, uint64_t step)
{
    if ((word & FENCED) != 0)
        return WEFT_STEP_FENCED;
    if ((word & OPEN) != 0 || step <= step_of(word) || step > WEFT_GUARD_MAX_STEP ||
        ((word & STARTED) != 0 && step != step_of(word) + 1))
        return WEFT_STEP_ORDER;
    if ((word & SWAPPING) != 0)
        return WEFT_STEP_SWAPPING;
    bool above_limit = remaining_of(word) != UNLIMITED && step - step_of(word) > remaining_of(word);
    if (above_limit && (word & COMMITTED) != 0)
        return WEFT_STEP_MUST_SWAP;
    if (weft_guard_live(guard) == 0)
        return WEFT_STEP_NOT_READY;
    return above_limit ? WEFT_STEP_AT_LIMIT : WEFT_STEP_OK;
}

/* A first step may lie well above where the numbering rests (step 0): a swap that is due before it must find
 * at_step - 1, so the rank is moved there. */
static void skip_to_limit(weft_guard_t *guard, uint64_t word)
{
    if ((word & STARTED) == 0 && remaining_of(word) != 0)
        move(guard, &word, with_remaining(with_step(word, step_of(word) + remaining_of(word)), 0));
}

weft_step_result_t weft_guard_step_begin(weft_guard_t *guard, uint64_t step, uint64_t *version)
{
    uint64_t word = look(guard);
    for (;;) {
        weft_step_result_t result = obstacle(guard, word, step);
        if (result == WEFT_STEP_MUST_SWAP)
            skip_to_limit(guard, word);
        if (result != WEFT_STEP_OK)
            return result;
        uint64_t remaining = remaining_of(word);
        if (remaining != UNLIMITED)
            remaining -= step - step_of(word);
        /* The promise and the start are the same CAS: a limit that was answered before cannot be overrun, one
         * that comes in between makes this CAS fail and the loop look again. */
        if (move(guard, &word, with_remaining(with_step(word, step), remaining) | OPEN | STARTED))
            break;
    }
    /* No swap begins while a step is open, so `live` is constant from the CAS above until step_end. */
    *version = weft_guard_live(guard);
    return WEFT_STEP_OK;
}

bool weft_guard_step_end(weft_guard_t *guard)
{
    return (atomic_fetch_and_explicit(&guard->word, ~OPEN, memory_order_acq_rel) & OPEN) != 0;
}

bool weft_guard_arm(weft_guard_t *guard, uint64_t margin, uint64_t *step, uint64_t *limit)
{
    if (margin > WEFT_GUARD_MAX_REMAINING)
        margin = WEFT_GUARD_MAX_REMAINING;
    uint64_t word = look(guard);
    do {
        if ((word & SWAPPING) != 0)
            return false;
    } while (!move(guard, &word, with_remaining(word, margin)));
    *step = step_of(word);
    *limit = step_of(word) + margin;
    return true;
}

bool weft_guard_freeze(weft_guard_t *guard, uint64_t *step)
{
    uint64_t word = look(guard);
    do {
        if ((word & SWAPPING) != 0)
            return false;
    } while (!move(guard, &word, with_remaining(word & ~COMMITTED, 0)));
    *step = step_of(word);
    return true;
}

/* The word after a commit. A rank that has not begun its first step has no number of its own: when at_step is
 * further away than `remaining` can say, it is moved closer. */
static bool committed_word(uint64_t word, uint64_t at_step, uint64_t *next)
{
    if ((word & SWAPPING) != 0 || at_step <= step_of(word) || at_step > WEFT_GUARD_MAX_STEP)
        return false;
    uint64_t remaining = at_step - 1 - step_of(word);
    if (remaining > WEFT_GUARD_MAX_REMAINING) {
        if ((word & STARTED) != 0)
            return false;
        remaining = WEFT_GUARD_MAX_REMAINING;
        word = with_step(word, at_step - 1 - remaining);
    }
    *next = with_remaining(word, remaining) | COMMITTED;
    return true;
}

bool weft_guard_commit(weft_guard_t *guard, uint64_t version, uint64_t at_step)
{
    uint64_t word = look(guard), next;
    /* Only the control thread commits and a pending commit is for the same version, so this store disturbs
     * nobody; the CAS below releases it. */
    atomic_store_explicit(&guard->pending, version, memory_order_relaxed);
    do {
        if (!committed_word(word, at_step, &next))
            return false;
    } while (!move(guard, &word, next));
    return true;
}

bool weft_guard_release(weft_guard_t *guard)
{
    uint64_t word = look(guard);
    do {
        if ((word & SWAPPING) != 0)
            return false;
    } while (!move(guard, &word, with_remaining(word & ~COMMITTED, UNLIMITED)));
    return true;
}

void weft_guard_fence(weft_guard_t *guard)
{
    atomic_fetch_or_explicit(&guard->word, FENCED, memory_order_acq_rel);
}

static bool due(uint64_t word)
{
    return (word & (COMMITTED | OPEN | SWAPPING | FENCED)) == COMMITTED && remaining_of(word) == 0;
}

bool weft_guard_swap_due(const weft_guard_t *guard)
{
    return due(look(guard));
}

bool weft_guard_swap_begin(weft_guard_t *guard, uint64_t *version, uint64_t *at_step)
{
    uint64_t word = look(guard);
    do {
        if (!due(word))
            return false;
    } while (!move(guard, &word, word | SWAPPING));
    *version = atomic_load_explicit(&guard->pending, memory_order_relaxed);
    *at_step = step_of(word) + 1;
    return true;
}

void weft_guard_swap_end(weft_guard_t *guard, bool applied)
{
    uint64_t word = look(guard);
    /* No step is open and none can begin while SWAPPING is set: nobody reads `live` between its two values.
     */
    if (applied)
        atomic_store_explicit(&guard->live, atomic_load_explicit(&guard->pending, memory_order_relaxed),
                              memory_order_release);
    uint64_t fence = applied ? 0 : FENCED;
    while (!move(guard, &word, with_remaining(word & ~(COMMITTED | SWAPPING), UNLIMITED) | fence))
        ;
}
