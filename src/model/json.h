/* JSON from outside: cJSON with the checks it leaves to its caller.
 *
 * cJSON reads every number as a double, ends names at an escaped NUL, ignores what follows the value and
 * compares names without their case; some releases read a byte past the end. Here none of that reaches a
 * caller. Text that is not UTF-8 is refused.
 *
 * Memory: a tree takes at most 64 times the bytes of its text (a value of two bytes, `0,`, is a node of 64),
 * and 128 KiB. No number in the text sizes anything.
 */
#ifndef WEFT_MODEL_JSON_H
#define WEFT_MODEL_JSON_H

#include <cjson/cJSON.h>

#include <weft/types.h>

/* Parse one JSON value; only characters of `padding` may follow it. An object may hold a name twice.
 * **Returns** WEFT_OK; WEFT_ERR_FILE with the offset of what is wrong; WEFT_ERR_NO_MEMORY.
 * **Ownership** free with cJSON_Delete. */
weft_status_t weft_json_parse(const char *text, size_t length, const char *padding, cJSON **root,
                              weft_error_t *error);

/* The same of a text that may end with white space, and where a name that an object holds twice is an error:
 * which of the two counts differs from reader to reader. */
weft_status_t weft_json_parse_whole(const char *text, size_t length, cJSON **root, weft_error_t *error);

/* Check that no two members of `object` have one name, not of objects within.
 * **Returns** WEFT_OK, WEFT_ERR_FILE with the name, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_json_check_names(const cJSON *object, weft_error_t *error);

/* Read a whole file of at most `max_bytes` and parse it as weft_json_parse_whole does.
 * **Returns** WEFT_OK; WEFT_ERR_IO, WEFT_ERR_FILE, WEFT_ERR_NO_MEMORY with the path in the message. */
weft_status_t weft_json_read(const char *path, size_t max_bytes, cJSON **root, weft_error_t *error);

/* Find a member of an object by its exact name; NULL when there is none. */
const cJSON *weft_json_get(const cJSON *object, const char *key);

/* Read an integer from 0 to 2^53 - 1, beyond which a double no longer tells integers apart; false for all
 * else. */
bool weft_json_u64(const cJSON *item, uint64_t *value);

/* Return "an object", "a string", ... for messages; "nothing" for NULL. */
const char *weft_json_kind(const cJSON *item);

#endif
