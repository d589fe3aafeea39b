/* The operation table that a backend fills, and the calls that the session makes. */
#ifndef WEFT_TRANSPORT_TABLE_H
#define WEFT_TRANSPORT_TABLE_H

#include <weft/transport.h>

#define WEFT_MAX_GROUPS        32767      /* group ids are below this: MPI promises tags up to 2^15 - 1 */
#define WEFT_MAX_MESSAGE_BYTES 2147483647 /* of one operation: an MPI count is an int */

typedef struct weft_group weft_group_t; /* an ordered set of ranks that can broadcast among themselves */
typedef struct weft_op weft_op_t;       /* one started operation */

/* A run of memory that is lent; data NULL: this source has nothing of that index. */
typedef struct weft_lent_run {
    const void *data;
    uint64_t bytes;
    uint64_t ld_elems; /* the lender's word to the borrower; the transport only carries it */
} weft_lent_run_t;

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
     * ranks start their broadcasts, of all groups, and their messages in one global order restricted to
     * themselves: a backend may carry out a rank's operations one after the other, and one that blocks a rank
     * for a while, as CUDA can, must not make others wait for ever. Both sides give the same size: mpi and
     * loopback notice when not, nccl does not. `data` stays valid until test says done. Never blocks. Every
     * start returns WEFT_ERR_ARGUMENT for a root or peer out of range and above WEFT_MAX_MESSAGE_BYTES,
     * WEFT_ERR_CLOSED after abort, WEFT_ERR_NO_MEMORY or WEFT_ERR_TRANSPORT. */
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

    /* (optional, default: nothing to do) Long-lived memory that operations will use: staging, pack buffers. A
     * backend that cannot register it returns WEFT_OK all the same. Before the first operation, after the
     * groups; undone by close. */
    weft_status_t (*register_memory)(weft_transport_t *transport, void *memory, size_t bytes);

    /* ---- Transports that move nothing (optional, all or none): receivers read the source's memory in place
     * ----
     *
     * A source lends runs of its memory for a version. A broadcast on a group then carries no bytes: the
     * root's start says "this bucket may be read" (one root a group), a receiver's operation is done when the
     * root has said so, and the root's operation is done when every receiver of the group has acknowledged
     * that many buckets. `data` and `bytes` are not touched.
     *
     *     source:   lend(version, runs) > broadcast_start .. test (done: all have read it) > unlend
     *     receiver: lent() until the version is there > borrow (once a generation) > broadcast_start .. test
     *               (done: may be read) > reads > lent() still that version? > acknowledge */

    /* Lend `runs` [count] for `version`; an index means the same on all ranks. The generation rises when the
     * runs differ from those lent before. May block (milliseconds) when they do. Returns WEFT_ERR_ARGUMENT
     * naming the index and the kind of memory when a run cannot be shared. */
    weft_status_t (*lend)(weft_transport_t *transport, uint64_t version, const weft_lent_run_t *runs,
                          uint32_t count, weft_error_t *error);
    /* Whether one run could be lent: WEFT_OK, or WEFT_ERR_ARGUMENT naming its kind of memory. Any thread; may
     * block (milliseconds). */
    weft_status_t (*lendable)(weft_transport_t *transport, const weft_lent_run_t *run, weft_error_t *error);
    /* End it: from now on lent() shows version 0 to every receiver, before this returns. */
    void (*unlend)(weft_transport_t *transport);
    /* What `source` lends at this moment; version 0: nothing. Returns WEFT_ERR_PEER_LOST when the source has
     * aborted, closed or died, WEFT_ERR_CLOSED after abort. Never blocks; the read is ordered after every
     * read of lent memory that this thread has seen complete. */
    weft_status_t (*lent)(weft_transport_t *transport, uint32_t source, uint64_t *version,
                          uint64_t *generation);
    /* Where run `index` of `source` is in this process; valid until the source's generation changes and
     * borrow is called again. Blocks (milliseconds) on the first call of a generation, with a deadline.
     * Returns WEFT_ERR_ABORTED when the source has taken back what it lent (the version is lost, the session
     * goes on), WEFT_ERR_PEER_LOST, WEFT_ERR_TIMEOUT, WEFT_ERR_ARGUMENT. */
    weft_status_t (*borrow)(weft_transport_t *transport, uint32_t source, uint32_t index,
                            weft_lent_run_t *run, weft_error_t *error);
    /* The oldest bucket that arrived on `group` and is not acknowledged has been read. */
    void (*acknowledge)(weft_transport_t *transport, weft_group_t *group);

    /* (optional) Memory that can be lent, zeroed. Freed by free_lendable, or by close. */
    weft_status_t (*alloc_lendable)(weft_transport_t *transport, size_t bytes, void **memory,
                                    weft_error_t *error);
    void (*free_lendable)(weft_transport_t *transport, void *memory);

    /* (optional) Meet again, among the ranks that the bootstrap now calls present: a rank has come back as another process, or
     * is gone for good. Groups, and what was borrowed, are forgotten; memory of alloc_lendable stays, what was lent is lent
     * anew. Mends what abort broke. No operation may be in flight. Blocks, collective over those present, deadline; after a
     * failure renew again, or close. */
    weft_status_t (*renew)(weft_transport_t *transport, weft_error_t *error);
    /* (optional, of a bootstrap; default: all are) Whether `rank` is among those that gather. */
    bool (*present)(const weft_transport_t *transport, uint32_t rank);
    /* (optional, of a bootstrap; default: never) Whether nobody waits any more for the meeting that is under way: who
     * meets over it fails with WEFT_ERR_ABORTED. */
    bool (*given_up)(const weft_transport_t *transport);
    /* (optional) Write into `text` [bytes] how far `op` is and whom it waits for, for people: "0 of 4096 bytes
     * came from rank 0, nothing for 2.1 s". */
    void (*describe)(weft_transport_t *transport, const weft_op_t *op, char *text, size_t bytes);

    /* (optional) The library beneath and its version, for people: "Open MPI v4.1.4". Not open. */
    void (*about)(char *text, size_t bytes);
} weft_transport_ops_t;

