/* What every transport must do, as cases that each rank runs on its open transport: threads for loopback,
 * processes under mpirun for the others. A case is told nothing about the backend. */
#ifndef WEFT_TESTS_CONFORMANCE_SUITE_H
#define WEFT_TESTS_CONFORMANCE_SUITE_H

#include "transport/transport.h"

#define SUITE_NOTE_BYTES 512

/* Where messages lie. */
typedef struct suite_memory {
    void *(*allocate)(size_t bytes); /* NULL: out of memory */
    void (*release)(void *data);     /* NULL is accepted; never waits for operations in flight */
    bool (*write)(void *to, const void *from, size_t bytes); /* from host memory */
    bool (*read)(void *to, const void *from, size_t bytes);  /* to host memory */
} suite_memory_t;

/* How the ranks meet, and what a backend asks of its callers beyond transport.h. */
typedef struct suite_options {
    void (*meet)(void *user); /* wait for all ranks, by other means than the transport */
    void *user;
    const suite_memory_t *memory; /* NULL: host memory */
    bool equal_sizes;             /* both sides of a message give the same size */
    bool costly_group;            /* a group takes long to create: few come and go */
} suite_options_t;

typedef struct suite {
    weft_transport_t *transport;
    const weft_transport_ops_t *ops;
    uint32_t rank, num_ranks;
    uint32_t next_group; /* ids rise over the whole run, alike on all ranks */
    uint64_t seed;
    suite_options_t options;
    const char *name;            /* of the case that runs */
    char note[SUITE_NOTE_BYTES]; /* the first failure, "" while there is none */
} suite_t;

/* Run all cases, or those whose name contains `only`. Returns whether all passed;
 * `suite->note` says what did not. After a failure the transport is aborted and the cases that follow are not
 * run, since the ranks are out of step. Collective. */
bool suite_run(suite_t *suite, weft_transport_t *transport, const suite_options_t *options, uint64_t seed,
               const char *only);

#endif
