/* The thread that answers other ranks' requests while this rank is busy, and hears when a peer's process
 * ends.
 *
 * In: requests on the connections that peers have made. Out: replies with file descriptors; peers[rank].gone.
 * Invariant: what is exported is lent at that moment (the mutex is held, and unlend waits for it), so its
 * memory is there. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/base/error.h"
#include "transport/ipc/backend.h"

struct weft_ipc_client {
    int connection; /* -1: ended */
    int process;    /* a pidfd; -1: none, because the kernel has none, or the peer is in this process */
    uint32_t rank;  /* UINT32_MAX: it has asked nothing yet */
};

/* ---- Replies ---- */

static void refuse(weft_ipc_reply_t *reply, weft_status_t status, const char *reason)
{
    reply->status = status;
    snprintf(reply->reason, sizeof reply->reason, "%.*s", (int)sizeof reply->reason - 1, reason);
}

static void give_fd(weft_ipc_reply_t *reply, int fd, int *fds)
{
    fds[0] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fds[0] >= 0)
        reply->num_fds = 1;
    else
        refuse(reply, WEFT_ERR_SYSTEM, strerror(errno));
}

static weft_status_t export_one(weft_transport_t *transport, size_t i, int *fd, weft_error_t *error)
{
    const weft_ipc_lent_t *lent = &transport->lent;
    if (transport->memory->export)
        return transport->memory->export(transport, &lent->allocations[i], fd, error);
    *fd = fcntl(lent->fds[i], F_DUPFD_CLOEXEC, 0);
    return *fd >= 0 ? WEFT_OK : weft_fail(error, WEFT_ERR_SYSTEM, "%s", strerror(errno));
}

static void give_allocations(weft_transport_t *transport, const weft_ipc_request_t *request,
                             weft_ipc_reply_t *reply, int *fds)
{
    size_t end = (size_t)request->first + request->count;
    if (request->count > IPC_MAX_FDS || end > transport->lent.num_allocations) {
        refuse(reply, WEFT_ERR_PROTOCOL, "it has no such allocations");
        return;
    }
    for (uint32_t i = 0; i < request->count; i++) {
        weft_error_t error = {0};
        weft_status_t status = export_one(transport, request->first + i, &fds[i], &error);
        if (status != WEFT_OK) {
            refuse(reply, status, error.message);
            return;
        }
        reply->num_fds++;
    }
}

/* Mutex held. */
static void fill(weft_transport_t *transport, const weft_ipc_request_t *request, weft_ipc_reply_t *reply,
                 int *fds)
{
    if (request->subject == IPC_ASK_SEGMENT) {
        give_fd(reply, transport->segment_fd, fds);
    } else if (request->generation != transport->lent.generation ||
               !atomic_load(&transport->segment->version)) {
        refuse(reply, WEFT_ERR_ABORTED, "it has taken back what it lent");
    } else if (request->subject == IPC_ASK_TABLE) {
        give_fd(reply, transport->lent.table, fds);
    } else {
        give_allocations(transport, request, reply, fds);
    }
}

/* False when the peer cannot be told: its connection is of no use any more. There is room for a reply, since
 * a peer asks one thing at a time. */
static bool send_reply(int connection, weft_ipc_reply_t *reply, const int *fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(IPC_MAX_FDS * sizeof(int))];
    } control = {0};
    struct iovec data = {reply, sizeof *reply};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (reply->num_fds > 0) {
        size_t bytes = reply->num_fds * sizeof(int);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(header), fds, bytes);
    }
    return sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof *reply;
}

static bool answer(weft_transport_t *transport, int connection, const weft_ipc_request_t *request)
{
    weft_ipc_reply_t reply = {.serial = request->serial};
    int fds[IPC_MAX_FDS];
    for (size_t i = 0; i < IPC_MAX_FDS; i++)
        fds[i] = -1;
    pthread_mutex_lock(&transport->mutex);
    fill(transport, request, &reply, fds);
    pthread_mutex_unlock(&transport->mutex);
    if (reply.status != WEFT_OK)
        reply.num_fds = 0;
    bool sent = send_reply(connection, &reply, fds);
    weft_ipc_close_fds(fds, IPC_MAX_FDS);
    return sent;
}

/* ---- Clients ---- */

static void lose(weft_transport_t *transport, struct weft_ipc_client *client)
{
    if (client->rank != UINT32_MAX)
        atomic_store(&transport->peers[client->rank].gone, true);
    weft_ipc_close_fds(&client->connection, 1);
    weft_ipc_close_fds(&client->process, 1);
}