/* What every backend's transport struct begins with. */
typedef struct weft_transport_base {
    const weft_transport_ops_t *ops;
    uint32_t rank, num_ranks;
    const char *queue; /* the queue whose memory it moves: "host" or "cuda" (kernels/queue.h) */
    int device;        /* its device number, -1: the current one */
} weft_transport_base_t;

/* The transport number `index` of this build, NULL beyond the last. */
const weft_transport_ops_t *weft_transport_listed(size_t index);

/* The table of an open transport: `weft_transport_table(t)->test(t, op, &done, &error)`. */
const weft_transport_ops_t *weft_transport_table(const weft_transport_t *transport);

/* What it begins with. */
const weft_transport_base_t *weft_transport_base(const weft_transport_t *transport);

/* Whether `rank` gathers over this bootstrap. */
bool weft_transport_has(const weft_transport_t *bootstrap, uint32_t rank);

/* For backends: `config->timeout_us`, or its default. */
uint64_t weft_transport_timeout_us(const weft_transport_config_t *config);

/* For backends: refuse a group whose id or ranks are out of range, that names a rank twice or lacks this one.
 * *position is this rank's place in `ranks`. */
weft_status_t weft_transport_check_group(const weft_transport_base_t *base, uint32_t id,
                                         const uint32_t *ranks, uint32_t count, uint32_t *position,
                                         weft_error_t *error);

extern const weft_transport_ops_t weft_loopback_ops;
extern const weft_transport_ops_t weft_mpi_ops;
extern const weft_transport_ops_t weft_nccl_ops; /* in builds with CUDA */
extern const weft_transport_ops_t weft_ipc_ops;
extern const weft_transport_ops_t weft_zmq_ops;

#endif
