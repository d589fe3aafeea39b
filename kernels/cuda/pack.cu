/* Rectangles made runs, as they travel; the digest of what is written rides along.
 *
 *     a tile: 32 KiB of the run, cut without regard to rows; a vector never straddles two of them
 *
 * A vector is 16 bytes where base, leading dimension, row and run allow it, else 4, 2 or 1. Every byte is read once and
 * written once; 16 more a tile where the digest rides (16-byte vectors only; others are read again by finish).
 */
#include "kernels/cuda/tile.cuh"

constexpr uint32_t TILE_BYTES = 32768;

static_assert(TILE_BYTES == WEFT_CHUNK_BYTES, "partials are counted alike whether the digest rides or not");

typedef struct job {
    const uint8_t *data;
    uint8_t *out;
    uint64_t ld_bytes, row_bytes, bytes;
    uint32_t vector; /* 16, 4, 2 or 1 */
    uint32_t rides;
    uint32_t partial;
} job_t;

struct weft_cuda_pack {
    uint32_t num_jobs;
    uint32_t *first_tile; /* [jobs + 1] */
    weft_cuda_sums_t *sums;
    job_t *d_jobs;
    tile_t *d_tiles; /* unit: the job; place: which TILE_BYTES of it */
};

/* ---- Kernel ---- */

static __device__ __forceinline__ const uint8_t *source_of(const job_t *job, uint64_t offset)
{
    if (job->ld_bytes == job->row_bytes)
        return job->data + offset;
    uint64_t row = job->bytes <= UINT32_MAX ? (uint32_t)offset / (uint32_t)job->row_bytes : offset / job->row_bytes;
    return job->data + row * job->ld_bytes + (offset - row * job->row_bytes);
}

template <typename V> static __device__ void copy_tile(const job_t *job, uint64_t begin, uint64_t end)
{
    for (uint64_t at = begin + threadIdx.x * sizeof(V); at < end; at += THREADS * sizeof(V))
        *(V *)(job->out + at) = job->data ? *(const V *)source_of(job, at) : V(0);
}

/* The bytes behind the last whole vector. */
static __device__ void copy_tail(const job_t *job, uint64_t begin, uint64_t end, bool digest, weft_digest_t *sums)
{
    for (uint64_t at = begin; at < end; at += WEFT_DIGEST_WORD_BYTES) {
        uint64_t word = 0;
        for (uint32_t i = 0; i < WEFT_DIGEST_WORD_BYTES && at + i < end; i++) {
            uint8_t byte = job->data ? *source_of(job, at + i) : 0;
            job->out[at + i] = byte;
            word |= (uint64_t)byte << (8 * i);
        }
        if (digest)
            weft_digest_add(word, (uint32_t)(at / WEFT_DIGEST_WORD_BYTES), sums);
    }
}

static __device__ __forceinline__ void copy_vectors(const job_t *job, uint64_t begin, uint64_t end, bool digest,
                                                    weft_digest_t *sums)
{
    constexpr uint32_t COUNT = TILE_BYTES / 16 / THREADS;
    const uint64_t whole = end - end % 16;
    uint4 v[COUNT];
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        uint64_t at = begin + (i * THREADS + threadIdx.x) * 16;
        v[i] = at < whole && job->data ? weft_load16(source_of(job, at)) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        uint64_t at = begin + (i * THREADS + threadIdx.x) * 16;
        if (at >= whole)
            continue;
        weft_store16(job->out + at, v[i]);
        if (!digest)
            continue;
        uint32_t index = (uint32_t)(at / WEFT_DIGEST_WORD_BYTES);
        weft_digest_add(v[i].x | (uint64_t)v[i].y << 32, index, sums);
        weft_digest_add(v[i].z | (uint64_t)v[i].w << 32, index + 1, sums);
    }
    if (threadIdx.x == 0 && whole < end)
        copy_tail(job, whole, end, digest, sums);
}

template <bool DIGEST>
static __global__ void __launch_bounds__(THREADS) pack(const job_t *jobs, const tile_t *tiles, weft_digest_t *partials)
{
    __shared__ uint64_t shared[THREADS / WARP][2];
    const tile_t tile = tiles[blockIdx.x];
    const job_t job = jobs[tile.unit];
    const uint64_t begin = (uint64_t)tile.place * TILE_BYTES, rest = job.bytes - begin;
    const uint64_t end = begin + (rest < TILE_BYTES ? rest : TILE_BYTES);
    const bool digest = DIGEST && job.rides;
    weft_digest_t sums = {{0, 0}};
    switch (job.vector) {
    case 16:
        copy_vectors(&job, begin, end, digest, &sums);
        break;
    case 4:
        copy_tile<uint32_t>(&job, begin, end);
        break;
    case 2:
        copy_tile<uint16_t>(&job, begin, end);
        break;
    default:
        copy_tile<uint8_t>(&job, begin, end);
    }
    if (digest)
        weft_block_partial<THREADS>(&sums, shared, &partials[job.partial + tile.place]);
}

/* ---- List ---- */

static uint64_t bytes_of(const weft_cuda_pack_job_t *job)
{
    return (uint64_t)job->rows * job->row_bytes;
}

static uint32_t tiles_of(const weft_cuda_pack_job_t *job)
{
    return (uint32_t)((bytes_of(job) + TILE_BYTES - 1) / TILE_BYTES);
}

