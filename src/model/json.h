/* JSON from outside: cJSON with the checks it leaves to its caller.
 *
 * cJSON reads every number as a double, ends names at an escaped NUL, ignores what follows the value and
 * compares names without their case; here none of that reaches a caller.
 */
#ifndef WEFT_MODEL_JSON_H
#define WEFT_MODEL_JSON_H

#include <cjson/cJSON.h>

#include <weft/types.h>

/* Parse one JSON value; only characters of `padding` may follow it.
 * **Returns** WEFT_OK, or WEFT_ERR_FILE with the offset of what is wrong.
 * **Ownership** free with cJSON_Delete. */
weft_status_t weft_json_parse(const char *text, size_t length, const char *padding, cJSON **root,
                              weft_error_t *error);

/* Read a whole file of at most `max_bytes` and parse it; white space may follow the value.
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
