#include <fenv.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/ref/ref.h"
#include "kernels/simd/simd.h"

static const weft_kernels_t ref = {
    .name = "ref",
    .quantize =
        {
            WEFT_REF_ONLY,
            [WEFT_KERNEL_CAST] = weft_ref_cast,
            [WEFT_KERNEL_FP8_BLOCK] = weft_ref_fp8_block,
            [WEFT_KERNEL_FP8_CHANNEL] = weft_ref_fp8_channel,
        },
    .amax = weft_ref_amax,
    .pack = weft_ref_pack,
    .digest = weft_ref_digest,
};

static const weft_kernels_t *get_ref(void)
{
    return &ref;
}

/* The fastest first. */
static const weft_kernels_t *(*const backends[])(void) = {weft_simd_avx512, weft_simd_avx2, get_ref};

#define NUM_BACKENDS (sizeof backends / sizeof *backends)

const weft_kernels_t *weft_kernels_find(const char *name)
{
    for (size_t i = 0; i < NUM_BACKENDS; i++) {
        const weft_kernels_t *kernels = backends[i]();
        if (kernels && strcmp(kernels->name, name) == 0)
            return kernels;
    }
    return NULL;
}

const weft_kernels_t *weft_kernels_best(void)
{
    size_t i = 0;
    while (!backends[i]())
        i++;
    return backends[i]();
}

void weft_kernels_thread_begin(void)
{
    fesetenv(FE_DFL_ENV);
}
