#include "launch/weft/dump.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/error.h"
#include "src/model/safetensors.h"

weft_status_t dump_write(const char *dir, uint32_t rollout_rank, const weft_tensor_t *tensors, uint32_t count,
                         const weft_plan_t *plan, weft_digest_t digest, weft_error_t *error)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be made: %s", dir, strerror(errno));
    char path[4096], text[40];
    if (snprintf(path, sizeof path, "%s/rank%u.safetensors", dir, rollout_rank) >= (int)sizeof path)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "%s is too long a path", dir);
    snprintf(text, sizeof text, "%016llx%016llx", (unsigned long long)digest.word[1],
             (unsigned long long)digest.word[0]);
    const weft_safetensors_metadata_t metadata[] = {
        {"format", "weft-kernel"},
        {"model_type", weft_plan_model_type(plan)},
        {"rollout", weft_plan_rollout_text(plan)},
        {"scheme", weft_plan_scheme(plan)},
        {"profile", weft_plan_profile(plan)},
        {"digest", text},
    };
    return weft_safetensors_write(path, tensors, count, metadata, sizeof metadata / sizeof metadata[0],
                                  error);
}