static void serve_client(weft_transport_t *transport, struct weft_ipc_client *client)
{
    weft_ipc_request_t request;
    ssize_t got = recv(client->connection, &request, sizeof request, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    bool valid = got == (ssize_t)sizeof request && request.rank < transport->base.num_ranks;
    if (valid)
        client->rank = request.rank;
    if (!valid || !answer(transport, client->connection, &request))
        lose(transport, client);
}

/* A handle that the kernel marks readable when the process ends, even if children of it keep its sockets
 * open. */
static int open_process(pid_t pid)
{
#ifdef SYS_pidfd_open
    if (pid > 0 && pid != getpid())
        return (int)syscall(SYS_pidfd_open, pid, 0);
#endif
    (void)pid;
    return -1;
}

/* Somebody connects: a rank, if it is of our user and one is still missing. Without a descriptor for it this
 * rank cannot take part: nobody is left waiting to be let in, and the listener not readable for ever. */
static void accept_client(weft_transport_t *transport)
{
    weft_ipc_server_t *server = &transport->server;
    struct ucred peer;
    socklen_t length = sizeof peer;
    int connection = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0 && (errno == EMFILE || errno == ENFILE))
        weft_ipc_close_fds(&server->listener, 1);
    if (connection < 0)
        return;
    if (server->num_clients + 1 == transport->base.num_ranks ||
        getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) || peer.uid != geteuid()) {
        close(connection);
        return;
    }
    server->clients[server->num_clients++] =
        (struct weft_ipc_client){connection, open_process(peer.pid), UINT32_MAX};
    if (server->num_clients + 1 == transport->base.num_ranks)
        weft_ipc_close_fds(&server->listener, 1);
}

/* polled: wake, listener, then connection and process of each client. poll skips -1. */
static nfds_t list_polled(const weft_ipc_server_t *server, struct pollfd *polled)
{
    polled[0] = (struct pollfd){.fd = server->wake, .events = POLLIN};
    polled[1] = (struct pollfd){.fd = server->listener, .events = POLLIN};
    for (uint32_t i = 0; i < server->num_clients; i++) {
        polled[2 + 2 * i] = (struct pollfd){.fd = server->clients[i].connection, .events = POLLIN};
        polled[3 + 2 * i] = (struct pollfd){.fd = server->clients[i].process, .events = POLLIN};
    }
    return 2 + 2 * server->num_clients;
}

static void serve_ready(weft_transport_t *transport, const struct pollfd *polled)
{
    weft_ipc_server_t *server = &transport->server;
    uint32_t listed = server->num_clients; /* accept may add one, which was not polled */
    if (polled[1].revents)
        accept_client(transport);
    for (uint32_t i = 0; i < listed; i++) {
        struct weft_ipc_client *client = &server->clients[i];
        if (polled[3 + 2 * i].revents)
            lose(transport, client);
        else if (polled[2 + 2 * i].revents)
            serve_client(transport, client);
    }
}

static void *serve(void *argument)
{
    weft_transport_t *transport = argument;
    struct pollfd *polled = transport->server.polled;
    for (;;) {
        int ready = poll(polled, list_polled(&transport->server, polled), -1);
        if (ready < 0 && errno != EINTR && errno != EAGAIN)
            break;
        if (ready <= 0)
            continue;
        if (polled[0].revents)
            break;
        serve_ready(transport, polled);
    }
    return NULL;
}

/* ---- Start and stop ---- */

static weft_status_t make_listener(weft_transport_t *transport, const char *name, weft_error_t *error)
{
    weft_ipc_server_t *server = &transport->server;
    struct sockaddr_un address = {.sun_family = AF_UNIX}; /* an abstract name begins with NUL */
    memcpy(address.sun_path + 1, name, strlen(name));
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
    server->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listener < 0 || bind(server->listener, (struct sockaddr *)&address, length) ||
        listen(server->listener, (int)transport->base.num_ranks))
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "making a socket", error);
    server->wake = eventfd(0, EFD_CLOEXEC);
    if (server->wake < 0)
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "eventfd", error);
    return WEFT_OK;
}

/* Signals are the application's: none is delivered to our thread. */
static int start_thread(weft_transport_t *transport)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&transport->server.thread, NULL, serve, transport);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

weft_status_t weft_ipc_server_start(weft_transport_t *transport, const char *name, weft_error_t *error)
{
    weft_ipc_server_t *server = &transport->server;
    server->clients = calloc(transport->base.num_ranks, sizeof *server->clients);
    server->polled = calloc(2 + 2 * (size_t)transport->base.num_ranks, sizeof *server->polled);
    if (!server->clients || !server->polled)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: out of memory", transport->base.rank);
    WEFT_TRY(make_listener(transport, name, error));
    errno = start_thread(transport);
    if (errno)
        return weft_ipc_fail(transport, WEFT_ERR_SYSTEM, "starting a thread", error);
    server->running = true;
    return WEFT_OK;
}

void weft_ipc_server_stop(weft_transport_t *transport)
{
    weft_ipc_server_t *server = &transport->server;
    uint64_t one = 1;
    if (server->running) {
        while (write(server->wake, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(server->thread, NULL);
    }
    for (uint32_t i = 0; i < server->num_clients; i++) {
        weft_ipc_close_fds(&server->clients[i].connection, 1);
        weft_ipc_close_fds(&server->clients[i].process, 1);
    }
    weft_ipc_close_fds(&server->listener, 1);
    weft_ipc_close_fds(&server->wake, 1);
    free(server->clients);
    free(server->polled);
    *server = (weft_ipc_server_t){.listener = -1, .wake = -1};
}
