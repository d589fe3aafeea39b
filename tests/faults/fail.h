/* The N-th call fails: allocations, files, sockets and threads of weft, not of the C library or of ZeroMQ. The linker puts
 * a function of this file in front of each (--wrap, tests/faults/CMakeLists.txt); what a test calls by itself goes
 * past it.
 *
 *     fail_arm(FAIL_ALLOC, 17);   the 17th allocation from now on returns NULL
 *     ... a call of weft ...
 *     fail_disarm();              whether one has failed; fail_name() is the function, fail_caller() who called it
 */
#ifndef WEFT_TESTS_FAULTS_FAIL_H
#define WEFT_TESTS_FAULTS_FAIL_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

typedef enum fail_kind {
    FAIL_ALLOC = 1,
    FAIL_FILE = 2,
    FAIL_SOCKET = 4,
    FAIL_THREAD = 8,
} fail_kind_t;

static _Atomic int fail_kinds;
static _Atomic long fail_left;
static _Atomic(const char *) fail_what;

static inline void fail_arm(int kinds, long count)
{
    fail_what = NULL;
    fail_left = count;
    fail_kinds = kinds;
}

static inline bool fail_disarm(void)
{
    fail_kinds = 0;
    return fail_what != NULL;
}

static inline const char *fail_name(void)
{
    return fail_what ? fail_what : "nothing";
}

static inline bool fails(fail_kind_t kind, const char *name)
{
    if ((fail_kinds & (int)kind) == 0 || atomic_fetch_sub(&fail_left, 1) != 1)
        return false;
    fail_what = name;
    return true;
}

/* WRAP(kind, errno, result, type, name, parameters, arguments) */
#define WRAP(kind, number, result, type, name, parameters, arguments)                                        \
    type __real_##name parameters;                                                                           \
    type __wrap_##name parameters;                                                                           \
    type __wrap_##name parameters                                                                            \
    {                                                                                                        \
        if (fails(kind, #name)) {                                                                            \
            errno = number;                                                                                  \
            return result;                                                                                   \
        }                                                                                                    \
        return __real_##name arguments;                                                                      \
    }

WRAP(FAIL_ALLOC, ENOMEM, NULL, void *, malloc, (size_t bytes), (bytes))
WRAP(FAIL_ALLOC, ENOMEM, NULL, void *, calloc, (size_t count, size_t bytes), (count, bytes))
WRAP(FAIL_ALLOC, ENOMEM, NULL, void *, realloc, (void *memory, size_t bytes), (memory, bytes))
WRAP(FAIL_ALLOC, ENOMEM, NULL, void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes))
WRAP(FAIL_ALLOC, ENOMEM, NULL, char *, strdup, (const char *text), (text))
WRAP(FAIL_ALLOC, ENOMEM, NULL, char *, strndup, (const char *text, size_t bytes), (text, bytes))
WRAP(FAIL_ALLOC, ENOMEM, MAP_FAILED, void *, mmap,
     (void *address, size_t bytes, int rights, int flags, int fd, off_t offset),
     (address, bytes, rights, flags, fd, offset))

WRAP(FAIL_FILE, EIO, NULL, FILE *, fopen, (const char *path, const char *mode), (path, mode))
WRAP(FAIL_FILE, EIO, 0, size_t, fread, (void *to, size_t size, size_t count, FILE *file), (to, size, count, file))
WRAP(FAIL_FILE, EIO, -1, ssize_t, read, (int fd, void *to, size_t bytes), (fd, to, bytes))
WRAP(FAIL_FILE, EIO, -1, ssize_t, pread, (int fd, void *to, size_t bytes, off_t offset), (fd, to, bytes, offset))
WRAP(FAIL_FILE, EIO, -1, int, fstat, (int fd, struct stat *info), (fd, info))
WRAP(FAIL_FILE, ENOSPC, -1, int, ftruncate, (int fd, off_t bytes), (fd, bytes))
WRAP(FAIL_FILE, EMFILE, -1, int, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(FAIL_FILE, EIO, -1, ssize_t, getrandom, (void *to, size_t bytes, unsigned flags), (to, bytes, flags))

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (fails(FAIL_FILE, "open")) {
        errno = EMFILE;
        return -1;
    }
    return __real_open(path, flags, mode);
}

