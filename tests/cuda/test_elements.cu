/* The device's arithmetic of single elements against kernels/arith.h: every value there is; every STEPth, from one chosen
 * at random, where WEFT_TEST_SHORT is set. */
#include "fixture.cuh"
#include "kernels/cuda/quotient.h"
#include "kernels/cuda/tile.cuh"

#define SHORT_STEP 1021 /* a prime: samples share no low bits */

static __global__ void sweep_f32(unsigned long long *wrong, uint32_t first, uint32_t step)
{
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x * step;
    for (uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * step + first; i < 1ull << 32; i += stride) {
        float x = weft_f32((uint32_t)i);
        uint32_t e4m3 = e4m3_pair(x, 0.0f), bf16 = bf16_pair(x, 0.0f), f16;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(f16) : "f"(0.0f), "f"(x));
        if (e4m3 != weft_e4m3_from_f32(x))
            atomicAdd(&wrong[0], 1);
        if (bf16 != weft_bf16_from_f32(x))
            atomicAdd(&wrong[1], 1);
        if (f16 != weft_f16_from_f32(x))
            atomicAdd(&wrong[2], 1);
    }
}

static __global__ void sweep_small(unsigned long long *wrong)
{
    for (uint32_t i = threadIdx.x; i < 1 << 16; i += blockDim.x) {
        float f16 = value_f32<WEFT_DTYPE_F16>(i), bf16 = value_f32<WEFT_DTYPE_BF16>(i);
        bool is_nan = (i & 0x7FFF) > WEFT_F16_INF;
        if (is_nan ? f16 == f16 : weft_f32_bits(f16) != weft_f32_bits(weft_f32_from_f16((uint16_t)i)))
            atomicAdd(&wrong[0], 1);
        if (weft_f32_bits(bf16) != weft_f32_bits(weft_f32_from_bf16((uint16_t)i)))
            atomicAdd(&wrong[1], 1);
        float e4m3 = e4m3_values(i & 0xFF).x;
        if (i < 256 && (i & 0x7F) != 0x7F && weft_f32_bits(e4m3) != weft_f32_bits(weft_f32_from_e4m3((uint8_t)i)))
            atomicAdd(&wrong[2], 1);
    }
}

/* One block an amax, its threads over all x that it covers, both signs. */
template <weft_dtype_t D> static __global__ void sweep_quotient(unsigned long long *wrong, uint32_t first, uint32_t step)
{
    uint32_t amax = blockIdx.x * step + first;
    float s = weft_channel_scale(value_f32<D>(amax));
    weft_inverse_t inverse = weft_inverse_of(s);
    for (uint32_t i = threadIdx.x; i <= 2 * amax + 1; i += blockDim.x) {
        float x = value_f32<D>(i / 2 | (i & 1) << 15);
        if ((e4m3_pair(weft_quotient(x, inverse), 0.0f) & 0xFF) != weft_channel_code(x, s))
            atomicAdd(wrong, 1);
    }
}

static void test_elements(void)
{
    unsigned long long *wrong, found[8];
    CUDA(cudaMalloc((void **)&wrong, sizeof found));
    CUDA(cudaMemset(wrong, 0, sizeof found));
    const uint32_t step = is_short() ? SHORT_STEP : 1, first = random_in(0, step - 1);
    const uint32_t bf16_amaxes = (WEFT_BF16_INF - first + step - 1) / step;
    const uint32_t f16_amaxes = (WEFT_F16_INF - first + step - 1) / step;
    sweep_f32<<<2048, 256>>>(wrong, first, step);
    CUDA(cudaGetLastError());
    sweep_small<<<1, 1024>>>(wrong + 3);
    CUDA(cudaGetLastError());
    sweep_quotient<WEFT_DTYPE_BF16><<<bf16_amaxes, 256>>>(wrong + 6, first, step);
    CUDA(cudaGetLastError());
    sweep_quotient<WEFT_DTYPE_F16><<<f16_amaxes, 256>>>(wrong + 7, first, step);
    CUDA(cudaGetLastError());
    CUDA(cudaMemcpy(found, wrong, sizeof found, cudaMemcpyDeviceToHost));
    CUDA(cudaFree(wrong));
    static const char *const names[8] = {"fp32 to e4m3", "fp32 to bf16", "fp32 to fp16",  "fp16 to fp32",
                                         "bf16 to fp32", "e4m3 to fp32", "quotient bf16", "quotient fp16"};
    for (int i = 0; i < 8; i++)
        CHECK(found[i] == 0, "%s: %llu wrong", names[i], found[i]);
    printf(is_short() ? "ok  short: one of %u fp32 values and amaxes of fp8-channel; every bf16, fp16, e4m3 value\n"
                    : "ok  every fp32, bf16, fp16, e4m3 value; every quotient of fp8-channel\n",
           step);
}

int main(void)
{
    tests_begin();
    test_elements();
    return tests_end();
}
