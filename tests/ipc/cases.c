#include "tests/ipc/cases.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/clock.h"

#define PATIENCE_US 20000000u

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            return failed(cases, __LINE__, __VA_ARGS__);                                                     \
    } while (0)

#define TRY(expression)                                                                                      \
    do {                                                                                                     \
        if (!(expression))                                                                                   \
            return false;                                                                                    \
    } while (0)

#define OK(expression) CHECK((expression) == WEFT_OK, "%s: %s", #expression, error.message)

static bool failed(cases_t *cases, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

static bool failed(cases_t *cases, int line, const char *format, ...)
{
    if (cases->note[0])
        return false;
    int used = snprintf(cases->note, sizeof cases->note, "rank %u of %u, %s, line %d: ", cases->rank,
                        cases->num_ranks, cases->name, line);
    va_list args;
    va_start(args, format);
    vsnprintf(cases->note + used, sizeof cases->note - (size_t)used, format, args);
    va_end(args);
    return false;
}

/* All ranks come to here before any goes on. */
static bool meet(cases_t *cases)
{
    weft_error_t error = {0};
    unsigned char mine = 1, all[64];
    OK(cases->ops->allgather(cases->transport, &mine, 1, all, &error));
    return true;
}

/* ---- Counters ---- */

static bool all_ranks(cases_t *cases, uint32_t id, weft_group_t **group)
{
    weft_error_t error = {0};
    uint32_t ranks[64];
    for (uint32_t i = 0; i < cases->num_ranks; i++)
        ranks[i] = i;
    OK(cases->ops->group_create(cases->transport, id, ranks, cases->num_ranks, group, &error));
    return true;
}

static bool start(cases_t *cases, weft_group_t *group, uint32_t root, weft_op_t **op)
{
    weft_status_t status = cases->ops->broadcast_start(cases->transport, group, root, NULL, 1000, op);
    CHECK(status == WEFT_OK, "broadcast_start: %s", weft_status_name(status));
    return true;
}

static bool is_done(cases_t *cases, weft_op_t *op, bool expected)
{
    weft_error_t error = {0};
    bool done;
    OK(cases->ops->test(cases->transport, op, &done, &error));
    CHECK(done == expected, "the operation is %s", done ? "done too early" : "not done");
    return true;
}

/* Three buckets, step by step: none is there before the root's start, none is over before the last
 * acknowledge. */
static bool test_counters(cases_t *cases)
{
    weft_group_t *group;
    weft_op_t *ops[3], *refused;
    bool gives = cases->rank == 0;
    TRY(all_ranks(cases, 7, &group));
    for (int i = 0; i < 3 && !gives; i++) {
        TRY(start(cases, group, 0, &ops[i]));
        TRY(is_done(cases, ops[i], false));
    }
    TRY(meet(cases));
    for (int i = 0; i < 2 && gives; i++)
        TRY(start(cases, group, 0, &ops[i]));
    TRY(meet(cases));
    if (!gives) {
        TRY(is_done(cases, ops[2], false));
        TRY(is_done(cases, ops[0], true));
        TRY(is_done(cases, ops[1], true));
    } else {
        TRY(is_done(cases, ops[0], cases->num_ranks == 1));
    }
    TRY(meet(cases));
    if (!gives)
        cases->ops->acknowledge(cases->transport, group);
    TRY(meet(cases));
    if (gives && cases->num_ranks > 1) {
        TRY(is_done(cases, ops[1], false));
        TRY(is_done(cases, ops[0], true));
        TRY(start(cases, group, 0, &ops[2]));
    }
    TRY(meet(cases));
    if (!gives) {
        TRY(is_done(cases, ops[2], true));
        cases->ops->acknowledge(cases->transport, group);
        cases->ops->acknowledge(cases->transport, group);
    }
    TRY(meet(cases));
    if (gives)
        TRY(is_done(cases, ops[1], true));
    if (gives && cases->num_ranks > 1)
        TRY(is_done(cases, ops[2], true));
    uint32_t other = cases->num_ranks > 1 ? 1 : 5;
    CHECK(cases->ops->broadcast_start(cases->transport, group, other, NULL, 1, &refused) == WEFT_ERR_ARGUMENT,
          "another root, or one out of range, was accepted");
    cases->ops->group_destroy(cases->transport, group);
    return true;
}

static bool finish(cases_t *cases, weft_op_t *op)
{
    weft_error_t error = {0};
    uint64_t deadline_us = weft_now_us() + PATIENCE_US;
    for (bool done = false; !done;) {
        OK(cases->ops->test(cases->transport, op, &done, &error));
        CHECK(weft_now_us() < deadline_us, "an operation does not end");
    }
    return true;
}

/* Without steps in between: 500 buckets, at most `ahead` of them in flight. */
static bool stream(cases_t *cases, weft_group_t *group, uint32_t root, bool gives)
{
    enum { ahead = 8 };
    weft_op_t *ops[ahead];
    for (int i = 0; i < 500 + ahead; i++) {
        if (i >= ahead)
            TRY(finish(cases, ops[i % ahead]));
        if (i >= ahead && !gives)
            cases->ops->acknowledge(cases->transport, group);
        if (i < 500)
            TRY(start(cases, group, root, &ops[i % ahead]));
    }
    return true;
}

/* Group ids come again, in groups of other ranks and roots, as when a second session is opened. */
static bool test_groups_again(cases_t *cases)
{
    for (uint32_t round = 0; round < 12; round++) {
        uint32_t left_out = cases->num_ranks > 2 ? round % cases->num_ranks : UINT32_MAX;
        uint32_t ranks[64], count = 0;
        for (uint32_t i = 0; i < cases->num_ranks; i++)
            if ((i + round) % cases->num_ranks != left_out)
                ranks[count++] = (i + round) % cases->num_ranks;
        if (cases->rank == left_out)
            continue;
        weft_group_t *group;
        weft_error_t error = {0};
        OK(cases->ops->group_create(cases->transport, round % 2, ranks, count, &group, &error));
        uint32_t root = round % count;
        if (round % 5 != 3) /* now and then nothing is sent */
            TRY(stream(cases, group, root, ranks[root] == cases->rank));
        cases->ops->group_destroy(cases->transport, group);
    }
    return meet(cases);
}

/* ---- Lending ---- */

#define WORDS 5000

static uint32_t word(uint32_t rank, uint32_t salt, uint32_t i)
{
    return (rank * 31 + salt) * 0x9E3779B1u + i;
}

static void fill(uint32_t *words, uint32_t rank, uint32_t salt)
{
    for (uint32_t i = 0; i < WORDS; i++)
        words[i] = word(rank, salt, i);
}

/* Borrow run `index` of `source` and compare: it begins `skip` words behind what fill wrote. */
static bool look(cases_t *cases, uint32_t source, uint32_t index, uint32_t salt, uint32_t skip)
{
    weft_error_t error = {0};
    weft_lent_run_t run;
    OK(cases->ops->borrow(cases->transport, source, index, &run, &error));
    const uint32_t *words = run.data;
    uint64_t count = run.bytes / sizeof *words;
    CHECK(count + skip == WORDS && run.ld_elems == 40 + index, "run %u has %llu bytes, ld %llu", index,
          (unsigned long long)run.bytes, (unsigned long long)run.ld_elems);
    for (uint32_t i = 0; i < count; i++)
        CHECK(words[i] == word(source, salt, i + skip), "word %u of run %u of rank %u is %u", i, index,
              source, words[i]);
    return true;
}

static bool shows(cases_t *cases, uint32_t source, uint64_t version, uint64_t generation)
{
    uint64_t v, g;
    CHECK(cases->ops->lent(cases->transport, source, &v, &g) == WEFT_OK, "lent failed");
    CHECK(v == version && (g == generation || generation == 0),
          "rank %u lends version %llu, generation %llu; expected %llu, %llu", source, (unsigned long long)v,
          (unsigned long long)g, (unsigned long long)version, (unsigned long long)generation);
    return true;
}

static weft_lent_run_t run_of(const uint32_t *words, uint32_t index, uint32_t skip)
{
    return (weft_lent_run_t){words + skip, (WORDS - skip) * sizeof *words, 40 + index};
}

static bool look_at_all(cases_t *cases, uint64_t version, uint64_t generation, uint32_t salt, uint32_t skip)
{
    weft_error_t error = {0};
    weft_lent_run_t none;
    TRY(meet(cases));
    for (uint32_t source = 0; source < cases->num_ranks; source++) {
        TRY(shows(cases, source, version, generation));
        TRY(look(cases, source, 0, salt, skip));
        OK(cases->ops->borrow(cases->transport, source, 1, &none, &error));
        CHECK(!none.data && none.bytes == 0, "run 1 is not empty");
        TRY(look(cases, source, 2, salt, 0));
        CHECK(cases->ops->borrow(cases->transport, source, 3, &none, &error) == WEFT_ERR_ARGUMENT,
              "run 3 of 3");
        TRY(shows(cases, source, version, generation));
    }
    return meet(cases);
}

/* Everybody lends, everybody reads: one generation while the runs stay, the next when one of them moves, or
 * when other memory is at the same address. */
static bool test_lend(cases_t *cases)
{
    weft_error_t error = {0};
    void *a, *b;
    TRY(shows(cases, cases->rank, 0, 0));
    OK(cases->ops->alloc_lendable(cases->transport, WORDS * sizeof(uint32_t), &a, &error));
    OK(cases->ops->alloc_lendable(cases->transport, WORDS * sizeof(uint32_t), &b, &error));
    for (size_t i = 0; i < WORDS * sizeof(uint32_t); i++)
        CHECK(((char *)a)[i] == 0, "alloc_lendable is not zeroed");
    weft_lent_run_t runs[3] = {run_of(a, 0, 17), {NULL, 0, 0}, run_of(b, 2, 0)};
    fill(a, cases->rank, 1);
    fill(b, cases->rank, 1);
    OK(cases->ops->lend(cases->transport, 3, runs, 3, &error));
    TRY(look_at_all(cases, 3, 1, 1, 17));
    cases->ops->unlend(cases->transport);
    TRY(meet(cases));
    for (uint32_t source = 0; source < cases->num_ranks; source++)
        TRY(shows(cases, source, 0, 0));
    TRY(meet(cases));
    fill(a, cases->rank, 2);
    fill(b, cases->rank, 2);
    OK(cases->ops->lend(cases->transport, 4, runs, 3, &error));
    TRY(look_at_all(cases, 4, 1, 2, 17));
    runs[0] = run_of(a, 0, 18);
    OK(cases->ops->lend(cases->transport, 5, runs, 3, &error));
    TRY(look_at_all(cases, 5, 2, 2, 18));
    cases->ops->unlend(cases->transport);
    cases->ops->free_lendable(cases->transport, a);
    OK(cases->ops->alloc_lendable(cases->transport, WORDS * sizeof(uint32_t), &a, &error));
    runs[0] = run_of(a, 0, 18); /* most likely where it was */
    fill(a, cases->rank, 2);
    OK(cases->ops->lend(cases->transport, 6, runs, 3, &error));
    TRY(look_at_all(cases, 6, 3, 2, 18));
    cases->ops->unlend(cases->transport);
    cases->ops->free_lendable(cases->transport, a);
    cases->ops->free_lendable(cases->transport, NULL);
    return meet(cases); /* b is left to close */
}

/* More allocations than one reply has room for. */
static bool test_many(cases_t *cases)
{
    enum { many = 150 };
    weft_error_t error = {0};
    weft_lent_run_t runs[many], run;
    void *memory[many];
    for (uint32_t i = 0; i < many; i++) {
        OK(cases->ops->alloc_lendable(cases->transport, 64 + i, &memory[i], &error));
        *(uint32_t *)memory[i] = word(cases->rank, 9, i);
        runs[i] = (weft_lent_run_t){memory[i], 64 + i, i};
    }
    OK(cases->ops->lend(cases->transport, 20, runs, many, &error));
    TRY(meet(cases));
    for (uint32_t source = 0; source < cases->num_ranks; source++)
        for (uint32_t i = 0; i < many; i++) {
            OK(cases->ops->borrow(cases->transport, source, i, &run, &error));
            CHECK(run.bytes == 64 + i && *(const uint32_t *)run.data == word(source, 9, i),
                  "run %u of rank %u", i, source);
        }
    TRY(meet(cases));
    cases->ops->unlend(cases->transport);
    for (uint32_t i = 0; i < many; i++)
        cases->ops->free_lendable(cases->transport, memory[i]);
    return meet(cases);
}

/* A mapping of a file in /dev/shm, made by whatever the trainer uses. The kernel shows it in three areas. */
static void *map_file(cases_t *cases, char *path, size_t path_bytes, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    snprintf(path, path_bytes, "/dev/shm/weft-test-%d-%u", (int)getpid(), cases->rank);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)(bytes + page)))
        return MAP_FAILED;
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)page);
    close(fd);
    return mapped;
}

