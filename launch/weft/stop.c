#include "launch/weft/stop.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <weft/status.h>

#include "launch/weft/options.h"

static volatile sig_atomic_t asked;
static unsigned bound_s;
static char last_words[96];

/* Later ones change nothing: launchers send several. */
static void on_signal(int signal)
{
    (void)signal;
    if (!asked)
        alarm(bound_s);
    asked = 1;
}

static void on_alarm(int signal)
{
    (void)signal;
    ssize_t written = write(STDERR_FILENO, last_words, strlen(last_words));
    (void)written;
    _exit(EXIT_PEER);
}

void stop_catch(const char *command, uint32_t grace_s)
{
    struct sigaction stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, end = {.sa_handler = on_alarm};
    bound_s = grace_s + STOP_MARGIN_S;
    snprintf(last_words, sizeof last_words,
             "weft %s: did not end in an orderly way within %u s of a signal\n", command, bound_s);
    sigaction(SIGALRM, &end, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
}

bool stop_asked(void)
{
    return asked != 0;
}
