/* The rollout's inside, shared by rollout.c (receive, assemble, quantize, stage), rollout_swap.c (steps and
 * swaps) and rollout_query.c (tensors, status). */
#ifndef WEFT_ROLLOUT_PRIVATE_H
#define WEFT_ROLLOUT_PRIVATE_H

#include <weft/rollout.h>

#include "src/assemble/assembler.h"
#include "src/assemble/staging.h"
#include "src/assemble/wire_digest.h"
#include "src/borrower.h"
#include "src/quantize/quantizer.h"
#include "src/receiver.h"
#include "src/swap/weights.h"
#include "src/swap/window.h"
#include "src/transfer.h"

#define WEFT_ROLLOUT_SPANS 4096u

/* Units that were started together. */
typedef struct weft_batch {
    uint32_t first, count;
    uint64_t ticket, start_ns;
} weft_batch_t;

typedef struct weft_loader weft_loader_t;

struct weft_rollout {
    weft_session_t *session;
    weft_program_t *program;
    weft_queue_t *queue;
    void *_Atomic stream; /* where the engine's steps run, on a GPU */
    weft_outputs_t outputs;
    weft_weights_t *weights;
    weft_window_t window; /* swap layerwise */
    weft_staging_t staging;
    weft_assembler_t *assembler;
    weft_quantizer_t *quantizer;
    weft_selection_t selection; /* of the version in hand */
    weft_carry_t *carry;        /* NULL until the first subset */
    weft_receiver_t *receiver;
    weft_borrower_t *borrower; /* NULL unless the transport lends */
    weft_wire_digests_t digests;
    weft_loader_t *loader; /* NULL until the first load; progress thread only */
    bool buffers_lost; /* an aborted transport may still write into the staging memory: it is never freed */

    pthread_t thread;
    bool thread_started;
    _Atomic bool quit;

    /* the transfer in hand; progress thread only */
    weft_transfer_t transfer;
    bool refused;             /* the version cannot be used; rounds go on, nothing is quantized */
    bool window_open;         /* swap layerwise: the engine has paused; else always */
    bool mapped;              /* what the sources lend is */
    bool ended;               /* the last digests are started */
    bool listed;              /* the quantizer's work is */
    bool fresh;               /* nothing that an earlier version left is in the way of the next */
    uint32_t units_started;
    uint32_t oldest_round;    /* rounds below it are done */
    uint64_t ticket, done;    /* of the queue: last given, last ended */
    uint64_t *round_tickets;  /* [rounds]: of the last work on a round's slot */
    weft_batch_t *batches;    /* [units] a ring: being quantized */
    uint32_t first_batch, num_batches;
    uint64_t busy_since_ns;   /* batches are in flight */
    uint64_t started_us, quantize_ns, digest_ns, last_arrival_us;

    /* under the session's mutex */
    weft_rollout_stats_t pending_stats, stats;
    uint64_t received_bytes, received_version;
    uint32_t layers_staged;
    weft_version_span_t spans[WEFT_ROLLOUT_SPANS];
    uint32_t num_spans;
    uint64_t load_version; /* asked for last; 0: none */
    char *load_dir;

    /* step thread only */
    uint64_t last_end_us, served_version;
    _Atomic uint64_t paused_version; /* whose first step's beginning the queue remembers */
};

/* rollout_load.c: stage a version from disk; the counterpart of receiving one. Progress thread. */
void weft_rollout_load_version(weft_rollout_t *rollout, uint64_t version);

/* Under the session's mutex: whether no load of `version` is open, and why it failed if it did. */
bool weft_rollout_load_over(const weft_rollout_t *rollout, uint64_t version, weft_status_t *status,
                            weft_error_t *error);
void weft_loader_destroy(weft_loader_t *loader, weft_queue_t *queue);

/* Make the committed version live if its moment has come. Step thread and progress thread; one of them wins.
 */
void weft_rollout_swap_if_due(weft_rollout_t *rollout);

/* rollout_window.c, swap layerwise. WEFT_OK: steps may run, as far as the window goes; WEFT_ERR_FENCED: not yet;
 * WEFT_ERR_TAINTED. */
weft_status_t weft_rollout_window_lets(weft_rollout_t *rollout, weft_error_t *error);
bool weft_rollout_is_tainted(const weft_rollout_t *rollout);

/* Whether the version in hand may be written: the engine has paused, its work has ended. **Returns** WEFT_OK (look at *open),
 * WEFT_ERR_TAINTED for a subset over tainted weights, WEFT_ERR_TIMEOUT. The other waits for it while `goes_on`. */
weft_status_t weft_rollout_open_window(weft_rollout_t *rollout, bool *open, weft_error_t *error);
weft_status_t weft_rollout_await_window(weft_rollout_t *rollout, bool (*goes_on)(weft_rollout_t *), weft_error_t *error);

#endif
