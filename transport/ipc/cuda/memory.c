/* Device memory that can be lent: cudaMalloc by its IPC handle, cuMemCreate by a file descriptor.
 *
 * Allocations of a pool, managed memory and memory of another device are refused by name. Whoever borrows
 * cuMemCreate memory maps it for reading only, where the driver can. */
#include <string.h>

#include "transport/ipc/cuda/driver.h"

_Static_assert(sizeof(cudaIpcMemHandle_t) <= sizeof((weft_ipc_allocation_t){0}.handle),
               "the table has room for a handle");

/* ---- What memory is ---- */

/* An attribute of at most 8 bytes; 0 where the driver knows nothing of the pointer, or not the attribute. */
static uint64_t ask(const weft_ipc_cuda_t *cuda, CUpointer_attribute attribute, const void *pointer)
{
    uint64_t value = 0;
    return cuda->attribute(&value, attribute, (uintptr_t)pointer) == CUDA_SUCCESS ? value : 0;
}

static weft_status_t refuse(const void *pointer, const char *kind, weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_ARGUMENT,
                     "memory at %p is %s, which another process cannot read; lend cudaMalloc memory of the "
                     "transport's device, or cuMemCreate memory of it whose requestedHandleTypes has "
                     "CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR",
                     pointer, kind);
}

