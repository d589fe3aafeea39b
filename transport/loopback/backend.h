/* The loopback transport: ranks are threads of one process, a bucket moves by memcpy.
 *
 * All ranks share one hub. Every operation in flight stands in the hub's list of its rank; an operation
 * either gives bytes (a broadcast's root, a send) or takes them. A take is matched with the give of the same
 * channel (group, or pair of ranks) and the same sequence number, which each rank counts for itself. The
 * taker copies, in a test of its own, so a give is done when all have taken. A rank's operations are done one
 * after the other, as on one stream.
 *
 * **Threads** one mutex in the hub guards everything below, the copies included: while a taker copies, the
 * giver can neither finish nor abort, so its buffer is there. */
#ifndef WEFT_TRANSPORT_LOOPBACK_BACKEND_H
#define WEFT_TRANSPORT_LOOPBACK_BACKEND_H

#include <pthread.h>

#include "transport/transport.h"

typedef enum weft_loopback_presence {
    LOOPBACK_ABSENT,  /* has not opened yet */
    LOOPBACK_PRESENT, /* open */
    LOOPBACK_GONE,    /* aborted or closed; it cannot come back before all others have left too */
} weft_loopback_presence_t;

/* What one rank sees as weft_group_t is shared by all its members. */
struct weft_group {
    weft_group_t *next;
    uint32_t id, count;
    uint32_t arrived;    /* members that have called group_create */
    bool *held;          /* [count] which members hold it; the last to let go frees it */
    uint64_t *sequences; /* [count] broadcasts started, by position */
    uint32_t *ranks;     /* [count] */
};

struct weft_op {
    weft_op_t *next;
    bool gives;
    uint32_t owner, peer; /* peer: whom a send goes to, whom a take comes from */
    weft_group_t *group;  /* NULL: send or receive */
    uint64_t sequence;
    void *data;
    size_t bytes;
    bool over; /* ended as `status` and `why` say; waits for test */
    weft_status_t status;
    weft_error_t why;
    /* Gives only. A give ends when each taker has ended or is gone, so no live taker ever misses its give. */
    bool refused; /* a taker expected another size */
    uint32_t refused_by;
    size_t refused_bytes;
    bool *ended; /* [takers of the group, or 1] which takers have copied or refused */
};

struct weft_loopback {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* somebody arrived, left or finished a collective */
    uint32_t num_ranks, num_closed;
    weft_loopback_presence_t *presence; /* [num_ranks] */
    weft_group_t *groups;
    weft_op_t **ops;           /* [num_ranks] each rank's, in the order started */
    uint64_t *sent, *received; /* [num_ranks * num_ranks] sequences: [from * num_ranks + to] */
    struct {
        unsigned char *data; /* [num_ranks * bytes] */
        size_t bytes;
        uint32_t arrived, left;
        bool complete; /* all have arrived, not all have left */
    } gather;
};

struct weft_transport {
    weft_transport_base_t base;
    weft_loopback_t *hub;
    uint64_t timeout_us;
    bool aborted;
};

/* group.c */
weft_status_t weft_loopback_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                      weft_error_t *error);
weft_status_t weft_loopback_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                         uint32_t count, weft_group_t **group, weft_error_t *error);
void weft_loopback_group_destroy(weft_transport_t *transport, weft_group_t *group);
/* Let go of every group that `rank` is in. Hub locked. */
void weft_loopback_groups_leave(weft_loopback_t *hub, uint32_t rank);

/* move.c */
weft_status_t weft_loopback_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                            void *data, size_t bytes, weft_op_t **op);
weft_status_t weft_loopback_send_start(weft_transport_t *transport, uint32_t peer, const void *data,
                                       size_t bytes, weft_op_t **op);
weft_status_t weft_loopback_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                       weft_op_t **op);
weft_status_t weft_loopback_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error);
/* Drop every operation of `rank`. Hub locked. */
void weft_loopback_ops_drop(weft_loopback_t *hub, uint32_t rank);

/* open.c: wait for a change until `deadline_us` (weft_now_us); false when it has passed. Hub locked. */
bool weft_loopback_wait(weft_loopback_t *hub, uint64_t deadline_us);

#endif
