#include "kernels/simd/simd.h"

#if defined(__AVX512BW__)

#include "kernels/simd/lanes_avx512.h"

#include "kernels/simd/body.h"

SIMD_BACKEND(avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))

#else

const weft_kernels_t *weft_simd_avx512(void)
{
    return NULL;
}

#endif