/* Which of the two kinds that can be shared. */
static weft_status_t classify(const weft_ipc_cuda_t *cuda, const void *pointer, uint64_t *kind,
                              weft_error_t *error)
{
    uint64_t type = ask(cuda, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer);
    if (ask(cuda, CU_POINTER_ATTRIBUTE_IS_MANAGED, pointer))
        return refuse(pointer, "managed memory (cudaMallocManaged)", error);
    if (type != CU_MEMORYTYPE_DEVICE)
        return refuse(pointer, type == CU_MEMORYTYPE_HOST ? "pinned host memory" : "pageable host memory",
                      error);
    if ((CUdevice)ask(cuda, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer) != cuda->device)
        return refuse(pointer, "memory of another CUDA device", error);
    if (ask(cuda, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pointer))
        return refuse(pointer, "memory of a pool (cudaMallocAsync)", error);
    if (ask(cuda, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointer))
        *kind = IPC_CUDA_LEGACY;
    else if (ask(cuda, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES, pointer) &
             CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        *kind = IPC_CUDA_VMM;
    else
        return refuse(pointer, "cuMemCreate memory made without a handle type to share it by", error);
    return WEFT_OK;
}

/* The handle of cuMemCreate that is mapped there; it holds the memory until it is released. */
static weft_status_t retain(const weft_ipc_cuda_t *cuda, uint64_t address,
                            CUmemGenericAllocationHandle *handle, weft_error_t *error)
{
    return weft_ipc_cuda_check_driver(cuda, cuda->retain(handle, (void *)(uintptr_t)address),
                                      "cuMemRetainAllocationHandle", error);
}

static weft_status_t describe_legacy(const weft_ipc_cuda_t *cuda, weft_ipc_allocation_t *allocation,
                                     weft_error_t *error)
{
    void *base = (void *)(uintptr_t)allocation->address;
    cudaIpcMemHandle_t handle;
    WEFT_TRY(weft_ipc_cuda_check(cudaIpcGetMemHandle(&handle, base), "cudaIpcGetMemHandle", error));
    memcpy(allocation->handle, &handle, sizeof handle);
    allocation->identity[0] = ask(cuda, CU_POINTER_ATTRIBUTE_BUFFER_ID, base);
    return WEFT_OK;
}

static weft_status_t describe(const weft_ipc_cuda_t *cuda, const void *pointer,
                              weft_ipc_allocation_t *allocation, weft_error_t *error)
{
    CUdeviceptr base = 0;
    size_t bytes = 0;
    WEFT_TRY(classify(cuda, pointer, &allocation->kind, error));
    WEFT_TRY(weft_ipc_cuda_check_driver(cuda, cuda->address_range(&base, &bytes, (uintptr_t)pointer),
                                        "cuMemGetAddressRange", error));
    allocation->address = base;
    allocation->bytes = bytes;
    if (allocation->kind == IPC_CUDA_LEGACY)
        return describe_legacy(cuda, allocation, error);
    CUmemGenericAllocationHandle handle;
    WEFT_TRY(retain(cuda, base, &handle, error));
    allocation->identity[0] = handle;
    return WEFT_OK;
}

static weft_status_t cuda_describe(weft_transport_t *transport, const void *pointer,
                                   weft_ipc_allocation_t *allocation, int *fd, weft_error_t *error)
{
    *fd = -1;
    WEFT_TRY(weft_ipc_cuda_enter(transport->cuda, error));
    weft_status_t status = describe(transport->cuda, pointer, allocation, error);
    weft_ipc_cuda_leave(transport->cuda);
    return status;
}

/* Memory may be remapped behind the same address, so pieces of cuMemCreate are known by their handle. It is
 * held, so that no other can have the same number meanwhile. (Borrowers' mappings hold the memory just as
 * long.) */
static bool same_handle(const weft_ipc_cuda_t *cuda, const weft_ipc_allocation_t *allocation)
{
    CUmemGenericAllocationHandle handle;
    if (retain(cuda, allocation->address, &handle, NULL) != WEFT_OK)
        return false;
    cuda->release(handle);
    return handle == allocation->identity[0];
}

static bool same_buffer(const weft_ipc_cuda_t *cuda, const weft_ipc_allocation_t *allocation)
{
    uint64_t identity =
        ask(cuda, CU_POINTER_ATTRIBUTE_BUFFER_ID, (const void *)(uintptr_t)allocation->address);
    return identity != 0 && identity == allocation->identity[0];
}

static bool cuda_unchanged(weft_transport_t *transport, const weft_ipc_allocation_t *allocation)
{
    const weft_ipc_cuda_t *cuda = transport->cuda;
    if (weft_ipc_cuda_enter(cuda, NULL) != WEFT_OK)
        return false;
    bool same =
        allocation->kind == IPC_CUDA_VMM ? same_handle(cuda, allocation) : same_buffer(cuda, allocation);
    weft_ipc_cuda_leave(cuda);
    return same;
}

static void cuda_forget(weft_transport_t *transport, const weft_ipc_allocation_t *allocation)
{
    if (allocation->kind != IPC_CUDA_VMM || weft_ipc_cuda_enter(transport->cuda, NULL) != WEFT_OK)
        return;
    transport->cuda->release(allocation->identity[0]);
    weft_ipc_cuda_leave(transport->cuda);
}

/* ---- Sending ---- */

static weft_status_t cuda_export(weft_transport_t *transport, const weft_ipc_allocation_t *allocation,
                                 int *fd, weft_error_t *error)
{
    const weft_ipc_cuda_t *cuda = transport->cuda;
    if (allocation->kind != IPC_CUDA_VMM)
        return weft_fail(error, WEFT_ERR_PROTOCOL, "cudaMalloc memory has no file descriptor");
    WEFT_TRY(weft_ipc_cuda_enter(cuda, error));
    CUresult code = cuda->to_fd(fd, allocation->identity[0], CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    weft_ipc_cuda_leave(cuda);
    return weft_ipc_cuda_check_driver(cuda, code, "cuMemExportToShareableHandle", error);
}

/* ---- Mapping ---- */

static weft_status_t open_handle(const weft_ipc_allocation_t *allocation, weft_ipc_mapping_t *mapping,
                                 weft_error_t *error)
{
    cudaIpcMemHandle_t handle;
    void *address;
    memcpy(&handle, allocation->handle, sizeof handle);
    WEFT_TRY(weft_ipc_cuda_check(cudaIpcOpenMemHandle(&address, handle, cudaIpcMemLazyEnablePeerAccess),
                                 "cudaIpcOpenMemHandle", error));
    *mapping = (weft_ipc_mapping_t){address, allocation->bytes, 0};
    return WEFT_OK;
}

/* One address range for all pieces that touch from `i` on. */
static weft_status_t reserve(const weft_ipc_cuda_t *cuda, const weft_ipc_table_t *table, size_t i,
                             weft_ipc_mapping_t *mapping, weft_error_t *error)
{
    CUdeviceptr address;
    size_t bytes = table->allocations[i].bytes;
    for (size_t next = i; weft_ipc_touches_next(table, next); next++)
        bytes += table->allocations[next + 1].bytes;
    WEFT_TRY(weft_ipc_cuda_check_driver(cuda, cuda->reserve(&address, bytes, 0, 0, 0), "cuMemAddressReserve",
                                        error));
    *mapping = (weft_ipc_mapping_t){(void *)(uintptr_t)address, table->allocations[i].bytes, bytes};
    return WEFT_OK;
}

/* Some drivers know no read-only access to device memory. */
static weft_status_t allow_reading(const weft_ipc_cuda_t *cuda, CUdeviceptr address, size_t bytes,
                                   weft_error_t *error)
{
    CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->device},
                              .flags = CU_MEM_ACCESS_FLAGS_PROT_READ};
    CUresult code = cuda->set_access(address, bytes, &access, 1);
    if (code == CUDA_ERROR_NOT_SUPPORTED || code == CUDA_ERROR_INVALID_VALUE) {
        access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        code = cuda->set_access(address, bytes, &access, 1);
    }
    return weft_ipc_cuda_check_driver(cuda, code, "cuMemSetAccess", error);
}

