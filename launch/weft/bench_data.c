/* Where a benchmark runs, and weight-like numbers for it. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/arith.h"
#include "launch/weft/bench.h"
#include "src/base/error.h"

#define BLOCK_ELEMS                                                                                          \
    33554393u /* a prime below 2^25: rows of a tensor begin at ever other places of the block */

/* ---- words ---- */

const char *bench_join(int argc, char **argv, char *line, size_t bytes)
{
    size_t used = 0;
    line[0] = '\0';
    for (int i = 1; i < argc && used < bytes; i++)
        used += (size_t)snprintf(line + used, bytes - used, " %s", argv[i]);
    return line;
}

bool bench_next_word(const char **list, char *word, size_t bytes)
{
    size_t length = strcspn(*list, ",");
    if (!**list)
        return false;
    snprintf(word, bytes, "%.*s", (int)length, *list);
    *list += length + ((*list)[length] == ',');
    return true;
}

/* ---- place ---- */

/* The text behind "KEY ... :" in a file of such lines. */
static bool find_line(const char *path, const char *key, char *text, size_t bytes)
{
    char line[256];
    FILE *file = fopen(path, "r");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        found = strncmp(line, key, strlen(key)) == 0 && colon;
        if (!found)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(text, bytes, "%.*s", (int)strcspn(colon, "\n"), colon);
    }
    if (file)
        fclose(file);
    return found;
}

const char *bench_place(const char *queue, int device, char *text, size_t bytes)
{
    char bus_id[WEFT_BUS_ID_BYTES], path[128], name[128] = "";
    int number;
    if (weft_queue_find(queue, device, &number, bus_id)) {
        for (char *c = bus_id; *c; c++)
            *c = (char)tolower((unsigned char)*c);
        snprintf(path, sizeof path, "/proc/driver/nvidia/gpus/%s/information", bus_id);
        find_line(path, "Model", name, sizeof name);
        snprintf(text, bytes, "GPU %d at %s %s", number, bus_id, name);
        return text;
    }
    find_line("/proc/cpuinfo", "model name", name, sizeof name);
    snprintf(text, bytes, "%ld cores, %s; compiler %s", sysconf(_SC_NPROCESSORS_ONLN),
             name[0] ? name : "of an unknown kind", __VERSION__);
    return text;
}

const char *bench_memory(const char *given)
{
    if (given)
        return given;
    return weft_queue_available("cuda") ? "cuda" : "host";
}

weft_status_t bench_settle(weft_queue_t *queue)
{
    uint64_t ticket;
    WEFT_TRY(queue->ops->mark(queue, &ticket));
    return weft_queue_wait(queue, ticket);
}

/* ---- numbers ---- */

/* Four 16-bit numbers added up are near-normal. */
static uint16_t next_weight(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    x ^= x >> 31;
    float sum =
        (float)(x & 0xFFFF) + (float)(x >> 16 & 0xFFFF) + (float)(x >> 32 & 0xFFFF) + (float)(x >> 48);
    return weft_bf16_from_f32((sum - 131070.0f) * (0.02f * 1.7320508f / 65536.0f));
}

weft_status_t bench_random_create(bench_random_t *random, uint64_t most, weft_error_t *error)
{
    uint64_t state = 1;
    random->count = most < BLOCK_ELEMS ? most | 1 : BLOCK_ELEMS;
    random->elems = malloc(random->count * sizeof *random->elems);
    if (!random->elems)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for %llu random numbers",
                         (unsigned long long)random->count);
    for (uint64_t i = 0; i < random->count; i++)
        random->elems[i] = next_weight(&state);
    return WEFT_OK;
}

void bench_random_destroy(bench_random_t *random)
{
    free(random->elems);
    *random = (bench_random_t){0};
}

uint64_t bench_random_start(const bench_random_t *random, uint64_t index, uint64_t seed)
{
    return (index * 1000003 + seed * 7654321) % random->count;
}

/* The longest run from place `from` on, no longer than `count`. */
static const uint16_t *next_run(const bench_random_t *random, uint64_t from, uint64_t count, uint64_t *run)
{
    uint64_t at = from % random->count;
    *run = random->count - at < count ? random->count - at : count;
    return random->elems + at;
}

void bench_random_copy(const bench_random_t *random, uint64_t from, uint64_t count, uint16_t *out)
{
    for (uint64_t done = 0, run; done < count; done += run) {
        const uint16_t *data = next_run(random, from + done, count - done, &run);
        memcpy(out + done, data, run * sizeof *out);
    }
}

weft_status_t bench_random_write(const bench_random_t *random, uint64_t from, uint64_t count,
                                 weft_queue_t *queue, void *out)
{
    for (uint64_t done = 0, run; done < count; done += run) {
        const uint16_t *data = next_run(random, from + done, count - done, &run);
        WEFT_TRY(queue->ops->write(queue, (uint16_t *)out + done, data, run * sizeof *data));
    }
    return WEFT_OK;
}

double bench_compare(const void *found, const void *expected, size_t bytes)
{
    const uint8_t *a = found, *b = expected;
    size_t wrong = 0;
    if (memcmp(a, b, bytes) == 0)
        return 0;
    for (size_t i = 0; i < bytes; i++)
        wrong += a[i] != b[i];
    return (double)wrong;
}

weft_status_t bench_random_check(const bench_random_t *random, uint64_t from, uint64_t count,
                                 weft_queue_t *queue, const void *memory, double *wrong)
{
    uint16_t *found = malloc(random->count * sizeof *found);
    weft_status_t status = found ? WEFT_OK : WEFT_ERR_NO_MEMORY;
    for (uint64_t done = 0, run; done < count && status == WEFT_OK; done += run) {
        const uint16_t *expected = next_run(random, from + done, count - done, &run);
        status = queue->ops->read(queue, (const uint16_t *)memory + done, found, run * sizeof *found);
        if (status == WEFT_OK)
            *wrong += bench_compare(found, expected, run * sizeof *found);
    }
    free(found);
    return status;
}
