/* One line to the user's callback. */
#ifndef WEFT_BASE_LOG_H
#define WEFT_BASE_LOG_H

#include <weft/types.h>

/* Format a line and hand it over; NULL or a level above the user's drops it. */
void weft_log_line(const weft_log_t *log, weft_log_level_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
