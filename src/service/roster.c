/* In: processes that join. Out: their numbers, and a file that says the same after a restart.
 * Invariant: an incarnation number is in the file before anybody is told it. */
#include "src/service/roster.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/base/hash.h"
#include "src/base/text.h"

#define FIRST_LINE     "weft coordinator state 1\n"
#define MAX_FILE_BYTES (1u << 20)
#define HEX_BYTES      (2 * WEFT_MAILBOX_TOKEN_BYTES + 1)

/* ---- numbers ---- */

static uint64_t highest_of_replica(const weft_roster_t *r, uint32_t rank)
{
    uint32_t first = weft_topology_leader(&r->topology, weft_topology_replica(&r->topology, rank));
    uint64_t highest = 0;
    for (uint32_t p = first; p < first + r->topology.tp; p++)
        highest = r->peers[p].incarnation > highest ? r->peers[p].incarnation : highest;
    return highest;
}

/* A rank that has fallen behind the others of its replica catches up with them; one that is level begins the
 * next. Who comes after the session has begun is no first. */
static uint64_t next_incarnation(const weft_roster_t *r, uint32_t rank)
{
    uint64_t own = r->peers[rank].incarnation;
    uint64_t highest = weft_topology_is_trainer(&r->topology, rank) ? own : highest_of_replica(r, rank);
    uint64_t next = own < highest ? highest : own + 1;
    return next == 1 && r->term != 0 ? 2 : next;
}

uint64_t weft_roster_admit(weft_roster_t *r, uint32_t rank, const uint8_t life[WEFT_LIFE_BYTES])
{
    weft_roster_peer_t *peer = &r->peers[rank];
    if (peer->incarnation != 0 && memcmp(peer->life, life, WEFT_LIFE_BYTES) == 0)
        return peer->incarnation;
    peer->incarnation = next_incarnation(r, rank);
    memcpy(peer->life, life, WEFT_LIFE_BYTES);
    peer->endpoint[0] = '\0';
    return peer->incarnation;
}

/* ---- writing ---- */

static void add_hex(weft_text_t *text, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        weft_text_add(text, "%02x", bytes[i]);
}

static void print_peer(weft_text_t *text, const weft_roster_peer_t *peer)
{
    weft_text_add(text, "rank %" PRIu64 " ", peer->incarnation);
    add_hex(text, peer->life, sizeof peer->life);
    weft_text_add(text, " %s\n", peer->endpoint[0] ? peer->endpoint : "-");
}

static void print_roster(weft_text_t *text, const weft_roster_t *r)
{
    const weft_topology_t *t = &r->topology;
    weft_text_add(text, FIRST_LINE "topology %u %u %u\ntoken ", t->trainers, t->replicas, t->tp);
    add_hex(text, r->token, sizeof r->token);
    weft_text_add(text, "\nplan %d %" PRIx64 " %" PRIx64 "\ncontrol %s\nterm %" PRIu64 " epoch %u\n",
                  r->plan_known, r->plan_hash.word[0], r->plan_hash.word[1], r->control[0] ? r->control : "-",
                  r->term, r->epoch);
    for (uint32_t p = 0; p < weft_topology_ranks(t); p++)
        print_peer(text, &r->peers[p]);
    weft_digest_t digest = weft_hash(text->data ? text->data : "", text->length);
    weft_text_add(text, "end %" PRIx64 " %" PRIx64 "\n", digest.word[0], digest.word[1]);
}

static bool write_all(int fd, const char *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t wrote = write(fd, data + done, bytes - done);
        if (wrote < 0 && errno != EINTR)
            return false;
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    return true;
}

/* The name of the new file counts once its folder is on disk too. */
static bool sync_folder(const char *path)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0';
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return synced;
}