static bool test_file(cases_t *cases)
{
    weft_error_t error = {0};
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (WORDS * sizeof(uint32_t) + page - 1) / page * page;
    char path[64];
    uint32_t *words = map_file(cases, path, sizeof path, bytes);
    CHECK(words != MAP_FAILED, "cannot map %s", path);
    fill(words, cases->rank, 5);
    mprotect((char *)words + page, page, PROT_READ);
    weft_lent_run_t run = run_of(words, 0, 3);
    weft_status_t status = cases->ops->lend(cases->transport, 30, &run, 1, &error);
    if (status == WEFT_OK)
        status = cases->ops->lend(cases->transport, 31, &run, 1, &error);
    unlink(path);
    CHECK(status == WEFT_OK, "%s", error.message);
    TRY(meet(cases));
    for (uint32_t source = 0; source < cases->num_ranks; source++)
        TRY(shows(cases, source, 31, 5) && look(cases, source, 0, 5, 3));
    TRY(meet(cases));
    mprotect((char *)words + page, page, PROT_READ | PROT_WRITE);
    fill(words, cases->rank, 6); /* through the mapping that was lent */
    TRY(meet(cases));
    for (uint32_t source = 0; source < cases->num_ranks; source++)
        TRY(look(cases, source, 0, 6, 3));
    TRY(meet(cases));
    cases->ops->unlend(cases->transport);
    munmap(words, bytes);
    return meet(cases);
}

