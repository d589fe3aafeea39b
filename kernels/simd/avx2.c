#include "kernels/simd/simd.h"

#if defined(__AVX2__)

#include "kernels/simd/lanes_avx2.h"

#include "kernels/simd/body.h"

SIMD_BACKEND(avx2, __builtin_cpu_supports("avx2"))

#else

const weft_kernels_t *weft_simd_avx2(void)
{
    return NULL;
}

#endif
