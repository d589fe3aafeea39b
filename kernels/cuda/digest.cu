/* Digests of tensors: from chunks of their bytes, or from the partials that another pass left.
 *
 *     tensor 0 (rode in a pass)      tensor 1 (read here)           digests
 *     +----+----+----+----+          +-------+-------+--+           +---+---+
 *     | p0 | p1 | p2 | p3 |          | chunk | chunk |  |    ==>    | 0 | 1 |
 *     +----+----+----+----+          +-------+-------+--+           +---+---+
 *
 * 1 byte read a byte, 16 written a chunk; then 16 read a partial.
 */
#include "kernels/cuda/digest.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t COMBINE_THREADS = 512;
constexpr uint32_t CHUNK_VECTORS = WEFT_CHUNK_BYTES / 16 / THREADS; /* of each thread */

static_assert(WEFT_CHUNK_BYTES % (16 * THREADS) == 0, "a chunk is whole rounds of 16-byte loads");

typedef struct chunk {
    const uint8_t *data;
    uint32_t bytes;
    uint32_t word; /* index of the chunk's first word in the tensor, modulo 2^32 */
    uint32_t partial;
    uint32_t aligned; /* to 16 bytes */
} chunk_t;

typedef struct tensor {
    uint64_t bytes;
    uint32_t first_partial, num_partials;
} tensor_t;

struct weft_cuda_sums {
    uint32_t count;
    uint32_t *first_chunk; /* [count + 1] */
    tensor_t *tensors;     /* [count]; and on the device: */
    tensor_t *d_tensors;
    chunk_t *d_chunks;
    weft_digest_t *d_partials;
    weft_digest_t *digests;   /* [count], pinned */
};

/* ---- Kernels ---- */

static __device__ __forceinline__ uint64_t word_of(uint32_t low, uint32_t high)
{
    return low | (uint64_t)high << 32;
}

static __device__ void add_bytes(const chunk_t *chunk, uint32_t word, weft_digest_t *sums)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < WEFT_DIGEST_WORD_BYTES && word * WEFT_DIGEST_WORD_BYTES + i < chunk->bytes; i++)
        value |= (uint64_t)chunk->data[word * WEFT_DIGEST_WORD_BYTES + i] << (8 * i);
    weft_digest_add(value, chunk->word + word, sums);
}

static __device__ void add_whole_chunk(const chunk_t *chunk, weft_digest_t *sums)
{
    uint4 v[CHUNK_VECTORS];
#pragma unroll
    for (uint32_t i = 0; i < CHUNK_VECTORS; i++)
        v[i] = weft_load16(chunk->data + (i * THREADS + threadIdx.x) * 16);
#pragma unroll
    for (uint32_t i = 0; i < CHUNK_VECTORS; i++) {
        uint32_t index = chunk->word + (i * THREADS + threadIdx.x) * 2;
        weft_digest_add(word_of(v[i].x, v[i].y), index, sums);
        weft_digest_add(word_of(v[i].z, v[i].w), index + 1, sums);
    }
}

/* The first `words` words of an aligned chunk that is shorter than a whole one. */
static __device__ void add_words(const chunk_t *chunk, uint32_t words, weft_digest_t *sums)
{
#pragma unroll
    for (uint32_t i = 0; i < WEFT_CHUNK_BYTES / WEFT_DIGEST_WORD_BYTES / THREADS; i++) {
        const uint32_t word = threadIdx.x + i * THREADS;
        if (word < words)
            weft_digest_add(((const uint64_t *)chunk->data)[word], chunk->word + word, sums);
    }
}

static __global__ void __launch_bounds__(THREADS) digest_chunks(const chunk_t *chunks, weft_digest_t *partials)
{
    __shared__ uint64_t shared[THREADS / WARP][2];
    chunk_t chunk = chunks[blockIdx.x];
    weft_digest_t sums = {{0, 0}};
    let_next_launch();
    wait_for_stream();
    if (chunk.aligned && chunk.bytes == WEFT_CHUNK_BYTES) {
        add_whole_chunk(&chunk, &sums);
    } else {
        uint32_t words = (chunk.bytes + WEFT_DIGEST_WORD_BYTES - 1) / WEFT_DIGEST_WORD_BYTES;
        uint32_t whole = chunk.aligned ? chunk.bytes / WEFT_DIGEST_WORD_BYTES : 0;
        add_words(&chunk, whole, &sums);
        for (uint32_t word = whole + threadIdx.x; word < words; word += THREADS)
            add_bytes(&chunk, word, &sums);
    }
    weft_block_partial<THREADS>(&sums, shared, &partials[chunk.partial]);
}

