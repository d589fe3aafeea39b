#include "src/model/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/model/names.h"

#define FEW_MEMBERS 8u /* compared with each other; more go through a table */

/* The names and strings of cJSON end at the first NUL, so a name with one inside would pass for a shorter
 * one. */
static bool has_nul(const char *text, size_t length)
{
    return memchr(text, 0, length) || memmem(text, length, "\\u0000", 6);
}

/* ---- UTF-8 ---- */

/* Bytes of the character at `at`, 0 when it is none: cut short, overlong, a surrogate or above U+10FFFF. */
static size_t character_bytes(const uint8_t *at, size_t left)
{
    size_t bytes = at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
    if (bytes == 0 || bytes > left)
        return 0;
    for (size_t i = 1; i < bytes; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    bool wrong = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) ||
                 (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90);
    return wrong ? 0 : bytes;
}

/* The first byte that is not part of a character; `length` when there is none. */
static size_t find_not_utf8(const char *text, size_t length)
{
    const uint8_t *bytes = (const uint8_t *)text;
    size_t at = 0;
    while (at < length) {
        size_t step = bytes[at] < 0x80 ? 1 : character_bytes(bytes + at, length - at);
        if (step == 0)
            break;
        at += step;
    }
    return at;
}

/* ---- names ---- */

static const cJSON *find_twin_among_few(const cJSON *object)
{
    for (const cJSON *item = object->child; item; item = item->next)
        for (const cJSON *other = item->next; other; other = other->next)
            if (strcmp(item->string, other->string) == 0)
                return other;
    return NULL;
}

static weft_status_t find_twin(const cJSON *object, const cJSON **twin, weft_error_t *error)
{
    weft_names_t names = {0};
    weft_status_t status = WEFT_OK;
    for (const cJSON *item = object->child; item && !*twin && status == WEFT_OK; item = item->next) {
        if (weft_names_find(&names, item->string) != WEFT_NAMES_NONE)
            *twin = item;
        else if (!weft_names_add(&names, item->string, 0))
            status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the names of an object");
    }
    weft_names_free(&names);
    return status;
}

weft_status_t weft_json_check_names(const cJSON *object, weft_error_t *error)
{
    const cJSON *twin = NULL;
    uint32_t count = 0;
    for (const cJSON *item = object->child; item && count <= FEW_MEMBERS; item = item->next)
        count++;
    if (count <= FEW_MEMBERS)
        twin = find_twin_among_few(object);
    else
        WEFT_TRY(find_twin(object, &twin, error));
    return twin ? weft_fail(error, WEFT_ERR_FILE, "member '%.200s' is there twice", twin->string) : WEFT_OK;
}

/* Of all objects. As deep as cJSON reads, at most CJSON_NESTING_LIMIT. */
static weft_status_t check_all_names(const cJSON *item, weft_error_t *error)
{
    if (cJSON_IsObject(item))
        WEFT_TRY(weft_json_check_names(item, error));
    for (const cJSON *child = item->child; child; child = child->next)
        if (child->child)
            WEFT_TRY(check_all_names(child, error));
    return WEFT_OK;
}

/* ---- parsing ---- */

static weft_status_t check_characters(const char *text, size_t length, weft_error_t *error)
{
    if (has_nul(text, length))
        return weft_fail(error, WEFT_ERR_FILE, "the JSON text holds a NUL character");
    size_t at = find_not_utf8(text, length);
    if (at < length)
        return weft_fail(error, WEFT_ERR_FILE,
                         "the JSON text is not UTF-8: byte %zu of %zu, 0x%02x, belongs to no character", at,
                         length, (unsigned)(uint8_t)text[at]);
    return WEFT_OK;
}

/* `text` ends with a NUL that `length` does not count: some releases of cJSON look one byte too far. */
static weft_status_t parse_copy(const char *text, size_t length, const char *padding, cJSON **root,
                                weft_error_t *error)
{
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

weft_status_t weft_json_parse(const char *text, size_t length, const char *padding, cJSON **root,
                              weft_error_t *error)
{
    WEFT_TRY(check_characters(text, length, error));
    char *copy = malloc(length + 1);
    if (!copy)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %zu bytes of JSON", length);
    memcpy(copy, text, length);
    copy[length] = 0;
    weft_status_t status = parse_copy(copy, length, padding, root, error);
    free(copy);
    return status;
}

weft_status_t weft_json_parse_whole(const char *text, size_t length, cJSON **root, weft_error_t *error)
{
    cJSON *parsed = NULL;
    WEFT_TRY(weft_json_parse(text, length, " \t\r\n", &parsed, error));
    weft_status_t status = check_all_names(parsed, error);
    if (status != WEFT_OK) {
        cJSON_Delete(parsed);
        return status;
    }
    *root = parsed;
    return WEFT_OK;
}

/* ---- files ---- */

/* Opening a pipe would wait for who writes into it. */
static FILE *open_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    FILE *stream = fd >= 0 ? fdopen(fd, "rb") : NULL;
    if (fd >= 0 && !stream)
        close(fd);
    return stream;
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
    FILE *stream = open_file(path);
    if (!stream)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", path, strerror(errno));
    char *text = NULL;
    size_t length = 0;
    weft_status_t status = read_text(stream, path, max_bytes, &text, &length, error);
    fclose(stream);
    WEFT_TRY(status);
    status = weft_json_parse_whole(text, length, root, error);
    if (status != WEFT_OK)
        weft_error_prefix(error, "%s", path);
    free(text);
    return status;
}

/* ---- looking into it ---- */

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
