/* Host backends for the vector units of x86: the bytes of `ref`, several times as fast. One body (body.h),
 * compiled once for each width of lanes; what it has no fast way for (an fp16 or fp32 source, NaN or Inf) it
 * gives to `ref`.
 *
 *     avx2.c   =  lanes_avx2.h   + body.h      8 fp32 at a time
 *     avx512.c =  lanes_avx512.h + body.h     16
 */
#ifndef WEFT_KERNELS_SIMD_H
#define WEFT_KERNELS_SIMD_H

#include "kernels/kernels.h"

/* The backend, or NULL where the build or this machine's processor has not got it. */
const weft_kernels_t *weft_simd_avx2(void);
const weft_kernels_t *weft_simd_avx512(void);

#endif
