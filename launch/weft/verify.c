/* weft verify: two checkpoints or dumps, byte for byte. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/array.h"
#include "src/base/error.h"
#include "src/model/safetensors.h"
#include "src/model/shape.h"

typedef struct tally {
    uint64_t files, tensors, bytes, mismatches;
} tally_t;

#define SHOWN_MISMATCHES 20u

static void mismatch(tally_t *tally, const char *file, const char *tensor, const char *what)
{
    if (tally->mismatches++ < SHOWN_MISMATCHES)
        printf("%s%s%s: %s\n", file, *tensor ? ": " : "", tensor, what);
}

static void compare_bytes(tally_t *tally, const char *file, const weft_tensor_t *a, const weft_tensor_t *b)
{
    if (memcmp(a->data, b->data, a->bytes) == 0)
        return;
    const uint8_t *x = a->data, *y = b->data;
    uint64_t first = 0, differing = 0;
    for (uint64_t i = a->bytes; i-- > 0;)
        if (x[i] != y[i]) {
            first = i;
            differing++;
        }
    char what[160];
    snprintf(what, sizeof what, "%llu of %llu bytes differ, the first at %llu (element %llu): %02x and %02x",
             (unsigned long long)differing, (unsigned long long)a->bytes, (unsigned long long)first,
             (unsigned long long)(first / weft_dtype_bytes(a->dtype)), x[first], y[first]);
    mismatch(tally, file, a->name, what);
}

static void compare_tensor(tally_t *tally, const char *file, const weft_tensor_t *a, const weft_tensor_t *b)
{
    tally->tensors++;
    tally->bytes += a->bytes;
    if (a->dtype == b->dtype && a->num_dims == b->num_dims &&
        memcmp(a->shape, b->shape, a->num_dims * sizeof *a->shape) == 0) {
        compare_bytes(tally, file, a, b);
        return;
    }
    char what[320], x[WEFT_SHAPE_TEXT_BYTES], y[WEFT_SHAPE_TEXT_BYTES];
    snprintf(what, sizeof what, "%s %s in the first, %s %s in the second", weft_dtype_name(a->dtype),
             weft_shape_text(a->shape, a->num_dims, x), weft_dtype_name(b->dtype),
             weft_shape_text(b->shape, b->num_dims, y));
    mismatch(tally, file, a->name, what);
}

static void compare_opened(tally_t *tally, const char *name, const weft_safetensors_t *a,
                           const weft_safetensors_t *b)
{
    for (uint32_t i = 0; i < weft_safetensors_count(a); i++) {
        const weft_tensor_t *mine = weft_safetensors_tensor(a, i);
        const weft_tensor_t *other = weft_safetensors_find(b, mine->name);
        if (other)
            compare_tensor(tally, name, mine, other);
        else
            mismatch(tally, name, mine->name, "only in the first");
    }
    for (uint32_t i = 0; i < weft_safetensors_count(b); i++)
        if (!weft_safetensors_find(a, weft_safetensors_tensor(b, i)->name))
            mismatch(tally, name, weft_safetensors_tensor(b, i)->name, "only in the second");
}

static weft_status_t compare_files(tally_t *tally, const char *name, const char *path_a, const char *path_b,
                                   weft_error_t *error)
{
    weft_safetensors_t *a = NULL, *b = NULL;
    weft_status_t status = weft_safetensors_open(path_a, &a, error);
    if (status == WEFT_OK)
        status = weft_safetensors_open(path_b, &b, error);
    if (status == WEFT_OK) {
        tally->files++;
        compare_opened(tally, name, a, b);
    }
    weft_safetensors_close(a);
    weft_safetensors_close(b);
    return status;
}

static bool is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int is_safetensors(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name), suffix = strlen(".safetensors");
    return length > suffix && strcmp(entry->d_name + length - suffix, ".safetensors") == 0;
}

static bool exists(const char *dir, const char *name)
{
    char path[4096];
    struct stat info;
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path && stat(path, &info) == 0;
}

static weft_status_t compare_pair(tally_t *tally, const char *a, const char *b, const char *name,
                                  weft_error_t *error)
{
    char path_a[4096], path_b[4096];
    snprintf(path_a, sizeof path_a, "%s/%s", a, name);
    snprintf(path_b, sizeof path_b, "%s/%s", b, name);
    return compare_files(tally, name, path_a, path_b, error);
}

static weft_status_t compare_directories(tally_t *tally, const char *a, const char *b, weft_error_t *error)
{
    struct dirent **in_a, **in_b;
    int count_a = scandir(a, &in_a, is_safetensors, alphasort);
    int count_b = scandir(b, &in_b, is_safetensors, alphasort);
    weft_status_t status =
        count_a > 0 ? WEFT_OK : weft_fail(error, WEFT_ERR_IO, "%s holds no .safetensors file", a);
    for (int i = 0; i < count_a; i++) {
        if (status == WEFT_OK && !exists(b, in_a[i]->d_name))
            mismatch(tally, in_a[i]->d_name, "", "only in the first");
        else if (status == WEFT_OK)
            status = compare_pair(tally, a, b, in_a[i]->d_name, error);
        free(in_a[i]);
    }
    for (int i = 0; i < count_b; i++) {
        if (!exists(a, in_b[i]->d_name))
            mismatch(tally, in_b[i]->d_name, "", "only in the second");
        free(in_b[i]);
    }
    if (count_a >= 0)
        free(in_a);
    if (count_b >= 0)
        free(in_b);
    return status;
}

static weft_status_t check_kinds(const char *a, const char *b, weft_error_t *error)
{
    struct stat info;
    if (stat(a, &info) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", a, strerror(errno));
    if (stat(b, &info) != 0)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", b, strerror(errno));
    if (is_directory(a) != is_directory(b))
        return weft_fail(error, WEFT_ERR_IO,
                         "%s is a %s, %s is a %s: give two files or two directories", a,
                         is_directory(a) ? "directory" : "file", b, is_directory(b) ? "directory" : "file");
    return WEFT_OK;
}

int command_verify(int argc, char **argv)
{
    const command_spec_t spec = {
        .name = "verify",
        .synopsis = "A B",
        .about = "Compare two safetensors files, or all of two directories: names, dtypes, shapes, bytes. "
                 "Names the first\n"
                 "difference of each tensor; exit 1 on any.",
        .min_positional = 2,
        .max_positional = 2,
        .positional_names = "A or B",
    };
    const char *paths[2];
    unsigned count;
    int code = options_parse(&spec, argc, argv, false, paths, &count);
    if (code >= 0)
        return code;
    tally_t tally = {0};
    weft_error_t error;
    if (check_kinds(paths[0], paths[1], &error) != WEFT_OK)
        return report_error("verify", &error);
    weft_status_t status = is_directory(paths[0]) && is_directory(paths[1])
                               ? compare_directories(&tally, paths[0], paths[1], &error)
                               : compare_files(&tally, paths[0], paths[0], paths[1], &error);
    if (status != WEFT_OK)
        return report_error("verify", &error);
    if (tally.mismatches > SHOWN_MISMATCHES)
        printf("... and %llu more\n", (unsigned long long)(tally.mismatches - SHOWN_MISMATCHES));
    printf("%llu file%s, %llu tensors, %llu bytes: %s\n", (unsigned long long)tally.files,
           tally.files == 1 ? "" : "s", (unsigned long long)tally.tensors, (unsigned long long)tally.bytes,
           tally.mismatches ? "DIFFERENT" : "equal");
    return tally.mismatches ? EXIT_CHECK_FAILED : EXIT_OK;
}
