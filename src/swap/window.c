#include "src/swap/window.h"

static bool go(weft_window_t *w, weft_window_state_t from, weft_window_state_t to)
{
    return atomic_compare_exchange_strong(&w->state, &from, to);
}

bool weft_window_pause(weft_window_t *w)
{
    go(w, WEFT_WINDOW_RUNNING, WEFT_WINDOW_PAUSED);
    return w->state != WEFT_WINDOW_RUNNING;
}

bool weft_window_resume(weft_window_t *w)
{
    go(w, WEFT_WINDOW_PAUSED, WEFT_WINDOW_RUNNING);
    return w->state == WEFT_WINDOW_RUNNING;
}

/* The version is stored first: whoever sees WRITTEN asks whether that one was given up. */
bool weft_window_write(weft_window_t *w, uint64_t version, bool whole, bool unserved)
{
    w->version = version;
    return go(w, WEFT_WINDOW_PAUSED, WEFT_WINDOW_WRITTEN) ||
           (whole && go(w, WEFT_WINDOW_TAINTED, WEFT_WINDOW_WRITTEN)) ||
           (unserved && go(w, WEFT_WINDOW_RUNNING, WEFT_WINDOW_WRITTEN));
}

void weft_window_applied(weft_window_t *w)
{
    w->state = WEFT_WINDOW_RUNNING;
}

void weft_window_given_up(weft_window_t *w, uint64_t version)
{
    if (w->version <= version)
        go(w, WEFT_WINDOW_WRITTEN, WEFT_WINDOW_TAINTED);
}