static weft_status_t replace_file(const char *path, const char *data, size_t bytes, weft_error_t *error)
{
    char partial[4096];
    if (snprintf(partial, sizeof partial, "%s.partial", path) >= (int)sizeof partial)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "the path of the state file is too long");
    unlink(partial); /* what an earlier end left behind; the lock says that nobody writes it now */
    int fd = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool written = fd >= 0 && write_all(fd, data, bytes) && fsync(fd) == 0;
    int reason = errno;
    if (fd >= 0)
        close(fd);
    if (written && rename(partial, path) == 0 && sync_folder(path))
        return WEFT_OK;
    reason = written ? errno : reason;
    unlink(partial);
    return weft_fail(error, WEFT_ERR_IO, "the state file %s cannot be written: %s", path, strerror(reason));
}

weft_status_t weft_roster_save(const weft_roster_t *r, weft_error_t *error)
{
    weft_text_t text = {0};
    if (!r->path)
        return WEFT_OK;
    print_roster(&text, r);
    weft_status_t status = text.failed || !text.data
                               ? weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the coordinator's state")
                               : replace_file(r->path, text.data, text.length, error);
    if (text.data)
        explicit_bzero(text.data, text.length);
    weft_text_free(&text);
    return status;
}

/* ---- reading ---- */

static bool read_hex(const char *text, uint8_t *bytes, size_t count)
{
    if (strlen(text) != 2 * count || strspn(text, "0123456789abcdef") != 2 * count)
        return false;
    for (size_t i = 0; i < count; i++) {
        unsigned value;
        sscanf(text + 2 * i, "%2x", &value);
        bytes[i] = (uint8_t)value;
    }
    return true;
}

static void take_word(const char *word, char out[WEFT_MAILBOX_ENDPOINT_BYTES])
{
    snprintf(out, WEFT_MAILBOX_ENDPOINT_BYTES, "%s", strcmp(word, "-") == 0 ? "" : word);
}

static bool parse_peer(char *line, weft_roster_peer_t *peer)
{
    char life[HEX_BYTES], endpoint[WEFT_MAILBOX_ENDPOINT_BYTES];
    if (!line || sscanf(line, "rank %" SCNu64 " %64s %127s", &peer->incarnation, life, endpoint) != 3)
        return false;
    take_word(endpoint, peer->endpoint);
    return read_hex(life, peer->life, sizeof peer->life);
}

static bool parse_head(char **cursor, weft_roster_t *r)
{
    char token[HEX_BYTES], control[WEFT_MAILBOX_ENDPOINT_BYTES];
    unsigned known;
    char *line = strtok_r(NULL, "\n", cursor);
    if (!line || sscanf(line, "token %64s", token) != 1 || !read_hex(token, r->token, sizeof r->token))
        return false;
    line = strtok_r(NULL, "\n", cursor);
    if (!line || sscanf(line, "plan %u %" SCNx64 " %" SCNx64, &known, &r->plan_hash.word[0],
                        &r->plan_hash.word[1]) != 3)
        return false;
    r->plan_known = known != 0;
    line = strtok_r(NULL, "\n", cursor);
    if (!line || sscanf(line, "control %127s", control) != 1)
        return false;
    take_word(control, r->control);
    line = strtok_r(NULL, "\n", cursor);
    return line && sscanf(line, "term %" SCNu64 " epoch %u", &r->term, &r->epoch) == 2 &&
           r->term <= WEFT_MAX_TERM;
}

/* The last line is a digest of all before it. */
static bool is_whole(char *text)
{
    char expected[64];
    char *end = strstr(text, "\nend ");
    if (!end)
        return false;
    weft_digest_t digest = weft_hash(text, (size_t)(end + 1 - text));
    snprintf(expected, sizeof expected, "\nend %" PRIx64 " %" PRIx64 "\n", digest.word[0], digest.word[1]);
    bool whole = strcmp(end, expected) == 0;
    end[1] = '\0';
    return whole;
}

