/* In: a folder of key files. Out: keys that have the right form, from files that nobody else can change.
 * Invariant: a secret is in no message, and is wiped where it was read. */
#include "src/service/keys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zmq.h>

#include "src/base/array.h"
#include "src/base/error.h"

#define PATH_BYTES      4096
#define MAX_FILE_BYTES  512 /* a key file has two lines of less than 60 */
#define MAX_NAME_LENGTH 64
#define KEY_LENGTH      (WEFT_KEY_TEXT_BYTES - 1)
#define KEY_BYTES       32

typedef enum key_kind {
    KEY_SECRET,
    KEY_PUBLIC,
} key_kind_t;

static const char *const suffixes[] = {".key", ".pub"};

/* ---- names ---- */

static weft_status_t make_path(const char *dir, const char *name, key_kind_t kind, char path[PATH_BYTES],
                               weft_error_t *error)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    size_t length = strlen(name);
    if (length == 0 || length > MAX_NAME_LENGTH || strspn(name, allowed) != length)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "\"%s\" is no name of a key: 1 to %d letters, digits, '-' and '_'", name,
                         MAX_NAME_LENGTH);
    int written = snprintf(path, PATH_BYTES, "%s/%s%s", dir, name, suffixes[kind]);
    return written > 0 && written < PATH_BYTES
               ? WEFT_OK
               : weft_fail(error, WEFT_ERR_ARGUMENT, "the path of the key folder is too long");
}

/* ---- writing ---- */

static weft_status_t write_file(const char *path, mode_t mode, const char *text, weft_error_t *error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be written: %s%s", path, strerror(errno),
                         errno == EEXIST ? "; keys are never written over: remove it, or choose another name"
                                         : "");
    size_t length = strlen(text);
    bool whole = fchmod(fd, mode) == 0 && write(fd, text, length) == (ssize_t)length && fsync(fd) == 0;
    int reason = errno;
    close(fd);
    if (whole)
        return WEFT_OK;
    unlink(path);
    return weft_fail(error, WEFT_ERR_IO, "%s cannot be written: %s", path, strerror(reason));
}

weft_status_t weft_keys_write(const char *dir, const char *name, weft_error_t *error)
{
    char secret_path[PATH_BYTES], public_path[PATH_BYTES], text[MAX_FILE_BYTES];
    weft_key_pair_t pair;
    WEFT_TRY(make_path(dir, name, KEY_SECRET, secret_path, error));
    WEFT_TRY(make_path(dir, name, KEY_PUBLIC, public_path, error));
    if (!zmq_has("curve") || zmq_curve_keypair(pair.public, pair.secret))
        return weft_fail(error, WEFT_ERR_UNSUPPORTED, "this libzmq has no CURVE: no keys can be made");
    snprintf(text, sizeof text, "secret %s\npublic %s\n", pair.secret, pair.public);
    weft_status_t status = write_file(secret_path, 0600, text, error);
    explicit_bzero(text, sizeof text);
    snprintf(text, sizeof text, "public %s\n", pair.public);
    weft_keys_wipe(&pair);
    if (status != WEFT_OK)
        return status;
    status = write_file(public_path, 0644, text, error);
    if (status != WEFT_OK)
        unlink(secret_path);
    return status;
}

/* ---- reading ---- */

/* By the descriptor, so that what was looked at is what is read. */
static weft_status_t check_file(int fd, const char *path, key_kind_t kind, weft_error_t *error)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size > MAX_FILE_BYTES)
        return weft_fail(error, WEFT_ERR_FILE,
                         "%s is no key file: it is not a regular file of at most %d bytes", path,
                         MAX_FILE_BYTES);
    if (info.st_uid != geteuid() && info.st_uid != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s belongs to user %u, not to this one (%u) or root", path,
                         (unsigned)info.st_uid, (unsigned)geteuid());
    mode_t forbidden = kind == KEY_SECRET ? 077 : 022;
    if (info.st_mode & forbidden)
        return weft_fail(error, WEFT_ERR_IO, "%s has mode %04o: others can %s it; chmod %s it", path,
                         (unsigned)(info.st_mode & 07777), kind == KEY_SECRET ? "read or write" : "write",
                         kind == KEY_SECRET ? "600" : "644");
    return WEFT_OK;
}

static weft_status_t read_file(const char *path, key_kind_t kind, char text[MAX_FILE_BYTES + 1],
                               weft_error_t *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be read: %s; weft keygen makes keys", path,
                         strerror(errno));
    weft_status_t status = check_file(fd, path, kind, error);
    ssize_t got = status == WEFT_OK ? read(fd, text, MAX_FILE_BYTES) : 0;
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    if (status == WEFT_OK && got < 0)
        status = weft_fail(error, WEFT_ERR_IO, "%s cannot be read: %s", path, strerror(errno));
    return status;
}

