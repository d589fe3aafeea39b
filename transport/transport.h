/* The operation table that a backend fills, and the calls that the session makes. */
#ifndef WEFT_TRANSPORT_TABLE_H
#define WEFT_TRANSPORT_TABLE_H

#include <weft/transport.h>

#define WEFT_MAX_GROUPS        32767      /* group ids are below this: MPI promises tags up to 2^15 - 1 */
#define WEFT_MAX_MESSAGE_BYTES 2147483647 /* of one operation: an MPI count is an int */

typedef struct weft_group weft_group_t; /* an ordered set of ranks that can broadcast among themselves */
typedef struct weft_op weft_op_t;       /* one started operation */

typedef struct weft_transport_ops {
    const char *name;

    /* Join the world. Fills *transport, whose first member is weft_transport_base_t. Collective. */
    weft_status_t (*open)(const weft_transport_config_t *config, weft_transport_t **transport,
                          weft_error_t *error);

    /* Gather `bytes` from each rank into `all` [num_ranks * bytes], ordered by rank. Blocks, collective,
     * deadline. Only for bootstrap: no operation may be in flight. After a failure, here or in group_create,
     * only close. */
    weft_status_t (*allgather)(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                               weft_error_t *error);

    /* Create a group of the `count` ranks in `ranks` (this rank among them). Collective over those ranks
     * only; every rank creates the groups it is in, in the same global order of `id` (unique, below
     * WEFT_MAX_GROUPS). Blocks, deadline. */
    weft_status_t (*group_create)(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                  uint32_t count, weft_group_t **group, weft_error_t *error);
    /* Free a group with no operation in flight; NULL is accepted. Collective over its ranks. */
    void (*group_destroy)(weft_transport_t *transport, weft_group_t *group);

    /* Start a broadcast of `bytes` from ranks[root] to all of the group; the root's `data` is only read. All
     * ranks of a group start its broadcasts in the same order. `data` stays valid until test says done. Never
     * blocks. Every start returns WEFT_ERR_ARGUMENT for a root or peer out of range and above
     * WEFT_MAX_MESSAGE_BYTES, WEFT_ERR_CLOSED after abort, WEFT_ERR_NO_MEMORY or WEFT_ERR_TRANSPORT. */
    weft_status_t (*broadcast_start)(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                     void *data, size_t bytes, weft_op_t **op);

    /* Start a send to, a receive from, world rank `peer`. Between two ranks messages arrive in the order
     * started. Never blocks. */
    weft_status_t (*send_start)(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                weft_op_t **op);
    weft_status_t (*recv_start)(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                weft_op_t **op);

    /* Move things forward; *done says whether `op` has ended, in which case it is freed and must not be used
     * again. Never blocks. Returns WEFT_ERR_TRANSPORT or WEFT_ERR_PEER_LOST, and why, when the operation
     * failed (it is freed too, and *done is true). */
    weft_status_t (*test)(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error);

    /* Give up and free all operations in flight, here and now. Afterwards only close. Returns whether their
     * buffers may be reused. When false the backend could not take some operation back (MPI has no way to
     * cancel a broadcast): the buffers of all operations that were in flight must stay allocated and unused
     * until the process ends. May take as long as the backend's grace period (mpi: 0.2 s). */
    bool (*abort)(weft_transport_t *transport);

    /* Leave and free everything, groups included. Operations still in flight are aborted first. */
    void (*close)(weft_transport_t *transport);
} weft_transport_ops_t;

/* What every backend's transport struct begins with. */
typedef struct weft_transport_base {
    const weft_transport_ops_t *ops;
    uint32_t rank, num_ranks;
} weft_transport_base_t;

/* The table of an open transport: `weft_transport_table(t)->test(t, op, &done, &error)`. */
const weft_transport_ops_t *weft_transport_table(const weft_transport_t *transport);

/* For backends: `config->timeout_us`, or its default. */
uint64_t weft_transport_timeout_us(const weft_transport_config_t *config);

/* For backends: refuse a group whose id or ranks are out of range, that names a rank twice or lacks this one.
 * *position is this rank's place in `ranks`. */
weft_status_t weft_transport_check_group(const weft_transport_base_t *base, uint32_t id,
                                         const uint32_t *ranks, uint32_t count, uint32_t *position,
                                         weft_error_t *error);

extern const weft_transport_ops_t weft_loopback_ops;
extern const weft_transport_ops_t weft_mpi_ops;

#endif
