/* The MPI transport: host memory over MPI_Ibcast, MPI_Isend and MPI_Irecv.
 *
 * The caller's communicator is duplicated into `world`; each group has a communicator of its own. On `world`
 * the tags below WEFT_MAX_GROUPS belong to the group of that id while it forms; data has the tag above them.
 *
 * MPI hides deaths: without ULFM nothing here ever returns WEFT_ERR_PEER_LOST, operations with a dead rank
 * stay in flight until the session's own deadline aborts them. */
#ifndef WEFT_TRANSPORT_MPI_BACKEND_H
#define WEFT_TRANSPORT_MPI_BACKEND_H

#include <mpi.h>

#include "transport/transport.h"

#define MPI_BACKEND_DATA_TAG WEFT_MAX_GROUPS

struct weft_group {
    weft_group_t *previous, *next;
    MPI_Comm comm;
    uint32_t count;
};

struct weft_op {
    weft_op_t *previous, *next;
    MPI_Request request;
    bool receives; /* from one peer: can be cancelled, and knows how much came */
    size_t bytes;
};

struct weft_transport {
    weft_transport_base_t base;
    uint64_t timeout_us;
    MPI_Comm world;
    weft_group_t *groups, *last_group; /* in the order created, which is the same on all ranks */
    weft_op_t *ops;                    /* in flight, the youngest first */
    bool failed;                       /* aborted, or a collective was left unfinished: only close */
};

/* open.c: fail with MPI's text for `code`, after "rank N: what: ". */
weft_status_t weft_mpi_fail(const weft_transport_t *transport, int code, const char *what,
                            weft_error_t *error);
/* Wait for `count` requests until `deadline_us` (weft_now_us). WEFT_ERR_TIMEOUT leaves the pending ones
 * untouched. */
weft_status_t weft_mpi_wait(const weft_transport_t *transport, MPI_Request *requests, int count,
                            uint64_t deadline_us, const char *what, weft_error_t *error);

/* group.c */
weft_status_t weft_mpi_allgather(weft_transport_t *transport, const void *mine, size_t bytes, void *all,
                                 weft_error_t *error);
weft_status_t weft_mpi_group_create(weft_transport_t *transport, uint32_t id, const uint32_t *ranks,
                                    uint32_t count, weft_group_t **group, weft_error_t *error);
void weft_mpi_group_destroy(weft_transport_t *transport, weft_group_t *group);

/* move.c */
weft_status_t weft_mpi_broadcast_start(weft_transport_t *transport, weft_group_t *group, uint32_t root,
                                       void *data, size_t bytes, weft_op_t **op);
weft_status_t weft_mpi_send_start(weft_transport_t *transport, uint32_t peer, const void *data, size_t bytes,
                                  weft_op_t **op);
weft_status_t weft_mpi_recv_start(weft_transport_t *transport, uint32_t peer, void *data, size_t bytes,
                                  weft_op_t **op);
weft_status_t weft_mpi_test(weft_transport_t *transport, weft_op_t *op, bool *done, weft_error_t *error);
bool weft_mpi_abort(weft_transport_t *transport);

#endif
