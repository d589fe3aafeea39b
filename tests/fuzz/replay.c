/* Gives a harness what lies in files: for builds without libFuzzer. Arguments: files, folders of files, and
 * packs (NAME.pack, as pack.py writes them: the inputs one after the other, each behind its length in 4
 * bytes, little-endian). */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static unsigned long count;

/* In a block of its own, as libFuzzer does it. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    count++;
}

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *stream = fopen(path, "rbe");
    long end = stream && fseek(stream, 0, SEEK_END) == 0 ? ftell(stream) : -1;
    uint8_t *data = end >= 0 ? malloc((size_t)end + 1) : NULL;
    if (!data || fseek(stream, 0, SEEK_SET) || fread(data, 1, (size_t)end, stream) != (size_t)end) {
        fprintf(stderr, "%s cannot be read: %s\n", path, strerror(errno));
        exit(1);
    }
    fclose(stream);
    *size = (size_t)end;
    return data;
}

static void run_pack(const char *path, const uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t length = 0;
        for (unsigned i = 0; i < 4 && at < size; i++)
            length |= (size_t)data[at++] << 8 * i;
        if (length > size - at) {
            fprintf(stderr, "%s: an input of %zu bytes, %zu are left\n", path, length, size - at);
            exit(1);
        }
        run(data + at, length);
        at += length;
    }
}

static void run_path(const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        DIR *folder = opendir(path);
        for (struct dirent *entry; folder && (entry = readdir(folder));) {
            char inside[1024];
            snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
            if (entry->d_name[0] != '.')
                run_path(inside);
        }
        if (folder)
            closedir(folder);
        return;
    }
    size_t size, length = strlen(path);
    uint8_t *data = read_file(path, &size);
    if (length > 5 && strcmp(path + length - 5, ".pack") == 0)
        run_pack(path, data, size);
    else
        run(data, size);
    free(data);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run_path(argv[i]);
    printf("%lu inputs\n", count);
    if (count == 0)
        fprintf(stderr, "no input was given: pass files, folders or packs\n");
    return count == 0;
}