/* ---- Refusals ---- */

static bool refuses(cases_t *cases, const weft_lent_run_t *runs, uint32_t count, const char *text)
{
    weft_error_t error = {0};
    char name[32];
    snprintf(name, sizeof name, "rank %u: ipc: run %u", cases->rank, count - 1);
    weft_status_t status = cases->ops->lend(cases->transport, 40, runs, count, &error);
    CHECK(status == WEFT_ERR_ARGUMENT, "lend: %s, not refused because %s", weft_status_name(status), text);
    CHECK(strstr(error.message, name) && strstr(error.message, text), "\"%s\" does not say %s", error.message,
          text);
    return shows(cases, cases->rank, 0, 0);
}

static bool test_refusals(cases_t *cases)
{
    weft_error_t error = {0};
    char path[64];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *good, *private = malloc(100), *deleted = map_file(cases, path, sizeof path, page);
    unlink(path);
    OK(cases->ops->alloc_lendable(cases->transport, page, &good, &error));
    weft_lent_run_t runs[2] = {{good, page, 0}, {private, 100, 0}}, run;
    TRY(refuses(cases, runs, 2, "private memory (malloc"));
    runs[1] = (weft_lent_run_t){deleted, 100, 0};
    TRY(refuses(cases, runs, 2, "cannot be opened by its name"));
    runs[1] = (weft_lent_run_t){good, page + 1, 0};
    TRY(refuses(cases, runs, 2, "ends 1 bytes behind its allocation"));
    runs[1] = (weft_lent_run_t){(void *)64, 100, 0};
    TRY(refuses(cases, runs, 2, "no host memory"));
    CHECK(cases->ops->lend(cases->transport, 0, runs, 1, &error) == WEFT_ERR_ARGUMENT, "version 0");
    OK(cases->ops->lend(cases->transport, 41, runs, 1, &error));
    cases->ops->unlend(cases->transport);
    TRY(meet(cases));
    uint32_t source = (cases->rank + 1) % cases->num_ranks;
    if (source != cases->rank) {
        weft_status_t status = cases->ops->borrow(cases->transport, source, 0, &run, &error);
        CHECK(status == WEFT_ERR_ABORTED && strstr(error.message, "taken back"), "borrow after unlend: %s",
              error.message);
    }
    weft_op_t *op;
    CHECK(cases->ops->borrow(cases->transport, cases->num_ranks, 0, &run, &error) == WEFT_ERR_ARGUMENT,
          "no such rank");
    CHECK(cases->ops->send_start(cases->transport, 0, NULL, 0, &op) == WEFT_ERR_UNSUPPORTED, "send_start");
    CHECK(cases->ops->recv_start(cases->transport, 0, NULL, 0, &op) == WEFT_ERR_UNSUPPORTED, "recv_start");
    munmap(deleted, page);
    free(private);
    return meet(cases);
}