/* One block a tensor: its partials and the length word, straight to host memory; and one word besides. */
static __global__ void __launch_bounds__(COMBINE_THREADS)
    combine_partials(const tensor_t *tensors, const weft_digest_t *partials, weft_digest_t *digests,
                     const unsigned *from, unsigned *to)
{
    __shared__ uint64_t shared[COMBINE_THREADS / WARP][2];
    tensor_t tensor = tensors[blockIdx.x];
    wait_for_stream();
    if (to && blockIdx.x == 0 && threadIdx.x == 0)
        *to = *from;
    const ulonglong2 *partial = (const ulonglong2 *)partials + tensor.first_partial;
    weft_digest_t sums = {{0, 0}};
#pragma unroll 8
    for (uint32_t i = threadIdx.x; i < tensor.num_partials; i += COMBINE_THREADS) {
        ulonglong2 p = partial[i];
        sums.word[0] += p.x;
        sums.word[1] += p.y;
    }
    if (threadIdx.x == 0) {
        uint64_t words = tensor.bytes / WEFT_DIGEST_WORD_BYTES + (tensor.bytes % WEFT_DIGEST_WORD_BYTES != 0);
        weft_digest_add(tensor.bytes, (uint32_t)words, &sums);
    }
    weft_block_partial<COMBINE_THREADS>(&sums, shared, &digests[blockIdx.x]);
}

/* ---- Lists ---- */

static uint32_t chunks_of(uint64_t bytes)
{
    return (uint32_t)((bytes + WEFT_CHUNK_BYTES - 1) / WEFT_CHUNK_BYTES);
}

static void cut_tensor(const weft_cuda_tensor_t *tensor, uint32_t partial, chunk_t *chunks)
{
    for (uint64_t begin = 0; begin < tensor->bytes; begin += WEFT_CHUNK_BYTES) {
        uint64_t rest = tensor->bytes - begin;
        *chunks++ = (chunk_t){
            .data = (const uint8_t *)tensor->data + begin,
            .bytes = (uint32_t)(rest < WEFT_CHUNK_BYTES ? rest : WEFT_CHUNK_BYTES),
            .word = (uint32_t)(begin / WEFT_DIGEST_WORD_BYTES),
            .partial = partial++,
            .aligned = (uintptr_t)tensor->data % 16 == 0,
        };
    }
}

/* Lay the partials of all tensors one after another; returns their number. */
static uint64_t place_partials(weft_cuda_sums_t *sums, const weft_cuda_tensor_t *tensors, const uint32_t *ride)
{
    uint64_t partials = 0;
    for (uint32_t i = 0; i < sums->count; i++) {
        uint32_t chunks = ride && ride[i] ? 0 : chunks_of(tensors[i].bytes);
        uint32_t mine = chunks ? chunks : ride ? ride[i] : 0;
        sums->tensors[i] = (tensor_t){tensors[i].bytes, (uint32_t)partials, mine};
        sums->first_chunk[i + 1] = sums->first_chunk[i] + chunks;
        partials += mine;
    }
    return partials;
}

static weft_status_t upload_sums(weft_cuda_sums_t *sums, const chunk_t *chunks, uint64_t partials)
{
    weft_status_t status = weft_cuda_upload(sums->tensors, sums->count, &sums->d_tensors);
    if (status == WEFT_OK)
        status = weft_cuda_upload(chunks, sums->first_chunk[sums->count], &sums->d_chunks);
    if (status != WEFT_OK)
        return status;
    WEFT_TRY_CUDA(cudaMalloc((void **)&sums->d_partials, (partials + 1) * sizeof(weft_digest_t)));
    WEFT_TRY_CUDA(cudaMallocHost((void **)&sums->digests, (sums->count + 1) * sizeof(weft_digest_t)));
    return WEFT_OK;
}

weft_status_t weft_cuda_sums_create(const weft_cuda_tensor_t *tensors, const uint32_t *ride, uint32_t count,
                                    weft_cuda_sums_t **sums)
{
    weft_cuda_sums_t *made = (weft_cuda_sums_t *)calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->count = count;
    made->first_chunk = (uint32_t *)calloc(count + 1, sizeof *made->first_chunk);
    made->tensors = (tensor_t *)calloc(count + 1, sizeof *made->tensors);
    weft_status_t status = made->first_chunk && made->tensors ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    uint64_t partials = status == WEFT_OK ? place_partials(made, tensors, ride) : 0;
    if (partials > UINT32_MAX)
        status = WEFT_ERR_ARGUMENT;
    if (status == WEFT_OK) {
        chunk_t *chunks = (chunk_t *)calloc(made->first_chunk[count] + 1, sizeof *chunks);
        for (uint32_t i = 0; chunks && i < count; i++) {
            if (made->first_chunk[i + 1] > made->first_chunk[i])
                cut_tensor(&tensors[i], made->tensors[i].first_partial, chunks + made->first_chunk[i]);
        }
        status = chunks ? upload_sums(made, chunks, partials) : WEFT_ERR_NO_MEMORY;
        free(chunks);
    }
    if (status != WEFT_OK) {
        weft_cuda_sums_destroy(made);
        return status;
    }
    *sums = made;
    return WEFT_OK;
}

