/* Monotonic time, and a sleep that is worth its wake-up. */
#ifndef WEFT_BASE_CLOCK_H
#define WEFT_BASE_CLOCK_H

#include <stdint.h>

/* Microseconds since an arbitrary start; never goes back. */
uint64_t weft_now_us(void);

/* Nanoseconds since the same start. */
uint64_t weft_now_ns(void);

/* Give the core away for about `us` microseconds. */
void weft_sleep_us(uint64_t us);

#endif