/* The mapping keeps the memory; the handle is not needed after it. */
static weft_status_t map_fd(const weft_ipc_cuda_t *cuda, int fd, const weft_ipc_mapping_t *mapping,
                            weft_error_t *error)
{
    CUdeviceptr address = (uintptr_t)mapping->address;
    CUmemGenericAllocationHandle handle;
    WEFT_TRY(weft_ipc_cuda_check_driver(
        cuda, cuda->from_fd(&handle, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "cuMemImportFromShareableHandle", error));
    CUresult code = cuda->map(address, mapping->bytes, 0, handle, 0);
    cuda->release(handle);
    WEFT_TRY(weft_ipc_cuda_check_driver(cuda, code, "cuMemMap", error));
    weft_status_t status = allow_reading(cuda, address, mapping->bytes, error);
    if (status != WEFT_OK)
        cuda->unmap(address, mapping->bytes);
    return status;
}

static weft_status_t map_piece(const weft_ipc_cuda_t *cuda, const weft_ipc_table_t *table, size_t i, int fd,
                               weft_ipc_mapping_t *mappings, weft_error_t *error)
{
    const weft_ipc_allocation_t *piece = &table->allocations[i];
    if (i > 0 && weft_ipc_touches_next(table, i - 1))
        mappings[i] =
            (weft_ipc_mapping_t){(char *)mappings[i - 1].address + mappings[i - 1].bytes, piece->bytes, 0};
    else
        WEFT_TRY(reserve(cuda, table, i, &mappings[i], error));
    weft_status_t status = map_fd(cuda, fd, &mappings[i], error);
    if (status != WEFT_OK && mappings[i].reserved_bytes)
        cuda->unreserve((uintptr_t)mappings[i].address, mappings[i].reserved_bytes);
    return status;
}

static weft_status_t cuda_map(weft_transport_t *transport, const weft_ipc_table_t *table, size_t i, int fd,
                              weft_ipc_mapping_t *mappings, weft_error_t *error)
{
    const weft_ipc_cuda_t *cuda = transport->cuda;
    if (table->allocations[i].kind == IPC_FILE)
        return weft_fail(error, WEFT_ERR_PROTOCOL, "it is no device memory");
    WEFT_TRY(weft_ipc_cuda_enter(cuda, error));
    weft_status_t status = table->allocations[i].kind == IPC_CUDA_LEGACY
                               ? open_handle(&table->allocations[i], &mappings[i], error)
                               : map_piece(cuda, table, i, fd, mappings, error);
    weft_ipc_cuda_leave(cuda);
    return status;
}

/* Nobody reads any more, and nothing can be done about a failure: the process that owned the memory may be
 * gone. */
static void cuda_unmap(weft_transport_t *transport, const weft_ipc_allocation_t *allocation,
                       const weft_ipc_mapping_t *mapping)
{
    const weft_ipc_cuda_t *cuda = transport->cuda;
    if (weft_ipc_cuda_enter(cuda, NULL) != WEFT_OK)
        return;
    if (allocation->kind == IPC_CUDA_LEGACY) {
        weft_ipc_cuda_check(cudaIpcCloseMemHandle(mapping->address), "cudaIpcCloseMemHandle", NULL);
    } else {
        cuda->unmap((uintptr_t)mapping->address, mapping->bytes);
        if (mapping->reserved_bytes) /* the first piece, unmapped last */
            cuda->unreserve((uintptr_t)mapping->address, mapping->reserved_bytes);
    }
    weft_ipc_cuda_leave(cuda);
}

/* ---- alloc_lendable ---- */

/* On a stream of its own: the legacy one would wait for the application's. */
static weft_status_t clear(void *data, size_t bytes, weft_error_t *error)
{
    cudaStream_t stream;
    WEFT_TRY(weft_ipc_cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                                 "cudaStreamCreate", error));
    cudaError_t code = cudaMemsetAsync(data, 0, bytes, stream);
    if (code == cudaSuccess)
        code = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    return weft_ipc_cuda_check(code, "cudaMemset", error);
}