void weft_cuda_sums_destroy(weft_cuda_sums_t *sums)
{
    if (!sums)
        return;
    cudaFree(sums->d_tensors);
    cudaFree(sums->d_chunks);
    cudaFree(sums->d_partials);
    cudaFreeHost(sums->digests);
    free(sums->first_chunk);
    free(sums->tensors);
    free(sums);
}

weft_digest_t *weft_cuda_sums_partials(const weft_cuda_sums_t *sums)
{
    return sums->d_partials;
}

uint32_t weft_cuda_sums_first(const weft_cuda_sums_t *sums, uint32_t tensor)
{
    return sums->tensors[tensor].first_partial;
}

static cudaLaunchConfig_t overlapping(cudaLaunchAttribute *attribute, cudaStream_t stream)
{
    attribute->id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute->val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.stream = stream, config.attrs = attribute, config.numAttrs = 1;
    return config;
}

weft_status_t weft_cuda_sums_finish(weft_cuda_sums_t *sums, uint32_t first, uint32_t count, const unsigned *from,
                                    unsigned *to, cudaStream_t stream)
{
    if (!weft_cuda_in_range(first, count, sums->count))
        return WEFT_ERR_ARGUMENT;
    if (count == 0)
        return WEFT_OK;
    uint32_t first_chunk = sums->first_chunk[first], chunks = sums->first_chunk[first + count] - first_chunk;
    cudaLaunchAttribute overlap = {};
    cudaLaunchConfig_t config = overlapping(&overlap, stream);
    config.gridDim = dim3(chunks), config.blockDim = dim3(THREADS);
    if (chunks > 0)
        WEFT_TRY_CUDA(cudaLaunchKernelEx(&config, digest_chunks, (const chunk_t *)sums->d_chunks + first_chunk,
                                         sums->d_partials));
    config.gridDim = dim3(count), config.blockDim = dim3(COMBINE_THREADS);
    return weft_cuda_status(cudaLaunchKernelEx(&config, combine_partials, (const tensor_t *)sums->d_tensors + first,
                                               (const weft_digest_t *)sums->d_partials, sums->digests + first, from,
                                               to));
}

const weft_digest_t *weft_cuda_sums_digests(const weft_cuda_sums_t *sums)
{
    return sums->digests;
}

/* ---- Plain C ---- */

struct weft_cuda_digest {
    weft_cuda_sums_t *sums;
};

extern "C" weft_status_t weft_cuda_probe(void)
{
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, combine_partials);
    return weft_cuda_status(error);
}

extern "C" weft_status_t weft_cuda_digest_create(const weft_cuda_tensor_t *tensors, uint32_t num_tensors,
                                                 weft_cuda_digest_t **digest)
{
    for (uint32_t i = 0; i < num_tensors; i++) {
        if (tensors[i].bytes && !tensors[i].data)
            return WEFT_ERR_ARGUMENT;
    }
    weft_cuda_digest_t *made = (weft_cuda_digest_t *)calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    weft_status_t status = weft_cuda_sums_create(tensors, NULL, num_tensors, &made->sums);
    if (status != WEFT_OK) {
        free(made);
        return status;
    }
    *digest = made;
    return WEFT_OK;
}

extern "C" void weft_cuda_digest_destroy(weft_cuda_digest_t *digest)
{
    if (!digest)
        return;
    weft_cuda_sums_destroy(digest->sums);
    free(digest);
}

extern "C" weft_status_t weft_cuda_digest_run(weft_cuda_digest_t *digest, uint32_t first, uint32_t count,
                                              weft_cuda_stream_t stream)
{
    return weft_cuda_sums_finish(digest->sums, first, count, NULL, NULL, stream);
}

extern "C" const weft_digest_t *weft_cuda_digest_results(const weft_cuda_digest_t *digest)
{
    return weft_cuda_sums_digests(digest->sums);
}
