/* What the device tests and the kernel bench share: checked calls, seeded numbers, device memory with guards. Plain
 * programs: the GPU machine has no cmocka. */
#ifndef WEFT_TESTS_CUDA_FIXTURE_CUH
#define WEFT_TESTS_CUDA_FIXTURE_CUH

#include <stdio.h>
#include <string.h>
#include <time.h>

#include <vector>

#include "kernels/cuda/common.cuh"
extern "C" {
#include "kernels/ref/ref.h"
}

#define SKIPPED 77

/* ---- Checks: the first that fails ends the program ---- */

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                     \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CUDA(call)                                                                                                     \
    do {                                                                                                               \
        cudaError_t error_ = (call);                                                                                   \
        CHECK(error_ == cudaSuccess, "%s: %s", #call, cudaGetErrorString(error_));                                     \
    } while (0)

#define WEFT(call)                                                                                                     \
    do {                                                                                                               \
        weft_status_t status_ = (call);                                                                                \
        CHECK(status_ == WEFT_OK, "%s: status %d, CUDA says %s", #call, (int)status_,                                  \
              cudaGetErrorString(cudaGetLastError()));                                                                 \
    } while (0)

/* Leave with 77 where there is no GPU. */
static inline void require_gpu(void)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        printf("skipped: no GPU (%s)\n", error == cudaSuccess ? "none found" : cudaGetErrorString(error));
        exit(SKIPPED);
    }
    weft_status_t status = weft_cuda_probe();
    if (status == WEFT_ERR_UNSUPPORTED) {
        printf("skipped: this build has no code for the GPU here\n");
        exit(SKIPPED);
    }
    WEFT(status);
}

/* ---- Random numbers ---- */

static uint64_t random_state;

static inline void random_begin(void)
{
    const char *seed = getenv("WEFT_TEST_SEED");
    random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("WEFT_TEST_SEED=%llu\n", (unsigned long long)random_state);
}

static inline uint64_t random_u64(void)
{
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* A number in [low, high]. */
static inline uint32_t random_in(uint32_t low, uint32_t high)
{
    return low + (uint32_t)(random_u64() % ((uint64_t)high - low + 1));
}

static inline bool one_in(uint32_t n)
{
    return random_in(1, n) == 1;
}

/* How many of `all` rounds: a tenth where WEFT_TEST_SHORT is in the environment, for tools that slow everything down. */
static inline bool is_short(void)
{
    return getenv("WEFT_TEST_SHORT") != NULL;
}

static inline uint32_t rounds(uint32_t all)
{
    return is_short() ? (all + 9) / 10 : all;
}

/* What every test of kernels begins with, and what it ends with. */
static inline void tests_begin(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    require_gpu();
    random_begin();
    weft_kernels_thread_begin();
}

static inline int tests_end(void)
{
    CUDA(cudaDeviceSynchronize());
    printf(is_short() ? "all passed (short)\n" : "all passed\n");
    return 0;
}

/* ---- Device memory ---- */

#define GUARD  512  /* bytes before and after that nobody may write */
#define POISON 0xA5

/* Device memory filled with a pattern, guards on both sides. */
typedef struct guarded {
    uint8_t *base, *data;
    size_t bytes;
} guarded_t;

/* `shift`: bytes by which the start is off a multiple of 256. */
static inline guarded_t guarded_create(size_t bytes, size_t shift)
{
    guarded_t g = {NULL, NULL, bytes};
    CUDA(cudaMalloc((void **)&g.base, bytes + shift + 2 * GUARD));
    CUDA(cudaMemset(g.base, POISON, bytes + shift + 2 * GUARD));
    g.data = g.base + GUARD + shift;
    return g;
}

/* Bring the memory home and free it; the guards must be as they were. */
static inline std::vector<uint8_t> guarded_take(guarded_t *g)
{
    size_t before = (size_t)(g->data - g->base), all = before + g->bytes + GUARD;
    std::vector<uint8_t> bytes(all);
    CUDA(cudaMemcpy(bytes.data(), g->base, all, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < all; i++) {
        if (i < before || i >= before + g->bytes)
            CHECK(bytes[i] == POISON, "byte %lld of %zu was written", (long long)i - (long long)before, g->bytes);
    }
    CUDA(cudaFree(g->base));
    return std::vector<uint8_t>(bytes.begin() + (long)before, bytes.begin() + (long)(before + g->bytes));
}

static inline uint8_t *device_copy(const void *data, size_t bytes, size_t shift)
{
    uint8_t *device;
    CUDA(cudaMalloc((void **)&device, bytes + shift + 1));
    CUDA(cudaMemcpy(device + shift, data, bytes, cudaMemcpyHostToDevice));
    return device + shift;
}

/* ---- Reference ---- */

static inline weft_digest_t ref_digest(const void *data, size_t bytes)
{
    return weft_digest_run(weft_kernels_find("ref"), data, bytes);
}

static inline bool same_digest(weft_digest_t a, weft_digest_t b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

#endif