/* The mapping keeps the memory, and retain() finds its handle again. */
static CUresult map_new(const weft_ipc_cuda_t *cuda, CUdeviceptr address, size_t bytes,
                        const CUmemAllocationProp *properties)
{
    CUmemGenericAllocationHandle handle;
    CUmemAccessDesc access = {.location = properties->location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUresult code = cuda->create(&handle, bytes, properties, 0);
    if (code != CUDA_SUCCESS)
        return code;
    code = cuda->map(address, bytes, 0, handle, 0);
    cuda->release(handle);
    if (code != CUDA_SUCCESS)
        return code;
    code = cuda->set_access(address, bytes, &access, 1);
    if (code != CUDA_SUCCESS)
        cuda->unmap(address, bytes);
    return code;
}

/* In whole pages of 2 MiB, here and for whoever borrows it. */
static CUresult create(const weft_ipc_cuda_t *cuda, weft_ipc_block_t *block)
{
    size_t page = 0;
    CUdeviceptr address = 0;
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                      .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->device}};
    CUresult code = cuda->granularity(&page, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    if (code != CUDA_SUCCESS)
        return code;
    size_t bytes = (block->bytes + page - 1) / page * page;
    code = cuda->reserve(&address, bytes, 0, 0, 0);
    if (code != CUDA_SUCCESS)
        return code;
    code = map_new(cuda, address, bytes, &properties);
    if (code != CUDA_SUCCESS) {
        cuda->unreserve(address, bytes);
        return code;
    }
    block->data = (void *)(uintptr_t)address;
    block->mapped_bytes = bytes;
    return CUDA_SUCCESS;
}

static void release_block(const weft_ipc_cuda_t *cuda, weft_ipc_block_t *block)
{
    if (!block->mapped_bytes) {
        weft_ipc_cuda_check(cudaFree(block->data), "cudaFree", NULL);
        return;
    }
    cudaDeviceSynchronize(); /* as cudaFree: kernels may still use it */
    cuda->unmap((uintptr_t)block->data, block->mapped_bytes);
    cuda->unreserve((uintptr_t)block->data, block->mapped_bytes);
}

/* Where the system lends no descriptors of device memory, cudaMalloc has handles of its own. */
static weft_status_t make_block(const weft_ipc_cuda_t *cuda, weft_ipc_block_t *block, weft_error_t *error)
{
    CUresult code = create(cuda, block);
    if (code == CUDA_ERROR_OUT_OF_MEMORY)
        return weft_ipc_cuda_check_driver(cuda, code, "cuMemCreate", error);
    if (code != CUDA_SUCCESS)
        WEFT_TRY(weft_ipc_cuda_check(cudaMalloc(&block->data, block->bytes), "cudaMalloc", error));
    weft_status_t status = clear(block->data, block->bytes, error);
    if (status != WEFT_OK)
        release_block(cuda, block);
    return status;
}

static weft_status_t cuda_alloc(weft_transport_t *transport, weft_ipc_block_t *block, weft_error_t *error)
{
    WEFT_TRY(weft_ipc_cuda_enter(transport->cuda, error));
    weft_status_t status = make_block(transport->cuda, block, error);
    weft_ipc_cuda_leave(transport->cuda);
    if (status != WEFT_OK)
        weft_error_prefix(error, "rank %u: ipc: %zu bytes of device memory", transport->base.rank,
                          block->bytes);
    return status;
}

static void cuda_free(weft_transport_t *transport, weft_ipc_block_t *block)
{
    if (weft_ipc_cuda_enter(transport->cuda, NULL) != WEFT_OK)
        return;
    release_block(transport->cuda, block);
    weft_ipc_cuda_leave(transport->cuda);
}

const weft_ipc_memory_t weft_ipc_cuda_memory = {
    .name = "cuda",
    .available = weft_ipc_cuda_available,
    .open = weft_ipc_cuda_open,
    .close = weft_ipc_cuda_close,
    .describe = cuda_describe,
    .unchanged = cuda_unchanged,
    .forget = cuda_forget,
    .export = cuda_export,
    .map = cuda_map,
    .unmap = cuda_unmap,
    .alloc = cuda_alloc,
    .free = cuda_free,
};
