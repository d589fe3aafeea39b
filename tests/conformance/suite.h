/* What every transport must do, as cases that each rank runs on its open transport: threads for loopback,
 * processes under mpirun for the others. A case is told nothing about the backend. */
#ifndef WEFT_TESTS_CONFORMANCE_SUITE_H
#define WEFT_TESTS_CONFORMANCE_SUITE_H

#include "transport/transport.h"

#define SUITE_NOTE_BYTES 512

typedef struct suite {
    weft_transport_t *transport;
    const weft_transport_ops_t *ops;
    uint32_t rank, num_ranks;
    uint32_t next_group; /* ids rise over the whole run, alike on all ranks */
    uint64_t seed;
    const char *name;            /* of the case that runs */
    char note[SUITE_NOTE_BYTES]; /* the first failure, "" while there is none */
} suite_t;

/* Run all cases, or those whose name contains `only`. Returns whether all passed; `suite->note` says what did
 * not. After a failure the transport is aborted and the cases that follow are not run, since the ranks are
 * out of step. Collective. */
bool suite_run(suite_t *suite, weft_transport_t *transport, uint64_t seed, const char *only);

#endif
