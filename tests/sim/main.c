/* sim [--seed S] [--count N] [--jobs N] [--verbose] [--deaths] [--die NODE,ACTION] [--faults a,b,... | none] [--density PERCENT] [--mutate NAME]
 *
 * Exit 0: every schedule held and every counter was hit; with --mutate: a schedule noticed the broken rule.
 * Exit 1: otherwise. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "tests/sim/jobs.h"

extern weft_mutation_t weft_mutation;

#define TRACE_LINES 150    /* of the end of a schedule that failed */
#define FULL_COUNT 100000  /* schedules that meet every counted event; the rarest comes once in some 8,000 */

typedef struct arguments {
    sim_options_t options;
    uint64_t count;
    uint32_t jobs;
    bool deaths;
    const char *mutation, *faults;
} arguments_t;

static bool parse_mutation(const char *name)
{
#define X(id, text)                                                                                          \
    if (strcmp(name, text) == 0) {                                                                           \
        weft_mutation = WEFT_MUTATION_##id;                                                                  \
        return true;                                                                                         \
    }
    WEFT_MUTATION_LIST(X)
#undef X
    fprintf(stderr, "sim: no mutation is called %s\n", name);
    return false;
}

static unsigned parse_faults(const char *list)
{
    unsigned faults = 0;
#define X(id, text) faults |= strstr(list, text) != NULL ? (unsigned)SIM_FAULT_##id : 0u;
    SIM_FAULT_LIST(X)
#undef X
    return strcmp(list, "all") == 0 ? (unsigned)SIM_FAULT_ALL : faults;
}

static bool parse_death(const char *value, sim_options_t *options)
{
    char *end;
    options->dies = true;
    options->dies_node = (uint32_t)strtoul(value, &end, 0);
    options->dies_after = *end == ',' ? strtoull(end + 1, NULL, 0) : 0;
    return options->dies_node < SIM_MAX_NODES && options->dies_after != 0;
}

/* 0: as many as there are cores. */
static bool parse_jobs(const char *value, uint32_t *jobs)
{
    char *end;
    long asked = strtol(value, &end, 10);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    asked = asked == 0 ? (cores < SIM_MAX_JOBS ? cores : SIM_MAX_JOBS) : asked;
    *jobs = (uint32_t)asked;
    return end != value && *end == '\0' && asked >= 1 && asked <= SIM_MAX_JOBS;
}

static bool parse(int argc, char **argv, arguments_t *a)
{
    *a = (arguments_t){.options = {.seed = 1, .faults = SIM_FAULT_ALL, .density = SIM_DENSITY}, .count = 1, .jobs = 1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--verbose") == 0) {
            a->options.trace = stdout;
            continue;
        }
        if (strcmp(argv[i], "--deaths") == 0) {
            a->deaths = true;
            continue;
        }
        if (value == NULL)
            return false;
        if (strcmp(argv[i], "--seed") == 0)
            a->options.seed = strtoull(value, NULL, 0);
        else if (strcmp(argv[i], "--count") == 0)
            a->count = strtoull(value, NULL, 0);
        else if (strcmp(argv[i], "--jobs") == 0 && parse_jobs(value, &a->jobs))
            ;
        else if (strcmp(argv[i], "--die") == 0 && parse_death(value, &a->options))
            ;
        else if (strcmp(argv[i], "--faults") == 0)
            a->options.faults = parse_faults(a->faults = value);
        else if (strcmp(argv[i], "--density") == 0)
            a->options.density = (uint32_t)strtoul(value, NULL, 0);
        else if (strcmp(argv[i], "--mutate") == 0 && parse_mutation(value))
            a->mutation = value;
        else
            return false;
        i++;
    }
    return true;
}

