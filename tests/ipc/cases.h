/* What the IPC transport must do with host memory, as cases that each rank runs on its open transport: forked
 * processes, processes of mpirun, or threads of one process. */
#ifndef WEFT_TESTS_IPC_CASES_H
#define WEFT_TESTS_IPC_CASES_H

#include "transport/transport.h"

typedef struct cases {
    weft_transport_t *transport;
    const weft_transport_ops_t *ops;
    uint32_t rank, num_ranks;
    const char *name; /* of the case that runs */
    char note[1024];  /* the first failure, "" while there is none */
} cases_t;

/* Run all cases; the last leaves the transport aborted. Returns whether all passed; cases->note says what did
 * not. Collective. */
bool cases_run(cases_t *cases, weft_transport_t *transport);

#endif
