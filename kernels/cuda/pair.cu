/* Live weights and stage on a GPU.
 *
 *     without remap              remap
 *     live  [ cudaMalloc ]       live  [ reserved addresses ] --> handle A
 *     stage [ cudaMalloc ]       stage [ reserved addresses ] --> handle B
 *                                exchange: live --> B        settle: stage --> A; no byte moves
 *
 * One handle a range, whatever its size: each costs a map, an unmap and an access change. Only those of the live range
 * are in the pause: memory may be shown twice, so the stage follows when nobody waits.
 * Neither the addresses nor the kernels and graphs that were made for them change.
 *
 * cuMemUnmap waits for nothing: that the engine is idle is for the caller to prove, with engine_idle.
 */
#include "kernels/cuda/queue.cuh"

constexpr size_t PAGE_BYTES = 4096; /* of ranges that are not mapped */

typedef struct contents {
    bool remap;
    bool lost;                                /* a change could be neither done nor undone */
    bool shared;                              /* exchanged, not settled: both ranges show `live` */
    bool mapped;                              /* the ranges have shown something */
    CUmemGenericAllocationHandle live, stage; /* behind the ranges once settled; 0: none */
    CUmemAccessDesc access;
} contents_t;

static CUdeviceptr address_of(const uint8_t *range)
{
    return (CUdeviceptr)(uintptr_t)range;
}

static weft_status_t status_of(CUresult result)
{
    switch (result) {
    case CUDA_SUCCESS:
        return WEFT_OK;
    case CUDA_ERROR_OUT_OF_MEMORY:
        return WEFT_ERR_NO_MEMORY;
    case CUDA_ERROR_NOT_SUPPORTED:
        return WEFT_ERR_UNSUPPORTED;
    default:
        return WEFT_ERR_SYSTEM;
    }
}

static const char *text_of(const weft_cuda_queue_t *q, CUresult result)
{
    const char *text = NULL;
    return q->driver.error_string(result, &text) == CUDA_SUCCESS && text ? text
                                                                         : "unknown error of the driver";
}

/* ---- Mappings ---- */

/* Let a range that shows nothing show this. Half done where it fails. */
static CUresult show(const weft_cuda_queue_t *q, const weft_pair_t *pair, const uint8_t *range,
                     CUmemGenericAllocationHandle handle)
{
    const contents_t *c = (const contents_t *)pair->contents;
    CUresult result = q->driver.map(address_of(range), pair->bytes, 0, handle, 0);
    if (result == CUDA_SUCCESS)
        result = q->driver.set_access(address_of(range), pair->bytes, &c->access, 1);
    return result;
}

/* Let a range show `now` in the place of `before`; where that fails, `before` again. */
static weft_status_t show_instead(const weft_cuda_queue_t *q, weft_pair_t *pair, const uint8_t *range,
                                  CUmemGenericAllocationHandle before, CUmemGenericAllocationHandle now)
{
    contents_t *c = (contents_t *)pair->contents;
    if (q->driver.unmap(address_of(range), pair->bytes) != CUDA_SUCCESS)
        return WEFT_ERR_NO_MEMORY; /* nothing has changed */
    if (show(q, pair, range, now) == CUDA_SUCCESS)
        return WEFT_OK;
    (void)q->driver.unmap(address_of(range), pair->bytes); /* what is not mapped need not be unmapped */
    if (show(q, pair, range, before) == CUDA_SUCCESS)
        return WEFT_ERR_NO_MEMORY;
    c->lost = true;
    return WEFT_ERR_SYSTEM;
}

weft_status_t weft_cuda_pair_exchange(weft_queue_t *queue, weft_pair_t *pair)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    contents_t *c = (contents_t *)pair->contents;
    if (!c->remap || c->shared)
        return WEFT_ERR_ARGUMENT;
    if (c->lost)
        return WEFT_ERR_SYSTEM;
    weft_cuda_scope_t scope(q);
    WEFT_TRY(scope.status);
    WEFT_TRY(show_instead(q, pair, pair->live, c->live, c->stage));
    CUmemGenericAllocationHandle before = c->live;
    c->live = c->stage;
    c->stage = before;
    c->shared = true;
    return WEFT_OK;
}

weft_status_t weft_cuda_pair_settle(weft_queue_t *queue, weft_pair_t *pair)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    contents_t *c = (contents_t *)pair->contents;
    if (!c->shared)
        return WEFT_OK;
    if (c->lost)
        return WEFT_ERR_SYSTEM;
    weft_cuda_scope_t scope(q);
    WEFT_TRY(scope.status);
    WEFT_TRY(show_instead(q, pair, pair->stage, c->live, c->stage));
    c->shared = false;
    return WEFT_OK;
}

/* ---- Create and destroy ---- */

static weft_status_t fail(const weft_cuda_queue_t *q, weft_status_t status, size_t bytes, const char *what,
                          const char *text, weft_error_t *error)
{
    size_t free_bytes = 0, total_bytes = 0;
    (void)weft_cuda_settle(cudaMemGetInfo(&free_bytes, &total_bytes));
    return weft_fail(
        error, status,
        "two ranges of %zu bytes for kernel-format weights cannot be made on CUDA device %d: %s: %s; %zu "
        "of %zu bytes are free",
        bytes, q->device, what, text, free_bytes, total_bytes);
}

static weft_status_t reserve(const weft_cuda_queue_t *q, size_t bytes, size_t alignment, uint8_t **range,
                             weft_error_t *error)
{
    CUdeviceptr address;
    CUresult result = q->driver.reserve(&address, bytes, alignment, 0, 0);
    if (result != CUDA_SUCCESS)
        return fail(q, status_of(result), bytes, "cuMemAddressReserve", text_of(q, result), error);
    *range = (uint8_t *)(uintptr_t)address;
    return WEFT_OK;
}

