/* NCCL and the CUDA runtime as far as transport/nccl/ calls them, without a GPU: the test says when a call
 * ends, what state a communicator is in and which events are reached; the fake counts, and checks what holds
 * at any time. */
#ifndef WEFT_TESTS_UNIT_NCCL_FAKE_H
#define WEFT_TESTS_UNIT_NCCL_FAKE_H

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "transport/transport.h"

#define FAKE_MAX_COMMS 32

struct ncclComm {
    ncclResult_t state; /* what ncclCommGetAsyncError says */
    uint32_t calls;     /* of operations */
    bool gone;          /* aborted or destroyed */
};

struct CUstream_st {
    unsigned flags;
    int priority;
};

struct CUevent_st {
    bool recorded, reached;
};

typedef struct fake {
    struct ncclComm comms[FAKE_MAX_COMMS];
    uint32_t num_comms, num_aborted, num_finalized, num_destroyed;
    uint32_t group_depth, num_groups, comms_aborted_in_group;
    uint32_t num_calls;     /* of operations, over all communicators */
    const char *last_call;  /* "broadcast" ... */
    cudaEvent_t last_event; /* recorded last */
    bool hold_calls;        /* calls stay in progress */
    bool hold_events;       /* events are not reached */
    bool hold_init;         /* communicators never come to be */
    bool hold_streams;      /* streams never become idle */
    bool no_gpu;
    ncclConfig_t config; /* of the last communicator */
    uint32_t num_copies;
    int num_streams, num_events, num_allocations; /* alive */
    bool not_ready_kept;                          /* cudaGetLastError would say "not ready" */
    cudaStream_t last_stream;                     /* created last */
} fake_t;

extern fake_t fake;

/* As new; frees what was given up. */
void fake_reset(void);

/* A bootstrap of `num_ranks` on which every message arrives at once. */
weft_transport_t *fake_bootstrap(uint32_t rank, uint32_t num_ranks);

/* Let every call that is in progress end as `result`. */
void fake_end_calls(ncclResult_t result);

#endif
