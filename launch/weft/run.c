/* weft run: trainers publish checkpoints, rollouts decode across the swaps. */
#include "launch/weft/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/weft/options.h"
#include "launch/weft/stop.h"
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
        {"load", OPTION_TEXT, &o->load, "DIR",
         "rollouts start from this checkpoint, or from what weft quantize wrote; trainers follow"},
        {"trainer", OPTION_TEXT, &o->plan.trainer, "LAYOUT",
         "fsdp:N, tp:N, pp:N, ep:N, dp:N, a product such as tp:2,pp:2, or boxes:FILE"},
        {"rollout", OPTION_TEXT, &o->plan.rollout, "LAYOUT",
         "tp:T or tp:TxR for R replicas; ,ep for whole experts a rank"},
        {"scheme", OPTION_TEXT, &o->plan.scheme, "MAP", OPTION_SCHEMES " (default bf16)"},
        {"recipe", OPTION_TEXT, &o->plan.recipe, "FILE",
         "what tensors become in an engine, for a model_type that weft does not know"},
        {"profile", OPTION_TEXT, &o->plan.profile, "NAME",
         "fp8-block: ieee (default), vllm, pow2, vllm-pow2"},
        {"engine", OPTION_TEXT, &o->plan.engine, "NAME", OPTION_ENGINES},
        {"swap", OPTION_TEXT, &o->swap, "MODE",
         "flip (default), copy, or layerwise (in place, decoding pauses)"},
        {"transport", OPTION_TEXT, &o->transport, "NAME",
         "mpi, nccl (GPU memory), ipc (one node, read in place) or zmq (TCP); default: nccl when each rank "
         "has a GPU, "
         "else mpi"},
        {"shared-gpu", OPTION_FLAG, &o->shared_gpu, NULL,
         "nccl: let several ranks share a GPU, over loopback sockets"},
        {"memory", OPTION_TEXT, &o->memory, "KIND",
         "ipc: where weights are, cuda (default with a GPU) or host"},
        {"workers", OPTION_TEXT, &o->workers, "N",
         "host memory: threads of a rank that pack and quantize; default auto, by free cores"},
        {"ctas", OPTION_COUNT, &o->max_ctas, "N", "nccl: thread blocks a communicator may use"},
        {"budget", OPTION_BYTES, &o->plan.budget_bytes, "BYTES", "staging memory of a rank (default 256MiB)"},
        {"bucket", OPTION_BYTES, &o->plan.bucket_bytes, "BYTES",
         "largest broadcast (default 64MiB; mpi: 16MiB, with workers 2MiB)"},
        {"max-groups", OPTION_COUNT, &o->plan.max_groups, "N",
         "communicators a rank may hold (default 16; 0 forces relay)"},
        {"rate", OPTION_RATE, &o->rate, "RATE",
         "a trainer sends no faster, such as 5MB/s; a smaller --bucket makes it even"},
        {"updates", OPTION_COUNT, &o->updates, "N",
         "publish N versions, cycling through the checkpoints; 0 with --load: none"},
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
         "address of this node for control messages and zmq (default 127.0.0.1)"},
        {"keys", OPTION_TEXT, &o->keys, "DIR",
         "zmq: the key that all ranks have (weft keygen); needed unless --host is a loopback address"},
        {"key-name", OPTION_TEXT, &o->key_name, "NAME", "of the key: NAME.key (default client)"},
        {"grace", OPTION_COUNT, &o->grace_s, "SECONDS",
         "after SIGTERM: to decide the version in hand and end (default 10); 2 s later it ends as it is"},
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
weft_status_t run_split_models(run_options_t *o, char *copy, weft_error_t *error)
{
    for (char *dir = strtok(copy, ","); dir; dir = strtok(NULL, ",")) {
        if (o->num_models == RUN_MAX_MODELS)
            return weft_fail(error, WEFT_ERR_ARGUMENT, "--model takes at most %d directories",
                             RUN_MAX_MODELS);
        o->model_dirs[o->num_models++] = dir;
    }
    return o->num_models ? WEFT_OK : weft_fail(error, WEFT_ERR_ARGUMENT, "--model names no directory");
}

/* One rank's failure is everybody's: all learn the first rank that cannot go on and leave with its code.
 * Returns whether any cannot; *first is that rank. */
static bool anyone_stops(const run_job_t *job, bool stop, int *code, uint32_t *first)
{
    uint32_t mine = stop ? job->rank : UINT32_MAX;
    MPI_Allreduce(&mine, first, 1, MPI_UINT32_T, MPI_MIN, job->world);
    if (*first == UINT32_MAX)
        return false;
    MPI_Bcast(code, 1, MPI_INT, (int)*first, job->world);
    return true;
}

/* The same for a stage that ends with a status: the first rank that failed speaks for all. */
static bool anyone_failed(const run_job_t *job, weft_status_t status, const weft_error_t *error, int *code)
{
    uint32_t first;
    *code = exit_code_of(status);
    if (!anyone_stops(job, status != WEFT_OK, code, &first))
        return false;
    if (first == job->rank)
        report_error("run", error);
    return true;
}

