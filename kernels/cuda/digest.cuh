/* Digests on the device: sums kept by each thread, one partial a tile, added up per tensor by a kernel of its
 * own. No two blocks ever add to one address: 64-bit atomics that contend cost more than the whole pass. */
#ifndef WEFT_KERNELS_CUDA_DIGEST_CUH
#define WEFT_KERNELS_CUDA_DIGEST_CUH

#include "kernels/cuda/common.cuh"

/* The sum of a 64-bit number over a warp, modulo 2^64, in lane 0 and all others: in three pieces narrow
 * enough that 32 of them fit a 32-bit sum, which the hardware adds in one instruction. */
static __device__ __forceinline__ uint64_t weft_warp_sum(uint64_t x)
{
    const uint32_t mask = (1u << 27) - 1;
    uint32_t low = __reduce_add_sync(ALL_LANES, (uint32_t)x & mask);
    uint32_t mid = __reduce_add_sync(ALL_LANES, (uint32_t)(x >> 27) & mask);
    uint32_t high = __reduce_add_sync(ALL_LANES, (uint32_t)(x >> 54));
    return low + ((uint64_t)mid << 27) + ((uint64_t)high << 54);
}

/* Add up the sums of the first SIZE threads and write them. All of them must come here; `shared` has two
 * words a warp and must not be in use. */
template <uint32_t SIZE>
static __device__ __forceinline__ void weft_block_partial(const weft_digest_t *sums, uint64_t (*shared)[2],
                                                          weft_digest_t *partial)
{
    uint64_t sum0 = weft_warp_sum(sums->word[0]), sum1 = weft_warp_sum(sums->word[1]);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP][0] = sum0;
        shared[threadIdx.x / WARP][1] = sum1;
    }
    weft_sync<SIZE>();
    if (threadIdx.x < 2) {
        uint64_t sum = 0;
        for (uint32_t warp = 0; warp < SIZE / WARP; warp++)
            sum += shared[warp][threadIdx.x];
        partial->word[threadIdx.x] = sum;
    }
}

/* ---- Tensors and their partials; digest.cu ---- */

/* Bytes that one block digests of a tensor that no pass digests on its way. */
constexpr uint64_t WEFT_CHUNK_BYTES = 32768;

/* Tensors, each with a run of partials: of tiles of a pass where the digest rides in it, else of chunks read
 * by weft_cuda_sums_finish. */
typedef struct weft_cuda_sums weft_cuda_sums_t;

/* `ride` [count]: the partials that a pass will write for a tensor; 0: none, read it in finish. NULL: all 0.
 */
weft_status_t weft_cuda_sums_create(const weft_cuda_tensor_t *tensors, const uint32_t *ride, uint32_t count,
                                    weft_cuda_sums_t **sums);
void weft_cuda_sums_destroy(weft_cuda_sums_t *sums);

/* Device memory of all partials, and the first of a tensor. */
weft_digest_t *weft_cuda_sums_partials(const weft_cuda_sums_t *sums);
uint32_t weft_cuda_sums_first(const weft_cuda_sums_t *sums, uint32_t tensor);

/* Combine the partials of tensors [first, first + count), digesting those that no pass did, into pinned
 * memory; and copy the word at `from`, device memory, to `to`, pinned memory (or both NULL). **Stream** one
 * or two launches. */
weft_status_t weft_cuda_sums_finish(weft_cuda_sums_t *sums, uint32_t first, uint32_t count,
                                    const unsigned *from, unsigned *to, cudaStream_t stream);
const weft_digest_t *weft_cuda_sums_digests(const weft_cuda_sums_t *sums);

#endif
