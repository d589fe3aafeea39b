#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/base/error.h"
#include "src/base/text.h"
#include "src/model/safetensors.h"

/* A file in memory: header length, header, `data_bytes` zeros. */
static uint8_t *make_file(const char *header, size_t header_bytes, size_t data_bytes, size_t *bytes)
{
    *bytes = 8 + header_bytes + data_bytes;
    uint8_t *file = calloc(*bytes, 1);
    assert_non_null(file);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
    memcpy(file + 8, header, header_bytes);
    return file;
}

static void expect_refused_bytes(const void *bytes, size_t size, weft_status_t status, const char *message)
{
    weft_safetensors_t *file = NULL;
    weft_error_t error = {0};
    assert_int_equal(weft_safetensors_open_memory(bytes, size, &file, &error), status);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, message))
        fail_msg("'%s' is not in '%s'", message, error.message);
    assert_null(file);
    assert_int_equal(weft_safetensors_open_memory(bytes, size, &file, NULL), status);
}

static void expect_refused(const char *header, size_t data_bytes, weft_status_t status, const char *message)
{
    size_t size;
    uint8_t *bytes = make_file(header, strlen(header), data_bytes, &size);
    expect_refused_bytes(bytes, size, status, message);
    free(bytes);
}

/* One tensor 'a' whose entry is given, over 8 bytes of data. */
static void expect_entry_refused(const char *entry, weft_status_t status, const char *message)
{
    weft_text_t header = {0};
    weft_text_add(&header, "{\"a\":%s}", entry);
    expect_refused(header.data, 8, status, message);
    weft_text_free(&header);
}

