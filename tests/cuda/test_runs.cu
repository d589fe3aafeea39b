/* Pack, amax and digest on the device, against kernels/ref, byte for byte. */
#include "matrix.cuh"

static void test_pack(void)
{
    for (uint32_t round = 0; round < rounds(40); round++) {
        uint32_t count = random_in(1, 8);
        std::vector<weft_cuda_pack_job_t> jobs(count);
        std::vector<guarded_t> outs(count);
        std::vector<bytes_t> expected(count);
        std::vector<void *> sources;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t grain = 1u << random_in(0, 5), rows = random_in(1, 300);
            size_t row_bytes = (size_t)random_in(1, 90) * grain, ld = row_bytes + grain * random_in(0, 2);
            if (one_in(10))
                rows = 1, row_bytes = ld = random_in(1, 200000);
            bytes_t source(rows * ld);
            for (uint8_t &byte : source)
                byte = (uint8_t)random_u64();
            expected[i].assign(rows * row_bytes, 0);
            size_t shift = one_in(2) ? 0 : random_in(0, 16);
            outs[i] = guarded_create(rows * row_bytes, shift);
            jobs[i] = {NULL, ld, rows, row_bytes, outs[i].data, !one_in(4)};
            if (!one_in(6)) {
                size_t off = one_in(2) ? 0 : random_in(0, 16);
                uint8_t *data = device_copy(source.data(), source.size(), off);
                sources.push_back(data - off);
                jobs[i].data = data;
                weft_ref_pack(source.data(), ld, rows, row_bytes, expected[i].data());
            }
        }
        weft_cuda_pack_t *pack;
        WEFT(weft_cuda_pack_create(jobs.data(), count, &pack));
        for (uint32_t first = 0, some; first < count; first += some) {
            some = random_in(1, count - first);
            WEFT(weft_cuda_pack_run(pack, first, some, WEFT_CUDA_ALL, 0));
            WEFT(weft_cuda_pack_finish(pack, first, some, 0));
        }
        CUDA(cudaDeviceSynchronize());
        for (uint32_t i = 0; i < count; i++) {
            bytes_t got = guarded_take(&outs[i]);
            CHECK(got == expected[i], "job %u: %u rows of %zu, ld %zu", i, jobs[i].rows, jobs[i].row_bytes,
                  jobs[i].ld_bytes);
            if (jobs[i].digest)
                CHECK(same_digest(weft_cuda_pack_digests(pack)[i], ref_digest(got.data(), got.size())), "job %u", i);
        }
        weft_cuda_pack_destroy(pack);
        for (void *source : sources)
            CUDA(cudaFree(source));
    }
    printf("ok  pack\n");
}

static void test_amax(void)
{
    static const weft_dtype_t dtypes[] = {WEFT_DTYPE_BF16, WEFT_DTYPE_F16, WEFT_DTYPE_F32};
    for (uint32_t round = 0; round < rounds(40); round++) {
        uint32_t count = random_in(1, 6);
        std::vector<weft_cuda_amax_job_t> jobs(count);
        std::vector<std::vector<uint16_t>> expected(count);
        std::vector<uint64_t> keys(count, UINT64_MAX), got_keys(count);
        std::vector<guarded_t> outs(count);
        std::vector<void *> sources;
        for (uint32_t i = 0; i < count; i++) {
            weft_dtype_t dtype = dtypes[random_in(0, 2)];
            uint32_t rows = random_in(1, 200), cols = random_cols(true), used = one_in(2) ? cols : random_in(1, cols);
            matrix_t m = random_matrix(dtype, rows, cols, (fill_t)random_in(0, FILL_COUNT - 1));
            size_t shift = one_in(2) ? 0 : elem_of(dtype);
            uint8_t *data = device_copy(m.data.data(), m.data.size(), shift);
            sources.push_back(data - shift);
            const bool by_column = one_in(3);
            const uint32_t maxima = by_column ? used : rows;
            expected[i].assign(maxima, (uint16_t)random_in(0, 9));
            outs[i] = guarded_create(maxima * 2, 0);
            CUDA(cudaMemcpy(outs[i].data, expected[i].data(), maxima * 2, cudaMemcpyHostToDevice));
            jobs[i] = {data, cols, rows, used, dtype, (uint16_t *)(void *)outs[i].data, by_column};
            uint32_t row, col;
            if (by_column)
                weft_amax_columns(m.data.data(), cols, rows, used, dtype, expected[i].data());
            else if (!weft_ref_amax(m.data.data(), cols, rows, used, dtype, expected[i].data(), &row, &col))
                keys[i] = (uint64_t)row << 32 | col;
        }
        uint64_t *d_keys;
        CUDA(cudaMalloc((void **)&d_keys, count * 8));
        CUDA(cudaMemset(d_keys, 0xFF, count * 8));
        weft_cuda_amax_t *amax;
        WEFT(weft_cuda_amax_create(jobs.data(), count, &amax));
        for (uint32_t first = 0, some; first < count; first += some) {
            some = random_in(1, count - first);
            WEFT(weft_cuda_amax_run(amax, first, some, d_keys, 0));
        }
        CUDA(cudaMemcpy(got_keys.data(), d_keys, count * 8, cudaMemcpyDeviceToHost));
        for (uint32_t i = 0; i < count; i++) {
            bytes_t got = guarded_take(&outs[i]);
            CHECK(memcmp(got.data(), expected[i].data(), got.size()) == 0, "job %u", i);
            CHECK(got_keys[i] == keys[i], "job %u: %llx, expected %llx", i, (unsigned long long)got_keys[i],
                  (unsigned long long)keys[i]);
        }
        weft_cuda_amax_destroy(amax);
        CUDA(cudaFree(d_keys));
        for (void *source : sources)
            CUDA(cudaFree(source));
    }
    printf("ok  amax\n");
}

