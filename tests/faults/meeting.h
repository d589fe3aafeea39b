/* The bootstrap transport of a rank under test: it gathers by way of the supervisor, which so decides who meets whom,
 * can hold a rank at any of these meetings, and says when one of them will not come.
 *
 *     rank -> supervisor   fd 5      "EPOCH LABEL HEX"
 *     supervisor -> rank   fd 5      "all HEX", or "lost why"
 */
#ifndef WEFT_TESTS_FAULTS_MEETING_H
#define WEFT_TESTS_FAULTS_MEETING_H

#include <sys/socket.h>

#include "src/base/error.h"
#include "tests/faults/channel.h"
#include "transport/transport.h"

#define MEETING_FD 5

typedef struct meeting {
    weft_transport_base_t base; /* first: this is a transport */
    uint32_t epoch;
    const char *label; /* what is under way: "join", "plan", "leave" */
    uint32_t count;    /* of gathers under this label */
} meeting_t;

static inline bool meeting_send(const char *text, size_t bytes)
{
    while (bytes) {
        ssize_t sent = send(MEETING_FD, text, bytes, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        text += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

static inline bool meeting_ask(const meeting_t *m, const uint8_t *mine, size_t bytes)
{
    char *line = malloc(2 * bytes + 64);
    int length = sprintf(line, "%u %s%u ", m->epoch, m->label, m->count);
    for (size_t i = 0; i < bytes; i++)
        length += sprintf(line + length, "%02x", mine[i]);
    line[length++] = '\n';
    bool sent = meeting_send(line, (size_t)length);
    free(line);
    return sent;
}

/* The answer without its line end; the caller frees it. */
static inline char *meeting_hear(size_t bytes)
{
    char *line = calloc(1, bytes + 1);
    size_t filled = 0;
    while (filled < bytes && (filled == 0 || line[filled - 1] != '\n')) {
        ssize_t got = recv(MEETING_FD, line + filled, bytes - filled, 0);
        if (got <= 0 && errno != EINTR)
            break;
        filled += got > 0 ? (size_t)got : 0;
    }
    if (filled == 0 || line[filled - 1] != '\n') {
        free(line);
        return NULL;
    }
    line[filled - 1] = '\0';
    return line;
}

static inline weft_status_t meeting_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                              weft_error_t *error)
{
    meeting_t *m = (meeting_t *)transport;
    char place[32];
    snprintf(place, sizeof place, "%s:%u", m->label, ++m->count);
    reach(place);
    char *heard = meeting_ask(m, mine, bytes) ? meeting_hear(2 * bytes * m->base.num_ranks + 256) : NULL;
    if (!heard || strncmp(heard, "all ", 4) != 0) {
        weft_status_t status = heard && strncmp(heard, "late", 4) == 0 ? WEFT_ERR_TIMEOUT : WEFT_ERR_PEER_LOST;
        weft_fail(error, status, "rank %u: meeting %s: %s", m->base.rank, place, heard ? heard : "no supervisor");
        free(heard);
        return status;
    }
    for (size_t i = 0; i < bytes * m->base.num_ranks; i++) {
        unsigned byte = 0;
        sscanf(heard + 4 + 2 * i, "%2x", &byte);
        ((uint8_t *)all)[i] = (uint8_t)byte;
    }
    free(heard);
    return WEFT_OK;
}

static const weft_transport_ops_t meeting_ops = {.name = "meeting", .allgather = meeting_allgather};

#endif