static weft_safetensors_t *expect_opened(const char *header, size_t data_bytes, uint8_t **bytes)
{
    size_t size;
    *bytes = make_file(header, strlen(header), data_bytes, &size);
    weft_safetensors_t *file = NULL;
    weft_error_t error = {0};
    if (weft_safetensors_open_memory(*bytes, size, &file, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    return file;
}

#define A(offsets) "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" offsets "}"
#define B(offsets) "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" offsets "}"

static void test_reads_tensors_in_data_order(void **state)
{
    (void)state;
    uint8_t *bytes;
    weft_safetensors_t *file =
        expect_opened("{" B("[8,16]") ",\"__metadata__\":{\"format\":\"pt\"}," A("[0,8]") "}   ", 16, &bytes);
    assert_int_equal(weft_safetensors_count(file), 2);
    const weft_tensor_t *a = weft_safetensors_tensor(file, 0), *b = weft_safetensors_find(file, "b");
    assert_string_equal(a->name, "a");
    assert_int_equal(a->dtype, WEFT_DTYPE_F32);
    assert_int_equal(a->num_dims, 1);
    assert_int_equal(a->shape[0], 2);
    assert_int_equal(a->bytes, 8);
    assert_ptr_equal((const uint8_t *)a->data + 8, b->data);
    assert_ptr_equal(weft_safetensors_tensor(file, 1), b);
    assert_null(weft_safetensors_tensor(file, 2));
    assert_null(weft_safetensors_find(file, "c"));
    assert_string_equal(weft_safetensors_metadata(file, "format"), "pt");
    assert_null(weft_safetensors_metadata(file, "Format"));
    weft_safetensors_close(file);
    free(bytes);
}

static void test_accepts_empty_tensors_scalars_and_no_tensors(void **state)
{
    (void)state;
    uint8_t *bytes;
    weft_safetensors_t *file =
        expect_opened("{\"full\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
                      "\"late\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[1,1]},"
                      "\"early\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[0,0]}}",
                      1, &bytes);
    assert_string_equal(weft_safetensors_tensor(file, 0)->name, "early");
    assert_int_equal(weft_safetensors_find(file, "full")->num_dims, 0);
    assert_int_equal(weft_safetensors_find(file, "late")->bytes, 0);
    weft_safetensors_close(file);
    free(bytes);
    file = expect_opened("{}", 0, &bytes);
    assert_int_equal(weft_safetensors_count(file), 0);
    weft_safetensors_close(file);
    free(bytes);
}

static void test_refuses_truncated_files(void **state)
{
    (void)state;
    size_t size;
    uint8_t *bytes = make_file("{" A("[0,8]") "}", strlen("{" A("[0,8]") "}"), 8, &size);
    expect_refused_bytes(bytes, 0, WEFT_ERR_FILE, "0 bytes, expected at least the 8");
    expect_refused_bytes(bytes, 7, WEFT_ERR_FILE, "7 bytes");
    expect_refused_bytes(bytes, 8, WEFT_ERR_FILE, "truncated");
    expect_refused_bytes(bytes, size - 9, WEFT_ERR_FILE, "truncated");
    expect_refused_bytes(bytes, size - 1, WEFT_ERR_FILE, "do not lie within the 7 bytes");
    free(bytes);
}

static void test_refuses_header_lengths(void **state)
{
    (void)state;
    uint8_t bytes[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'};
    expect_refused_bytes(bytes, sizeof bytes, WEFT_ERR_FILE,
                         "18446744073709551615, expected at most 100000000");
    memcpy(bytes, (uint8_t[8]){0x01, 0xe1, 0xf5, 0x05}, 8);
    expect_refused_bytes(bytes, sizeof bytes, WEFT_ERR_FILE, "100000001, expected at most 100000000");
    memcpy(bytes, (uint8_t[8]){0x00, 0xe1, 0xf5, 0x05}, 8);
    expect_refused_bytes(bytes, sizeof bytes, WEFT_ERR_FILE, "100000000, but only 8 bytes follow");
    memcpy(bytes, (uint8_t[8]){0}, 8);
    expect_refused_bytes(bytes, sizeof bytes, WEFT_ERR_FILE, "does not begin with '{'");
}

static void test_refuses_what_is_not_json(void **state)
{
    (void)state;
    expect_refused("{\"a\":", 0, WEFT_ERR_FILE, "not JSON");
    expect_refused("{\"a\"", 0, WEFT_ERR_FILE, "not JSON");
    expect_refused("{nonsense}", 0, WEFT_ERR_FILE, "not JSON");
    expect_refused("[]", 0, WEFT_ERR_FILE, "does not begin with '{'");
    expect_refused(" {}", 0, WEFT_ERR_FILE, "does not begin with '{'");
    expect_refused("{}x", 0, WEFT_ERR_FILE, "byte 2 of 3 follows the end");
    expect_refused("{}\n", 0, WEFT_ERR_FILE, "byte 2 of 3 follows the end");
    expect_refused("{}  {}", 0, WEFT_ERR_FILE, "byte 4 of 6 follows the end");
}

static void test_refuses_deep_nesting(void **state)
{
    (void)state;
    enum { DEPTH = 1000000 };
    char *header = malloc(DEPTH + 6);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    header[5 + DEPTH] = 0;
    expect_refused(header, 0, WEFT_ERR_FILE, "nested too deeply");
    free(header);
    /* Shallow enough to be parsed, and an entry all the same. */
    expect_entry_refused("[[[[[[]]]]]]", WEFT_ERR_FILE, "the entry is an array, expected an object");
}

static void test_refuses_nul_in_names(void **state)
{
    (void)state;
    expect_refused("{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                   WEFT_ERR_FILE, "NUL");
    size_t size;
    uint8_t *bytes = make_file("{\"a\0b\":{}}", 10, 0, &size);
    expect_refused_bytes(bytes, size, WEFT_ERR_FILE, "NUL");
    free(bytes);
}

static void test_refuses_bad_tilings(void **state)
{
    (void)state;
    expect_refused("{" A("[0,8]") "," B("[4,12]") "}", 12, WEFT_ERR_FILE,
                   "'b': data begins at 4, expected 8 (tensors must be contiguous: there is an overlap)");
    expect_refused("{" A("[0,8]") "," B("[0,8]") "}", 8, WEFT_ERR_FILE, "there is an overlap");
    expect_refused("{" A("[0,8]") "," B("[9,17]") "}", 17, WEFT_ERR_FILE,
                   "'b': data begins at 9, expected 8 (tensors must be contiguous: there is a hole)");
    expect_refused("{" A("[1,9]") "}", 9, WEFT_ERR_FILE, "begins at 1, expected 0");
    expect_refused("{" A("[0,8]") "}", 9, WEFT_ERR_FILE,
                   "end at byte 8 of the data, expected the end of the file at 9");
    expect_refused("{}", 1, WEFT_ERR_FILE, "end at byte 0");
    expect_refused("{" A("[0,8]") "}", 4, WEFT_ERR_FILE, "[0, 8] do not lie within the 4 bytes");
    expect_refused("{" A("[8,0]") "}", 8, WEFT_ERR_FILE, "[8, 0] do not lie within");
    expect_refused("{" A("[9007199254740983,9007199254740991]") "}", 8, WEFT_ERR_FILE, "do not lie within");
}

static void test_refuses_bad_dtypes(void **state)
{
    (void)state;
    expect_entry_refused("{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}", WEFT_ERR_UNKNOWN_NAME,
                         "tensor 'a': dtype 'F33' is not known");
    expect_entry_refused("{\"dtype\":\"f32\",\"shape\":[2],\"data_offsets\":[0,8]}", WEFT_ERR_UNKNOWN_NAME,
                         "dtype 'f32' is not known");
    expect_entry_refused("{\"dtype\":5,\"shape\":[2],\"data_offsets\":[0,8]}", WEFT_ERR_FILE,
                         "dtype is a number, expected a string");
}

static void test_refuses_bad_shapes(void **state)
{
    (void)state;
    static const char *const not_integers[] = {
        "1.5", "-1", "1e300", "\"2\"", "null", "true", "[2]", "9007199254740992", "1e999"};
    for (size_t i = 0; i < sizeof not_integers / sizeof not_integers[0]; i++) {
        char entry[128];
        snprintf(entry, sizeof entry, "{\"dtype\":\"F32\",\"shape\":[2,%s],\"data_offsets\":[0,8]}",
                 not_integers[i]);
        expect_entry_refused(entry, WEFT_ERR_FILE, "dimension 1 of shape is not an integer");
    }
    expect_entry_refused("{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}", WEFT_ERR_FILE,
                         "shape is a number, expected an array");
    expect_entry_refused("{\"dtype\":\"F32\",\"shape\":[2,1,1,1,1],\"data_offsets\":[0,8]}", WEFT_ERR_FILE,
                         "more than 4 dimensions");
    expect_entry_refused("{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}",
                         WEFT_ERR_FILE, "[4294967296, 4294967296] overflows");
    /* 2^61 elements of 8 bytes come to 2^64: the bytes overflow where the product alone would not. */
    expect_entry_refused("{\"dtype\":\"F64\",\"shape\":[2147483648,1073741824],\"data_offsets\":[0,0]}",
                         WEFT_ERR_FILE, "overflows");
    expect_entry_refused("{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}", WEFT_ERR_FILE,
                         "data_offsets span 8 bytes, F32 [3] needs 12");
}

static void test_refuses_bad_offsets(void **state)
{
    (void)state;
    static const char *const bad[] = {"[0]",     "[0,8,8]", "[]",        "8",        "{}",
                                      "[0,8.5]", "[-1,8]",  "[\"0\",8]", "[0,null]", "[0,1e17]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char entry[128];
        snprintf(entry, sizeof entry, "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":%s}", bad[i]);
        expect_entry_refused(entry, WEFT_ERR_FILE, "data_offsets is not an array of two integers");
    }
}

static void test_refuses_bad_fields(void **state)
{
    (void)state;
    expect_entry_refused("5", WEFT_ERR_FILE, "the entry is a number, expected an object");
    expect_entry_refused("null", WEFT_ERR_FILE, "the entry is null, expected an object");
    expect_entry_refused("{\"dtype\":\"F32\",\"shape\":[2]}", WEFT_ERR_FILE, "'data_offsets' is missing");
    expect_entry_refused("{\"Dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", WEFT_ERR_FILE,
                         "field 'Dtype' is not known");
    expect_entry_refused("{\"dtype\":\"F32\",\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}",
                         WEFT_ERR_FILE, "field 'dtype' is there twice");
}

static void test_refuses_duplicate_names(void **state)
{
    (void)state;
    expect_refused("{" A("[0,8]") "," A("[8,16]") "}", 16, WEFT_ERR_FILE, "tensor 'a' is there twice");
    expect_refused("{" A("[0,8]") "," A("[0,8]") "}", 8, WEFT_ERR_FILE, "tensor 'a' is there twice");
    expect_refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, WEFT_ERR_FILE,
                   "'__metadata__' is there twice");
}

static void test_refuses_bad_metadata(void **state)
{
    (void)state;
    expect_refused("{\"__metadata__\":[]}", 0, WEFT_ERR_FILE,
                   "'__metadata__' is an array, expected an object");
    expect_refused("{\"__metadata__\":{\"k\":1}}", 0, WEFT_ERR_FILE, "'k' is a number, expected a string");
}

static void test_refusals_name_the_file(void **state)
{
    (void)state;
    weft_safetensors_t *file = NULL;
    weft_error_t error;
    assert_int_equal(weft_safetensors_open("/nonexistent/a.safetensors", &file, &error), WEFT_ERR_IO);
    assert_string_equal(error.message, "/nonexistent/a.safetensors: No such file or directory");
    assert_int_equal(weft_safetensors_open("/tmp", &file, &error), WEFT_ERR_IO);
    assert_string_equal(error.message, "/tmp: not a regular file");
    assert_int_equal(weft_safetensors_open("/dev/null", &file, &error), WEFT_ERR_IO);
    assert_null(file);
}

static void temporary_path(char path[64])
{
    strcpy(path, "/tmp/weft-test-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

static void test_writer_round_trip(void **state)
{
    (void)state;
    char path[64];
    temporary_path(path);
    const float values[6] = {1, 2, 3, 4, 5, 6};
    const uint8_t scale[3] = {7, 8, 9};
    const weft_tensor_t tensors[] = {
        {.name = "z.weight", .dtype = WEFT_DTYPE_F32, .num_dims = 2, .shape = {2, 3}, .data = values},
        {.name = "odd \"name\"\\\n", .dtype = WEFT_DTYPE_U8, .num_dims = 1, .shape = {3}, .data = scale},
        {.name = "empty", .dtype = WEFT_DTYPE_BF16, .num_dims = 2, .shape = {0, 5}},
        {.name = "scalar", .dtype = WEFT_DTYPE_F32, .data = values + 5},
    };
    const weft_safetensors_metadata_t metadata[] = {{"format", "pt"}, {"scheme", "fp8-block"}};
    weft_error_t error = {0};
    if (weft_safetensors_write(path, tensors, 4, metadata, 2, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    weft_safetensors_t *file = NULL;
    if (weft_safetensors_open(path, &file, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(weft_safetensors_count(file), 4);
    assert_string_equal(weft_safetensors_metadata(file, "scheme"), "fp8-block");
    for (int i = 0; i < 4; i++) {
        const weft_tensor_t *read = weft_safetensors_find(file, tensors[i].name);
        assert_non_null(read);
        assert_int_equal(read->dtype, tensors[i].dtype);
        assert_int_equal(read->num_dims, tensors[i].num_dims);
        assert_memory_equal(read->shape, tensors[i].shape, sizeof read->shape);
        if (read->bytes)
            assert_memory_equal(read->data, tensors[i].data, read->bytes);
    }
    const uint8_t *first = weft_safetensors_find(file, "z.weight")->data;
    assert_ptr_equal(weft_safetensors_find(file, tensors[1].name)->data, first + sizeof values);
    assert_int_equal((uintptr_t)first % 8, 0);
    weft_safetensors_close(file);
    unlink(path);
}

/* Bytes that count up, but for a tensor that cannot be made. */
static weft_status_t make_counting(void *user, const weft_tensor_t *tensor, uint64_t begin, size_t bytes,
                                   void *out, weft_error_t *error)
{
    (void)user;
    if (strcmp(tensor->name, "unmade") == 0)
        return weft_fail(error, WEFT_ERR_NONFINITE, "it has a NaN");
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)out)[i] = (uint8_t)((begin + i) * 7);
    return WEFT_OK;
}

static void test_writer_makes_bytes_or_gives_up(void **state)
{
    (void)state;
    char path[64];
    temporary_path(path);
    const weft_tensor_t tensors[] = {
        {.name = "made", .dtype = WEFT_DTYPE_U8, .num_dims = 1, .shape = {(3u << 20) + 5}},
        {.name = "unmade", .dtype = WEFT_DTYPE_U8, .num_dims = 1, .shape = {9}},
    };
    const weft_safetensors_metadata_t metadata[] = {{"format", "pt"}};
    weft_error_t error = {0};
    assert_int_equal(
        weft_safetensors_write_made(path, tensors, 1, metadata, 1, make_counting, NULL, &error), WEFT_OK);
    assert_int_equal(weft_safetensors_write_made(path, tensors, 2, NULL, 0, make_counting, NULL, &error),
                     WEFT_ERR_NONFINITE);
    assert_string_equal(error.message, "it has a NaN");
    weft_safetensors_t *file = NULL;
    assert_int_equal(weft_safetensors_open(path, &file, &error), WEFT_OK);
    assert_int_equal(weft_safetensors_count(file), 1);
    assert_string_equal(weft_safetensors_metadata(file, "format"), "pt");
    const uint8_t *data = weft_safetensors_find(file, "made")->data;
    for (size_t i = 0; i < (3u << 20) + 5; i++)
        assert_int_equal(data[i], (uint8_t)(i * 7));
    weft_safetensors_close(file);
    unlink(path);
}

static void test_writer_refusals_leave_the_old_file(void **state)
{
    (void)state;
    char path[64];
    temporary_path(path);
    const float value = 1;
    const weft_tensor_t good = {.name = "a", .dtype = WEFT_DTYPE_F32, .data = &value};
    const weft_tensor_t twice[2] = {good, good};
    const weft_tensor_t no_data = {.name = "a", .dtype = WEFT_DTYPE_F32};
    const weft_tensor_t reserved = {.name = "__metadata__", .dtype = WEFT_DTYPE_F32, .data = &value};
    weft_error_t error;
    assert_int_equal(weft_safetensors_write(path, &good, 1, NULL, 0, &error), WEFT_OK);
    assert_int_equal(weft_safetensors_write(path, twice, 2, NULL, 0, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_safetensors_write(path, &no_data, 1, NULL, 0, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_safetensors_write(path, &reserved, 1, NULL, 0, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_safetensors_write("/nonexistent/x", &good, 1, NULL, 0, &error), WEFT_ERR_IO);
    assert_int_equal(weft_safetensors_write("/tmp", &good, 1, NULL, 0, &error), WEFT_ERR_IO);
    weft_safetensors_t *file = NULL;
    assert_int_equal(weft_safetensors_open(path, &file, &error), WEFT_OK);
    assert_int_equal(weft_safetensors_count(file), 1);
    weft_safetensors_close(file);
    unlink(path);
}

/* A limit on file size stands in for a full disk: write() stops half way, then fails. */
static void test_writer_reports_a_full_disk(void **state)
{
    (void)state;
    char path[64];
    temporary_path(path);
    static const uint8_t zeros[8192];
    const weft_tensor_t big = {
        .name = "a", .dtype = WEFT_DTYPE_U8, .num_dims = 1, .shape = {8192}, .data = zeros};
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    weft_error_t error;
    weft_status_t status = weft_safetensors_write(path, &big, 1, NULL, 0, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, WEFT_ERR_IO);
    assert_non_null(strstr(error.message, "File too large"));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 0);
    unlink(path);
}

/* The size of Kimi-K2: a quadratic look-up would take minutes here. */
static void test_reads_140000_tensors(void **state)
{
    (void)state;
    enum { COUNT = 140000 };
    weft_text_t header = {0};
    for (int i = 0; i < COUNT; i++)
        weft_text_add(
            &header,
            "%c\"model.layers.%d.mlp.experts.%d.gate_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[1,1],"
            "\"data_offsets\":[%d,%d]}",
            i ? ',' : '{', i / 1000, i % 1000, 2 * (COUNT - 1 - i), 2 * (COUNT - i));
    weft_text_add(&header, "}");
    uint8_t *bytes;
    weft_safetensors_t *file = expect_opened(header.data, 2 * COUNT, &bytes);
    assert_int_equal(weft_safetensors_count(file), COUNT);
    for (int i = 0; i < COUNT; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.gate_proj.weight", i / 1000, i % 1000);
        assert_ptr_equal(weft_safetensors_find(file, name),
                         weft_safetensors_tensor(file, (uint32_t)(COUNT - 1 - i)));
    }
    weft_safetensors_close(file);
    free(bytes);
    weft_text_free(&header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_tensors_in_data_order),
        cmocka_unit_test(test_accepts_empty_tensors_scalars_and_no_tensors),
        cmocka_unit_test(test_refuses_truncated_files),
        cmocka_unit_test(test_refuses_header_lengths),
        cmocka_unit_test(test_refuses_what_is_not_json),
        cmocka_unit_test(test_refuses_deep_nesting),
        cmocka_unit_test(test_refuses_nul_in_names),
        cmocka_unit_test(test_refuses_bad_tilings),
        cmocka_unit_test(test_refuses_bad_dtypes),
        cmocka_unit_test(test_refuses_bad_shapes),
        cmocka_unit_test(test_refuses_bad_offsets),
        cmocka_unit_test(test_refuses_bad_fields),
        cmocka_unit_test(test_refuses_duplicate_names),
        cmocka_unit_test(test_refuses_bad_metadata),
        cmocka_unit_test(test_refusals_name_the_file),
        cmocka_unit_test(test_writer_round_trip),
        cmocka_unit_test(test_writer_makes_bytes_or_gives_up),
        cmocka_unit_test(test_writer_refusals_leave_the_old_file),
        cmocka_unit_test(test_writer_reports_a_full_disk),
        cmocka_unit_test(test_reads_140000_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
