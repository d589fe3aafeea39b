/* The operation table that a backend fills, and the calls that the session makes. */
#ifndef WEFT_TRANSPORT_TABLE_H
#define WEFT_TRANSPORT_TABLE_H

#include <weft/transport.h>

typedef struct weft_group weft_group_t; /* an ordered set of ranks that can broadcast among themselves */
typedef struct weft_op weft_op_t;       /* one started operation */

typedef struct weft_transport_ops {
    const char *name;

    /* Join the world. Fills *transport, whose first member is weft_transport_base_t. Collective. */
    weft_status_t (*open)(const weft_transport_config_t *config, weft_transport_t **transport, weft_error_t *error);

    /* Gather `bytes` from each rank into `all` [num_ranks * bytes], ordered by rank. Blocks, collective, deadline. Only for
     * bootstrap: no operation may be in flight. */
    weft_status_t (*allgather)(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                               weft_error_t *error);

    /* Create a group of the `count` ranks in `ranks` (this rank among them). Collective over those ranks only; every
     * rank creates the groups it is in, in the same global order of `id` (unique, below 2^15). Blocks, deadline. */
    weft_status_t (*group_create)(weft_transport_t *transport, uint32_t id, const uint32_t *ranks, uint32_t count,
                                  weft_group_t **group, weft_error_t *error);
    void (*group_destroy)(weft_transport_t *transport, weft_group_t *group);

    /* Start a broadcast of `bytes` from ranks[root] to all of the group; the root's `data` is only read. All ranks of a
     * group start its broadcasts in the same order. `data` stays valid until test says done. Never blocks. */
    weft_status_t (*broadcast_start)(weft_transport_t *transport, weft_group_t *group, uint32_t root, void *data,
                                     size_t bytes, weft_op_t **op);

    /* Start a send to, a receive from, world rank `peer`. Between two ranks messages arrive in the order started.
     * Never blocks. */
    weft_status_t (*send_start)(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                weft_op_t **op);
    weft_status_t (*recv_start)(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes, weft_op_t **op);

    /* Move things forward; *done says whether `op` has ended, in which case it is freed and must not be used again.
     * Never blocks. Returns WEFT_ERR_TRANSPORT or WEFT_ERR_PEER_LOST when the operation failed (it is freed too). */
    weft_status_t (*test)(weft_transport_t *transport, weft_op_t *op, bool *done);

    /* Give up all operations in flight, here and now: their buffers may be reused on return. Afterwards only close. */
    void (*abort)(weft_transport_t *transport);

    void (*close)(weft_transport_t *transport);
} weft_transport_ops_t;

/* What every backend's transport struct begins with. */
typedef struct weft_transport_base {
    const weft_transport_ops_t *ops;
    uint32_t rank, num_ranks;
} weft_transport_base_t;

/* The same calls, through the table. */
const weft_transport_ops_t *weft_transport_table(const weft_transport_t *transport);

extern const weft_transport_ops_t weft_loopback_ops;
extern const weft_transport_ops_t weft_mpi_ops;

#endif
