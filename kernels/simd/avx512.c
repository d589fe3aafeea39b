#include "kernels/simd/simd.h"

#if defined(__AVX512BW__)

#include "kernels/simd/lanes_avx512.h"

#include "kernels/simd/body.h"

static const weft_kernels_t avx512 = {
    .name = "avx512",
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

const weft_kernels_t *weft_simd_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? &avx512 : NULL;
}

#else

const weft_kernels_t *weft_simd_avx512(void)
{
    return NULL;
}

#endif
