/* Kernel-format weights of one rollout rank in a file, which `weft quantize DIR OUT` and `weft run --dump` write:
 * OUT/rank{r}.safetensors, replica by replica. The bytes are those of the stage, tensor for tensor; the metadata says
 * what they were made of and how.
 *
 *     if (weft_kernel_file_exists(dir, program))
 *         weft_kernel_file_open(dir, program, outputs, &file, &error);
 *     const void *bytes = weft_kernel_file_output(file, 0);
 *     weft_kernel_file_close(file);
 */
#ifndef WEFT_QUANTIZE_KERNEL_FILE_H
#define WEFT_QUANTIZE_KERNEL_FILE_H

#include "src/plan/program.h"

typedef struct weft_kernel_file weft_kernel_file_t;

/* Write DIR/rank{r}.safetensors with `tensors` [count] (name, dtype, shape, data), the outputs of `rollout_rank`; makes
 * DIR. **Returns** WEFT_OK, WEFT_ERR_IO, WEFT_ERR_ARGUMENT (too long a path), WEFT_ERR_NO_MEMORY. */
weft_status_t weft_kernel_file_write(const char *dir, uint32_t rollout_rank, const weft_tensor_t *tensors, uint32_t count,
                                     const weft_plan_t *plan, weft_digest_t digest, weft_error_t *error);

/* Whether `dir` holds such files: of this rank, or of others alone. */
bool weft_kernel_file_exists(const char *dir, const weft_program_t *program);

/* Map the file of the program's rank, or where there is none that of the same rank of the first replica, whose bytes
 * are the same. Everything is compared with what the rank needs: how it was made (model_type, layout but for the
 * number of replicas, scheme, profile), names, dtypes, shapes.
 * **Returns** WEFT_OK; WEFT_ERR_IO, WEFT_ERR_FILE; WEFT_ERR_MISFIT (made otherwise), WEFT_ERR_MISSING_TENSOR,
 * WEFT_ERR_UNKNOWN_NAME (a tensor more), WEFT_ERR_SHAPE (or dtype); WEFT_ERR_NO_MEMORY.
 * **Ownership** `outputs` must outlive the file. */
weft_status_t weft_kernel_file_open(const char *dir, const weft_program_t *program, const weft_outputs_t *outputs,
                                    weft_kernel_file_t **file, weft_error_t *error);
void weft_kernel_file_close(weft_kernel_file_t *file);

/* The bytes of an output, as many as it has. */
const uint8_t *weft_kernel_file_output(const weft_kernel_file_t *file, uint32_t output);

/* Whether the whole has the digest that the file says it has. **Returns** WEFT_OK, WEFT_ERR_DIGEST. */
weft_status_t weft_kernel_file_check_digest(const weft_kernel_file_t *file, weft_digest_t digest,
                                            weft_error_t *error);

#endif
