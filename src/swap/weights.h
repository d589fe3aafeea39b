/* The weights of a rollout rank: the live range, the stage beside it, and how one becomes the other.
 *
 *     copy                                   flip
 *     live  [ addresses the engine holds ]   live  [ reserved range ] --> memory A
 *     stage [ next version ]                 stage [ second range   ] --> memory B
 *     swap: copy stage -> live               swap: live --> B; then, when nobody waits, stage --> A; no byte moves
 *
 * layerwise has no stage: a version is written over the live range. Addresses of the live range never change. After a flip, once settled, the stage holds the version before. A mode is a row
 * of a table in weights.c; the caller proves that nobody reads while weft_weights_swap runs
 * (src/swap/guard.h).
 */
#ifndef WEFT_SWAP_WEIGHTS_H
#define WEFT_SWAP_WEIGHTS_H

#include "kernels/queue.h"

typedef struct weft_weights weft_weights_t;

/* Make both ranges of `bytes` bytes in memory of `queue`, zeroed. `mode` is "copy", "flip" or "layerwise" (then one range is both).
 * **Returns** WEFT_OK, WEFT_ERR_UNKNOWN_NAME (the message lists the modes), WEFT_ERR_NO_MEMORY, WEFT_ERR_SYSTEM.
 * **Ownership** the queue must outlive the weights. */
weft_status_t weft_weights_create(weft_queue_t *queue, const char *mode, uint64_t bytes, weft_weights_t **weights,
                                  weft_error_t *error);

/* Whether there is such a mode: WEFT_OK or WEFT_ERR_UNKNOWN_NAME. */
weft_status_t weft_weights_check_mode(const char *mode, weft_error_t *error);
void weft_weights_destroy(weft_weights_t *weights);

/* Use the caller's memory for bytes [offset, offset + bytes) of the live range; copy only.
 * **Returns** WEFT_OK, WEFT_ERR_ARGUMENT (another mode, outside of the range, bound already), WEFT_ERR_NO_MEMORY. */
weft_status_t weft_weights_bind(weft_weights_t *weights, uint64_t offset, uint64_t bytes, void *memory,
                                weft_error_t *error);

/* The live address of an offset; constant for the life of the weights. */
void *weft_weights_live(const weft_weights_t *weights, uint64_t offset);

/* The start of the stage; constant too. */
uint8_t *weft_weights_stage(const weft_weights_t *weights);

/* Make the stage live. No step is open; `stream` is where steps run (a GPU's, or NULL).
 * **Stream** copy: enqueued on `stream`, so behind the last step and before the next; work that the queue starts later
 * waits for it. flip: waits until the last step's work has ended, at most 10 s, then remaps at once.
 * **Returns** WEFT_OK; WEFT_ERR_SYSTEM when the system refused to remap, WEFT_ERR_TIMEOUT when the last step did not end:
 * the live range is then as it was. */
weft_status_t weft_weights_swap(weft_weights_t *weights, void *stream, weft_error_t *error);

/* What a swap leaves for later: after a flip the stage shows what is live until then, and must not be written. Cheap
 * when there is nothing to do. **Threads** the progress thread; may meet a swap of another thread.
 * **Returns** WEFT_OK; WEFT_ERR_NO_MEMORY, WEFT_ERR_SYSTEM: no version can be staged any more. */
weft_status_t weft_weights_settle(weft_weights_t *weights, weft_error_t *error);

const char *weft_weights_mode(const weft_weights_t *weights);

/* Whether the stage is the live range itself ("layerwise"); then whoever stages proves that nobody reads
 * (src/swap/window.h). */
bool weft_weights_in_place(const weft_weights_t *weights);

/* Wait until the work of ended steps has ended on its stream. **Returns** WEFT_OK, WEFT_ERR_TIMEOUT. **Blocks** at most 10 s. */
weft_status_t weft_weights_await_engine(weft_weights_t *weights, weft_error_t *error);

#endif
