#include "src/model/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/error.h"

/* The names and strings of cJSON end at the first NUL, so a name with one inside would pass for a shorter
 * one. */
static bool has_nul(const char *text, size_t length)
{
    return memchr(text, 0, length) || memmem(text, length, "\\u0000", 6);
}

weft_status_t weft_json_parse(const char *text, size_t length, const char *padding, cJSON **root,
                              weft_error_t *error)
{
    if (has_nul(text, length))
        return weft_fail(error, WEFT_ERR_FILE, "the JSON text holds a NUL character");
    const char *end = text;
    cJSON *parsed = cJSON_ParseWithLengthOpts(text, length, &end, false);
    if (!parsed)
        return weft_fail(error, WEFT_ERR_FILE, "not JSON, or nested too deeply, at byte %zu of %zu",
                         (size_t)(end - text), length);
    for (; end < text + length; end++) {
        if (!strchr(padding, *end)) {
            cJSON_Delete(parsed);
            return weft_fail(error, WEFT_ERR_FILE, "byte %zu of %zu follows the end of the JSON value",
                             (size_t)(end - text), length);
        }
    }
    *root = parsed;
    return WEFT_OK;
}

static weft_status_t read_text(FILE *stream, const char *path, size_t max_bytes, char **text, size_t *length,
                               weft_error_t *error)
{
    struct stat info;
    if (fstat(fileno(stream), &info) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return weft_fail(error, WEFT_ERR_IO, "%s: not a regular file", path);
    if ((uint64_t)info.st_size > max_bytes)
        return weft_fail(error, WEFT_ERR_FILE, "%s: %lld bytes, at most %zu are read", path,
                         (long long)info.st_size, max_bytes);
    size_t bytes = (size_t)info.st_size;
    char *read = malloc(bytes + 1);
    if (!read)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "%s: no memory for %zu bytes", path, bytes);
    if (fread(read, 1, bytes, stream) != bytes) {
        free(read);
        return weft_fail(error, WEFT_ERR_IO, "%s: fewer than %zu bytes could be read", path, bytes);
    }
    *text = read;
    *length = bytes;
    return WEFT_OK;
}

weft_status_t weft_json_read(const char *path, size_t max_bytes, cJSON **root, weft_error_t *error)
{
    FILE *stream = fopen(path, "rbe");
    if (!stream)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", path, strerror(errno));
    char *text = NULL;
    size_t length = 0;
    weft_status_t status = read_text(stream, path, max_bytes, &text, &length, error);
    fclose(stream);
    WEFT_TRY(status);
    status = weft_json_parse(text, length, " \t\r\n", root, error);
    if (status != WEFT_OK)
        weft_error_prefix(error, "%s", path);
    free(text);
    return status;
}

const cJSON *weft_json_get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

bool weft_json_u64(const cJSON *item, uint64_t *value)
{
    if (!cJSON_IsNumber(item))
        return false;
    double number = item->valuedouble;
    /* Written so that NaN fails as well. */
    if (!(number >= 0 && number < 9007199254740992.0) || number != (double)(uint64_t)number)
        return false;
    *value = (uint64_t)number;
    return true;
}

const char *weft_json_kind(const cJSON *item)
{
    if (!item)
        return "nothing";
    switch (item->type & 0xff) {
    case cJSON_False:
    case cJSON_True:
        return "a bool";
    case cJSON_NULL:
        return "null";
    case cJSON_Number:
        return "a number";
    case cJSON_String:
        return "a string";
    case cJSON_Array:
        return "an array";
    case cJSON_Object:
        return "an object";
    default:
        return "nothing";
    }
}
