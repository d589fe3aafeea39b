#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

#include <weft/status.h>

void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

void fuzz_check_error(weft_status_t status, const weft_error_t *error)
{
    FUZZ_CHECK(status != WEFT_OK && status <= WEFT_ERR_INTERNAL);
    /* A file that anyone may write must not lead to what calls itself a bug of weft. */
    FUZZ_CHECK(status != WEFT_ERR_INTERNAL);
    FUZZ_CHECK(error->status == status);
    FUZZ_CHECK(memchr(error->message, 0, sizeof error->message) && error->message[0]);
    for (const char *c = error->message; *c; c++)
        FUZZ_CHECK((unsigned char)*c >= 0x20 && *c != 0x7f);
}

/* ---- input ---- */

uint64_t fuzz_number(fuzz_input_t *input, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && input->left; i++, input->at++, input->left--)
        value |= (uint64_t)*input->at << 8 * i;
    return value;
}

/* Bytes up to the separator, which is passed over. */
static size_t cut(fuzz_input_t *input, const char *separator, const uint8_t **from)
{
    size_t length = strlen(separator);
    const uint8_t *found = length ? memmem(input->at, input->left, separator, length) : NULL;
    size_t size = found ? (size_t)(found - input->at) : input->left, passed = found ? size + length : size;
    *from = input->at;
    input->at += passed;
    input->left -= passed;
    return size;
}

static void *allocate(size_t bytes)
{
    void *made = malloc(bytes ? bytes : 1);
    if (!made)
        abort();
    return made;
}

char *fuzz_take_text(fuzz_input_t *input, const char *separator)
{
    const uint8_t *from;
    size_t size = cut(input, separator, &from);
    char *text = allocate(size + 1);
    memcpy(text, from, size);
    text[size] = '\0';
    return text;
}

uint8_t *fuzz_take_bytes(fuzz_input_t *input, const char *separator, size_t *size)
{
    const uint8_t *from;
    *size = cut(input, separator, &from);
    uint8_t *bytes = allocate(*size);
    memcpy(bytes, from, *size);
    return bytes;
}

uint8_t *fuzz_take_safetensors(fuzz_input_t *input, const char *separator, size_t most_data, size_t *size)
{
    uint32_t how = (uint32_t)fuzz_number(input, 4);
    size_t header, data = how / 2 % most_data;
    if (how & 1)
        return fuzz_take_bytes(input, separator, size);
    uint8_t *text = fuzz_take_bytes(input, separator, &header);
    uint8_t *file = allocate(8 + header + data);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header >> 8 * i);
    memcpy(file + 8, text, header);
    memset(file + 8 + header, 0, data);
    free(text);
    *size = 8 + header + data;
    return file;
}

/* ---- files ---- */

static char folder[256];

static void remove_folder(void)
{
    DIR *open = opendir(folder);
    for (struct dirent *entry; open && (entry = readdir(open));)
        if (entry->d_name[0] != '.')
            unlink(fuzz_file(entry->d_name, "", 0));
    if (open)
        closedir(open);
    rmdir(folder);
}

const char *fuzz_folder(void)
{
    if (folder[0])
        return folder;
    const char *in = getenv("WEFT_FUZZ_TMP");
    if (!in)
        in = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%s/weft-fuzz-XXXXXX", in);
    if (!mkdtemp(folder)) {
        fprintf(stderr, "%s cannot be made: %s\n", folder, strerror(errno));
        abort();
    }
    atexit(remove_folder);
    return folder;
}

const char *fuzz_file(const char *name, const void *data, size_t size)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    if (!data) {
        unlink(path);
        return path;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
        fprintf(stderr, "%s cannot be written: %s\n", path, strerror(errno));
        abort();
    }
    close(fd);
    return path;
}

/* ---- bounds ---- */

/* The sanitizers' own, where they are linked. */
__attribute__((weak)) int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *,
                                                                                      size_t),
                                                                    void (*on_free)(const volatile void *));
__attribute__((weak)) size_t __sanitizer_get_allocated_size(const volatile void *block);

static atomic_bool metering;
static atomic_llong held, most_held; /* since the meter began; what was there before may be freed */

static void on_malloc(const volatile void *block, size_t size)
{
    (void)block;
    if (!atomic_load_explicit(&metering, memory_order_relaxed))
        return;
    long long now = atomic_fetch_add_explicit(&held, (long long)size, memory_order_relaxed) + (long long)size;
    if (now > atomic_load_explicit(&most_held, memory_order_relaxed))
        atomic_store_explicit(&most_held, now, memory_order_relaxed);
}

static void on_free(const volatile void *block)
{
    if (block && atomic_load_explicit(&metering, memory_order_relaxed))
        atomic_fetch_sub_explicit(&held, (long long)__sanitizer_get_allocated_size(block),
                                  memory_order_relaxed);
}

void fuzz_meter_begin(void)
{
    static bool installed;
    if (!installed && __sanitizer_install_malloc_and_free_hooks && __sanitizer_get_allocated_size)
        __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    installed = true;
    atomic_store(&held, 0);
    atomic_store(&most_held, 0);
    atomic_store(&metering, true);
}

void fuzz_meter_end(size_t most)
{
    atomic_store(&metering, false);
    if (atomic_load(&most_held) > (long long)most) {
        fprintf(stderr, "%lld bytes were held at once, the bound is %zu\n", atomic_load(&most_held), most);
        abort();
    }
}

bool fuzz_numbers_below(const char *text, uint64_t most)
{
    for (const char *c = text; *c; c++) {
        uint64_t value = 0;
        for (; *c >= '0' && *c <= '9'; c++)
            if ((value = value * 10 + (uint64_t)(*c - '0')) > most)
                return false;
        if (*c == '\0')
            break;
        if ((*c == 'e' || *c == 'E') && value) /* an exponent */
            return false;
    }
    return true;
}
