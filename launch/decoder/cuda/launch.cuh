/* A kernel launch as a call that can fail. */
#ifndef WEFT_LAUNCH_DECODER_CUDA_LAUNCH_CUH
#define WEFT_LAUNCH_DECODER_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>
#include <stdint.h>

template <typename... P, typename... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, uint32_t threads, cudaStream_t stream,
                                 A... arguments)
{
    kernel<<<grid, threads, 0, stream>>>(arguments...);
    return cudaGetLastError();
}

#endif
