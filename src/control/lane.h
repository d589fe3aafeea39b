/* Short cuts between mailboxes of one host: UNIX sockets, on which a message takes one system call to leave
 * and wakes the peer's own thread. ZeroMQ takes the same message over two threads more, each of which may
 * have to wake first; that is most of the time of a small update.
 *
 * A lane is opened to a peer whose endpoint leads to this host and whose session has the same public key: the
 * socket's name is made of both. Both sides ask the kernel that the other is the same user; who may speak is
 * the mailbox's matter. What a lane cannot do (the peer is elsewhere, does not read, has gone) is not its
 * matter: the mailbox then sends over ZeroMQ.
 *
 * **Threads** those of the mailbox: one. */
#ifndef WEFT_CONTROL_LANE_H
#define WEFT_CONTROL_LANE_H

#include <sys/uio.h>

#include <weft/types.h>

typedef struct weft_lanes weft_lanes_t;

/* Open for a session with the public key `key`, and listen for those that connect to `endpoint` (NULL: nobody
 * does). Returns NULL when there can be none here: the mailbox goes without. */
weft_lanes_t *weft_lanes_open(const char *key, const char *endpoint);
void weft_lanes_close(weft_lanes_t *lanes);

/* Readable while something waits to be taken. */
int weft_lanes_fd(const weft_lanes_t *lanes);

/* `peer` is at `endpoint` from now on: connect, now or when something is sent. */
void weft_lanes_connect(weft_lanes_t *lanes, uint32_t peer, const char *endpoint);

/* Who has spoken on the lane `lane` (from weft_lanes_take); an earlier lane that this peer opened is
 * written no more. False when the lane is another's. */
bool weft_lanes_name(weft_lanes_t *lanes, uint32_t lane, uint32_t peer);
/* Nothing more is wanted of it. */
void weft_lanes_drop(weft_lanes_t *lanes, uint32_t lane);

/* Send all parts as one message; false when there is no lane to `peer`, or no longer. Never blocks. */
bool weft_lanes_send(weft_lanes_t *lanes, uint32_t peer, const struct iovec *parts, size_t num_parts);

/* Take one message, cut to what the parts hold; *bytes is its whole size. False when there is none. Never
 * blocks. */
bool weft_lanes_take(weft_lanes_t *lanes, struct iovec *parts, size_t num_parts, uint32_t *lane,
                     size_t *bytes);

#endif
