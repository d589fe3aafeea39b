/* Swap layerwise: when a version may be written over the weights that serve, and when steps may run again. */
#include "src/base/clock.h"
#include "src/base/error.h"
#include "src/rollout_private.h"

#define LOOK_AGAIN_US 500

/* Versions that the control plane has given up; the window hears of it when somebody looks. */
static weft_window_state_t window_now(weft_rollout_t *r)
{
    weft_window_state_t state = r->window.state;
    if (state != WEFT_WINDOW_WRITTEN)
        return state;
    pthread_mutex_lock(&r->session->mutex);
    uint64_t discarded = r->session->discarded;
    pthread_mutex_unlock(&r->session->mutex);
    weft_window_given_up(&r->window, discarded);
    return r->window.state;
}

bool weft_rollout_is_tainted(const weft_rollout_t *r)
{
    return window_now((weft_rollout_t *)r) == WEFT_WINDOW_TAINTED;
}

/* ---- the step thread ---- */

static weft_status_t tainted(const weft_rollout_t *r, weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_TAINTED,
                     "rollout rank %u serves nothing: version %llu was given up after a part of it had been "
                     "written over the "
                     "live weights; publish a whole version",
                     r->session->rank, (unsigned long long)r->window.version);
}

weft_status_t weft_rollout_pause(weft_rollout_t *r, weft_error_t *error)
{
    weft_guard_view_t view = weft_guard_look(&r->session->guard);
    if (view.open)
        return weft_fail(error, WEFT_ERR_STEP_ORDER,
                         "rollout rank %u: step %llu is open: end it before the pause", r->session->rank,
                         (unsigned long long)view.step);
    if (weft_weights_in_place(r->weights))
        weft_window_pause(&r->window);
    return WEFT_OK;
}

weft_status_t weft_rollout_resume(weft_rollout_t *r, weft_error_t *error)
{
    if (!weft_weights_in_place(r->weights) || weft_window_resume(&r->window))
        return WEFT_OK;
    if (window_now(r) == WEFT_WINDOW_TAINTED)
        return tainted(r, error);
    if (r->window.state == WEFT_WINDOW_RUNNING) /* applied meanwhile */
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_NOT_READY,
                     "rollout rank %u: version %llu is being written over the live weights: wait for it",
                     r->session->rank, (unsigned long long)r->window.version);
}

/* A commit or a loss is the guard's to tell, whatever the window says. */
weft_status_t weft_rollout_window_lets(weft_rollout_t *r, weft_error_t *error)
{
    if (r->window.state == WEFT_WINDOW_RUNNING || weft_guard_look(&r->session->guard).fenced)
        return WEFT_OK;
    if (window_now(r) == WEFT_WINDOW_TAINTED)
        return tainted(r, error);
    return r->window.state == WEFT_WINDOW_RUNNING ? WEFT_OK : WEFT_ERR_FENCED;
}

/* ---- the progress thread ---- */

static weft_status_t refuse_subset(const weft_rollout_t *r, weft_error_t *error)
{
    return weft_fail(
        error, WEFT_ERR_TAINTED,
        "rollout rank %u: its weights are tainted: a subset cannot mend them, publish a whole version",
        r->session->rank);
}

weft_status_t weft_rollout_open_window(weft_rollout_t *r, bool *open, weft_error_t *error)
{
    bool whole = r->selection.whole, unserved = weft_guard_live(&r->session->guard) == 0;
    weft_window_state_t state = window_now(r);
    *open = true;
    if (!weft_weights_in_place(r->weights))
        return WEFT_OK;
    if (state == WEFT_WINDOW_TAINTED && !whole)
        return refuse_subset(r, error);
    *open = weft_window_write(&r->window, r->transfer.version, whole, unserved);
    return *open ? weft_weights_await_engine(r->weights, error) : WEFT_OK;
}

weft_status_t weft_rollout_await_window(weft_rollout_t *r, bool (*goes_on)(weft_rollout_t *),
                                        weft_error_t *error)
{
    bool open = false;
    for (;;) {
        WEFT_TRY(weft_rollout_open_window(r, &open, error));
        if (open)
            return WEFT_OK;
        if (!goes_on(r))
            return weft_fail(error, WEFT_ERR_ABORTED,
                             "the version was stopped before the engine paused for it");
        weft_sleep_us(LOOK_AGAIN_US);
    }
}
