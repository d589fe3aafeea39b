/* The time of day of this process jumps when a test says so, for weft and for every library that it loads: their calls
 * come to the functions here, because the dynamic linker looks into the program first. The kernel's own clocks stay, so a wait
 * until a time of day that was computed from this one ends too early or too late, as it would if the clock were set
 * in between. CLOCK_MONOTONIC is passed on.
 *
 *     jump_clock(3600);      an hour later; jump_clock(-3600) before
 */
#ifndef WEFT_TESTS_FAULTS_CLOCK_JUMP_H
#define WEFT_TESTS_FAULTS_CLOCK_JUMP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SEEN_BY_ALL __attribute__((visibility("default")))

static _Atomic long long clock_jumped_s;

static inline void jump_clock(long long seconds)
{
    clock_jumped_s += seconds;
}

static bool is_time_of_day(clockid_t clock)
{
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

SEEN_BY_ALL int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && is_time_of_day(clock))
        now->tv_sec += clock_jumped_s;
    return status;
}

SEEN_BY_ALL time_t time(time_t *now)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (now)
        *now = at.tv_sec;
    return at.tv_sec;
}

SEEN_BY_ALL int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    *now = (struct timeval){at.tv_sec, at.tv_nsec / 1000};
    return 0;
}

#endif
