/* CURVE key pairs of the service mode: one for the coordinator, one or more for those that may join it.
 *
 *     DIR/server.key  secret and public   the coordinator's
 *     DIR/server.pub  public              whoever joins must have it: it is how they know the coordinator
 *     DIR/NAME.key    secret and public   a joiner's
 *     DIR/NAME.pub    public              who the coordinator lets in: every .pub in its folder but server.pub
 *
 * A secret is read only from a regular file of this user (or of root) that nobody else can read or write. */
#ifndef WEFT_SERVICE_KEYS_H
#define WEFT_SERVICE_KEYS_H

#include <stdbool.h>

#include <weft/types.h>

#define WEFT_KEY_TEXT_BYTES 41 /* in Z85, with its NUL */

#define WEFT_KEYS_SERVER "server"
#define WEFT_KEYS_CLIENT "client"

typedef struct weft_key_pair {
    char public[WEFT_KEY_TEXT_BYTES], secret[WEFT_KEY_TEXT_BYTES];
} weft_key_pair_t;

/* Public keys that may join. */
typedef struct weft_key_list {
    char (*items)[WEFT_KEY_TEXT_BYTES];
    size_t count, capacity;
} weft_key_list_t;

/* Make a key pair and write it as `dir`/`name`.key (mode 0600) and .pub. Files that exist are never written over.
 * **Returns** WEFT_OK; WEFT_ERR_ARGUMENT (a name that is not letters, digits, '-' and '_'); WEFT_ERR_IO;
 * WEFT_ERR_UNSUPPORTED (this libzmq has no CURVE). */
weft_status_t weft_keys_write(const char *dir, const char *name, weft_error_t *error);

/* Read `dir`/`name`.key. **Returns** WEFT_OK; WEFT_ERR_IO (also when others can read it); WEFT_ERR_FILE.
 * **Ownership** the caller wipes it with weft_keys_wipe. */
weft_status_t weft_keys_read(const char *dir, const char *name, weft_key_pair_t *pair, weft_error_t *error);
void weft_keys_wipe(weft_key_pair_t *pair);

/* Read `dir`/`name`.pub. **Returns** WEFT_OK; WEFT_ERR_IO (also when others can write it); WEFT_ERR_FILE. */
weft_status_t weft_keys_read_public(const char *dir, const char *name, char key[WEFT_KEY_TEXT_BYTES],
                                    weft_error_t *error);

/* Read every .pub of `dir` but server.pub. **Returns** as weft_keys_read_public; WEFT_ERR_FILE when there is none;
 * WEFT_ERR_NO_MEMORY. **Ownership** free with weft_keys_free, after a failure too. */
weft_status_t weft_keys_read_clients(const char *dir, weft_key_list_t *list, weft_error_t *error);
bool weft_keys_have(const weft_key_list_t *list, const char *key);
void weft_keys_free(weft_key_list_t *list);

#endif
