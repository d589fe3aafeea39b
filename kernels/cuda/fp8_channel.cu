/* fp8-channel. */
#include "kernels/cuda/channel.cuh"

weft_status_t weft_cuda_launch_fp8_channel(const work_t *work, weft_dtype_t dtype, uint32_t threads,
                                           unsigned extras, cudaStream_t stream)
{
    return launch_channel<fp8_code>(work, dtype, threads, extras, stream);
}