/* Take "WORD KEY\n" off the text. */
static bool take_key(const char **text, const char *word, char key[WEFT_KEY_TEXT_BYTES])
{
    uint8_t bytes[KEY_BYTES];
    size_t length = strlen(word);
    const char *from = *text + length + 1;
    if (strncmp(*text, word, length) != 0 || (*text)[length] != ' ' || strcspn(from, "\n") != KEY_LENGTH)
        return false;
    memcpy(key, from, KEY_LENGTH);
    key[KEY_LENGTH] = '\0';
    *text = from + KEY_LENGTH + (from[KEY_LENGTH] == '\n');
    bool valid = zmq_z85_decode(bytes, key) != NULL;
    explicit_bzero(bytes, sizeof bytes);
    return valid;
}

static weft_status_t malformed(const char *path, weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_FILE, "%s is malformed: not a key that weft keygen wrote", path);
}

static bool parse_pair(const char *text, weft_key_pair_t *pair)
{
    char derived[WEFT_KEY_TEXT_BYTES];
    return take_key(&text, "secret", pair->secret) && take_key(&text, "public", pair->public) &&
           *text == '\0' && zmq_curve_public(derived, pair->secret) == 0 &&
           strcmp(derived, pair->public) == 0;
}

weft_status_t weft_keys_read(const char *dir, const char *name, weft_key_pair_t *pair, weft_error_t *error)
{
    char path[PATH_BYTES], text[MAX_FILE_BYTES + 1];
    WEFT_TRY(make_path(dir, name, KEY_SECRET, path, error));
    WEFT_TRY(read_file(path, KEY_SECRET, text, error));
    bool valid = parse_pair(text, pair);
    explicit_bzero(text, sizeof text);
    if (valid)
        return WEFT_OK;
    weft_keys_wipe(pair);
    return malformed(path, error);
}

void weft_keys_wipe(weft_key_pair_t *pair)
{
    explicit_bzero(pair, sizeof *pair);
}

weft_status_t weft_keys_read_public(const char *dir, const char *name, char key[WEFT_KEY_TEXT_BYTES],
                                    weft_error_t *error)
{
    char path[PATH_BYTES], text[MAX_FILE_BYTES + 1];
    const char *at = text;
    WEFT_TRY(make_path(dir, name, KEY_PUBLIC, path, error));
    WEFT_TRY(read_file(path, KEY_PUBLIC, text, error));
    return take_key(&at, "public", key) && *at == '\0' ? WEFT_OK : malformed(path, error);
}

/* ---- who may join ---- */

static weft_status_t add_client(weft_key_list_t *list, const char *dir, const char *file, weft_error_t *error)
{
    char name[MAX_NAME_LENGTH + 1];
    size_t length = strlen(file), suffix = strlen(suffixes[KEY_PUBLIC]);
    if (length <= suffix || length - suffix > MAX_NAME_LENGTH ||
        strcmp(file + length - suffix, suffixes[KEY_PUBLIC]) != 0)
        return WEFT_OK;
    snprintf(name, sizeof name, "%.*s", (int)(length - suffix), file);
    if (strcmp(name, WEFT_KEYS_SERVER) == 0)
        return WEFT_OK;
    if (!WEFT_ARRAY_RESERVE(list, list->count + 1))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the keys in %s", dir);
    WEFT_TRY(weft_keys_read_public(dir, name, list->items[list->count], error));
    list->count++;
    return WEFT_OK;
}

weft_status_t weft_keys_read_clients(const char *dir, weft_key_list_t *list, weft_error_t *error)
{
    DIR *folder = opendir(dir);
    if (!folder)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be read: %s", dir, strerror(errno));
    weft_status_t status = WEFT_OK;
    for (struct dirent *entry; status == WEFT_OK && (entry = readdir(folder));)
        status = add_client(list, dir, entry->d_name, error);
    closedir(folder);
    if (status == WEFT_OK && list->count == 0)
        return weft_fail(error, WEFT_ERR_FILE,
                         "%s holds no public key of a client: nobody could join; weft keygen makes one", dir);
    return status;
}

bool weft_keys_have(const weft_key_list_t *list, const char *key)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i], key) == 0)
            return true;
    return false;
}

void weft_keys_free(weft_key_list_t *list)
{
    WEFT_ARRAY_FREE(list);
}
