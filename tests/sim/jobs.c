/* Many schedules on several processes. Which process runs a seed changes nothing: a schedule knows its seed alone, counters
 * are sums, and what is reported is the lowest seed that fails, as if one process had run them in order. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/jobs.h"

/* Seen by all processes. */
typedef struct board {
    _Atomic uint64_t failed; /* the lowest index whose schedule failed so far; `count`: none */
    sim_coverage_t coverage[];
} board_t;

static void note_failure(board_t *board, uint64_t index)
{
    uint64_t lowest = atomic_load(&board->failed);
    while (index < lowest && !atomic_compare_exchange_weak(&board->failed, &lowest, index))
        ;
}

/* Every `jobs`th schedule, up to the lowest that fails. */
static void run_share(const sim_options_t *options, uint64_t count, uint32_t job, uint32_t jobs, board_t *board)
{
    sim_options_t mine = *options;
    for (uint64_t i = job; i < count && i < atomic_load_explicit(&board->failed, memory_order_relaxed); i += jobs) {
        mine.seed = options->seed + i;
        if (sim_run(&mine, &board->coverage[job]) != NULL)
            note_failure(board, i);
    }
}

/* **Returns** false when a process could not be started, or died. */
static bool run_all(const sim_options_t *options, uint64_t count, uint32_t jobs, board_t *board)
{
    uint32_t started = 0;
    fflush(NULL); /* or each of them prints it */
    for (; started < jobs; started++) {
        pid_t pid = fork();
        if (pid == 0) {
            run_share(options, count, started, jobs, board);
            _exit(0);
        }
        if (pid < 0)
            break;
    }
    bool whole = started == jobs;
    for (int status; started > 0; started--)
        whole &= wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return whole;
}

static void add(sim_coverage_t *sum, const sim_coverage_t *part)
{
#define X(id) sum->id += part->id;
    SIM_COVERAGE_LIST(X)
#undef X
}

const char *sim_run_many(sim_options_t *options, uint64_t count, uint32_t jobs, sim_coverage_t *coverage, uint64_t *runs)
{
    size_t bytes = sizeof(board_t) + jobs * sizeof(sim_coverage_t);
    board_t *board = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        return strerror(errno);
    board->failed = count;
    if (jobs == 1)
        run_share(options, count, 0, 1, board);
    else if (!run_all(options, count, jobs, board))
        return "a process of the simulator could not be started, or died";
    for (uint32_t job = 0; job < jobs; job++)
        add(coverage, &board->coverage[job]);
    bool failed = board->failed < count;
    *runs = failed ? board->failed + 1 : count;
    options->seed += board->failed;
    munmap(board, bytes);
    sim_coverage_t again = {0}; /* what failed elsewhere fails here as well, and says why */
    return failed ? sim_run(options, &again) : NULL;
}
