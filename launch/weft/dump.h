/* Dumps: the kernel-format weights of one rollout rank as a safetensors file. */
#ifndef WEFT_LAUNCH_DUMP_H
#define WEFT_LAUNCH_DUMP_H

#include <weft/plan.h>

/* Write DIR/rank{r}.safetensors with `tensors` [count] (name, dtype, shape, data); makes DIR. `digest` goes
 * into the metadata, so that a reader can tell whose bytes they are. */
weft_status_t dump_write(const char *dir, uint32_t rollout_rank, const weft_tensor_t *tensors, uint32_t count,
                         const weft_plan_t *plan, weft_digest_t digest, weft_error_t *error);

#endif