/* Print the counters; **returns** how many are zero. */
static unsigned print_coverage(const sim_coverage_t *coverage)
{
    unsigned zeros = 0;
#define X(id)                                                                                                \
    printf("  %-28s %12" PRIu64 "%s\n", #id, coverage->id, coverage->id == 0 ? "   <- never" : "");          \
    zeros += coverage->id == 0;
    SIM_COVERAGE_LIST(X)
#undef X
    return zeros;
}

/* Run the schedule again and print the end of its trace. */
static void print_trace(const arguments_t *a)
{
    char *text = NULL;
    size_t bytes = 0;
    sim_options_t options = a->options;
    sim_coverage_t coverage = {0};
    options.trace = open_memstream(&text, &bytes);
    if (options.trace == NULL)
        return;
    sim_run(&options, &coverage);
    fclose(options.trace);
    const char *start = text + bytes;
    for (unsigned lines = 0; start > text && (start[-1] != '\n' || lines++ <= TRACE_LINES); start--)
        ;
    printf("%s%s", start > text ? "   ...\n" : "", start);
    free(text);
}

static int report_failure(const arguments_t *a, uint64_t runs, const char *failure)
{
    if (a->mutation == NULL && a->options.trace == NULL)
        print_trace(a);
    printf("seed %" PRIu64 ": %s\n", a->options.seed, failure);
    if (a->mutation != NULL) {
        printf("mutation %s was noticed after %" PRIu64 " schedules\n", a->mutation, runs);
        return 0;
    }
    char death[64] = "";
    if (a->options.dies)
        snprintf(death, sizeof death, " --die %u,%" PRIu64, a->options.dies_node, a->options.dies_after);
    char density[32] = "";
    if (a->options.density != SIM_DENSITY)
        snprintf(density, sizeof density, " --density %u", a->options.density);
    printf("replay the whole with: sim --seed %" PRIu64 "%s%s%s%s --verbose\n", a->options.seed, death, density,
           a->faults != NULL ? " --faults " : "", a->faults != NULL ? a->faults : "");
    return 1;
}

/* One schedule for each action after which `node` may die. **Returns** what was violated. */
static const char *run_deaths_of(arguments_t *a, uint32_t node, sim_coverage_t *coverage, uint64_t *runs)
{
    a->options.dies = true;
    a->options.dies_node = node;
    uint64_t actions = sim_count_actions(&a->options);
    for (uint64_t after = 1; after <= actions; after++) {
        a->options.dies_after = after;
        ++*runs;
        const char *failure = sim_run(&a->options, coverage);
        if (failure != NULL)
            return failure;
    }
    return NULL;
}

static int run_deaths(arguments_t *a)
{
    sim_coverage_t coverage = {0};
    uint64_t runs = 0;
    for (uint64_t i = 0; i < a->count; i++, a->options.seed++) {
        const char *failure = run_deaths_of(a, SIM_COORDINATOR, &coverage, &runs);
        if (failure == NULL)
            failure = run_deaths_of(a, (uint32_t)(a->options.seed % SIM_MAX_RANKS), &coverage, &runs);
        if (failure != NULL)
            return report_failure(a, runs, failure);
    }
    printf("%" PRIu64 " deaths in %" PRIu64 " sessions, no violation\n", runs, a->count);
    return 0;
}

int main(int argc, char **argv)
{
    arguments_t a;
    sim_coverage_t coverage = {0};
    if (!parse(argc, argv, &a)) {
        fprintf(stderr, "usage: sim [--seed S] [--count N] [--jobs N] [--verbose] [--deaths] [--die NODE,ACTION] [--faults a,b] [--density PERCENT] [--mutate NAME]\n");
        return 2;
    }
    if (a.deaths)
        return run_deaths(&a);
    uint64_t started_us = weft_now_us();
    uint64_t runs = 0;
    const char *failure = sim_run_many(&a.options, a.count, a.options.trace == NULL ? a.jobs : 1, &coverage, &runs);
    if (failure != NULL)
        return report_failure(&a, runs, failure);
    double seconds = (double)(weft_now_us() - started_us) / 1e6;
    printf("%" PRIu64 " schedules, no violation; %.1f s, %.0f schedules a second\n", a.count, seconds,
           (double)a.count / seconds);
    unsigned zeros = print_coverage(&coverage);
    if (a.mutation != NULL) {
        printf("mutation %s was not noticed\n", a.mutation);
        return 1;
    }
    bool full = a.count >= FULL_COUNT && a.options.faults == SIM_FAULT_ALL && a.options.density == SIM_DENSITY;
    return full && zeros > 0;
}
