/* The IPC transport: nothing moves. Ranks are processes of one host; a receiver maps a source's memory and
 * reads it in place.
 *
 *     source                                                   receiver
 *     control segment (memfd)   <------- mapped, read only --- lent, test: plain atomic loads
 *     run table (memfd)         <------- borrow: asked for, once a generation
 *     allocations               <------- borrow: file descriptors and CUDA handles, mapped read only
 *          server thread  ---- SOCK_SEQPACKET, SCM_RIGHTS ---- request
 *
 * Each rank has a control segment, which it alone writes and all others read: what it lends, and counters per
 * group. Everything that needs a file descriptor is asked for over a socket, which a thread of the owner
 * answers, so that the owner may be busy meanwhile. The sockets' names are abstract and the segments memfds:
 * nothing of this is in a file system, and nothing is left when a process is killed. The kernel tells the
 * server thread when a peer's process ends (pidfd), or its end of the socket does.
 *
 * Memory that was lent stays allocated, even if its owner frees it, until receivers borrow the next
 * generation or close; CUDA documents this for cuMemCreate, not for cudaMalloc, so cudaMalloc memory is best
 * freed after that.
 *
 * A group takes its broadcasts from one root: the first that starts one. send_start and recv_start are
 * unsupported.
 *
 * **Threads** the progress thread as in transport.h; alloc_lendable and free_lendable any. `mutex` guards
 * what the server thread shares with them: `lent` and `blocks`. */
#ifndef WEFT_TRANSPORT_IPC_BACKEND_H
#define WEFT_TRANSPORT_IPC_BACKEND_H

#include <pthread.h>
#include <stdatomic.h>

#include "transport/transport.h"

/* ---- What ranks show each other ---- */

typedef enum weft_ipc_state {
    IPC_OPEN,
    IPC_ABORTED,
    IPC_CLOSED,
} weft_ipc_state_t;

/* Of one group id. They never go back: a later group of the same id counts from where they stood when it
 * formed. */
typedef struct weft_ipc_counters {
    _Atomic uint64_t published, acknowledged;
    _Atomic uint64_t published_before, acknowledged_before;
} weft_ipc_counters_t;

typedef struct weft_ipc_segment {
    _Atomic uint64_t state;                      /* weft_ipc_state_t */
    _Atomic uint64_t version;                    /* lent at this moment; 0: nothing */
    _Atomic uint64_t generation;                 /* changes only while version is 0 */
    weft_ipc_counters_t groups[WEFT_MAX_GROUPS]; /* sparse: untouched pages cost nothing */
    _Atomic uint64_t joined[]; /* [num_ranks] how many groups with that rank this one has formed */
} weft_ipc_segment_t;

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "atomics must work between processes");

/* ---- The run table: header, allocations, runs ---- */

typedef enum weft_ipc_kind {
    IPC_FILE,        /* a shared mapping of a file; travels as a descriptor */
    IPC_CUDA_LEGACY, /* cudaMalloc; travels as a handle */
    IPC_CUDA_VMM,    /* one cuMemCreate; travels as a descriptor */
} weft_ipc_kind_t;

typedef struct weft_ipc_allocation {
    uint64_t kind;
    uint64_t address, bytes; /* in the source's process */
    uint64_t file_offset;    /* IPC_FILE */
    uint64_t identity[3];    /* other memory at the same address has another */
    uint8_t handle[64];      /* IPC_CUDA_LEGACY */
} weft_ipc_allocation_t;

typedef struct weft_ipc_run {
    uint64_t allocation; /* its first byte is there */
    uint64_t offset, bytes, ld_elems;
} weft_ipc_run_t;

typedef struct weft_ipc_table {
    uint64_t generation, num_allocations, num_runs;
    weft_ipc_allocation_t allocations[]; /* by address; behind them weft_ipc_run_t [num_runs] */
} weft_ipc_table_t;

/* ---- Requests ---- */

#define IPC_MAX_FDS 64 /* of one reply; the kernel takes 253 */

typedef enum weft_ipc_subject {
    IPC_ASK_SEGMENT,
    IPC_ASK_TABLE,
    IPC_ASK_ALLOCATIONS,
} weft_ipc_subject_t;

typedef struct weft_ipc_request {
    uint32_t subject, rank; /* who asks */
    uint64_t serial;        /* comes back in the reply */
    uint64_t generation;    /* IPC_ASK_TABLE and on */
    uint32_t first, count;  /* IPC_ASK_ALLOCATIONS, count <= IPC_MAX_FDS; otherwise 0 and 1 */
} weft_ipc_request_t;

typedef struct weft_ipc_reply {
    uint64_t serial;
    uint32_t status, num_fds;
    char reason[240];
} weft_ipc_reply_t;

