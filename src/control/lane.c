/* In: messages of this process; connections and messages of others. Out: messages to a peer, or the word that
 * there is no lane. Invariants: messages of one lane arrive in order; what stands in one is read to its end,
 * by both, before it is closed. A lane that is full or broken is written no more, and opened again a second
 * after its end at the earliest. A message may overtake one that ZeroMQ took shortly before. */
#include "src/control/lane.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/base/array.h"
#include "src/base/clock.h"
#include "src/base/hash.h"

#define ENDPOINT_BYTES 128
#define RETRY_US       1000000u
#define SEND_BYTES     (1 << 20) /* asked of the kernel for a lane's messages that are not read yet */
#define BACKLOG        128
#define NOBODY         UINT32_MAX
#define LISTENER       UINT32_MAX /* among the numbers that epoll tells */

typedef struct lane {
    int fd;                        /* -1: closed */
    uint32_t peer;                 /* NOBODY until it has said who it is */
    char endpoint[ENDPOINT_BYTES]; /* "": the peer connected here */
    bool spent;                    /* nothing more is written; it is read until the peer has closed it */
    uint64_t retry_us;
} lane_t;

struct weft_lanes {
    char *key;
    int epoll, listener; /* -1: none */
    WEFT_ARRAY(lane_t) lanes;
};

/* An abstract name, which goes with its socket. All users of the host can see it: it is made of nothing
 * secret. */
static socklen_t make_name(const weft_lanes_t *lanes, const char *endpoint, struct sockaddr_un *name)
{
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    weft_hasher_t *hasher = weft_hasher_create();
    if (!hasher)
        return 0;
    weft_hasher_add_text(hasher, "weft lane");
    weft_hasher_add_text(hasher, lanes->key);
    weft_hasher_add_text(hasher, endpoint);
    weft_digest_t digest = weft_hasher_digest(hasher);
    weft_hasher_destroy(hasher);
    int used = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "weft-%016llx%016llx",
                        (unsigned long long)digest.word[0], (unsigned long long)digest.word[1]);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)used);
}

static bool same_user(int fd)
{
    struct ucred other;
    socklen_t size = sizeof other;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &size) == 0 && other.uid == geteuid();
}

static bool watch(const weft_lanes_t *lanes, int fd, uint32_t number)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    return epoll_ctl(lanes->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* A child of this process that has not called exec holds the socket too: without the two calls before close,
 * epoll would go on telling of it, and the peer would never see its end. */
static void close_socket(const weft_lanes_t *lanes, int *fd)
{
    if (*fd >= 0) {
        epoll_ctl(lanes->epoll, EPOLL_CTL_DEL, *fd, NULL);
        shutdown(*fd, SHUT_RDWR);
        close(*fd);
    }
    *fd = -1;
}

static void close_lane(const weft_lanes_t *lanes, lane_t *lane)
{
    close_socket(lanes, &lane->fd);
    lane->spent = false;
    lane->retry_us = weft_now_us() + RETRY_US;
}

/* The peer reads what stands in it, then its end, and closes it. */
static void write_no_more(lane_t *lane)
{
    shutdown(lane->fd, SHUT_WR);
    lane->spent = true;
}

static int new_socket(void)
{
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Take the connected socket over as lane `number`, or close it. */
static bool adopt(weft_lanes_t *lanes, int fd, uint32_t number)
{
    int bytes = SEND_BYTES;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    if (same_user(fd) && watch(lanes, fd, number)) {
        lanes->lanes.items[number].fd = fd;
        return true;
    }
    close(fd);
    return false;
}

/* ---- life ---- */

static void listen_at(weft_lanes_t *lanes, const char *endpoint)
{
    struct sockaddr_un name;
    socklen_t size = make_name(lanes, endpoint, &name);
    lanes->listener = size ? new_socket() : -1;
    if (lanes->listener < 0)
        return;
    if (bind(lanes->listener, (struct sockaddr *)&name, size) == 0 && listen(lanes->listener, BACKLOG) == 0 &&
        watch(lanes, lanes->listener, LISTENER))
        return;
    close_socket(lanes, &lanes->listener);
}

weft_lanes_t *weft_lanes_open(const char *key, const char *endpoint)
{
    weft_lanes_t *lanes = calloc(1, sizeof *lanes);
    if (!lanes)
        return NULL;
    lanes->key = strdup(key);
    lanes->listener = -1;
    lanes->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!lanes->key || lanes->epoll < 0) {
        weft_lanes_close(lanes);
        return NULL;
    }
    if (endpoint)
        listen_at(lanes, endpoint);
    return lanes;
}

void weft_lanes_close(weft_lanes_t *lanes)
{
    if (!lanes)
        return;
    for (size_t i = 0; i < lanes->lanes.count; i++)
        close_lane(lanes, &lanes->lanes.items[i]);
    close_socket(lanes, &lanes->listener);
    if (lanes->epoll >= 0)
        close(lanes->epoll);
    free(lanes->key);
    WEFT_ARRAY_FREE(&lanes->lanes);
    free(lanes);
}

int weft_lanes_fd(const weft_lanes_t *lanes)
{
    return lanes->epoll;
}

/* ---- who is where ---- */

/* The lane by which messages to `peer` leave: the one opened to it, or its own that it spoke on last. */
static lane_t *find_lane(weft_lanes_t *lanes, uint32_t peer)
{
    for (size_t i = 0; i < lanes->lanes.count; i++) {
        lane_t *lane = &lanes->lanes.items[i];
        if (lane->peer == peer && (lane->endpoint[0] || !lane->spent))
            return lane;
    }
    return NULL;
}

/* A lane that is not in use, or a new one; NULL when memory ran out. */
static lane_t *spare_lane(weft_lanes_t *lanes)
{
    for (size_t i = 0; i < lanes->lanes.count; i++)
        if (lanes->lanes.items[i].fd < 0 && !lanes->lanes.items[i].endpoint[0])
            return &lanes->lanes.items[i];
    lane_t none = {.fd = -1, .peer = NOBODY};
    return WEFT_ARRAY_PUSH(&lanes->lanes, none) ? &lanes->lanes.items[lanes->lanes.count - 1] : NULL;
}

/* A name that nobody has bound means another host, or a peer that is gone. */
static void try_connect(weft_lanes_t *lanes, lane_t *lane)
{
    struct sockaddr_un name;
    socklen_t size = make_name(lanes, lane->endpoint, &name);
    lane->retry_us = weft_now_us() + RETRY_US;
    int fd = size ? new_socket() : -1;
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&name, size) == 0)
        adopt(lanes, fd, (uint32_t)(lane - lanes->lanes.items));
    else
        close(fd);
}

