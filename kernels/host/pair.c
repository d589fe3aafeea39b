/* Live weights and stage on the host.
 *
 *     without remap                        remap
 *     live  [ anonymous memory ]           live  [ range ] --> memfd A        exchange: live --> B
 *     stage [ anonymous memory ]           stage [ range ] --> memfd B        settle:   stage --> A; no byte
 * moves
 *
 * To enter pages into page tables one by one takes a tenth of a millisecond for each MB, so the tables move
 * with their pages: those of `live` aside, those of `stage` under the live range, and when it settles the
 * first under the stage. For that the ranges begin where a table does. Before Linux 5.13 mremap does not do
 * it, and pages are entered anew. Whether it does is tried on a page of nobody's first: an mremap that fails
 * may have unmapped its target, and what is mapped there next is another's.
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
    uint8_t *aside;  /* a range: where the tables of `live` wait for settle; NULL: tables do not move */
    bool moved;      /* they do */
} files_t;

#define TABLE_BYTES ((size_t)2 << 20) /* what one page table maps */

/* A range that begins where a page table does; NULL: none. */
static uint8_t *reserve(size_t bytes)
{
    size_t with_slack = bytes + TABLE_BYTES;
    uint8_t *range = mmap(NULL, with_slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED)
        return NULL;
    size_t before = (TABLE_BYTES - (uintptr_t)range % TABLE_BYTES) % TABLE_BYTES;
    if (before)
        munmap(range, before);
    munmap(range + before + bytes, TABLE_BYTES - before);
    return range + before;
}

static uint8_t *map(size_t bytes, int file)
{
    int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    uint8_t *range = reserve(bytes);
    if (range && mmap(range, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, file, 0) == MAP_FAILED) {
        munmap(range, bytes);
        return NULL;
    }
    return range;
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

/* Give `range` the pages that `from` shows, with their tables. `from` still shows the same file, page by page
 * as it is touched, until settle. When this fails `range` may be a hole. */
static bool move(uint8_t *range, uint8_t *from, size_t bytes)
{
#if defined(MREMAP_DONTUNMAP)
    return mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, range) != MAP_FAILED;
#else
    (void)range, (void)from, (void)bytes;
    return false;
#endif
}

/* Whether the kernel moves the tables of a file's pages. */
static bool can_move(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int file = make_file(page);
    uint8_t *from = file < 0 ? NULL : map(page, file), *range = from ? reserve(page) : NULL;
    bool can = range && move(range, from, page);
    if (can)
        munmap(range, page);
    if (from)
        munmap(from, page);
    if (file >= 0)
        close(file);
    return can;
}

static bool fill_pair(weft_pair_t *pair, files_t *files, bool remap)
{
    if (remap) {
        files->live = make_file(pair->bytes);
        files->stage = make_file(pair->bytes);
        files->aside = can_move() ? reserve(pair->bytes) : NULL;
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
    *files = (files_t){.live = -1, .stage = -1};
    weft_pair_t made = {.bytes = (bytes + page) / page * page, .contents = files};
    if (!fill_pair(&made, files, remap)) {
        weft_fail(error, WEFT_ERR_NO_MEMORY,
                  "two ranges of %zu bytes for kernel-format weights cannot be made: %s", made.bytes,
                  strerror(errno));
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
    if (files && files->aside)
        munmap(files->aside, pair->bytes);
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
    files->moved = files->aside && move(files->aside, pair->live, pair->bytes);
    if (!files->moved)
        files->aside = NULL; /* perhaps a hole, perhaps another's by now */
    bool shown = files->moved && move(pair->live, pair->stage, pair->bytes);
    if (!shown && !show(pair->live, pair->bytes, files->stage)) {
        show(pair->live, pair->bytes, files->live); /* as before: the version fails, the engine goes on */
        return WEFT_ERR_NO_MEMORY;
    }
    int live = files->live;
    files->live = files->stage;
    files->stage = live;
    files->shared = true;
    return WEFT_OK;
}

weft_status_t weft_host_pair_settle(weft_queue_t *queue, weft_pair_t *pair)
{
    (void)queue;
    files_t *files = pair->contents;
    if (!files->shared)
        return WEFT_OK;
    bool moved = files->moved && move(pair->stage, files->aside, pair->bytes);
    if (!moved && !show(pair->stage, pair->bytes, files->stage))
        return WEFT_ERR_NO_MEMORY;
    files->shared = files->moved = false;
    return WEFT_OK;
}