static weft_status_t parse(weft_roster_t *r, char *text, weft_error_t *error)
{
    char *cursor, *line;
    weft_topology_t found, wanted = r->topology;
    bool good = strncmp(text, FIRST_LINE, strlen(FIRST_LINE)) == 0 && is_whole(text);
    if (good) {
        strtok_r(text, "\n", &cursor);
        line = strtok_r(NULL, "\n", &cursor);
        good = line && sscanf(line, "topology %u %u %u", &found.trainers, &found.replicas, &found.tp) == 3;
    }
    if (good && memcmp(&found, &wanted, sizeof found) != 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "the state file %s is of a session of %u trainers and %u replicas of %u ranks, this "
                         "one has %u and %u of "
                         "%u: give the same numbers, or another file for another session",
                         r->path, found.trainers, found.replicas, found.tp, wanted.trainers, wanted.replicas,
                         wanted.tp);
    good = good && parse_head(&cursor, r);
    for (uint32_t p = 0; good && p < weft_topology_ranks(&wanted); p++)
        good = parse_peer(strtok_r(NULL, "\n", &cursor), &r->peers[p]);
    return good ? WEFT_OK
                : weft_fail(error, WEFT_ERR_FILE,
                            "%s is no whole state file of a coordinator: remove it to begin another session",
                            r->path);
}

static weft_status_t check_file(const weft_roster_t *r, int fd, size_t *bytes, weft_error_t *error)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", r->path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size > MAX_FILE_BYTES)
        return weft_fail(error, WEFT_ERR_FILE, "%s is no state file of a coordinator", r->path);
    if ((info.st_uid != geteuid() && info.st_uid != 0) || (info.st_mode & 077))
        return weft_fail(
            error, WEFT_ERR_IO,
            "%s holds a secret, and others can read or write it (mode %04o, user %u): chmod 600 it", r->path,
            (unsigned)(info.st_mode & 07777), (unsigned)info.st_uid);
    *bytes = (size_t)info.st_size;
    return WEFT_OK;
}

/* *found: whether there is such a file. */
static weft_status_t load(weft_roster_t *r, bool *found, weft_error_t *error)
{
    size_t bytes = 0;
    int fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    *found = fd >= 0;
    if (fd < 0)
        return errno == ENOENT
                   ? WEFT_OK
                   : weft_fail(error, WEFT_ERR_IO, "%s cannot be read: %s", r->path, strerror(errno));
    weft_status_t status = check_file(r, fd, &bytes, error);
    char *text = status == WEFT_OK ? calloc(bytes + 1, 1) : NULL;
    if (status == WEFT_OK && !text)
        status = weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %s", r->path);
    if (status == WEFT_OK && read(fd, text, bytes) != (ssize_t)bytes)
        status = weft_fail(error, WEFT_ERR_IO, "%s cannot be read", r->path);
    if (status == WEFT_OK)
        status = parse(r, text, error);
    close(fd);
    if (text)
        explicit_bzero(text, bytes);
    free(text);
    return status;
}

/* ---- life ---- */

/* Beside the file, which is replaced. */
static weft_status_t take_lock(weft_roster_t *r, weft_error_t *error)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s.lock", r->path) >= (int)sizeof path)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "the path of the state file is too long");
    r->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (r->lock < 0)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be made: %s", path, strerror(errno));
    if (flock(r->lock, LOCK_EX | LOCK_NB) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s is in use: another coordinator has this session", r->path);
    return WEFT_OK;
}

static weft_status_t begin(weft_roster_t *r, weft_error_t *error)
{
    if (getrandom(r->token, sizeof r->token, 0) != (ssize_t)sizeof r->token)
        return weft_fail(error, WEFT_ERR_SYSTEM, "no random bytes for the session's token");
    return weft_roster_save(r, error);
}

weft_status_t weft_roster_open(const char *path, const weft_topology_t *topology, weft_roster_t *r,
                               weft_error_t *error)
{
    bool found = false;
    *r = (weft_roster_t){.topology = *topology, .lock = -1};
    r->peers = calloc(weft_topology_ranks(topology), sizeof *r->peers);
    r->path = path ? strdup(path) : NULL;
    if (!r->peers || (path && !r->path))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the coordinator's state");
    if (path) {
        WEFT_TRY(take_lock(r, error));
        WEFT_TRY(load(r, &found, error));
    }
    return found ? WEFT_OK : begin(r, error);
}

void weft_roster_close(weft_roster_t *r)
{
    if (r->lock >= 0)
        close(r->lock);
    free(r->path);
    free(r->peers);
    explicit_bzero(r, sizeof *r);
    r->lock = -1;
}
