#include "src/swap/weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/array.h"
#include "src/base/error.h"

typedef struct bound_range {
    uint64_t offset, bytes;
    uint8_t *memory;
} bound_range_t;

typedef struct swap_mode {
    const char *name;
    weft_status_t (*create)(weft_weights_t *weights);
    weft_status_t (*swap)(weft_weights_t *weights);
    bool takes_bound; /* the live range may be the caller's memory */
} swap_mode_t;

struct weft_weights {
    const swap_mode_t *mode;
    size_t bytes;  /* of one range, whole pages */
    uint64_t size; /* of what was asked for */
    uint8_t *live, *stage;
    int live_file, stage_file;       /* flip: memfds behind the ranges; -1 */
    WEFT_ARRAY(bound_range_t) bound; /* copy: sorted by offset */
};

static uint8_t *map(size_t bytes, int file)
{
    int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static weft_status_t copy_create(weft_weights_t *w)
{
    w->live = map(w->bytes, -1);
    w->stage = map(w->bytes, -1);
    return w->live && w->stage ? WEFT_OK : WEFT_ERR_NO_MEMORY;
}

static weft_status_t copy_swap(weft_weights_t *w)
{
    uint64_t at = 0;
    for (size_t i = 0; i < w->bound.count; i++) {
        const bound_range_t *range = &w->bound.items[i];
        memcpy(w->live + at, w->stage + at, range->offset - at);
        memcpy(range->memory, w->stage + range->offset, range->bytes);
        at = range->offset + range->bytes;
    }
    memcpy(w->live + at, w->stage + at, w->bytes - at);
    return WEFT_OK;
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

static weft_status_t flip_create(weft_weights_t *w)
{
    w->live_file = make_file(w->bytes);
    w->stage_file = make_file(w->bytes);
    if (w->live_file < 0 || w->stage_file < 0)
        return WEFT_ERR_SYSTEM;
    w->live = map(w->bytes, w->live_file);
    w->stage = map(w->bytes, w->stage_file);
    return w->live && w->stage ? WEFT_OK : WEFT_ERR_NO_MEMORY;
}

/* Replace what `range` shows. MAP_FIXED exchanges the mapping in one step, so the range is never a hole; the
 * pages are entered at once, because the next decode step touches all of them. */
static bool show(uint8_t *range, size_t bytes, int file)
{
    return mmap(range, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, file, 0) !=
           MAP_FAILED;
}

static weft_status_t flip_swap(weft_weights_t *w)
{
    if (!show(w->live, w->bytes, w->stage_file))
        return WEFT_ERR_SYSTEM;
    if (!show(w->stage, w->bytes, w->live_file)) {
        show(w->live, w->bytes, w->live_file);
        return WEFT_ERR_SYSTEM;
    }
    int file = w->live_file;
    w->live_file = w->stage_file;
    w->stage_file = file;
    return WEFT_OK;
}

static const swap_mode_t modes[] = {
    {.name = "copy", .create = copy_create, .swap = copy_swap, .takes_bound = true},
    {.name = "flip", .create = flip_create, .swap = flip_swap},
};

static const swap_mode_t *find_mode(const char *name)
{
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(modes[i].name, name) == 0)
            return &modes[i];
    return NULL;
}

weft_status_t weft_weights_create(const char *mode, uint64_t bytes, weft_weights_t **weights,
                                  weft_error_t *error)
{
    const swap_mode_t *found = find_mode(mode);
    if (!found)
        return weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
                         "swap mode \"%s\" is not known; there are copy and flip", mode);
    weft_weights_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for the weights");
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *made = (weft_weights_t){.mode = found, .live_file = -1, .stage_file = -1};
    made->size = bytes;
    made->bytes = (bytes + page) / page * page;
    weft_status_t status = found->create(made);
    if (status != WEFT_OK) {
        weft_fail(error, status, "two ranges of %zu bytes for kernel-format weights cannot be made (%s): %s",
                  made->bytes, mode, strerror(errno));
        weft_weights_destroy(made);
        return status;
    }
    *weights = made;
    return WEFT_OK;
}

void weft_weights_destroy(weft_weights_t *w)
{
    if (!w)
        return;
    if (w->live)
        munmap(w->live, w->bytes);
    if (w->stage)
        munmap(w->stage, w->bytes);
    if (w->live_file >= 0)
        close(w->live_file);
    if (w->stage_file >= 0)
        close(w->stage_file);
    free(w->bound.items);
    free(w);
}

static bool is_bound(const weft_weights_t *w, uint64_t offset, uint64_t bytes)
{
    for (size_t i = 0; i < w->bound.count; i++) {
        const bound_range_t *range = &w->bound.items[i];
        if (range->offset < offset + bytes && offset < range->offset + range->bytes)
            return true;
    }
    return false;
}

weft_status_t weft_weights_bind(weft_weights_t *w, uint64_t offset, uint64_t bytes, void *memory,
                                weft_error_t *error)
{
    if (!w->mode->takes_bound)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "swap mode %s owns its memory: use get, or swap mode copy",
                         w->mode->name);
    if (offset > w->size || bytes > w->size - offset)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "a binding of %llu bytes at %llu lies outside of the weights",
                         (unsigned long long)bytes, (unsigned long long)offset);
    if (is_bound(w, offset, bytes))
        return weft_fail(error, WEFT_ERR_ARGUMENT, "%llu bytes at %llu are bound already, in part or whole",
                         (unsigned long long)bytes, (unsigned long long)offset);
    if (!WEFT_ARRAY_PUSH(&w->bound, (bound_range_t){offset, bytes, memory}))
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a binding");
    for (size_t i = w->bound.count - 1; i > 0 && w->bound.items[i - 1].offset > offset; i--) {
        bound_range_t swap = w->bound.items[i];
        w->bound.items[i] = w->bound.items[i - 1];
        w->bound.items[i - 1] = swap;
    }
    return WEFT_OK;
}

void *weft_weights_live(const weft_weights_t *w, uint64_t offset)
{
    for (size_t i = 0; i < w->bound.count; i++) {
        const bound_range_t *range = &w->bound.items[i];
        if (offset >= range->offset && offset - range->offset < range->bytes)
            return range->memory + (offset - range->offset);
    }
    return w->live + offset;
}

uint8_t *weft_weights_stage(const weft_weights_t *w)
{
    return w->stage;
}

weft_status_t weft_weights_swap(weft_weights_t *w, weft_error_t *error)
{
    weft_status_t status = w->mode->swap(w);
    if (status != WEFT_OK)
        weft_fail(error, status, "swap mode %s: the system refused to remap %zu bytes: %s", w->mode->name,
                  w->bytes, strerror(errno));
    return status;
}

const char *weft_weights_mode(const weft_weights_t *w)
{
    return w->mode->name;
}
