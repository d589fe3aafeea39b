/* Asking the server of another rank. */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/ipc/backend.h"

void weft_ipc_close_fds(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

weft_status_t weft_ipc_connect(weft_transport_t *transport, uint32_t rank, const char *name,
                               weft_error_t *error)
{
    weft_ipc_peer_t *peer = &transport->peers[rank];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred process;
    size_t name_bytes = strnlen(name, sizeof address.sun_path - 1);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + name_bytes),
              size = sizeof process;
    memcpy(address.sun_path + 1, name, name_bytes);
    peer->request = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (peer->request < 0)
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "making a socket", error);
    if (connect(peer->request, (struct sockaddr *)&address, length))
        return weft_fail(
            error, WEFT_ERR_UNSUPPORTED,
            "rank %u: ipc: rank %u is on this host but cannot be reached (%s): it has no file descriptor "
            "left "
            "(ulimit -n), or their containers need one network namespace (the host's); otherwise use the "
            "transport nccl (GPUs) or mpi (hosts)",
            transport->base.rank, rank, strerror(errno));
    if (getsockopt(peer->request, SOL_SOCKET, SO_PEERCRED, &process, &size))
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "asking who a peer is", error);
    peer->here = process.pid == getpid(); /* as seen from here: never so for a process of another namespace */
    return WEFT_OK;
}

static weft_status_t lost(const weft_transport_t *transport, uint32_t rank, weft_error_t *error)
{
    return weft_fail(
        error, WEFT_ERR_PEER_LOST,
        "rank %u: ipc: rank %u does not answer: its process has ended, has closed its transport, has no file "
        "descriptor left (ulimit -n), or runs as another user",
        transport->base.rank, rank);
}

/* Take the descriptors of a message out of it; those that do not fit are closed. Returns how many came. */
static uint32_t take_fds(struct msghdr *message, int *fds, uint32_t count)
{
    uint32_t taken = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t came = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < came; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (taken < count)
                fds[taken++] = fd;
            else
                close(fd);
        }
    }
    return taken;
}

/* Receive one reply; *came says how many descriptors came with it. */
static bool receive(int connection, weft_ipc_reply_t *reply, int *fds, uint32_t count, uint32_t *came)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(IPC_MAX_FDS * sizeof(int))];
    } control;
    struct iovec data = {reply, sizeof *reply};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
    ssize_t got;
    do
        got = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return false;
    *came = take_fds(&message, fds, count);
    reply->reason[sizeof reply->reason - 1] = '\0';
    return got == (ssize_t)sizeof *reply;
}

/* Wait until the peer has written, or has gone (which reads as an end). */
static weft_status_t wait_readable(const weft_transport_t *transport, uint32_t rank, uint64_t deadline_us,
                                   weft_error_t *error)
{
    struct pollfd polled = {.fd = transport->peers[rank].request, .events = POLLIN};
    for (;;) {
        uint64_t now_us = weft_now_us();
        uint64_t left_us = now_us < deadline_us ? deadline_us - now_us : 0;
        int ready = poll(&polled, 1, left_us / 1000 < INT32_MAX ? (int)(left_us / 1000) : INT32_MAX);
        if (ready > 0)
            return WEFT_OK;
        if (ready < 0 && errno != EINTR)
            return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "poll", error);
        if (ready == 0 && left_us < 1000)
            return weft_fail(error, WEFT_ERR_TIMEOUT, "rank %u: ipc: rank %u did not answer within %.1f s",
                             transport->base.rank, rank, (double)transport->timeout_us * 1e-6);
    }
}

/* The reply to `serial`; older ones, to requests that met their deadline, are dropped. */
static weft_status_t await_reply(const weft_transport_t *transport, uint32_t rank, uint64_t serial,
                                 weft_ipc_reply_t *reply, int *fds, uint32_t count, uint32_t *came,
                                 weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + transport->timeout_us;
    for (;;) {
        WEFT_TRY(wait_readable(transport, rank, deadline_us, error));
        *came = 0;
        if (!receive(transport->peers[rank].request, reply, fds, count, came))
            return lost(transport, rank, error);
        if (reply->serial == serial)
            return WEFT_OK;
        weft_ipc_close_fds(fds, count);
    }
}

weft_status_t weft_ipc_ask(weft_transport_t *transport, uint32_t rank, weft_ipc_request_t *request, int *fds,
                           weft_error_t *error)
{
    weft_ipc_peer_t *peer = &transport->peers[rank];
    weft_ipc_reply_t reply = {0};
    uint32_t came = 0;
    for (uint32_t i = 0; i < request->count; i++)
        fds[i] = -1;
    request->rank = transport->base.rank;
    request->serial = ++peer->serial;
    if (send(peer->request, request, sizeof *request, MSG_NOSIGNAL) != (ssize_t)sizeof *request)
        return lost(transport, rank, error);
    weft_status_t status =
        await_reply(transport, rank, request->serial, &reply, fds, request->count, &came, error);
    if (status == WEFT_OK && reply.status != WEFT_OK)
        status = weft_fail(error, (weft_status_t)reply.status, "rank %u: ipc: rank %u: %s",
                           transport->base.rank, rank, reply.reason);
    else if (status == WEFT_OK && came != request->count)
        status = weft_fail(
            error, WEFT_ERR_SYSTEM,
            "rank %u: ipc: %u of %u file descriptors of rank %u arrived; raise the limit of open files "
            "(ulimit -n)",
            transport->base.rank, came, request->count, rank);
    if (status != WEFT_OK)
        weft_ipc_close_fds(fds, request->count);
    return status;
}