/* Several rectangles that share their rows, as the shards of a row do. */
static void test_shared_amax(void)
{
    const uint32_t rows = 64, cols = 4096, parts = 8;
    matrix_t m = random_matrix(WEFT_DTYPE_BF16, rows, cols, FILL_FINITE);
    uint8_t *data = device_copy(m.data.data(), m.data.size(), 0);
    guarded_t out = guarded_create(rows * 2, 0);
    CUDA(cudaMemset(out.data, 0, rows * 2));
    std::vector<weft_cuda_amax_job_t> jobs(parts);
    for (uint32_t i = 0; i < parts; i++)
        jobs[i] = {data + i * (cols / parts) * 2, cols, rows, cols / parts, WEFT_DTYPE_BF16,
                   (uint16_t *)(void *)out.data, false};
    weft_cuda_amax_t *amax;
    WEFT(weft_cuda_amax_create(jobs.data(), parts, &amax));
    WEFT(weft_cuda_amax_run(amax, 0, parts, NULL, 0));
    CUDA(cudaDeviceSynchronize());
    std::vector<uint16_t> expected(rows, 0);
    uint32_t row, col;
    weft_ref_amax(m.data.data(), cols, rows, cols, WEFT_DTYPE_BF16, expected.data(), &row, &col);
    bytes_t got = guarded_take(&out);
    CHECK(memcmp(got.data(), expected.data(), got.size()) == 0, "shared rows");
    weft_cuda_amax_destroy(amax);
    CUDA(cudaFree(data));
    printf("ok  amax of shared rows\n");
}

static void test_digest(void)
{
    std::vector<weft_cuda_tensor_t> runs;
    std::vector<weft_digest_t> expected;
    std::vector<void *> sources;
    std::vector<size_t> sizes = {0, 1, 7, 8, 9, 20, 4096, 32767, 32768, 32769, 65536, 1000003};
    for (int i = 0; i < 20; i++)
        sizes.push_back(random_in(1, 300000));
    for (size_t size : sizes) {
        bytes_t bytes(size);
        for (size_t i = 0; i < size; i++)
            bytes[i] = size == 20 ? (uint8_t)i : (uint8_t)random_u64();
        size_t shift = one_in(2) ? 0 : random_in(0, 15);
        uint8_t *data = device_copy(bytes.data(), size, shift);
        sources.push_back(data - shift);
        runs.push_back({data, size});
        expected.push_back(ref_digest(bytes.data(), size));
    }
    weft_cuda_digest_t *digest;
    WEFT(weft_cuda_digest_create(runs.data(), (uint32_t)runs.size(), &digest));
    WEFT(weft_cuda_digest_run(digest, 0, 5, 0));
    WEFT(weft_cuda_digest_run(digest, 5, (uint32_t)runs.size() - 5, 0));
    CUDA(cudaDeviceSynchronize());
    for (size_t i = 0; i < runs.size(); i++)
        CHECK(same_digest(weft_cuda_digest_results(digest)[i], expected[i]), "%zu bytes", sizes[i]);
    weft_digest_t golden = weft_cuda_digest_results(digest)[5];
    CHECK(golden.word[0] == 0xe2c0cfc88df1e07cu && golden.word[1] == 0x7d4a378f864a18ecu, "bytes 0..19");
    weft_cuda_digest_destroy(digest);
    for (void *source : sources)
        CUDA(cudaFree(source));
    printf("ok  digest\n");
}

int main(void)
{
    tests_begin();
    test_pack();
    test_amax();
    test_shared_amax();
    test_digest();
    return tests_end();
}
