/* The IPC transport with host memory.
 *
 *     ipc forked     all cases, 1 to 4 processes; no descriptor is left open, no file in /dev/shm
 *     ipc threads    all cases, 1 to 4 threads of this process over loopback
 *     ipc killed     a source is killed while its memory is read; a child of it keeps its sockets open
 *     ipc stopped    a rank that does not answer, or does not come: deadlines
 *     ipc short      a rank without descriptors: all know at once
 *     ipc refused    ranks that cannot work together are named, by all of them
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "src/base/clock.h"
#include "tests/ipc/cases.h"
#include "tests/ipc/world.h"

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                  \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

static weft_transport_config_t host_config(weft_transport_t *bootstrap)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.bootstrap = bootstrap;
    config.memory = "host";
    return config;
}

static weft_transport_t *open_ipc(world_t *world, uint64_t timeout_us)
{
    weft_transport_config_t config = host_config(world_bootstrap(world));
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    config.timeout_us = timeout_us;
    if (weft_transport_open("ipc", &config, &transport, &error) != WEFT_OK)
        fprintf(stderr, "%s\n", error.message);
    return transport;
}

/* Entries of a folder whose names begin with `prefix`. */
static int count_entries(const char *folder, const char *prefix)
{
    DIR *entries = opendir(folder);
    int count = 0;
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        count += !strncmp(entry->d_name, prefix, strlen(prefix));
    if (entries)
        closedir(entries);
    return count;
}

static int run_cases(weft_transport_t *transport)
{
    cases_t cases;
    CHECK(transport, "no transport");
    const weft_transport_base_t *base = weft_transport_base(transport);
    CHECK(!strcmp(base->queue, "host") && base->device == -1, "queue %s, device %d", base->queue,
          base->device);
    int failed = !cases_run(&cases, transport);
    weft_transport_close(transport);
    CHECK(!failed, "%s", cases.note);
    return 0;
}

static int forked_rank(world_t *world)
{
    int before = count_entries("/proc/self/fd", "");
    for (int round = 0; round < 2; round++) /* the bootstrap serves more than once */
        if (run_cases(open_ipc(world, 0)))
            return 1;
    int after = count_entries("/proc/self/fd", "");
    CHECK(after == before, "%d descriptors are open, %d were", after, before);
    return 0;
}

static int run_forked(void)
{
    int failed = 0, before = count_entries("/dev/shm", "weft");
    for (uint32_t num_ranks = 1; num_ranks <= 4 && !failed; num_ranks++)
        failed = world_run(num_ranks, forked_rank);
    CHECK(failed || count_entries("/dev/shm", "weft") <= before, "files are left in /dev/shm");
    return failed;
}

/* ---- Threads ---- */

typedef struct thread_rank {
    weft_loopback_t *hub;
    uint32_t rank;
    int failed;
    pthread_t thread;
} thread_rank_t;

static void *thread_main(void *argument)
{
    thread_rank_t *rank = argument;
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *loopback = NULL, *transport = NULL;
    weft_error_t error = {0};
    config.loopback = rank->hub;
    config.rank = rank->rank;
    rank->failed = 1;
    if (weft_transport_open("loopback", &config, &loopback, &error) != WEFT_OK)
        return NULL;
    config = host_config(loopback);
    if (weft_transport_open("ipc", &config, &transport, &error) == WEFT_OK)
        rank->failed = run_cases(transport);
    else
        fprintf(stderr, "%s\n", error.message);
    weft_transport_close(loopback);
    return NULL;
}

static int run_threads(void)
{
    int failed = 0;
    for (uint32_t num_ranks = 1; num_ranks <= 4; num_ranks++) {
        thread_rank_t ranks[4];
        weft_loopback_t *hub;
        CHECK(weft_loopback_create(num_ranks, &hub) == WEFT_OK, "no hub");
        for (uint32_t i = 0; i < num_ranks; i++) {
            ranks[i] = (thread_rank_t){.hub = hub, .rank = i};
            CHECK(!pthread_create(&ranks[i].thread, NULL, thread_main, &ranks[i]), "no thread");
        }
        for (uint32_t i = 0; i < num_ranks; i++) {
            pthread_join(ranks[i].thread, NULL);
            failed |= ranks[i].failed;
        }
        weft_loopback_destroy(hub);
    }
    return failed;
}