/* What can be moved at once. One run may end within a vector: the tail goes by bytes. */
static uint32_t vector_of(const weft_cuda_pack_job_t *job)
{
    bool one_run = !job->data || job->rows == 1 || job->ld_bytes == job->row_bytes;
    uint64_t bits = (uintptr_t)job->out | (uintptr_t)job->data;
    if (!one_run)
        bits |= job->ld_bytes | job->row_bytes;
    if (bits % 16 == 0)
        return 16;
    bits |= bytes_of(job);
    return bits % 4 == 0 ? 4 : bits % 2 == 0 ? 2 : 1;
}

static job_t job_record(const weft_cuda_pack_job_t *job)
{
    bool one_run = !job->data || job->rows == 1;
    return job_t{
        .data = (const uint8_t *)job->data,
        .out = (uint8_t *)job->out,
        .ld_bytes = one_run ? job->row_bytes : job->ld_bytes,
        .row_bytes = job->row_bytes,
        .bytes = bytes_of(job),
        .vector = vector_of(job),
        .rides = job->digest && vector_of(job) == 16,
        .partial = 0,
    };
}

static weft_status_t fill_tiles(weft_cuda_pack_t *pack, const weft_cuda_pack_job_t *jobs)
{
    tile_t *tiles = (tile_t *)calloc(pack->first_tile[pack->num_jobs] + 1, sizeof *tiles);
    job_t *records = (job_t *)calloc(pack->num_jobs + 1, sizeof *records);
    weft_status_t status = tiles && records ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < pack->num_jobs && status == WEFT_OK; i++) {
        records[i] = job_record(&jobs[i]);
        records[i].partial = weft_cuda_sums_first(pack->sums, i);
        for (uint32_t place = 0; place < tiles_of(&jobs[i]); place++)
            tiles[pack->first_tile[i] + place] = tile_t{i, place};
    }
    if (status == WEFT_OK)
        status = weft_cuda_upload(records, pack->num_jobs, &pack->d_jobs);
    if (status == WEFT_OK)
        status = weft_cuda_upload(tiles, pack->first_tile[pack->num_jobs], &pack->d_tiles);
    free(tiles);
    free(records);
    return status;
}

static weft_status_t fill(weft_cuda_pack_t *pack, const weft_cuda_pack_job_t *jobs)
{
    uint32_t count = pack->num_jobs;
    weft_cuda_tensor_t *runs = (weft_cuda_tensor_t *)calloc(count + 1, sizeof *runs);
    uint32_t *ride = (uint32_t *)calloc(count + 1, sizeof *ride);
    pack->first_tile = (uint32_t *)calloc(count + 1, sizeof *pack->first_tile);
    weft_status_t status = runs && ride && pack->first_tile ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    uint64_t tiles = 0;
    for (uint32_t i = 0; i < count && status == WEFT_OK; i++) {
        tiles += (bytes_of(&jobs[i]) + TILE_BYTES - 1) / TILE_BYTES;
        if ((bytes_of(&jobs[i]) && !jobs[i].out) || tiles > INT32_MAX) {
            status = WEFT_ERR_ARGUMENT;
            break;
        }
        pack->first_tile[i + 1] = (uint32_t)tiles;
        runs[i] = weft_cuda_tensor_t{jobs[i].out, jobs[i].digest ? bytes_of(&jobs[i]) : 0};
        ride[i] = job_record(&jobs[i]).rides ? tiles_of(&jobs[i]) : 0;
    }
    if (status == WEFT_OK)
        status = weft_cuda_sums_create(runs, ride, count, &pack->sums);
    if (status == WEFT_OK)
        status = fill_tiles(pack, jobs);
    free(runs);
    free(ride);
    return status;
}

extern "C" weft_status_t weft_cuda_pack_create(const weft_cuda_pack_job_t *jobs, uint32_t num_jobs,
                                               weft_cuda_pack_t **pack)
{
    weft_cuda_pack_t *made = (weft_cuda_pack_t *)calloc(1, sizeof *made);
    if (!made)
        return WEFT_ERR_NO_MEMORY;
    made->num_jobs = num_jobs;
    weft_status_t status = fill(made, jobs);
    if (status != WEFT_OK) {
        weft_cuda_pack_destroy(made);
        return status;
    }
    *pack = made;
    return WEFT_OK;
}

extern "C" void weft_cuda_pack_destroy(weft_cuda_pack_t *pack)
{
    if (!pack)
        return;
    weft_cuda_sums_destroy(pack->sums);
    cudaFree(pack->d_jobs);
    cudaFree(pack->d_tiles);
    free(pack->first_tile);
    free(pack);
}

extern "C" weft_status_t weft_cuda_pack_run(weft_cuda_pack_t *p, uint32_t first, uint32_t count, unsigned extras,
                                            weft_cuda_stream_t stream)
{
    if (!weft_cuda_in_range(first, count, p->num_jobs) || extras > WEFT_CUDA_ALL)
        return WEFT_ERR_ARGUMENT;
    uint32_t begin = p->first_tile[first], tiles = p->first_tile[first + count] - begin;
    if (tiles == 0)
        return WEFT_OK;
    auto kernel = extras & WEFT_CUDA_DIGEST ? pack<true> : pack<false>;
    kernel<<<tiles, THREADS, 0, stream>>>(p->d_jobs, p->d_tiles + begin, weft_cuda_sums_partials(p->sums));
    return weft_cuda_status(cudaGetLastError());
}

extern "C" weft_status_t weft_cuda_pack_finish(weft_cuda_pack_t *pack, uint32_t first, uint32_t count,
                                               weft_cuda_stream_t stream)
{
    return weft_cuda_sums_finish(pack->sums, first, count, NULL, NULL, stream);
}

extern "C" const weft_digest_t *weft_cuda_pack_digests(const weft_cuda_pack_t *pack)
{
    return weft_cuda_sums_digests(pack->sums);
}
