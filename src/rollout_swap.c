/* Steps and swaps: which version a step runs on, and the moment between two steps when that changes. */
#include <string.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/rollout_private.h"

/* ---- swap ---- */

static void note_swapped(weft_rollout_t *r, uint64_t version, uint64_t at_step, uint64_t swap_us)
{
    pthread_mutex_lock(&r->session->mutex);
    r->pending_stats.at_step = at_step;
    r->pending_stats.swap_us = swap_us;
    r->pending_stats.update_us = weft_now_us() - r->started_us;
    r->stats = r->pending_stats;
    r->spans[r->num_spans++ % WEFT_ROLLOUT_SPANS] = (weft_version_span_t){version, at_step};
    pthread_mutex_unlock(&r->session->mutex);
}

/* Whoever waits for the word looks at it again. */
static void wake_steps(weft_rollout_t *r)
{
    pthread_mutex_lock(&r->session->mutex);
    pthread_cond_broadcast(&r->session->step_cond);
    pthread_mutex_unlock(&r->session->mutex);
}

/* stage -> live. The barrier: swap_begin succeeds only while no step is open and step at_step - 1 is over,
 * and closes the word, so no step begins before swap_end. All ranks of the replica have committed to the same
 * at_step, so every step below it ran, on every rank, on the weights before, and every step from it on runs
 * on these. */
void weft_rollout_swap_if_due(weft_rollout_t *r)
{
    uint64_t version, at_step;
    weft_error_t error = {.message = ""};
    if (!weft_guard_swap_begin(&r->session->guard, &version, &at_step))
        return;
    uint64_t start = weft_now_ns();
    weft_status_t status = weft_weights_swap(r->weights, r->stream, &error);
    uint64_t swap_us = (weft_now_ns() - start) / 1000;
    weft_session_span(r->session, "swap", start, version, 0);
    if (status == WEFT_OK) { /* before anyone can see that the version is live */
        note_swapped(r, version, at_step, swap_us);
        weft_window_applied(&r->window);
    }
    weft_guard_swap_end(&r->session->guard, status == WEFT_OK);
    wake_steps(r);
    weft_event_t event = {.type = status == WEFT_OK ? WEFT_EVENT_SWAPPED : WEFT_EVENT_SWAP_FAILED,
                          .version = version,
                          .step = at_step,
                          .status = status,
                          .text = error.message};
    weft_session_post_event(r->session, &event);
    weft_session_wake(r->session); /* the progress thread settles the rest */
}

/* ---- steps ---- */

weft_status_t weft_rollout_set_stream(weft_rollout_t *r, void *stream)
{
    if (weft_guard_look(&r->session->guard).started)
        return WEFT_ERR_ARGUMENT;
    r->stream = stream;
    return WEFT_OK;
}

static weft_status_t fenced(weft_rollout_t *r, weft_error_t *error)
{
    pthread_mutex_lock(&r->session->mutex);
    weft_status_t status =
        weft_fail(error, WEFT_ERR_PEER_LOST, "rollout rank %u serves nothing: %s", r->session->rank,
                  r->session->fenced ? r->session->fenced_text : "its replica is lost");
    pthread_mutex_unlock(&r->session->mutex);
    return status;
}

static weft_status_t refuse_step(weft_rollout_t *r, uint64_t step, weft_error_t *error)
{
    weft_guard_view_t view = weft_guard_look(&r->session->guard);
    return weft_fail(error, WEFT_ERR_STEP_ORDER,
                     "rollout rank %u: step %llu was begun, expected %llu%s: steps rise by one, each ended "
                     "before the next",
                     r->session->rank, (unsigned long long)step, (unsigned long long)(view.step + !view.open),
                     view.open ? " to end first" : "");
}

/* The time between the last step on the old weights and this one, if it is the first on new ones. */
static void note_first_step(weft_rollout_t *r, uint64_t version)
{
    if (version == r->served_version)
        return;
    uint64_t pause = r->served_version ? weft_now_us() - r->last_end_us : 0;
    if (r->queue->ops->engine_begin(r->queue, r->stream) == WEFT_OK && r->served_version)
        r->paused_version = version;
    r->served_version = version;
    pthread_mutex_lock(&r->session->mutex);
    if (r->stats.version == version)
        r->stats.pause_us = pause;
    pthread_mutex_unlock(&r->session->mutex);
}