/* ---- Nothing torn is taken for whole ---- */

/* Rank 0 overwrites what it lends without asking anybody. Whoever reads and then still sees the version has
 * read it whole. Words are accessed one by one as volatile: this race is meant. */
static bool test_torn(cases_t *cases)
{
    weft_error_t error = {0};
    void *memory;
    OK(cases->ops->alloc_lendable(cases->transport, WORDS * sizeof(uint32_t), &memory, &error));
    weft_lent_run_t run = {memory, WORDS * sizeof(uint32_t), 0};
    _Atomic uint32_t *own = memory;
    uint64_t end_us = weft_now_us() + 300000, version, generation;
    unsigned whole = 0;
    for (uint32_t v = 50; cases->rank == 0 && weft_now_us() < end_us; v++) {
        for (uint32_t i = 0; i < WORDS; i++)
            atomic_store_explicit(&own[i], v, memory_order_relaxed);
        OK(cases->ops->lend(cases->transport, v, &run, 1, &error));
        for (uint64_t wait_us = weft_now_us() + v % 50; weft_now_us() < wait_us;)
            ;
        cases->ops->unlend(cases->transport);
    }
    while (cases->rank > 0 && weft_now_us() < end_us) {
        CHECK(cases->ops->lent(cases->transport, 0, &version, &generation) == WEFT_OK, "lent");
        weft_status_t status =
            version ? cases->ops->borrow(cases->transport, 0, 0, &run, &error) : WEFT_ERR_ABORTED;
        CHECK(status == WEFT_OK || status == WEFT_ERR_ABORTED, "borrow: %s", error.message);
        if (status != WEFT_OK)
            continue;
        const _Atomic uint32_t *words = run.data;
        uint32_t first = atomic_load_explicit(&words[0], memory_order_relaxed), wrong = 0;
        for (uint32_t i = 0; i < WORDS; i++)
            wrong += atomic_load_explicit(&words[i], memory_order_relaxed) != first;
        uint64_t after;
        CHECK(cases->ops->lent(cases->transport, 0, &after, &generation) == WEFT_OK, "lent");
        if (after != version)
            continue;
        CHECK(wrong == 0 && first == version, "%u words of version %llu are of another", wrong,
              (unsigned long long)version);
        whole++;
    }
    if (cases->rank == 1)
        printf("# %u versions read whole\n", whole);
    return meet(cases);
}