void weft_lanes_connect(weft_lanes_t *lanes, uint32_t peer, const char *endpoint)
{
    lane_t *lane = find_lane(lanes, peer);
    if (lane && !lane->endpoint[0])
        lane->spent = true; /* the one that the peer opened: it goes on writing there */
    if (!lane || !lane->endpoint[0])
        lane = spare_lane(lanes);
    if (!lane || strlen(endpoint) >= ENDPOINT_BYTES)
        return;
    close_lane(lanes, lane);
    lane->peer = peer;
    strcpy(lane->endpoint, endpoint);
    try_connect(lanes, lane);
}

bool weft_lanes_name(weft_lanes_t *lanes, uint32_t number, uint32_t peer)
{
    lane_t *named = &lanes->lanes.items[number], *earlier = find_lane(lanes, peer);
    if (named->peer != NOBODY)
        return named->peer == peer;
    named->peer = peer;
    if (earlier &&
        earlier->endpoint[0]) /* each has connected to the other: one's own is written, both are read */
        named->spent = true;
    else if (earlier)
        write_no_more(earlier);
    return true;
}

void weft_lanes_drop(weft_lanes_t *lanes, uint32_t number)
{
    lane_t *lane = &lanes->lanes.items[number];
    close_lane(lanes, lane);
    if (!lane->endpoint[0])
        lane->peer = NOBODY;
}

/* ---- messages ---- */

bool weft_lanes_send(weft_lanes_t *lanes, uint32_t peer, const struct iovec *parts, size_t num_parts)
{
    lane_t *lane = find_lane(lanes, peer);
    if (!lane)
        return false;
    if (lane->fd < 0 && lane->endpoint[0] && weft_now_us() >= lane->retry_us)
        try_connect(lanes, lane);
    if (lane->fd < 0 || lane->spent)
        return false;
    const struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = num_parts};
    if (sendmsg(lane->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return true;
    write_no_more(lane);
    return false;
}

/* Without descriptors or memory to accept with it is listened no more: who wanted to connect sends over
 * ZeroMQ. */
static void accept_one(weft_lanes_t *lanes)
{
    int fd = accept4(lanes->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    bool gone = fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED);
    lane_t *lane = fd < 0 ? NULL : spare_lane(lanes);
    if (lane)
        adopt(lanes, fd, (uint32_t)(lane - lanes->lanes.items));
    else if (fd >= 0)
        close(fd);
    else if (!gone)
        close_socket(lanes, &lanes->listener);
}

bool weft_lanes_take(weft_lanes_t *lanes, struct iovec *parts, size_t num_parts, uint32_t *number,
                     size_t *bytes)
{
    struct epoll_event event;
    while (epoll_wait(lanes->epoll, &event, 1, 0) == 1) {
        if (event.data.u32 == LISTENER) {
            accept_one(lanes);
            continue;
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = num_parts};
        ssize_t got = recvmsg(lanes->lanes.items[event.data.u32].fd, &message, MSG_DONTWAIT | MSG_TRUNC);
        if (got > 0) {
            *number = event.data.u32;
            *bytes = (size_t)got;
            return true;
        }
        /* The peer has closed it. Had it left something unread, it says so first (ECONNRESET), then what it
         * sent. */
        if (got == 0 || (errno != EAGAIN && errno != EINTR && errno != ECONNRESET))
            weft_lanes_drop(lanes, event.data.u32);
    }
    return false;
}
