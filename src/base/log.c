#include "src/base/log.h"

#include <stdarg.h>
#include <stdio.h>

void weft_log_line(const weft_log_t *log, weft_log_level_t level, const char *format, ...)
{
    if (!log || !log->fn || level > log->level)
        return;
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    log->fn(log->user, level, line);
}
