/* Carrying over: what a subset of the layers leaves out comes from the weights that serve.
 *
 *     live   [ A | B | C ]   version v             selected: B
 *              |       |
 *              v copy  v copy, digest
 *     stage  [ A | b | C ]   version v+1
 */
#ifndef WEFT_QUANTIZE_CARRY_H
#define WEFT_QUANTIZE_CARRY_H

#include "kernels/queue.h"
#include "src/plan/outputs.h"

typedef struct weft_carry weft_carry_t;

/* Make it for the outputs of a rank: `live` [outputs->count] says where each serves, `stage` where the next
 * version is made. **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY, or what the queue says of its lists. **Blocks**
 * for them.
 * **Ownership** all of it must outlive the carry. */
weft_status_t weft_carry_create(weft_queue_t *queue, const weft_outputs_t *outputs, const void *const *live,
                                uint8_t *stage, weft_carry_t **carry);
void weft_carry_destroy(weft_carry_t *carry);

/* Start to copy and digest the outputs of layers that `selected` [num_layers] leaves out. */
weft_status_t weft_carry_run(weft_carry_t *carry, const bool *selected, uint32_t num_layers);

/* Digests [outputs], of those carried, once the work is done; and which those are. */
const weft_digest_t *weft_carry_digests(const weft_carry_t *carry);
const bool *weft_carry_which(const weft_carry_t *carry);

#endif
