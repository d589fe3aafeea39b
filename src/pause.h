/* How a progress thread rests when nothing moved: it looks again at once a few times, then gives the core
 * away for longer and longer, so that a waiting transfer neither burns a core that decodes nor adds much to
 * each hop. */
#ifndef WEFT_PAUSE_H
#define WEFT_PAUSE_H

#include <sched.h>

#include "src/base/clock.h"

#define WEFT_PAUSE_YIELDS 16u
#define WEFT_PAUSE_MAX_US 200u

typedef struct weft_pause {
    unsigned idle;
} weft_pause_t;

static inline void weft_pause_moved(weft_pause_t *pause)
{
    pause->idle = 0;
}

static inline void weft_pause_rest(weft_pause_t *pause)
{
    if (pause->idle++ < WEFT_PAUSE_YIELDS) {
        sched_yield();
        return;
    }
    uint64_t us = (uint64_t)(pause->idle - WEFT_PAUSE_YIELDS) * 5;
    weft_sleep_us(us < WEFT_PAUSE_MAX_US ? us : WEFT_PAUSE_MAX_US);
}

#endif
