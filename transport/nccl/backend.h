/* The NCCL transport: device memory over ncclBroadcast, ncclSend and ncclRecv.
 *
 *                                                                               launched
 *     start --------> queue ------> NCCL call, in the background --> [kernel][event] --> over --> test
 *     with oneself -> unmatched --> copy ------------------------------------> [event] ---^
 *
 * Communicators are non-blocking: NCCL finishes a call in a thread of its own, and until then the
 * communicator must be left alone. Each has a stream of its own. Every group of several ranks is a
 * communicator, and messages between two ranks go over one of all ranks.
 *
 * What the caller owes beyond transport.h: both sides of an operation give the same size (NCCL cannot tell),
 * and all ranks of the world are in other processes or on other GPUs. */
#ifndef WEFT_TRANSPORT_NCCL_BACKEND_H
#define WEFT_TRANSPORT_NCCL_BACKEND_H

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "src/base/array.h"
#include "transport/transport.h"

/* Operations in order. Each stands in exactly one line. */
typedef struct weft_op_line {
    weft_op_t *first, *last;
} weft_op_line_t;

typedef struct weft_nccl_comm weft_nccl_comm_t;

/* A communicator and its stream. */
struct weft_nccl_comm {
    weft_nccl_comm_t *next; /* of the transport's */
    ncclComm_t handle;      /* NULL: messages of a rank to itself; or aborted */
    cudaStream_t stream;
    weft_op_line_t launched; /* on the stream, not yet known to have ended */
    weft_status_t status;    /* the first failure: nothing on this communicator counts any more */
    char why[512];
    char name[48]; /* "group 7", for messages */
};

typedef enum weft_nccl_op_kind {
    NCCL_OP_BROADCAST,
    NCCL_OP_SEND,
    NCCL_OP_RECEIVE,
} weft_nccl_op_kind_t;

typedef enum weft_nccl_op_state {
    NCCL_OP_QUEUED,   /* not handed to NCCL yet */
    NCCL_OP_CALLED,   /* the head of its queue: NCCL's call goes on in the background */
    NCCL_OP_LAUNCHED, /* on the communicator's stream, its event behind it */
    NCCL_OP_OVER,     /* ended as `status` says; waits for test */
} weft_nccl_op_state_t;

struct weft_op {
    weft_op_t *previous, *next;
    weft_op_line_t *line;
    weft_nccl_op_kind_t kind;
    weft_nccl_op_state_t state;
    weft_status_t status;
    weft_nccl_comm_t *comm; /* NULL: nothing moves */
    uint32_t peer;          /* a broadcast's root */
    void *data;
    size_t bytes;
    cudaEvent_t event; /* from CALLED until OVER */
};

struct weft_group {
    weft_group_t *previous, *next;
    uint32_t id, count;
    weft_nccl_comm_t comm; /* unused in a group of one */
};

struct weft_transport {
    weft_transport_base_t base;
    weft_transport_t *bootstrap;
    uint64_t timeout_us;
    int device, max_ctas, priority;
    void *scratch; /* of the device: what a new group broadcasts first */
    weft_nccl_comm_t world, self;
    weft_nccl_comm_t *comms;           /* all, groups' included */
    weft_group_t *groups, *last_group; /* in the order created, which is the same on all ranks */
    weft_op_line_t queue;              /* of calls, in the order started; at most the head is CALLED */
    weft_op_line_t unmatched;          /* to oneself: all sends, or all receives */
    weft_op_line_t over;               /* ended, not tested */
    bool *met_sending, *met_receiving; /* [num_ranks] a message to, from that rank has ended */
    WEFT_ARRAY(cudaEvent_t) events;    /* not in use */
    bool failed;                       /* aborted: only close */
    bool stuck;                        /* abort left something running: its memory is given up */
};

/* open.c */
/* Make the transport's device the calling thread's; weft_nccl_leave(previous) undoes it. */
weft_status_t weft_nccl_enter(const weft_transport_t *transport, int *previous);
void weft_nccl_leave(const weft_transport_t *transport, int previous);
/* WEFT_OK, or fail with the text of CUDA's code after "rank N: what: ". */
weft_status_t weft_nccl_check_cuda(const weft_transport_t *transport, cudaError_t code, const char *what,
                                   weft_error_t *error);

/* group.c */
/* What state the communicator's last call is in; ncclSuccess without a communicator. */
ncclResult_t weft_nccl_state(const weft_nccl_comm_t *comm);
weft_status_t weft_nccl_status(ncclResult_t result);
/* Create a stream. */
weft_status_t weft_nccl_comm_prepare(weft_transport_t *transport, weft_nccl_comm_t *comm,
                                     weft_error_t *error);
/* Create the communicator of `count` ranks that all of them know as `id`. Blocks, deadline. After a failure
 * only abort. */
weft_status_t weft_nccl_comm_open(weft_transport_t *transport, weft_nccl_comm_t *comm, const ncclUniqueId *id,
                                  uint32_t count, uint32_t position, weft_error_t *error);
/* Leave in good order, which is collective, or abort the transport when that fails; free the stream. */
void weft_nccl_comm_close(weft_transport_t *transport, weft_nccl_comm_t *comm);
weft_status_t weft_nccl_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                  weft_error_t *error);
weft_status_t weft_nccl_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                     uint32_t count, weft_group_t **group, weft_error_t *error);
void weft_nccl_group_destroy(weft_transport_t *transport, weft_group_t *group);

/* move.c */
weft_status_t weft_nccl_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                        void *data, size_t bytes, weft_op_t **op);
weft_status_t weft_nccl_send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                   weft_op_t **op);
weft_status_t weft_nccl_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                   weft_op_t **op);
weft_status_t weft_nccl_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error);
bool weft_nccl_abort(weft_transport_t *transport);
/* Whether an operation is in flight, or failed and nobody was told. */
bool weft_nccl_busy(const weft_transport_t *transport);
/* Free every operation, whatever its state. */
void weft_nccl_drop_all(weft_transport_t *transport);

#endif
