#include "src/quantize/checkpoint_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/error.h"

#define MAX_FILE_BYTES (64u << 20)

static weft_status_t no_memory(weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a file");
}

static char *path_of(const char *folder, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* ---- the folder ---- */

static weft_status_t refuse_existing(const char *target, weft_error_t *error)
{
    return weft_fail(error, WEFT_ERR_IO,
                     "%s exists already: nothing is overwritten; remove it or write elsewhere", target);
}

/* As mkdir would leave it; mkdtemp is stricter. */
static void open_to_others(const char *path)
{
    mode_t mask = umask(0);
    umask(mask);
    chmod(path, 0777 & ~mask);
}

/* Without the slashes at the end, which would put the partial folder inside. */
static char *copy_trimmed(const char *target)
{
    size_t length = strlen(target);
    while (length > 1 && target[length - 1] == '/')
        length--;
    return strndup(target, length);
}

weft_status_t weft_folder_begin(const char *target, weft_folder_t *folder, weft_error_t *error)
{
    struct stat there;
    weft_folder_t made = {.target = copy_trimmed(target)};
    if (!made.target || asprintf(&made.path, "%s.partial-XXXXXX", made.target) < 0) {
        free(made.target);
        return no_memory(error);
    }
    weft_status_t status = WEFT_OK;
    if (lstat(made.target, &there) == 0)
        status = refuse_existing(made.target, error);
    else if (!mkdtemp(made.path))
        status = weft_fail(error, WEFT_ERR_IO, "%s cannot be made: %s", made.target, strerror(errno));
    if (status != WEFT_OK) {
        free(made.path);
        free(made.target);
        return status;
    }
    open_to_others(made.path);
    *folder = made;
    return WEFT_OK;
}

static void forget(weft_folder_t *folder)
{
    free(folder->path);
    free(folder->target);
    *folder = (weft_folder_t){0};
}

weft_status_t weft_folder_end(weft_folder_t *folder, weft_error_t *error)
{
    if (renameat2(AT_FDCWD, folder->path, AT_FDCWD, folder->target, RENAME_NOREPLACE) != 0) {
        if (errno == EEXIST)
            return refuse_existing(folder->target, error);
        /* A file system that knows no such flag: an empty folder that came meanwhile would be replaced. */
        struct stat there;
        if (lstat(folder->target, &there) == 0)
            return refuse_existing(folder->target, error);
        if (rename(folder->path, folder->target) != 0)
            return weft_fail(error, WEFT_ERR_IO, "%s cannot be renamed to %s: %s", folder->path,
                             folder->target, strerror(errno));
    }
    forget(folder);
    return WEFT_OK;
}

void weft_folder_abandon(weft_folder_t *folder)
{
    if (!folder->path)
        return;
    DIR *listing = opendir(folder->path);
    for (const struct dirent *entry; listing && (entry = readdir(listing));)
        unlinkat(dirfd(listing), entry->d_name, 0);
    if (listing)
        closedir(listing);
    rmdir(folder->path);
    forget(folder);
}

/* ---- files ---- */

static weft_status_t write_file(const char *path, const char *data, size_t bytes, weft_error_t *error)
{
    FILE *file = fopen(path, "wbx");
    bool written = file && fwrite(data, 1, bytes, file) == bytes;
    if (file && fclose(file) != 0)
        written = false;
    return written ? WEFT_OK : weft_fail(error, WEFT_ERR_IO, "%s: %s", path, strerror(errno));
}

static weft_status_t write_bytes(const weft_folder_t *folder, const char *name, const char *data,
                                 size_t bytes, weft_error_t *error)
{
    char *path = path_of(folder->path, name);
    weft_status_t status = path ? write_file(path, data, bytes, error) : no_memory(error);
    free(path);
    return status;
}

weft_status_t weft_folder_write(const weft_folder_t *folder, const char *name, const char *text,
                                weft_error_t *error)
{
    return write_bytes(folder, name, text, strlen(text), error);
}

static weft_status_t read_file(const char *path, char **text, size_t *bytes, weft_error_t *error)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", path, strerror(errno));
    struct stat about;
    bool small = fstat(fileno(file), &about) == 0 && about.st_size <= MAX_FILE_BYTES;
    size_t size = small ? (size_t)about.st_size : 0;
    char *read = small ? malloc(size + 1) : NULL;
    bool whole = read && fread(read, 1, size, file) == size;
    fclose(file);
    if (!whole) {
        free(read);
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be read, or has more than %u MiB", path,
                         MAX_FILE_BYTES >> 20);
    }
    read[size] = 0;
    *text = read;
    *bytes = size;
    return WEFT_OK;
}

weft_status_t weft_folder_read(const char *folder, const char *name, char **text, size_t *bytes,
                               weft_error_t *error)
{
    char *path = path_of(folder, name);
    weft_status_t status = path ? read_file(path, text, bytes, error) : no_memory(error);
    free(path);
    return status;
}

/* ---- companions ---- */

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), wanted = strlen(end);
    return length >= wanted && strcmp(name + length - wanted, end) == 0;
}

static bool is_companion(const char *folder, const char *name)
{
    static const char *const weights[] = {".safetensors", ".index.json", ".bin",     ".pt", ".pth",
                                          ".gguf",        ".onnx",       ".msgpack", ".h5"};
    if (name[0] == '.' || strcmp(name, "config.json") == 0)
        return false;
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++)
        if (ends_with(name, weights[i]))
            return false;
    struct stat about;
    char *path = path_of(folder, name);
    bool small = path && stat(path, &about) == 0 && S_ISREG(about.st_mode) && about.st_size <= MAX_FILE_BYTES;
    free(path);
    return small;
}

static weft_status_t copy_file(const weft_folder_t *folder, const char *source, const char *name,
                               weft_error_t *error)
{
    char *data;
    size_t bytes;
    WEFT_TRY(weft_folder_read(source, name, &data, &bytes, error));
    weft_status_t status = write_bytes(folder, name, data, bytes, error);
    free(data);
    return status;
}

weft_status_t weft_folder_copy_companions(const weft_folder_t *folder, const char *source,
                                          weft_error_t *error)
{
    DIR *listing = opendir(source);
    if (!listing)
        return weft_fail(error, WEFT_ERR_IO, "%s: %s", source, strerror(errno));
    weft_status_t status = WEFT_OK;
    for (const struct dirent *entry; status == WEFT_OK && (entry = readdir(listing));)
        if (is_companion(source, entry->d_name))
            status = copy_file(folder, source, entry->d_name, error);
    closedir(listing);
    return status;
}
