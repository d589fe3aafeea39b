/* How a progress thread rests when nothing moved: it looks again at once a few times, then gives the core
 * away for longer and longer, so that a waiting transfer neither burns a core that decodes nor adds much to
 * each hop. With work on a GPU it looks on for some milliseconds: a sleep is longer than a launch. */
#ifndef WEFT_PAUSE_H
#define WEFT_PAUSE_H

#include <sched.h>
#include <stdbool.h>

#include "src/base/clock.h"

#define WEFT_PAUSE_YIELDS 16u
#define WEFT_PAUSE_MAX_US 200u

#define WEFT_PAUSE_EAGER_YIELDS 20000u
#define WEFT_PAUSE_EAGER_US     10000u /* how long the threads of a version look on after something moved */

typedef struct weft_pause {
    bool eager; /* a GPU works, its host has cores to spare */
    unsigned idle;
} weft_pause_t;

static inline void weft_pause_moved(weft_pause_t *pause)
{
    pause->idle = 0;
}

static inline void weft_pause_rest(weft_pause_t *pause)
{
    unsigned yields = pause->eager ? WEFT_PAUSE_EAGER_YIELDS : WEFT_PAUSE_YIELDS;
    if (pause->idle++ < yields) {
        sched_yield();
        return;
    }
    uint64_t us = (uint64_t)(pause->idle - yields) * 5;
    weft_sleep_us(us < WEFT_PAUSE_MAX_US ? us : WEFT_PAUSE_MAX_US);
}

#endif
