/* A growable string for printed plans, tables and JSON. */
#ifndef WEFT_BASE_TEXT_H
#define WEFT_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct weft_text {
    char *data; /* NUL-terminated once anything was appended; free() it */
    size_t length, capacity;
    bool failed; /* memory ran out; what follows is dropped */
} weft_text_t;

/* Append formatted text. */
void weft_text_add(weft_text_t *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Append `value` as a JSON string with its quotes. */
void weft_text_add_json_string(weft_text_t *text, const char *value);

void weft_text_free(weft_text_t *text);

/* Write bytes as "12.3 MiB" into `out`, and return it. */
const char *weft_text_bytes(double bytes, char out[24]);

#endif