/* ---- Death ---- */

enum { NUM_WORDS = 100000 };

typedef struct shared {
    pid_t child;
    uint32_t words[NUM_WORDS];
} shared_t;

/* Rank 1 lends, leaves a child behind that has inherited its descriptors, and waits for its death. */
static int doomed(const weft_transport_ops_t *ops, weft_transport_t *transport, weft_group_t *group)
{
    void *memory;
    weft_error_t error = {0};
    weft_op_t *op;
    CHECK(ops->alloc_lendable(transport, sizeof(shared_t), &memory, &error) == WEFT_OK, "%s", error.message);
    shared_t *shared = memory;
    for (uint32_t i = 0; i < NUM_WORDS; i++)
        shared->words[i] = i * 3;
    pid_t child = fork();
    for (; child == 0;)
        pause();
    shared->child = child;
    weft_lent_run_t run = {shared, sizeof *shared, 0};
    CHECK(ops->lend(transport, 8, &run, 1, &error) == WEFT_OK, "%s", error.message);
    CHECK(ops->broadcast_start(transport, group, 0, NULL, 1, &op) == WEFT_OK, "broadcast_start");
    for (;;)
        pause();
}

static weft_status_t wait_for(const weft_transport_ops_t *ops, weft_transport_t *transport, weft_op_t *op,
                              weft_error_t *error)
{
    uint64_t deadline_us = weft_now_us() + 10000000;
    weft_status_t status = WEFT_ERR_TIMEOUT;
    for (bool done = false; !done && weft_now_us() < deadline_us;) {
        status = ops->test(transport, op, &done, error);
        if (!done)
            status = WEFT_ERR_TIMEOUT;
    }
    return status;
}

static bool right(const shared_t *shared)
{
    for (uint32_t i = 0; i < NUM_WORDS; i++)
        if (shared->words[i] != i * 3)
            return false;
    return true;
}

static int survivor(world_t *world, const weft_transport_ops_t *ops, weft_transport_t *transport,
                    weft_group_t *group)
{
    weft_error_t error = {0};
    weft_lent_run_t run;
    weft_op_t *first, *second;
    uint64_t version, generation;
    CHECK(ops->broadcast_start(transport, group, 0, NULL, 1, &first) == WEFT_OK, "broadcast_start");
    CHECK(ops->broadcast_start(transport, group, 0, NULL, 1, &second) == WEFT_OK, "broadcast_start");
    CHECK(wait_for(ops, transport, first, &error) == WEFT_OK, "%s", error.message);
    CHECK(ops->lent(transport, 1, &version, &generation) == WEFT_OK && version == 8, "lent before the death");
    CHECK(ops->borrow(transport, 1, 0, &run, &error) == WEFT_OK, "%s", error.message);
    const shared_t *shared = run.data;
    CHECK(shared->child > 0 && right(shared), "wrong bytes before the death");
    kill(world->processes[1], SIGKILL); /* not waited for: it stays as a zombie, which must count as dead */
    uint64_t killed_us = weft_now_us();
    weft_status_t status = wait_for(ops, transport, second, &error);
    uint64_t took_us = weft_now_us() - killed_us;
    bool stays_right = right(shared);
    kill(shared->child, SIGKILL);
    CHECK(status == WEFT_ERR_PEER_LOST && strstr(error.message, "rank 1 has died"), "%s: %s",
          weft_status_name(status), error.message);
    CHECK(took_us < 2000000 && stays_right, "after the death: %llu us, bytes %s", (unsigned long long)took_us,
          stays_right ? "right" : "wrong");
    CHECK(ops->lent(transport, 1, &version, &generation) == WEFT_ERR_PEER_LOST, "lent after the death");
    printf("# the loss was seen after %llu us\n", (unsigned long long)took_us);
    return 0;
}

static int killed_rank(world_t *world)
{
    const uint32_t ranks[] = {1, 0};
    weft_error_t error = {0};
    weft_group_t *group;
    weft_transport_t *transport = open_ipc(world, 0);
    CHECK(transport, "no transport");
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    CHECK(ops->group_create(transport, 0, ranks, 2, &group, &error) == WEFT_OK, "%s", error.message);
    if (world->base.rank == 1)
        return doomed(ops, transport, group);
    world->expendable[1] = true;
    int failed = survivor(world, ops, transport, group);
    weft_transport_close(transport);
    return failed;
}

