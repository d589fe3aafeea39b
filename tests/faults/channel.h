/* How a rank under test and its supervisor speak: lines to and fro over a socket, and holds.
 *
 * A report is a line "MICROSECONDS KIND ...", written by any thread at once. A command is a line too; the main thread
 * reads it. A hold stops whichever thread comes to a named place until the supervisor has done what it wants to do just
 * then: the place is reported, and the thread waits for one byte on a pipe of its own.
 *
 *     rank -> supervisor   fd 3      reports
 *     supervisor -> rank   fd 3      commands
 *     supervisor -> rank   fd 4      one byte lets a held thread go on
 */
#ifndef WEFT_TESTS_FAULTS_CHANNEL_H
#define WEFT_TESTS_FAULTS_CHANNEL_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"

#define CHANNEL_FD 3
#define RELEASE_FD 4
#define CHANNEL_LINE 256 /* longer than any command */

typedef struct channel {
    pthread_mutex_t mutex;
    char held[CHANNEL_LINE]; /* where the next thread to come there is held; "": nowhere */
    char input[4096];        /* commands that were not taken yet */
    size_t filled;
} channel_t;

static channel_t channel = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static inline void report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One line to the supervisor. Without a supervisor there is nothing to live for. */
static inline void report(const char *format, ...)
{
    char line[2048];
    int length = snprintf(line, sizeof line - 1, "%llu ", (unsigned long long)weft_now_us());
    va_list args;
    va_start(args, format);
    length += vsnprintf(line + length, sizeof line - 1 - (size_t)length, format, args);
    va_end(args);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    for (int i = 0; i < length; i++)
        line[i] = line[i] == '\n' ? ' ' : line[i];
    line[length++] = '\n';
    if (write(CHANNEL_FD, line, (size_t)length) != length)
        _exit(3);
}

static inline void hold_at(const char *place)
{
    pthread_mutex_lock(&channel.mutex);
    snprintf(channel.held, sizeof channel.held, "%s", place);
    pthread_mutex_unlock(&channel.mutex);
}

/* Held here, once, if `place` is where the supervisor wants it. */
static inline void reach(const char *place)
{
    char byte;
    pthread_mutex_lock(&channel.mutex);
    bool here = channel.held[0] && strcmp(channel.held, place) == 0;
    if (here)
        channel.held[0] = '\0';
    pthread_mutex_unlock(&channel.mutex);
    if (!here)
        return;
    report("reached %s", place);
    while (read(RELEASE_FD, &byte, 1) < 0 && errno == EINTR)
        ;
}

/* The next whole line, within `timeout_us`; false when there is none. */
static inline bool next_command(uint64_t timeout_us, char line[CHANNEL_LINE])
{
    struct pollfd ready = {.fd = CHANNEL_FD, .events = POLLIN};
    char *end = memchr(channel.input, '\n', channel.filled);
    if (!end && poll(&ready, 1, (int)(timeout_us / 1000)) == 1) {
        ssize_t got = read(CHANNEL_FD, channel.input + channel.filled, sizeof channel.input - channel.filled);
        if (got <= 0)
            _exit(3);
        channel.filled += (size_t)got;
        end = memchr(channel.input, '\n', channel.filled);
    }
    if (!end)
        return false;
    size_t length = (size_t)(end - channel.input);
    if (length >= CHANNEL_LINE)
        _exit(3);
    memcpy(line, channel.input, length);
    line[length] = '\0';
    channel.filled -= (size_t)(end + 1 - channel.input);
    memmove(channel.input, end + 1, channel.filled);
    return true;
}

#endif