static weft_status_t create_memory(const weft_cuda_queue_t *q, size_t bytes, const CUmemAllocationProp *prop,
                                   CUmemGenericAllocationHandle *handle, weft_error_t *error)
{
    CUmemGenericAllocationHandle made;
    CUresult result = q->driver.create(&made, bytes, prop, 0);
    if (result != CUDA_SUCCESS)
        return fail(q, status_of(result), bytes, "cuMemCreate", text_of(q, result), error);
    *handle = made;
    return WEFT_OK;
}

static size_t round_up(size_t bytes, size_t page)
{
    return bytes == 0 ? page : (bytes + page - 1) / page * page;
}

static weft_status_t make_mapped(const weft_cuda_queue_t *q, weft_pair_t *pair, weft_error_t *error)
{
    contents_t *c = (contents_t *)pair->contents;
    CUmemAllocationProp prop = {};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = q->device;
    c->access.location = prop.location;
    c->access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    size_t page;
    CUresult result = q->driver.granularity(&page, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    if (result != CUDA_SUCCESS)
        return fail(q, status_of(result), pair->bytes, "cuMemGetAllocationGranularity", text_of(q, result),
                    error);
    pair->bytes = round_up(pair->bytes, page);
    WEFT_TRY(reserve(q, pair->bytes, page, &pair->live, error));
    WEFT_TRY(reserve(q, pair->bytes, page, &pair->stage, error));
    WEFT_TRY(create_memory(q, pair->bytes, &prop, &c->live, error));
    WEFT_TRY(create_memory(q, pair->bytes, &prop, &c->stage, error));
    c->mapped = true;
    result = show(q, pair, pair->live, c->live);
    if (result == CUDA_SUCCESS)
        result = show(q, pair, pair->stage, c->stage);
    if (result != CUDA_SUCCESS)
        return fail(q, status_of(result), pair->bytes, "cuMemMap", text_of(q, result), error);
    return WEFT_OK;
}

static weft_status_t make_plain(const weft_cuda_queue_t *q, weft_pair_t *pair, weft_error_t *error)
{
    pair->bytes = round_up(pair->bytes, PAGE_BYTES);
    for (uint8_t **range : {&pair->live, &pair->stage}) {
        void *made;
        cudaError_t failed = cudaMalloc(&made, pair->bytes);
        if (failed != cudaSuccess)
            return fail(q, weft_cuda_settle(failed), pair->bytes, "cudaMalloc", cudaGetErrorString(failed),
                        error);
        *range = (uint8_t *)made;
    }
    return WEFT_OK;
}

static weft_status_t clear(const weft_cuda_queue_t *q, const weft_pair_t *pair, weft_error_t *error)
{
    cudaError_t failed = cudaMemsetAsync(pair->live, 0, pair->bytes, q->stream);
    if (failed == cudaSuccess)
        failed = cudaMemsetAsync(pair->stage, 0, pair->bytes, q->stream);
    if (failed == cudaSuccess)
        failed = cudaStreamSynchronize(q->stream);
    if (failed != cudaSuccess)
        return fail(q, weft_cuda_settle(failed), pair->bytes, "setting to zero", cudaGetErrorString(failed),
                    error);
    return WEFT_OK;
}

static weft_status_t make(const weft_cuda_queue_t *q, weft_pair_t *pair, bool remap, weft_error_t *error)
{
    WEFT_TRY(remap ? make_mapped(q, pair, error) : make_plain(q, pair, error));
    return clear(q, pair, error);
}

weft_status_t weft_cuda_pair_create(weft_queue_t *queue, size_t bytes, bool remap, weft_pair_t *pair,
                                    weft_error_t *error)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    weft_cuda_scope_t scope(q);
    if (scope.status != WEFT_OK)
        return weft_fail(error, scope.status, "CUDA device %d cannot be made current", q->device);
    contents_t *contents = (contents_t *)calloc(1, sizeof *contents);
    if (!contents)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the weights");
    contents->remap = remap;
    weft_pair_t made = {NULL, NULL, bytes, contents};
    weft_status_t status = make(q, &made, remap, error);
    if (status != WEFT_OK) {
        weft_cuda_pair_destroy(queue, &made);
        return status;
    }
    *pair = made;
    return WEFT_OK;
}

static void destroy_mapped(const weft_cuda_queue_t *q, const weft_pair_t *pair)
{
    const contents_t *c = (const contents_t *)pair->contents;
    for (const uint8_t *range : {pair->live, pair->stage})
        if (c->mapped)
            (void)q->driver.unmap(address_of(range), pair->bytes);
    for (CUmemGenericAllocationHandle handle : {c->live, c->stage})
        if (handle)
            (void)q->driver.release(handle);
    for (const uint8_t *range : {pair->live, pair->stage})
        if (range)
            (void)q->driver.unreserve(address_of(range), pair->bytes);
}

/* Behind the queue's own work; the engine's is over. */
void weft_cuda_pair_destroy(weft_queue_t *queue, weft_pair_t *pair)
{
    weft_cuda_queue_t *q = weft_cuda_queue_of(queue);
    contents_t *c = (contents_t *)pair->contents;
    if (!c)
        return;
    weft_cuda_scope_t scope(q);
    (void)weft_cuda_settle(cudaStreamSynchronize(q->stream));
    if (c->remap) {
        destroy_mapped(q, pair);
    } else {
        (void)weft_cuda_settle(cudaFree(pair->live));
        (void)weft_cuda_settle(cudaFree(pair->stage));
    }
    free(c);
    *pair = weft_pair_t{};
}