WRAP(FAIL_SOCKET, EMFILE, -1, int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(FAIL_SOCKET, EADDRINUSE, -1, int, bind, (int fd, const struct sockaddr *address, socklen_t bytes),
     (fd, address, bytes))
WRAP(FAIL_SOCKET, ENOBUFS, -1, int, listen, (int fd, int backlog), (fd, backlog))
WRAP(FAIL_SOCKET, ECONNREFUSED, -1, int, connect, (int fd, const struct sockaddr *address, socklen_t bytes),
     (fd, address, bytes))
WRAP(FAIL_SOCKET, EMFILE, -1, int, accept4, (int fd, struct sockaddr *address, socklen_t *bytes, int flags),
     (fd, address, bytes, flags))
WRAP(FAIL_SOCKET, ENOBUFS, -1, ssize_t, send, (int fd, const void *from, size_t bytes, int flags),
     (fd, from, bytes, flags))
WRAP(FAIL_SOCKET, ECONNRESET, -1, ssize_t, recv, (int fd, void *to, size_t bytes, int flags), (fd, to, bytes, flags))
WRAP(FAIL_SOCKET, ENOBUFS, -1, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags),
     (fd, message, flags))
WRAP(FAIL_SOCKET, ECONNRESET, -1, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
WRAP(FAIL_SOCKET, ENOMEM, -1, int, getsockopt, (int fd, int level, int name, void *value, socklen_t *bytes),
     (fd, level, name, value, bytes))
WRAP(FAIL_SOCKET, ENOMEM, -1, int, setsockopt, (int fd, int level, int name, const void *value, socklen_t bytes),
     (fd, level, name, value, bytes))
WRAP(FAIL_SOCKET, EMFILE, -1, int, eventfd, (unsigned first, int flags), (first, flags))
WRAP(FAIL_SOCKET, EMFILE, -1, int, epoll_create1, (int flags), (flags))
WRAP(FAIL_SOCKET, EMFILE, NULL, void *, zmq_ctx_new, (void), ())
WRAP(FAIL_SOCKET, EMFILE, NULL, void *, zmq_socket, (void *context, int type), (context, type))
WRAP(FAIL_SOCKET, EADDRINUSE, -1, int, zmq_bind, (void *s, const char *endpoint), (s, endpoint))
WRAP(FAIL_SOCKET, EMFILE, -1, int, zmq_connect, (void *s, const char *endpoint), (s, endpoint))
WRAP(FAIL_SOCKET, EINVAL, -1, int, zmq_setsockopt, (void *s, int name, const void *value, size_t bytes),
     (s, name, value, bytes))
WRAP(FAIL_SOCKET, EMFILE, -1, int, zmq_socket_monitor, (void *s, const char *endpoint, int events),
     (s, endpoint, events))
WRAP(FAIL_SOCKET, EAGAIN, -1, int, zmq_send, (void *s, const void *from, size_t bytes, int flags),
     (s, from, bytes, flags))
WRAP(FAIL_SOCKET, EINTR, -1, int, zmq_recv, (void *s, void *to, size_t bytes, int flags), (s, to, bytes, flags))

/* These return what failed. */
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *user);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *user);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *user)
{
    return fails(FAIL_THREAD, "pthread_create") ? EAGAIN : __real_pthread_create(thread, attributes, main, user);
}

/* What the test itself does does not fail. */
#define malloc         __real_malloc
#define calloc         __real_calloc
#define realloc        __real_realloc
#define strdup         __real_strdup
#define pthread_create __real_pthread_create

#endif
