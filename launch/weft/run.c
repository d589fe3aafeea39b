/* weft run: trainers publish checkpoints, rollouts decode across the swaps. */
#include "launch/weft/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/weft/options.h"
#include "src/base/error.h"

static void print_log(void *user, weft_log_level_t level, const char *line)
{
    (void)user;
    static const char *const names[] = {"error", "warning", "info", "debug"};
    fprintf(stderr, "weft %s: %s\n", names[level], line);
}

uint64_t run_resident_bytes(void)
{
    unsigned long long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%llu %llu", &ignored, &pages) != 2)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void run_abort(const run_job_t *job, const weft_error_t *error)
{
    fflush(stdout);
    fprintf(stderr, "weft run: %s\n", error->message);
    MPI_Abort(job->world, exit_code_of(error->status));
    _exit(EXIT_PEER);
}

static int parse(run_options_t *o, int argc, char **argv, bool quiet)
{
    const option_row_t rows[] = {
        {"model", OPTION_TEXT, &o->models, "DIR[,DIR...]",
         "checkpoints; each is one version, published in turn"},
        {"trainer", OPTION_TEXT, &o->plan.trainer, "LAYOUT",
         "fsdp:N, tp:N, dp:N or a product such as tp:2,dp:2"},
        {"rollout", OPTION_TEXT, &o->plan.rollout, "LAYOUT",
         "tp:T or tp:TxR for R replicas; ,ep for whole experts a rank"},
        {"scheme", OPTION_TEXT, &o->plan.scheme, "NAME", "bf16 (default), fp8-block, fp8-channel"},
        {"profile", OPTION_TEXT, &o->plan.profile, "NAME",
         "fp8-block: ieee (default), vllm, pow2, vllm-pow2"},
        {"swap", OPTION_TEXT, &o->swap, "MODE", "flip (default) or copy"},
        {"transport", OPTION_TEXT, &o->transport, "NAME", "mpi (default)"},
        {"budget", OPTION_BYTES, &o->plan.budget_bytes, "BYTES", "staging memory of a rank (default 256MiB)"},
        {"bucket", OPTION_BYTES, &o->plan.bucket_bytes, "BYTES", "largest broadcast (default 64MiB)"},
        {"max-groups", OPTION_COUNT, &o->plan.max_groups, "N",
         "communicators a rank may hold (default 16; 0 forces relay)"},
        {"rate", OPTION_RATE, &o->rate, "RATE", "a trainer sends no faster, such as 5MB/s"},
        {"updates", OPTION_COUNT, &o->updates, "N", "publish N versions, cycling through the checkpoints"},
        {"tokens", OPTION_COUNT, &o->tokens, "N",
         "decode N tokens on each version before the next (default 100)"},
        {"pace", OPTION_RATE, &o->pace, "N", "tokens a second at most (default: as fast as it goes)"},
        {"prompt", OPTION_TEXT, &o->prompt, "TEXT", "what the rollout continues"},
        {"eval", OPTION_TEXT, &o->eval, "FILE", "text to score on each version, to bits per byte"},
        {"eval-bytes", OPTION_BYTES, &o->eval_bytes, "BYTES", "how much of it (default: all)"},
        {"dump", OPTION_TEXT, &o->dump, "DIR",
         "write each rollout rank's live weights after the last version"},
        {"json", OPTION_TEXT, &o->json, "FILE", "write the closing table as JSON"},
        {"trace", OPTION_TEXT, &o->trace, "FILE", "write a timeline of all ranks that Perfetto opens"},
        {"host", OPTION_TEXT, &o->host, "ADDRESS",
         "address of this node for control messages (default 127.0.0.1)"},
        {"quiet", OPTION_FLAG, &o->quiet, NULL, "do not print the decoded text"},
        {"verbose", OPTION_FLAG, &o->verbose, NULL, "print what the library logs"},
    };
    const command_spec_t spec = {
        .name = "run",
        .synopsis = "--model DIR[,DIR...] --trainer LAYOUT --rollout LAYOUT [options]",
        .about =
            "The main job, under mpirun with as many processes as both layouts have ranks, trainers first:\n"
            "  mpirun -n 4 weft run --model v1,v3 --trainer fsdp:2 --rollout tp:2 --scheme fp8-block\n"
            "Trainer ranks publish each checkpoint; rollout ranks go on decoding with the live weights and "
            "swap between two\n"
            "steps. Ends with a table of what each version cost.",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    int code = options_parse(&spec, argc, argv, quiet, none, &count);
    if (code < 0 && (!o->models || !o->plan.trainer || !o->plan.rollout)) {
        if (!quiet)
            fprintf(stderr, "weft run: --model, --trainer and --rollout are needed; try 'weft run --help'\n");
        return EXIT_USAGE;
    }
    return code;
}

/* Cut "a,b,c" in place. */
static weft_status_t split_models(run_options_t *o, char *copy, weft_error_t *error)
{
    for (char *dir = strtok(copy, ","); dir; dir = strtok(NULL, ",")) {
        if (o->num_models == RUN_MAX_MODELS)
            return weft_fail(error, WEFT_ERR_ARGUMENT, "--model takes at most %d directories",
                             RUN_MAX_MODELS);
        o->model_dirs[o->num_models++] = dir;
    }
    return o->num_models ? WEFT_OK : weft_fail(error, WEFT_ERR_ARGUMENT, "--model names no directory");
}

static weft_status_t check_size(const run_job_t *job, weft_error_t *error)
{
    uint32_t expected = weft_plan_num_trainers(job->plan) + weft_plan_num_rollouts(job->plan);
    if (expected == job->num_ranks)
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_ARGUMENT,
        "trainer %s and rollout %s have %u + %u ranks, but %u processes run: start it with mpirun -n %u",
        weft_plan_trainer_text(job->plan), weft_plan_rollout_text(job->plan),
        weft_plan_num_trainers(job->plan), weft_plan_num_rollouts(job->plan), job->num_ranks, expected);
}

static weft_status_t prepare(run_job_t *job, weft_error_t *error)
{
    WEFT_TRY(weft_model_open(job->options.model_dirs[0], &job->model, error));
    WEFT_TRY(plan_from_arguments(job->model, &job->options.plan, &job->plan, error));
    return check_size(job, error);
}

static weft_status_t open_session(run_job_t *job, weft_error_t *error)
{
    weft_transport_config_t transport = WEFT_TRANSPORT_CONFIG;
    transport.mpi_comm = &job->world;
    WEFT_TRY(weft_transport_open(job->options.transport, &transport, &job->transport, error));
    weft_session_config_t config = WEFT_SESSION_CONFIG;
    config.plan = job->plan;
    config.transport = job->transport;
    config.host = job->options.host;
    config.rate_bytes_per_s = job->options.rate;
    config.transfer_timeout_us = job->options.timeout_us;
    config.log = (weft_log_t){print_log, NULL, job->options.verbose ? WEFT_LOG_DEBUG : WEFT_LOG_WARNING};
    if (job->options.trace) {
        config.span = run_trace_add;
        config.span_user = &job->trace;
    }
    return weft_session_open(&config, &job->session, error);
}

static void split_replicas(run_job_t *job)
{
    uint32_t trainers = weft_plan_num_trainers(job->plan);
    bool rollout = job->rank >= trainers;
    int color = rollout ? (int)((job->rank - trainers) / weft_plan_tp(job->plan)) : MPI_UNDEFINED;
    MPI_Comm_split(job->world, color, (int)job->rank, &job->replica);
}

static int run_roles(run_job_t *job)
{
    weft_error_t error;
    split_replicas(job);
    weft_status_t status = open_session(job, &error);
    if (status != WEFT_OK) {
        if (job->rank == 0 || status != WEFT_ERR_PEER_LOST)
            report_error("run", &error);
        return exit_code_of(status);
    }
    job->records = calloc(job->num_versions, sizeof *job->records);
    if (!job->records)
        run_abort(job, &(weft_error_t){WEFT_ERR_NO_MEMORY, "no memory for the records"});
    int code = weft_session_is_trainer(job->session) ? run_trainer(job) : run_rollout(job);
    weft_session_close(job->session);
    int reported = run_report(job);
    int traced = job->options.trace ? run_write_trace(job) : EXIT_OK;
    return code != EXIT_OK ? code : reported != EXIT_OK ? reported : traced;
}

static int run_job(run_job_t *job, int argc, char **argv)
{
    int code = parse(&job->options, argc, argv, job->rank != 0);
    if (code >= 0)
        return code;
    weft_error_t error;
    char *models = strdup(job->options.models);
    weft_status_t status = models ? split_models(&job->options, models, &error)
                                  : weft_fail(&error, WEFT_ERR_NO_MEMORY, "no memory");
    job->num_versions = job->options.updates ? job->options.updates : job->options.num_models;
    if (status == WEFT_OK)
        status = prepare(job, &error);
    if (status == WEFT_OK)
        code = run_roles(job);
    else
        code = job->rank == 0 ? report_error("run", &error) : exit_code_of(status);
    weft_transport_close(job->transport);
    weft_plan_destroy(job->plan);
    weft_model_close(job->model);
    free(job->records);
    free(job->trace.spans);
    free(models);
    return code;
}

int command_run(int argc, char **argv)
{
    int provided, rank, size;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    run_job_t job = {
        .options = {.plan = PLAN_ARGUMENTS,
                    .transport = "mpi",
                    .swap = "flip",
                    .prompt = "And God said unto Moses, ",
                    .tokens = 100,
                    .timeout_us = 120000000},
        .replica = MPI_COMM_NULL,
    };
    MPI_Comm_dup(MPI_COMM_WORLD, &job.world);
    MPI_Comm_rank(job.world, &rank);
    MPI_Comm_size(job.world, &size);
    pthread_mutex_init(&job.trace.mutex, NULL);
    job.rank = (uint32_t)rank;
    job.num_ranks = (uint32_t)size;
    int code = run_job(&job, argc, argv);
    if (job.replica != MPI_COMM_NULL)
        MPI_Comm_free(&job.replica);
    MPI_Comm_free(&job.world);
    MPI_Finalize();
    return code;
}
