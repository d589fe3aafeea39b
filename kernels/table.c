#include <fenv.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/ref/ref.h"

static const weft_kernels_t ref = {
    .name = "ref",
    .quantize =
        {
            [WEFT_KERNEL_CAST] = weft_ref_cast,
            [WEFT_KERNEL_FP8_BLOCK] = weft_ref_fp8_block,
            [WEFT_KERNEL_FP8_CHANNEL] = weft_ref_fp8_channel,
        },
    .amax = weft_ref_amax,
    .pack = weft_ref_pack,
    .digest = weft_ref_digest,
};

static const weft_kernels_t *const backends[] = {&ref};

const weft_kernels_t *weft_kernels_find(const char *name)
{
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    }
    return NULL;
}

void weft_kernels_thread_begin(void)
{
    fesetenv(FE_DFL_ENV);
}
