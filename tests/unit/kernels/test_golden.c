/* The kernels against NumPy (golden/kernels.bin, written by tests/oracle/golden.py, which describes the format)
 * and against the packages that engines use (golden/packages.bin, by tests/packages/compare_packages.py). */
#include "fixture.h"

#define HEADER_BYTES 256
#define NAME_BYTES   16
#define FINITE       UINT32_MAX

static const char *const kernel_names[] = {"cast", "fp8-block", "fp8-channel", "int8-channel", "mxfp8", "mxfp4",
                                           "int4-group-32", "int4-group-64", "int4-group-128",
                                           "fp8-tensor", "nvfp4"};
static const char *const profile_names[] = {"default", "ieee", "vllm", "pow2", "vllm-pow2", "ct", "qat",
                                            "modelopt"};

typedef struct reader {
    const unsigned char *next, *end;
} reader_t;

static const unsigned char *read_bytes(reader_t *reader, size_t bytes)
{
    assert_true(bytes <= (size_t)(reader->end - reader->next));
    reader->next += bytes;
    return reader->next - bytes;
}

static uint32_t read_u32(reader_t *reader)
{
    uint32_t value;
    memcpy(&value, read_bytes(reader, sizeof value), sizeof value);
    return value;
}

static unsigned read_name(reader_t *reader, const char *const *names, unsigned count)
{
    const char *name = (const char *)read_bytes(reader, NAME_BYTES);
    for (unsigned i = 0; i < count; i++) {
        if (strncmp(name, names[i], NAME_BYTES) == 0)
            return i;
    }
    fail_msg("%.16s is not a known name", name);
    return 0;
}

static weft_dtype_t read_dtype(reader_t *reader)
{
    weft_dtype_t dtype = WEFT_DTYPE_COUNT;
    assert_int_equal(weft_dtype_parse((const char *)read_bytes(reader, NAME_BYTES), &dtype), WEFT_OK);
    return dtype;
}

static void assert_next_equal(reader_t *reader, const void *found, size_t bytes)
{
    assert_int_equal(read_u32(reader), bytes);
    if (bytes > 0)
        assert_memory_equal(found, read_bytes(reader, bytes), bytes);
}

static void check_case(reader_t *reader)
{
    request_t request = {0};
    request.kernel = (weft_kernel_id_t)read_name(reader, kernel_names, WEFT_KERNEL_COUNT);
    request.profile = (weft_profile_t)read_name(reader, profile_names, WEFT_PROFILE_COUNT);
    weft_dtype_t dtype = read_dtype(reader);
    request.out_dtype = read_dtype(reader);
    uint32_t rows = read_u32(reader), cols = read_u32(reader);
    uint32_t nonfinite_row = read_u32(reader), nonfinite_col = read_u32(reader);
    matrix_t matrix = matrix_create(dtype, rows, cols);
    uint32_t input_bytes = read_u32(reader);
    assert_int_equal(input_bytes, rows * cols * weft_dtype_bytes(dtype));
    memcpy(matrix.data, read_bytes(reader, input_bytes), input_bytes);

    output_t output = quantize_cut(&matrix, request, random_in(0, 10));
    assert_next_equal(reader, output.data, output.bytes);
    assert_next_equal(reader, output.scale, output.scale_bytes);
    assert_next_equal(reader, &output.global, request.kernel == WEFT_KERNEL_NVFP4 ? sizeof output.global : 0);
    assert_int_equal(output.result.nonfinite, nonfinite_row != FINITE);
    if (output.result.nonfinite) {
        assert_int_equal(output.result.nonfinite_row, nonfinite_row);
        assert_int_equal(output.result.nonfinite_col, nonfinite_col);
    }
    output_destroy(&output);
    free(matrix.data);
}

static void check_file(const char *path)
{
    static unsigned char file_bytes[4 << 20];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t bytes = fread(file_bytes, 1, sizeof file_bytes, file);
    fclose(file);
    reader_t reader = {file_bytes, file_bytes + bytes};
    print_message("%.256s\n", (const char *)read_bytes(&reader, HEADER_BYTES));
    uint32_t count = read_u32(&reader);
    assert_true(count > 0);
    for (uint32_t i = 0; i < count; i++)
        check_case(&reader);
    assert_ptr_equal(reader.next, reader.end);
    print_message("%u cases\n", count);
}

static void kernels_equal_numpy(void **state)
{
    (void)state;
    random_begin("kernels_equal_numpy");
    check_file(WEFT_SOURCE_DIR "/tests/unit/kernels/golden/kernels.bin");
}

static void kernels_equal_packages(void **state)
{
    (void)state;
    random_begin("kernels_equal_packages");
    check_file(WEFT_SOURCE_DIR "/tests/unit/kernels/golden/packages.bin");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_equal_numpy),
                                       cmocka_unit_test(kernels_equal_packages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
