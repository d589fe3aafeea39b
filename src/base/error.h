/* How weft fails: one call that fills the error record, one macro that forwards it. */
#ifndef WEFT_BASE_ERROR_H
#define WEFT_BASE_ERROR_H

#include <weft/status.h>

/* Fill `error` (may be NULL) and return `status`, so that `return weft_fail(error, WEFT_ERR_X, "...", ...)`
 * ends a function. A message says rank, layer, what was found, what was expected, what to do;
 * control characters, which names from files may hold, become '?'. */
weft_status_t weft_fail(weft_error_t *error, weft_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "text: " in front of the message: where the caller knows the rank, the file or the layer. Returns the
 * status already there. */
weft_status_t weft_error_prefix(weft_error_t *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Forward a failure silently; the function that knew the reason has written it down. */
#define WEFT_TRY(expression)                                                                                 \
    do {                                                                                                     \
        weft_status_t weft_try_status_ = (expression);                                                       \
        if (weft_try_status_ != WEFT_OK)                                                                     \
            return weft_try_status_;                                                                         \
    } while (0)

/* Forward a failure through a label named for what it undoes; needs a local `status`. */
#define WEFT_TRY_GOTO(expression, label)                                                                     \
    do {                                                                                                     \
        status = (expression);                                                                               \
        if (status != WEFT_OK)                                                                               \
            goto label;                                                                                      \
    } while (0)

#endif
