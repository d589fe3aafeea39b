#include "src/base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/array.h"

void weft_text_add(weft_text_t *text, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int wanted = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (wanted < 0 || text->failed ||
        !weft_array_reserve((void **)&text->data, text->length + (size_t)wanted + 1, &text->capacity, 1)) {
        text->failed = true;
    } else {
        vsnprintf(text->data + text->length, (size_t)wanted + 1, format, again);
        text->length += (size_t)wanted;
    }
    va_end(again);
}

void weft_text_add_json_string(weft_text_t *text, const char *value)
{
    weft_text_add(text, "\"");
    for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
        if (*c == '"' || *c == '\\')
            weft_text_add(text, "\\%c", *c);
        else if (*c < 0x20)
            weft_text_add(text, "\\u%04x", *c);
        else
            weft_text_add(text, "%c", *c);
    }
    weft_text_add(text, "\"");
}

void weft_text_free(weft_text_t *text)
{
    free(text->data);
    *text = (weft_text_t){0};
}

const char *weft_text_bytes(double bytes, char out[24])
{
    static const char *units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned unit = 0;
    while (bytes >= 1024 && unit < 5) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, 24, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return out;
}