/* ---- Deadlines ---- */

/* What /proc says of a thread: its state is the field after its name, which ends with the last parenthesis. */
static char task_state(const char *tasks, const char *task)
{
    char path[400], text[256] = "";
    snprintf(path, sizeof path, "%s/%s/stat", tasks, task);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    const char *end = strrchr(text, ')');
    return end && end[1] ? end[2] : 0;
}

/* Stop a process, and wait until each of its threads has stopped: kill() returns before that, and a thread that runs on
 * another processor can go on for a while. */
static bool stop_process(pid_t process)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)process);
    if (kill(process, SIGSTOP))
        return false;
    for (int tries = 0; tries < 10000; ++tries, usleep(1000)) {
        DIR *tasks = opendir(path);
        bool running = !tasks;
        for (struct dirent *task; tasks && !running && (task = readdir(tasks));)
            running = task->d_name[0] != '.' && task_state(path, task->d_name) != 'T';
        if (tasks)
            closedir(tasks);
        if (!running)
            return true;
    }
    return false;
}

static int stopped_rank(world_t *world)
{
    static const uint32_t ranks[] = {0, 1};
    weft_transport_t *transport = open_ipc(world, 1000000);
    CHECK(transport, "no transport");
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    weft_error_t error = {0};
    weft_group_t *group;
    void *memory;
    CHECK(ops->alloc_lendable(transport, 1000, &memory, &error) == WEFT_OK, "%s", error.message);
    weft_lent_run_t run = {memory, 1000, 0};
    strcpy(memory, "hello");
    unsigned char mine = 0, all[2];
    CHECK(ops->lend(transport, 1, &run, 1, &error) == WEFT_OK, "%s", error.message);
    CHECK(ops->allgather(transport, &mine, 1, all, &error) == WEFT_OK, "%s", error.message);
    if (world->base.rank == 1)
        for (;;)
            pause();
    world->expendable[1] = true;
    CHECK(stop_process(world->processes[1]), "rank 1 does not stop");
    weft_status_t status = ops->borrow(transport, 1, 0, &run, &error);
    kill(world->processes[1], SIGCONT);
    CHECK(status == WEFT_ERR_TIMEOUT && strstr(error.message, "rank 1 did not answer"), "%s", error.message);
    CHECK(ops->borrow(transport, 1, 0, &run, &error) == WEFT_OK, "after going on: %s", error.message);
    CHECK(!strcmp(run.data, "hello"), "wrong bytes");
    status = ops->group_create(transport, 0, ranks, 2, &group, &error);
    CHECK(status == WEFT_ERR_TIMEOUT && strstr(error.message, "rank 1 did not come"), "%s", error.message);
    CHECK(ops->group_create(transport, 1, ranks, 2, &group, &error) == WEFT_ERR_CLOSED, "after a failure");
    weft_transport_close(transport);
    return 0;
}

/* ---- Out of descriptors ---- */

/* The lowest number that a new descriptor would get. */
static rlim_t next_descriptor(void)
{
    int fd = dup(STDOUT_FILENO);
    close(fd);
    return (rlim_t)fd;
}

static void limit_descriptors(rlim_t most)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = most ? most : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Rank 1 has `spare` descriptors more than it uses: all ranks open, or all learn at once why not. */
static int open_with(world_t *world, rlim_t spare, bool *opened)
{
    weft_transport_config_t config = host_config(world_bootstrap(world));
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    uint64_t start_us = weft_now_us();
    config.timeout_us = 10000000;
    if (world->base.rank == 1)
        limit_descriptors(next_descriptor() + spare);
    weft_status_t status = weft_transport_open("ipc", &config, &transport, &error);
    limit_descriptors(0);
    *opened = status == WEFT_OK;
    weft_transport_close(transport);
    CHECK(weft_now_us() - start_us < config.timeout_us / 2, "rank %u waits, %u spare: %s", world->base.rank,
          (unsigned)spare, error.message);
    CHECK(*opened || strstr(error.message, "Too many open files") || strstr(error.message, "ulimit -n"),
          "rank %u, %u spare: %s: %s", world->base.rank, (unsigned)spare, weft_status_name(status), error.message);
    CHECK(*opened || strstr(error.message, "rank 1"), "\"%s\" does not name rank 1", error.message);
    return 0;
}