/* ---- Abort ---- */

static bool fails(cases_t *cases, weft_op_t *op, const char *text)
{
    weft_error_t error = {0};
    weft_status_t status = WEFT_OK;
    uint64_t deadline_us = weft_now_us() + PATIENCE_US;
    for (bool done = false; !done;) {
        status = cases->ops->test(cases->transport, op, &done, &error);
        CHECK(weft_now_us() < deadline_us, "the operation does not fail");
    }
    CHECK(status == WEFT_ERR_PEER_LOST && strstr(error.message, text), "%s: %s", weft_status_name(status),
          error.message);
    return true;
}

/* Rank 0 aborts with a bucket in flight. */
static bool test_abort(cases_t *cases)
{
    weft_error_t error = {0};
    weft_group_t *group;
    weft_op_t *ops[2];
    uint64_t version, generation;
    TRY(all_ranks(cases, 9, &group));
    TRY(start(cases, group, 0, &ops[0]));
    if (cases->rank > 0)
        TRY(finish(cases, ops[0]));
    TRY(meet(cases));
    if (cases->rank == 0) {
        CHECK(cases->ops->abort(cases->transport), "buffers may not be used again");
        CHECK(cases->ops->broadcast_start(cases->transport, group, 0, NULL, 1, ops) == WEFT_ERR_CLOSED,
              "after abort");
        CHECK(cases->ops->lend(cases->transport, 99, NULL, 0, &error) == WEFT_ERR_CLOSED, "lend after abort");
        return true;
    }
    TRY(start(cases, group, 0, &ops[1]));
    TRY(fails(cases, ops[1], "rank 0 has aborted before it had offered bucket 2"));
    CHECK(cases->ops->lent(cases->transport, 0, &version, &generation) == WEFT_ERR_PEER_LOST,
          "lent of an aborted rank");
    return true;
}

/* ---- All ---- */

bool cases_run(cases_t *cases, weft_transport_t *transport)
{
    static const struct {
        const char *name;
        bool (*run)(cases_t *cases);
    } all[] = {
        {"counters", test_counters}, {"groups_again", test_groups_again},
        {"lend", test_lend},         {"many", test_many},
        {"file", test_file},         {"refusals", test_refusals},
        {"torn", test_torn},         {"abort", test_abort},
    };
    *cases = (cases_t){.transport = transport,
                       .ops = weft_transport_table(transport),
                       .rank = weft_transport_rank(transport),
                       .num_ranks = weft_transport_num_ranks(transport)};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        cases->name = all[i].name;
        if (!all[i].run(cases)) {
            cases->ops->abort(transport);
            return false;
        }
    }
    return true;
}
