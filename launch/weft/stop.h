/* SIGTERM and SIGINT: a command ends in an orderly way, and after its grace at once, whatever it waits for.
 *
 *     stop_catch("join", grace_s);      from here on; before, a signal ends the process as it always does
 *     while (!stop_asked()) ...
 */
#ifndef WEFT_LAUNCH_STOP_H
#define WEFT_LAUNCH_STOP_H

#include <stdbool.h>
#include <stdint.h>

/* Beyond the grace that a command gives its orderly end: then the process ends with EXIT_PEER. */
#define STOP_MARGIN_S 2

void stop_catch(const char *command, uint32_t grace_s);
bool stop_asked(void);

#endif
