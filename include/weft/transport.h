/* Transports: how bytes of a bucket move from one rank to a set of ranks.
 *
 * A transport joins a fixed number of ranks, numbered as in the plan (trainers first). The session uses it
 * from one thread, the progress thread; only the open, bootstrap and close calls come from elsewhere, and
 * never at the same time. Starts return at once; test moves things forward. A backend is a folder with the
 * same file set and one table of these operations (`transport/transport.h`).
 *
 *     weft_transport_t *transport;
 *     weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
 *     config.mpi_comm = &comm;
 *     weft_transport_open("mpi", &config, &transport, &error);
 *     ... weft_session_open(...) ... weft_session_close(...) ...
 *     weft_transport_close(transport);
 */
#ifndef WEFT_TRANSPORT_H
#define WEFT_TRANSPORT_H

#include <weft/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_transport weft_transport_t;
typedef struct weft_loopback weft_loopback_t;

/* zmq: where a rank listens, and CURVE keys. A key is 40 characters of Z85, as zmq_curve_keypair makes them. With
 * keys everything is encrypted and only those who know a rank's public key can connect to it: keep the public keys
 * among the ranks. Without keys a rank listens on loopback addresses only. */
typedef struct weft_zmq_options {
    size_t struct_size;
    const char *address; /* to listen on: an IPv4 address or the name of an interface, such as "eth0"; NULL: 127.0.0.1.
                            The system chooses the port */
    const char *public_key, *secret_key; /* this rank's pair; NULL: no encryption. All ranks have keys, or none */
    const char *server_key; /* the public key that every peer must prove to have, for ranks that share one pair; NULL:
                               the one that the peer told over the bootstrap */
    bool new_keys; /* instead: the transport makes a pair for each meeting. As safe as the bootstrap, which tells them */
} weft_zmq_options_t;

#define WEFT_ZMQ_OPTIONS ((weft_zmq_options_t){.struct_size = sizeof(weft_zmq_options_t)})

typedef struct weft_transport_config {
    size_t struct_size;
    const void *mpi_comm; /* mpi: an MPI_Comm * over exactly the session's ranks; MPI must be initialized with
                             MPI_THREAD_MULTIPLE. Duplicated, not kept */
    weft_loopback_t *loopback; /* loopback: the hub that the ranks (threads of this process) share */
    uint32_t rank;             /* loopback: which rank this is */
    uint64_t timeout_us;       /* deadline of blocking calls (open, allgather, group creation); 0: 30 s */
    weft_transport_t *bootstrap; /* nccl, ipc, zmq: an open transport over the same ranks (mpi, loopback) by which they
                                    meet. Borrowed: it must stay open longer, and nobody else may use it from this
                                    rank at the same time. After a timeout in open or group creation it holds
                                    messages that nobody took: close it too and open anew */
    int32_t device;              /* nccl, ipc: CUDA device number; the macro's -1: the current one */
    const char *memory;          /* ipc: where trainers hold their weights, "cuda" (default with a GPU) or "host" */
    uint32_t max_ctas;           /* nccl: thread blocks a communicator may use; 0: a few, so that decode keeps the GPU */
    bool shared_gpu;             /* nccl: several ranks use one GPU (tests, small machines): they talk over loopback
                                    sockets. Must be the same on all ranks, and the process must not have used NCCL
                                    before */
    const weft_zmq_options_t *zmq; /* zmq: where to listen, keys; NULL: 127.0.0.1, no keys. Copied, not kept */
} weft_transport_config_t;

#define WEFT_TRANSPORT_CONFIG                                                                                \
    ((weft_transport_config_t){.struct_size = sizeof(weft_transport_config_t), .device = -1})

/* Open the backend `name`: "loopback" (threads of one process), "mpi" (host memory), "nccl" (GPU memory), "ipc" (ranks
 * of one node: receivers read the trainers' memory where it is), "zmq" (host memory over TCP, without MPI).
 * **Returns** WEFT_OK, WEFT_ERR_UNKNOWN_NAME (the message lists what this build has), WEFT_ERR_ARGUMENT,
 * WEFT_ERR_UNSUPPORTED (MPI without MPI_THREAD_MULTIPLE: the message says how to get it), WEFT_ERR_TIMEOUT (a
 * rank did not come), WEFT_ERR_TRANSPORT, WEFT_ERR_NO_MEMORY.
 * **Collective** over all ranks. */
WEFT_API weft_status_t weft_transport_open(const char *name, const weft_transport_config_t *config,
                                           weft_transport_t **transport, weft_error_t *error);

/* Free everything, open groups included; NULL is accepted. mpi: before MPI_Finalize.
 * **Collective** over all ranks unless aborted. */
WEFT_API void weft_transport_close(weft_transport_t *transport);

/* This rank's number and the number of ranks. */
WEFT_API uint32_t weft_transport_rank(const weft_transport_t *transport);
WEFT_API uint32_t weft_transport_num_ranks(const weft_transport_t *transport);

/* Create the hub of a loopback world of `num_ranks` ranks (threads of one process); destroy it after every
 * rank closed. */
WEFT_API weft_status_t weft_loopback_create(uint32_t num_ranks, weft_loopback_t **hub);
WEFT_API void weft_loopback_destroy(weft_loopback_t *hub);

#ifdef __cplusplus
}
#endif
#endif