/* Wait for the control thread or the other swapper, unless the word has moved meanwhile. */
static bool wait_for_word(weft_rollout_t *r, uint64_t deadline_us)
{
    weft_session_t *s = r->session;
    weft_guard_view_t before = weft_guard_look(&s->guard);
    uint64_t until = weft_now_us() + 5000;
    pthread_mutex_lock(&s->mutex);
    weft_guard_view_t now = weft_guard_look(&s->guard);
    if (now.limit == before.limit && now.swapping == before.swapping && now.fenced == before.fenced)
        weft_condition_wait(&s->step_cond, &s->mutex, until < deadline_us ? until : deadline_us);
    pthread_mutex_unlock(&s->mutex);
    return weft_now_us() < deadline_us;
}

weft_status_t weft_rollout_step_begin(weft_rollout_t *r, uint64_t step, uint64_t timeout_us,
                                      uint64_t *version, weft_error_t *error)
{
    uint64_t deadline = 0;
    for (;;) {
        weft_status_t lets = weft_rollout_window_lets(r, error);
        if (lets == WEFT_ERR_TAINTED)
            return lets;
        switch (lets == WEFT_OK ? weft_guard_step_begin(&r->session->guard, step, version)
                                : WEFT_STEP_AT_LIMIT) {
        case WEFT_STEP_OK:
            note_first_step(r, *version);
            return WEFT_OK;
        case WEFT_STEP_MUST_SWAP:
            weft_rollout_swap_if_due(r);
            continue;
        case WEFT_STEP_ORDER:
            return refuse_step(r, step, error);
        case WEFT_STEP_NOT_READY:
            return weft_fail(error, WEFT_ERR_NOT_READY,
                             "rollout rank %u: no version is live yet: wait for the first", r->session->rank);
        case WEFT_STEP_FENCED:
            return fenced(r, error);
        case WEFT_STEP_SWAPPING:
        case WEFT_STEP_AT_LIMIT:
            break;
        }
        deadline = deadline ? deadline : weft_now_us() + timeout_us;
        if (!wait_for_word(r, deadline))
            return weft_fail(error, WEFT_ERR_FENCED,
                             "rollout rank %u: step %llu may not begin: %s within %.1f s; call again",
                             r->session->rank, (unsigned long long)step,
                             r->window.state == WEFT_WINDOW_RUNNING
                                 ? "no commit or abort came"
                                 : "the version that it paused for has not come",
                             (double)timeout_us / 1e6);
    }
}

/* The end of the step's work is remembered before the word says that none is open: whoever swaps then waits
 * for it. */
weft_status_t weft_rollout_step_end(weft_rollout_t *r, uint64_t step)
{
    weft_guard_view_t view = weft_guard_look(&r->session->guard);
    if (view.step != step || !view.open)
        return WEFT_ERR_STEP_ORDER;
    WEFT_TRY(r->queue->ops->engine_end(r->queue, r->stream));
    r->last_end_us = weft_now_us();
    return weft_guard_step_end(&r->session->guard) ? WEFT_OK : WEFT_ERR_STEP_ORDER;
}

static bool load_over(weft_rollout_t *r, uint64_t version, weft_status_t *status, weft_error_t *error)
{
    pthread_mutex_lock(&r->session->mutex);
    bool over = weft_rollout_load_over(r, version, status, error);
    pthread_mutex_unlock(&r->session->mutex);
    return over;
}

static bool cut_off(weft_rollout_t *r, uint64_t version, weft_status_t *status, weft_error_t *error)
{
    weft_session_t *s = r->session;
    pthread_mutex_lock(&s->mutex);
    bool alone = s->cut_off;
    if (alone)
        *status = weft_fail(
            error, WEFT_ERR_PEER_LOST,
            "rollout rank %u: version %llu: %s: wait again if it comes back, or open a new session; the "
            "weights before serve on",
            s->rank, (unsigned long long)version, s->cut_off_text);
    pthread_mutex_unlock(&s->mutex);
    return alone;
}

weft_status_t weft_rollout_wait(weft_rollout_t *r, uint64_t version, uint64_t timeout_us, weft_error_t *error)
{
    uint64_t deadline = weft_now_us() + timeout_us;
    for (;;) {
        weft_status_t status;
        bool over = load_over(r, version, &status, error);
        if (status != WEFT_OK || (over && weft_guard_live(&r->session->guard) >= version))
            return status;
        if (weft_guard_look(&r->session->guard).fenced)
            return fenced(r, error);
        if (cut_off(r, version, &status, error))
            return status;
        if (!wait_for_word(r, deadline))
            return weft_fail(error, WEFT_ERR_TIMEOUT,
                             "rollout rank %u: version %llu is not live after %.1f s", r->session->rank,
                             (unsigned long long)version, (double)timeout_us / 1e6);
    }
}
