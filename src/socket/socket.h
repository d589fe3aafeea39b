/* ZeroMQ sockets as all of weft opens and reads them: with every option that was asked for, or not at all.
 *
 * An option that does not take leaves another socket than was meant: one that is open to all, has no name among its
 * peers, or takes frames of any size. So each of these says whether it took, and whoever opens a socket gives it up
 * otherwise.
 */
#ifndef WEFT_SOCKET_SOCKET_H
#define WEFT_SOCKET_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An option of ZeroMQ whose value is an int. */
typedef struct weft_socket_int {
    int option, value;
} weft_socket_int_t;

/* Set `count` options, and the most bytes that a part of a message may have (beyond it ZeroMQ cuts the connection).
 * **Returns** false, with zmq_errno, when one did not take. */
bool weft_socket_set(void *socket, const weft_socket_int_t *options, size_t count, int64_t max_part_bytes);

/* CURVE, keys as Z85 text of 40 characters and a NUL. A server has a secret key alone; a client its pair and the
 * public key of the server.
 * **Returns** as above: without all of it the socket must not be used. */
bool weft_socket_serve_with_key(void *socket, const char *secret);
bool weft_socket_connect_with_keys(void *socket, const char *public, const char *secret, const char *server);

/* Close a socket, and leave errno at what was wrong with it. */
void weft_socket_give_up(void *socket);

/* A part of a message that is received. */
typedef struct weft_socket_part {
    void *data;
    size_t capacity;
    size_t bytes; /* as sent; more than `capacity` when cut */
} weft_socket_part_t;

/* Read one message to its end without waiting, keeping the first `wanted` parts. **Returns** how many it had, 0 when
 * there is none. */
size_t weft_socket_read(void *socket, weft_socket_part_t *parts, size_t wanted);

#endif
