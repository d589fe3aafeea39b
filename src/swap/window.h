/* The window of swap mode layerwise, in which a version is written over the weights that serve: no step runs from before the
 * first byte until the version is live. One a rollout rank.
 *
 *                                      +------------ applied -------------+
 *                                      v                                  |
 *     RUNNING --- pause (engine) --> PAUSED --- write (a version) --> WRITTEN --- given up --> TAINTED
 *        ^                             |                                  ^                       |
 *        +--------- resume ------------+                                  +--- write (a whole) ---+
 *
 * `pause` and `resume` are the step thread's, `write` the progress thread's. `applied` goes to RUNNING. Before the first
 * version no step can run, so that version may be written from RUNNING.
 */
#ifndef WEFT_SWAP_WINDOW_H
#define WEFT_SWAP_WINDOW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum weft_window_state {
    WEFT_WINDOW_RUNNING, /* steps may run; nothing is written */
    WEFT_WINDOW_PAUSED,  /* no step begins; the weights are whole */
    WEFT_WINDOW_WRITTEN, /* no step begins; the weights are of two versions */
    WEFT_WINDOW_TAINTED, /* no step begins; the version that was being written will not come */
} weft_window_state_t;

typedef struct weft_window {
    _Atomic weft_window_state_t state;
    _Atomic uint64_t version; /* written last, or being written */
} weft_window_t;

/* All return whether the window is in the state that they ask for. */
bool weft_window_pause(weft_window_t *window);  /* RUNNING -> PAUSED; true in all states but RUNNING */
bool weft_window_resume(weft_window_t *window); /* PAUSED -> RUNNING */
/* `unserved`: nothing is live yet. A subset may not be written over tainted weights. */
bool weft_window_write(weft_window_t *window, uint64_t version, bool whole, bool unserved);
void weft_window_applied(weft_window_t *window);
/* Versions up to `version` will not come. */
void weft_window_given_up(weft_window_t *window, uint64_t version);

#endif