/* ---- This rank ---- */

typedef struct weft_ipc_memory weft_ipc_memory_t;

/* Memory of alloc_lendable. */
typedef struct weft_ipc_block {
    struct weft_ipc_block *next;
    void *data;
    size_t bytes;
    int fd;              /* host; otherwise -1 */
    size_t mapped_bytes; /* of cuMemCreate; 0: cudaMalloc, or host */
    uint64_t serial;     /* never used again */
} weft_ipc_block_t;

/* What this rank lends, or lent last. */
typedef struct weft_ipc_lent {
    weft_lent_run_t *runs;
    uint32_t num_runs;
    weft_ipc_allocation_t *allocations;
    int *fds; /* [num_allocations] kept open where the kind is IPC_FILE; otherwise -1 */
    size_t num_allocations, capacity;
    int table; /* -1: nothing was lent yet */
    uint64_t generation;
} weft_ipc_lent_t;

typedef struct weft_ipc_mapping {
    void *address; /* in this process */
    size_t bytes;
    size_t reserved_bytes; /* address range freed with it; 0: it lies in that of the mapping before */
} weft_ipc_mapping_t;

/* What this rank has mapped of one source. */
typedef struct weft_ipc_borrowed {
    weft_ipc_table_t *table; /* NULL: nothing */
    weft_ipc_mapping_t *mappings;
    size_t num_mappings;
} weft_ipc_borrowed_t;

typedef struct weft_ipc_peer {
    const weft_ipc_segment_t *segment;
    int request;       /* the socket on which this rank asks; -1: none (this rank itself, or given up) */
    uint64_t serial;   /* of the last request */
    bool here;         /* a rank of this process: its memory needs no mapping */
    _Atomic bool gone; /* its process has ended or has closed the socket */
    weft_ipc_borrowed_t borrowed;
} weft_ipc_peer_t;

typedef struct weft_ipc_server {
    pthread_t thread;
    bool running;
    int listener, wake;
    struct weft_ipc_client *clients; /* [num_ranks - 1] */
    struct pollfd *polled;           /* the thread's */
    uint32_t num_clients;
} weft_ipc_server_t;

struct weft_group {
    weft_group_t *previous, *next;
    uint32_t id, count, position;
    uint32_t root;     /* its position; UINT32_MAX: no broadcast yet */
    uint64_t started;  /* broadcasts received or being received */
    uint64_t arrived;  /* of them, those that test called done */
    uint64_t returned; /* of them, those acknowledged */
    struct weft_ipc_member {
        uint32_t rank;
        uint64_t published, acknowledged; /* the rank's counters when the group formed */
    } members[];
};

struct weft_op {
    weft_op_t *previous, *next;
    weft_group_t *group;
    bool gives;
    uint64_t number; /* 1 for the first broadcast of the group */
    uint32_t waits;  /* position of the member that test looks at next */
};

struct weft_transport {
    weft_transport_base_t base;
    const weft_ipc_memory_t *memory;
    struct weft_ipc_cuda *cuda; /* NULL for host memory */
    weft_transport_t *bootstrap;
    uint64_t timeout_us;
    int segment_fd;
    weft_ipc_segment_t *segment;
    weft_ipc_peer_t *peers; /* [num_ranks] */
    weft_ipc_server_t server;
    pthread_mutex_t mutex;
    weft_ipc_lent_t lent;
    weft_ipc_block_t *blocks;
    uint64_t num_blocks_ever;
    weft_group_t *groups;
    weft_op_t *ops;
    _Atomic bool failed; /* aborted, or a collective was left unfinished: only close */
};

/* ---- Memory that can be lent: host.c, and cuda/ in builds with CUDA ---- */

struct weft_ipc_memory {
    const char *name;
    bool (*available)(void);
    /* Fills base.queue and base.device. */
    weft_status_t (*open)(weft_transport_t *transport, int32_t device, weft_error_t *error);
    void (*close)(weft_transport_t *transport);

    /* The allocation that `pointer` lies in. *fd: a descriptor of it for the caller to close, or -1 when
     * export makes one anew each time. WEFT_ERR_ARGUMENT: "memory at P is ..., which another process cannot
     * read". Mutex held. */
    weft_status_t (*describe)(weft_transport_t *transport, const void *pointer,
                              weft_ipc_allocation_t *allocation, int *fd, weft_error_t *error);
    /* Whether the memory there is still the same. Mutex held. */
    bool (*unchanged)(weft_transport_t *transport, const weft_ipc_allocation_t *allocation);
    /* (optional) Let go of what describe took hold of to know the memory again. Mutex held. */
    void (*forget)(weft_transport_t *transport, const weft_ipc_allocation_t *allocation);
    /* (optional, default: the descriptor of describe) A descriptor to send. */
    weft_status_t (*export)(weft_transport_t *transport, const weft_ipc_allocation_t *allocation, int *fd,
                            weft_error_t *error);

