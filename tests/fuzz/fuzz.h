/* What the harnesses share. Each is one file fuzz_<what>.c with LLVMFuzzerTestOneInput: it makes of the bytes what the
 * library reads, calls it, and checks what the library promises: a status with a message or a result that is whole, and
 * memory within the bound that the header states.
 *
 * Built by clang they are libFuzzer's, for run.sh; built otherwise replay.c gives them files, for ctest. */
#ifndef WEFT_TESTS_FUZZ_H
#define WEFT_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weft/types.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* End the process, with the line that did not hold. */
#define FUZZ_CHECK(condition)                                                                                \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fuzz_fail(__FILE__, __LINE__, #condition);                                                       \
    } while (0)

_Noreturn void fuzz_fail(const char *file, int line, const char *what);

/* Check that a failure is one: a known status, the same in `error`, and a message without control characters. */
void fuzz_check_error(weft_status_t status, const weft_error_t *error);

/* ---- taking the input apart; an input that is at its end gives zeros ---- */

typedef struct fuzz_input {
    const uint8_t *at;
    size_t left;
} fuzz_input_t;

uint64_t fuzz_number(fuzz_input_t *input, unsigned bytes);

/* The bytes before the next `separator` (which is passed over), or all that are left, as a text of their exact size with
 * a NUL behind: free it. A NUL within ends it for who reads texts. */
char *fuzz_take_text(fuzz_input_t *input, const char *separator);

/* The same as bytes that stand in a block of their exact size, so that a sanitizer sees a read past the end. */
uint8_t *fuzz_take_bytes(fuzz_input_t *input, const char *separator, size_t *size);

/* Between the files of one input. */
#define FUZZ_FILES "\n====\n"

/* ---- files ---- */

/* A folder of this process, in memory where there is such a file system; it goes at exit. */
const char *fuzz_folder(void);

/* Write a file into the folder, or remove it with `data` NULL. Returns its path, until the next call. */
const char *fuzz_file(const char *name, const void *data, size_t size);

/* A safetensors file as bytes: free it. Input: 4 bytes, then text. The lowest bit of the first byte clear: the text is
 * the header, its length is put in front and zeros behind, as many as the other bits of the 4 bytes say, modulo
 * `most_data`; set: the text is the file. */
uint8_t *fuzz_take_safetensors(fuzz_input_t *input, const char *separator, size_t most_data, size_t *size);

/* ---- bounds ---- */

/* Between these two the process may hold at most `most` bytes more than before. Counted where a sanitizer is linked,
 * elsewhere not. */
void fuzz_meter_begin(void);
void fuzz_meter_end(size_t most);

/* Whether no run of digits in the text is a number above `most`: where numbers size a model on purpose, larger ones
 * would only show that large models take long. */
bool fuzz_numbers_below(const char *text, uint64_t most);

#endif