static int short_rank(world_t *world)
{
    rlim_t spare = 0;
    for (bool opened = false; !opened; spare++)
        CHECK(open_with(world, spare, &opened) == 0 && spare < 50, "with %u spare", (unsigned)spare);
    CHECK(spare > 5, "no more than %u descriptors are used", (unsigned)spare);
    return 0;
}

/* What cannot be looked at is not called wrong. */
static int lend_without(world_t *world)
{
    weft_transport_t *transport = open_ipc(world, 0);
    CHECK(transport, "no transport");
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    weft_error_t error = {0};
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/weft-test-%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 4096) == 0, "no file in /dev/shm");
    weft_lent_run_t run = {mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), 4096, 0};
    close(fd);
    for (rlim_t spare = 0; spare < 2; spare++) { /* to read the maps; to open the file */
        limit_descriptors(next_descriptor() + spare);
        weft_status_t status = ops->lend(transport, 1, &run, 1, &error);
        limit_descriptors(0);
        CHECK(status == WEFT_ERR_SYSTEM && strstr(error.message, "Too many open files"), "%u spare: %s: %s",
              (unsigned)spare, weft_status_name(status), error.message);
    }
    weft_status_t status = ops->lend(transport, 1, &run, 1, &error);
    unlink(path);
    CHECK(status == WEFT_OK, "with descriptors: %s", error.message);
    munmap((void *)run.data, 4096);
    weft_transport_close(transport);
    return 0;
}

/* ---- Refusals ---- */

static int expect(world_t *world, const char *memory, weft_status_t status, const char *text)
{
    weft_transport_config_t config = host_config(world_bootstrap(world));
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    config.memory = memory;
    weft_status_t got = weft_transport_open("ipc", &config, &transport, &error);
    CHECK(got == status && !transport && strstr(error.message, text), "rank %u: %s: %s", world->base.rank,
          weft_status_name(got), error.message);
    return 0;
}

/* Rank 1 alone asks for something that is not there: rank 0 fails as well, at once, and says why. */
static int misnamed_rank(world_t *world)
{
    if (world->base.rank == 0)
        return expect(world, "host", WEFT_ERR_UNKNOWN_NAME,
                      "another rank cannot go on: rank 1: ipc: config.memory is \"x\"");
    return expect(world, "x", WEFT_ERR_UNKNOWN_NAME, "rank 1: ipc: config.memory is \"x\", not \"host\"");
}

/* Rank 1 in a container of its own, as far as the network is concerned. */
static int apart_rank(world_t *world)
{
    unsigned char apart = 0, all[2];
    weft_error_t error;
    if (world->base.rank == 1)
        apart = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
    CHECK(world_allgather(world_bootstrap(world), &apart, 1, all, &error) == WEFT_OK, "%s", error.message);
    if (!all[1]) {
        printf("# not tested: no right to make a network namespace\n");
        return 0;
    }
    return expect(world, "host", WEFT_ERR_UNSUPPORTED,
                  world->base.rank == 0 ? "rank 1 is on this host but cannot be reached"
                                        : "rank 0 is on this host but cannot be reached");
}

static int run_refused(void)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    CHECK(weft_transport_open("ipc", &config, &transport, &error) == WEFT_ERR_ARGUMENT &&
              strstr(error.message, "config.bootstrap is NULL"),
          "%s", error.message);
    return world_run(2, misnamed_rank) || world_run(2, apart_rank);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "forked";
    int failed = !strcmp(what, "forked")    ? run_forked()
                 : !strcmp(what, "threads") ? run_threads()
                 : !strcmp(what, "killed")  ? world_run(2, killed_rank)
                 : !strcmp(what, "stopped") ? world_run(2, stopped_rank)
                 : !strcmp(what, "short")   ? world_run(2, short_rank) || world_run(1, lend_without)
                 : !strcmp(what, "refused") ? run_refused()
                                            : 2;
    printf("%s %s\n", what, failed ? "failed" : "passed");
    return failed;
}
