#include "src/base/error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const char *text;
    weft_status_group_t group;
} statuses[] = {
#define X(id, group_id, text_) [WEFT_##id] = {#id, text_, WEFT_STATUS_GROUP_##group_id},
    WEFT_STATUS_LIST(X)
#undef X
};

static bool status_known(weft_status_t status)
{
    return (size_t)status < sizeof statuses / sizeof statuses[0];
}

const char *weft_status_name(weft_status_t status)
{
    return status_known(status) ? statuses[status].name : "ERR_UNKNOWN";
}

const char *weft_status_text(weft_status_t status)
{
    return status_known(status) ? statuses[status].text : "an unknown status";
}

weft_status_group_t weft_status_group(weft_status_t status)
{
    return status_known(status) ? statuses[status].group : WEFT_STATUS_GROUP_PROCESS;
}

/* Names from files stand in messages, and messages on terminals: no line of theirs, no escape sequence. */
static void remove_controls(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

weft_status_t weft_fail(weft_error_t *error, weft_status_t status, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        error->status = status;
        vsnprintf(error->message, sizeof error->message, format, args);
        va_end(args);
        remove_controls(error->message);
    }
    return status;
}

weft_status_t weft_error_prefix(weft_error_t *error, const char *format, ...)
{
    if (!error)
        return WEFT_ERR_INTERNAL;
    char text[WEFT_ERROR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    remove_controls(text);
    if (used >= 0 && (size_t)used + 3 < sizeof text) {
        size_t at = (size_t)used + 2, length = strnlen(error->message, sizeof text - at - 1);
        memcpy(text + used, ": ", 2);
        memcpy(text + at, error->message, length);
        text[at + length] = '\0';
        memcpy(error->message, text, at + length + 1);
    }
    return error->status;
}
