#include "kernels/simd/simd.h"

#if defined(__AVX2__)

#include "kernels/simd/lanes_avx2.h"

#include "kernels/simd/body.h"

static const weft_kernels_t avx2 = {
    .name = "avx2",
    .quantize =
        {
            [WEFT_KERNEL_CAST] = quantize_cast,
            [WEFT_KERNEL_FP8_BLOCK] = quantize_fp8_block,
            [WEFT_KERNEL_FP8_CHANNEL] = quantize_fp8_channel,
        },
    .amax = find_amax,
    .pack = weft_ref_pack,
    .digest = digest,
};

const weft_kernels_t *weft_simd_avx2(void)
{
    return __builtin_cpu_supports("avx2") ? &avx2 : NULL;
}

#else

const weft_kernels_t *weft_simd_avx2(void)
{
    return NULL;
}

#endif