/* What every rank must have been told alike, or they would wait for each other. */
static weft_status_t compare_options(const run_job_t *job, weft_error_t *error)
{
    uint32_t mine[4] = {job->num_versions, job->num_loaded, job->options.tokens, job->options.trace != NULL};
    uint32_t rank_0[4];
    memcpy(rank_0, mine, sizeof rank_0);
    MPI_Bcast(rank_0, 4, MPI_UINT32_T, 0, job->world);
    if (memcmp(mine, rank_0, sizeof mine) == 0)
        return WEFT_OK;
    return weft_fail(
        error, WEFT_ERR_ARGUMENT,
        "rank %u was started with another --model, --updates, --tokens, --load or --trace than rank 0",
        job->rank);
}

static weft_status_t open_session(run_job_t *job, weft_error_t *error)
{
    WEFT_TRY(run_open_transport(job, error));
    weft_session_config_t config = WEFT_SESSION_CONFIG;
    config.plan = job->plan;
    config.transport = job->transport;
    config.workers = job->workers;
    config.host = job->options.host;
    config.rate_bytes_per_s = job->options.rate;
    config.transfer_timeout_us = job->options.timeout_us;
    config.log = (weft_log_t){print_log, NULL, job->options.verbose ? WEFT_LOG_DEBUG : WEFT_LOG_ERROR};
    if (job->options.trace) {
        config.span = run_trace_add;
        config.span_user = &job->trace;
    }
    return weft_session_open(&config, &job->session, error);
}

void run_tell_stop(run_job_t *job)
{
    uint32_t leader = weft_plan_num_trainers(job->plan);
    if (job->told_stop || !stop_asked())
        return;
    job->told_stop = true;
    if (job->rank != leader)
        MPI_Send(NULL, 0, MPI_BYTE, (int)leader, RUN_TAG_STOP, job->world);
}

/* Rank 0 knows how many versions there have been when the job was stopped before the last. */
static void agree_on_versions(run_job_t *job)
{
    uint32_t wanted = job->num_loaded + job->options.updates;
    MPI_Bcast(&job->num_versions, 1, MPI_UINT32_T, 0, job->world);
    if (job->rank == 0 && job->num_versions < wanted)
        printf("\nstopped by a signal after %u of %u versions\n", job->num_versions, wanted);
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
    int code;
    split_replicas(job);
    weft_status_t status = open_session(job, &error);
    if (anyone_failed(job, status, &error, &code))
        return code;
    job->records = calloc(job->num_versions, sizeof *job->records);
    if (!job->records)
        run_abort(job, &(weft_error_t){WEFT_ERR_NO_MEMORY, "no memory for the records"});
    stop_catch("run", job->options.grace_s); /* before, a signal ends the job: nothing is in hand */
    code = weft_session_is_trainer(job->session) ? run_trainer(job) : run_rollout(job);
    weft_session_close(job->session);
    agree_on_versions(job);
    int reported = run_report(job);
    int traced = job->options.trace ? run_write_trace(job) : EXIT_OK;
    return code != EXIT_OK ? code : reported != EXIT_OK ? reported : traced;
}

/* Parse in silence, agree, and let the first rank that stops say why. */
static int parse_together(run_job_t *job, int argc, char **argv)
{
    run_options_t again = job->options;
    uint32_t first;
    int code = parse(&job->options, argc, argv, true);
    if (!anyone_stops(job, code >= 0, &code, &first))
        return -1;
    if (first == job->rank)
        parse(&again, argc, argv, false);
    return code;
}

const char *run_source(const run_job_t *job, uint32_t index)
{
    if (index < job->num_loaded)
        return job->options.load;
    return job->options.model_dirs[(index - job->num_loaded) % job->options.num_models];
}

static void count_versions(run_job_t *job)
{
    run_options_t *o = &job->options;
    job->num_loaded = o->load != NULL;
    if (o->updates == RUN_EACH_ONCE || (o->updates == 0 && !o->load))
        o->updates = o->num_models;
    job->num_versions = job->num_loaded + o->updates;
}

static int run_checked(run_job_t *job, char *models)
{
    weft_error_t error;
    int code;
    weft_status_t status = models ? run_split_models(&job->options, models, &error)
                                  : weft_fail(&error, WEFT_ERR_NO_MEMORY, "no memory");
    count_versions(job);
    weft_error_t differs;
    weft_status_t same = compare_options(job, &differs);
    if (status == WEFT_OK && same != WEFT_OK) {
        status = same;
        error = differs;
    }
    differs = (weft_error_t){.message = ""};
    weft_status_t chosen = run_choose(job, &differs);
    if (status == WEFT_OK && chosen != WEFT_OK) {
        status = chosen;
        error = differs;
    }
    if (status == WEFT_OK)
        status = run_prepare(job, &error);
    return anyone_failed(job, status, &error, &code) ? code : run_roles(job);
}

static int run_job(run_job_t *job, int argc, char **argv)
{
    int code = parse_together(job, argc, argv);
    if (code >= 0)
        return code;
    char *models = strdup(job->options.models);
    code = run_checked(job, models);
    run_close_transport(job);
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
                    .swap = "flip",
                    .prompt = "And God said unto Moses, ",
                    .tokens = 100,
                    .updates = RUN_EACH_ONCE,
                    .grace_s = 10,
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
