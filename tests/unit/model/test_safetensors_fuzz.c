/* Mutations of a valid header: whatever they make of it, it is read or refused with a message. Run it under
 * the sanitizers; the bytes stand in a block of their exact size, so that a read past their end is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/model/safetensors.h"

#define HEADER                                                                                               \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                                                 \
    "\"model.norm.weight\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},"                       \
    "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"                        \
    "\"s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[32,33]}}  "

#define HEADER_BYTES (sizeof HEADER - 1)
#define FILE_BYTES   (8 + HEADER_BYTES + 33)

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static void fill_valid(uint8_t file[FILE_BYTES])
{
    memset(file, 0, FILE_BYTES);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)HEADER_BYTES >> 8 * i);
    memcpy(file + 8, HEADER, HEADER_BYTES);
}

/* One change: any byte, a digit, a character of JSON, or a run copied from elsewhere in the header. */
static void mutate(uint8_t file[FILE_BYTES], uint64_t *seed)
{
    static const char alphabet[] = "0123456789{}[]:,\"\\ -+.eEuntrfalse";
    uint8_t *header = file + 8;
    size_t at = next_random(seed) % HEADER_BYTES, from = next_random(seed) % HEADER_BYTES;
    size_t longest = HEADER_BYTES - (at > from ? at : from);
    switch (next_random(seed) % 5) {
    case 0:
        file[next_random(seed) % (8 + HEADER_BYTES)] = (uint8_t)next_random(seed);
        break;
    case 1:
        while (header[at] < '0' || header[at] > '9')
            at = (at + 1) % HEADER_BYTES;
        header[at] = (uint8_t)('0' + next_random(seed) % 10);
        break;
    case 2:
    case 3:
        header[at] = (uint8_t)alphabet[next_random(seed) % (sizeof alphabet - 1)];
        break;
    default:
        memmove(header + at, header + from, next_random(seed) % (longest < 24 ? longest : 24));
    }
}

/* What was accepted must hold what the reader promises. */
static void check_accepted(const weft_safetensors_t *file, const uint8_t *bytes, size_t size)
{
    const uint8_t *end = NULL;
    for (uint32_t i = 0; i < weft_safetensors_count(file); i++) {
        const weft_tensor_t *tensor = weft_safetensors_tensor(file, i);
        const uint8_t *data = tensor->data;
        assert_true(data >= bytes + 8 && data <= bytes + size &&
                    tensor->bytes <= (size_t)(bytes + size - data));
        assert_true(!end || data == end);
        assert_ptr_equal(weft_safetensors_find(file, tensor->name), tensor);
        end = data + tensor->bytes;
    }
}

static bool try_one(const uint8_t *bytes, size_t size)
{
    weft_safetensors_t *file = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_safetensors_open_memory(bytes, size, &file, &error);
    if (status == WEFT_OK) {
        check_accepted(file, bytes, size);
        weft_safetensors_close(file);
        return true;
    }
    assert_true(status == WEFT_ERR_FILE || status == WEFT_ERR_UNKNOWN_NAME);
    assert_int_equal(error.status, status);
    assert_true(strlen(error.message) > 0);
    assert_null(file);
    return false;
}

static void test_mutated_headers(void **state)
{
    (void)state;
    enum { ROUNDS = 50000 };
    int accepted = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = round;
        uint8_t *file = malloc(FILE_BYTES);
        assert_non_null(file);
        fill_valid(file);
        for (uint64_t changes = 1 + next_random(&seed) % 3; changes > 0; changes--)
            mutate(file, &seed);
        accepted += try_one(file, FILE_BYTES);
        free(file);
    }
    print_message("seeds 0 to %d: %d accepted, %d refused\n", ROUNDS - 1, accepted, ROUNDS - accepted);
    /* Mutations that change names or spaces stay valid; if none or all were, the loop would prove nothing. */
    assert_in_range(accepted, 1, ROUNDS - 1);
}

static void test_every_truncation(void **state)
{
    (void)state;
    uint8_t whole[FILE_BYTES];
    fill_valid(whole);
    for (size_t size = 0; size <= FILE_BYTES; size++) {
        uint8_t *file = malloc(size ? size : 1);
        assert_non_null(file);
        memcpy(file, whole, size);
        assert_int_equal(try_one(file, size), size == FILE_BYTES);
        free(file);
    }
}

/* A header that ends anywhere, with the length field agreeing. */
static void test_every_shorter_header(void **state)
{
    (void)state;
    for (size_t length = 0; length < HEADER_BYTES - 2; length++) {
        uint8_t *file = malloc(8 + length);
        assert_non_null(file);
        memset(file, 0, 8);
        file[0] = (uint8_t)length;
        file[1] = (uint8_t)(length >> 8);
        memcpy(file + 8, HEADER, length);
        assert_false(try_one(file, 8 + length));
        free(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutated_headers),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_shorter_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
