/* Gatherings at the coordinator: every member gives some bytes, and gets those of all. The last one that was completed is kept,
 * for a member whose answer was lost. */
#ifndef WEFT_SERVICE_GATHER_H
#define WEFT_SERVICE_GATHER_H

#include "src/service/wire.h"

#define WEFT_GATHER_IDENTITY_BYTES 16 /* ZeroMQ makes up 5 */

/* To whom the answer goes. */
typedef struct weft_gather_asker {
    uint8_t identity[WEFT_GATHER_IDENTITY_BYTES];
    uint32_t identity_bytes; /* 0: not here yet */
    uint64_t serial;
} weft_gather_asker_t;

typedef struct weft_gather {
    weft_wire_gather_t of;
    bool open;     /* members are still missing */
    bool complete; /* `data` is everybody's */
    uint8_t *data; /* [ranks * bytes] */
    weft_gather_asker_t *askers; /* [ranks] */
} weft_gather_t;

typedef struct weft_gathers {
    weft_topology_t topology;
    weft_gather_t current, last;
} weft_gathers_t;

weft_status_t weft_gathers_create(const weft_topology_t *topology, weft_gathers_t *gathers);
void weft_gathers_destroy(weft_gathers_t *gathers);

typedef enum weft_gather_verdict {
    WEFT_GATHER_WAITS,     /* others are missing: answered when they have come */
    WEFT_GATHER_COMPLETE,  /* answer all askers of `current`, then weft_gathers_conclude */
    WEFT_GATHER_REPEATED,  /* answer this one from `last` */
    WEFT_GATHER_OVERTAKEN, /* a later one has begun */
    WEFT_GATHER_MALFORMED, /* not a member, or the others say otherwise */
    WEFT_GATHER_NO_MEMORY,
} weft_gather_verdict_t;

/* `rank` gives `data` [of->bytes, at most WEFT_WIRE_MAX_GATHER_BYTES]. When it begins a later gathering than the current one,
 * the askers of that are handed to `forsake` first. */
weft_gather_verdict_t weft_gathers_take(weft_gathers_t *gathers, uint32_t rank, const weft_wire_gather_t *of,
                                        const uint8_t *data, const weft_gather_asker_t *asker,
                                        void (*forsake)(void *user, const weft_gather_asker_t *asker), void *user);

/* The current one has been answered: it is the last from now on. */
void weft_gathers_conclude(weft_gathers_t *gathers);

#endif
