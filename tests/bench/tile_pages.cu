// 128-row tiles of own, cudaIpc and VMM memory.
#include <cuda_runtime.h>
#include <cuda.h>
#include <cstdio>
#include <cstdlib>
#include <cstdint>
#include <unistd.h>
#include <sys/wait.h>
#include <vector>
#include <algorithm>
#define C(x) do { int e_ = (int)(x); if (e_) { printf("%s: %d\n", #x, e_); exit(1); } } while (0)
__global__ void __launch_bounds__(256) tiles(const uint4 *in, uint2 *out, size_t rows, int k) // k: elements a row
{
    size_t across = k / 128, t = blockIdx.x, r = t / across * 128, c = t % across;
    int lane = threadIdx.x % 16, row = threadIdx.x / 16;
    uint4 v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = in[(r + row + i * 16) * (k / 8) + c * 16 + lane];
#pragma unroll
    for (int i = 0; i < 8; i++) out[(r + row + i * 16) * (k / 8) + c * 16 + lane] = make_uint2(v[i].x ^ v[i].y, v[i].z ^ v[i].w);
}
static void bench(const char *name, const void *in, void *out, size_t bytes, int k)
{
    cudaEvent_t a, b; C(cudaEventCreate(&a)); C(cudaEventCreate(&b));
    std::vector<float> t; size_t rows = bytes / 2 / k / 128 * 128;
    for (int i = 0; i < 12; i++) {
        C(cudaEventRecord(a));
        tiles<<<(unsigned)(rows / 128 * (k / 128)), 256>>>((const uint4 *)in, (uint2 *)out, rows, k);
        C(cudaEventRecord(b)); C(cudaEventSynchronize(b)); C(cudaGetLastError());
        float ms; C(cudaEventElapsedTime(&ms, a, b)); if (i > 1) t.push_back(ms);
    }
    std::sort(t.begin(), t.end());
    printf("%-8s K %5d  %6.3f ms  %6.0f GB/s\n", name, k, t[t.size()/2], rows * k * 3.0 / t[t.size()/2] / 1e6);
}
int main()
{
    size_t bytes = (size_t)8 << 30; int p[2], q[2]; C(pipe(p)); C(pipe(q));
    pid_t child = fork();
    if (child == 0) {
        void *m; cudaIpcMemHandle_t h; char c;
        C(cudaMalloc(&m, bytes)); C(cudaMemset(m, 0x3c, bytes)); C(cudaDeviceSynchronize());
        C(cudaIpcGetMemHandle(&h, m)); if (write(p[1], &h, sizeof h) < 0 || read(q[0], &c, 1) < 0) _exit(1); _exit(0);
    }
    cudaIpcMemHandle_t h; if (read(p[0], &h, sizeof h) < 0) return 1;
    void *ipc, *own, *out; CUdeviceptr vmm; CUmemGenericAllocationHandle g, g2; int fd;
    C(cudaIpcOpenMemHandle(&ipc, h, cudaIpcMemLazyEnablePeerAccess)); C(cudaMalloc(&own, bytes)); C(cudaMalloc(&out, bytes / 2));
    CUmemAllocationProp pr = {}; pr.type = CU_MEM_ALLOCATION_TYPE_PINNED; pr.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR; pr.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    C(cuMemCreate(&g, bytes, &pr, 0)); C(cuMemExportToShareableHandle(&fd, g, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    C(cuMemImportFromShareableHandle(&g2, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    C(cuMemAddressReserve(&vmm, bytes, 0, 0, 0)); C(cuMemMap(vmm, bytes, 0, g2, 0));
    CUmemAccessDesc ac = {}; ac.location.type = CU_MEM_LOCATION_TYPE_DEVICE; ac.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    C(cuMemSetAccess(vmm, bytes, &ac, 1)); C(cudaMemset((void *)vmm, 0x3d, bytes)); C(cudaMemset(own, 0x3e, bytes)); C(cudaDeviceSynchronize());
    for (int k : {4096, 12288}) { bench("own", own, out, bytes, k); bench("ipc", ipc, out, bytes, k); bench("vmm", (void *)vmm, out, bytes, k); }
    if (write(q[1], "x", 1) < 0) return 1; waitpid(child, NULL, 0);
}
