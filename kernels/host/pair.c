/* Live weights and stage on the host.
 *
 *     without remap                        remap
 *     live  [ anonymous memory ]           live  [ range ] --> memfd A        exchange: live --> B
 *     stage [ anonymous memory ]           stage [ range ] --> memfd B        settle:   stage --> A; no byte moves
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/host/host.h"
#include "src/base/error.h"

typedef struct files {
    int live, stage; /* once settled; -1: none */
    bool shared;     /* exchanged, not settled: both ranges show `live` */
} files_t;

static uint8_t *map(size_t bytes, int file)
{
    int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static int make_file(size_t bytes)
{
    int file = memfd_create("weft", MFD_CLOEXEC);
    if (file >= 0 && ftruncate(file, (off_t)bytes) != 0) {
        close(file);
        file = -1;
    }
    return file;
}

static bool fill_pair(weft_pair_t *pair, files_t *files, bool remap)
{
    if (remap) {
        files->live = make_file(pair->bytes);
        files->stage = make_file(pair->bytes);
        if (files->live < 0 || files->stage < 0)
            return false;
    }
    pair->live = map(pair->bytes, files->live);
    pair->stage = map(pair->bytes, files->stage);
    return pair->live && pair->stage;
}

weft_status_t weft_host_pair_create(weft_queue_t *queue, size_t bytes, bool remap, weft_pair_t *pair,
                                    weft_error_t *error)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    files_t *files = malloc(sizeof *files);
    if (!files)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the weights");
    *files = (files_t){-1, -1, false};
    weft_pair_t made = {.bytes = (bytes + page) / page * page, .contents = files};
    if (!fill_pair(&made, files, remap)) {
        weft_fail(error, WEFT_ERR_NO_MEMORY, "two ranges of %zu bytes for kernel-format weights cannot be made: %s",
                  made.bytes, strerror(errno));
        weft_host_pair_destroy(queue, &made);
        return WEFT_ERR_NO_MEMORY;
    }
    *pair = made;
    return WEFT_OK;
}

void weft_host_pair_destroy(weft_queue_t *queue, weft_pair_t *pair)
{
    (void)queue;
    files_t *files = pair->contents;
    if (pair->live)
        munmap(pair->live, pair->bytes);
    if (pair->stage)
        munmap(pair->stage, pair->bytes);
    if (files && files->live >= 0)
        close(files->live);
    if (files && files->stage >= 0)
        close(files->stage);
    free(files);
    *pair = (weft_pair_t){0};
}

/* Replace what `range` shows. MAP_FIXED exchanges the mapping in one step, so the range is never a hole; the
 * pages are entered at once, because the next decode step touches all of them. */
static bool show(uint8_t *range, size_t bytes, int file)
{
    return mmap(range, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, file, 0) !=
           MAP_FAILED;
}

weft_status_t weft_host_pair_exchange(weft_queue_t *queue, weft_pair_t *pair)
{
    (void)queue;
    files_t *files = pair->contents;
    if (files->live < 0 || files->shared)
        return WEFT_ERR_ARGUMENT;
    if (!show(pair->live, pair->bytes, files->stage))
        return WEFT_ERR_NO_MEMORY;
    *files = (files_t){files->stage, files->live, true};
    return WEFT_OK;
}

weft_status_t weft_host_pair_settle(weft_queue_t *queue, weft_pair_t *pair)
{
    (void)queue;
    files_t *files = pair->contents;
    if (files->shared && !show(pair->stage, pair->bytes, files->stage))
        return WEFT_ERR_NO_MEMORY;
    files->shared = false;
    return WEFT_OK;
}