    /* Map allocation `i` of a source's table, after those before it; `fd` is closed by the caller. */
    weft_status_t (*map)(weft_transport_t *transport, const weft_ipc_table_t *table, size_t i, int fd,
                         weft_ipc_mapping_t *mappings, weft_error_t *error);
    /* Unmap; the youngest first. */
    void (*unmap)(weft_transport_t *transport, const weft_ipc_allocation_t *allocation,
                  const weft_ipc_mapping_t *mapping);

    /* Fill block->data and ->fd, zeroed. */
    weft_status_t (*alloc)(weft_transport_t *transport, weft_ipc_block_t *block, weft_error_t *error);
    void (*free)(weft_transport_t *transport, weft_ipc_block_t *block);
};

extern const weft_ipc_memory_t weft_ipc_host_memory;
extern const weft_ipc_memory_t weft_ipc_cuda_memory; /* in builds with CUDA */

/* Whether allocation `i` and the next lie in one piece, here and in the source's process: pieces of cuMemMap
 * that touch stay so, and a run may lie across them. */
bool weft_ipc_touches_next(const weft_ipc_table_t *table, size_t i);

/* A fence between the version word and reads or writes of lent memory. ThreadSanitizer knows none, and on its
 * builds none is needed: every access it sees is an atomic or ordered by one. */
static inline void weft_ipc_fence(void)
{
#ifndef __SANITIZE_THREAD__
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* open.c: fail with "rank N: ipc: what: " and the text of errno. */
weft_status_t weft_ipc_fail(const weft_transport_t *transport, weft_status_t status, const char *what,
                            weft_error_t *error);
/* WEFT_ERR_CLOSED after a failure. */
weft_status_t weft_ipc_refuse_failed(const weft_transport_t *transport, const char *what,
                                     weft_error_t *error);
/* Why nothing more will come from `rank`: "has ended", or NULL while it is well. */
const char *weft_ipc_lost(const weft_transport_t *transport, uint32_t rank);
bool weft_ipc_abort(weft_transport_t *transport);

/* server.c */
weft_status_t weft_ipc_server_start(weft_transport_t *transport, const char *name, weft_error_t *error);
void weft_ipc_server_stop(weft_transport_t *transport);

/* request.c: connect to the server of `rank`, and ask it. */
weft_status_t weft_ipc_connect(weft_transport_t *transport, uint32_t rank, const char *name,
                               weft_error_t *error);
/* *request is completed; fds [request->count] are the caller's to close. WEFT_ERR_ABORTED: the source does
 * not lend that generation any more. */
weft_status_t weft_ipc_ask(weft_transport_t *transport, uint32_t rank, weft_ipc_request_t *request, int *fds,
                           weft_error_t *error);
void weft_ipc_close_fds(int *fds, size_t count); /* those that are not -1, which they become */

/* group.c */
weft_status_t weft_ipc_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error);
weft_status_t weft_ipc_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                    uint32_t count, weft_group_t **group, weft_error_t *error);
void weft_ipc_group_destroy(weft_transport_t *transport, weft_group_t *group);

/* move.c */
weft_status_t weft_ipc_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                       void *data, size_t bytes, weft_op_t **op);
weft_status_t weft_ipc_send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                  weft_op_t **op);
weft_status_t weft_ipc_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                  weft_op_t **op);
weft_status_t weft_ipc_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error);
void weft_ipc_acknowledge(weft_transport_t *transport, weft_group_t *group);
void weft_ipc_ops_drop(weft_transport_t *transport);

/* lend.c */
weft_status_t weft_ipc_lendable(weft_transport_t *transport, const weft_lent_run_t *run, weft_error_t *error);
weft_status_t weft_ipc_lend(weft_transport_t *transport, uint64_t version, const weft_lent_run_t *runs,
                            uint32_t count, weft_error_t *error);
void weft_ipc_unlend(weft_transport_t *transport);
void weft_ipc_lent_free(weft_transport_t *transport);
weft_status_t weft_ipc_alloc_lendable(weft_transport_t *transport, size_t bytes, void **memory,
                                      weft_error_t *error);
void weft_ipc_free_lendable(weft_transport_t *transport, void *memory);

/* borrow.c */
weft_status_t weft_ipc_lent(weft_transport_t *transport, uint32_t source, uint64_t *version,
                            uint64_t *generation);
weft_status_t weft_ipc_borrow(weft_transport_t *transport, uint32_t source, uint32_t index,
                              weft_lent_run_t *run, weft_error_t *error);
void weft_ipc_borrowed_free(weft_transport_t *transport, uint32_t source);

#endif
