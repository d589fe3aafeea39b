/* weft join: one rank of a session that a coordinator holds. No MPI: ranks are started by whatever starts
 * processes. */
#include "launch/weft/join.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/options.h"
#include "launch/weft/stop.h"
#include "src/base/clock.h"
#include "src/base/error.h"
#include "transport/transport.h"

#define REST_US          10000u
#define IPC_BUDGET_BYTES (UINT64_C(1) << 40)
#define ZMQ_BUCKET_BYTES (16u << 20) /* as in weft run without workers */

void join_rest(uint64_t us)
{
    uint64_t until_us = weft_now_us() + us, now_us;
    while (!stop_asked() && (now_us = weft_now_us()) < until_us)
        weft_sleep_us((uint32_t)(until_us - now_us < REST_US ? until_us - now_us : REST_US));
}

static void print_log(void *user, weft_log_level_t level, const char *line)
{
    (void)user;
    static const char *const names[] = {"error", "warning", "info", "debug"};
    fprintf(stderr, "weft %s: %s\n", names[level], line);
}

typedef struct join_arguments {
    run_options_t run;
    join_options_t own;
    weft_service_config_t service;
    uint32_t timeout_s;
} join_arguments_t;

static int parse(join_arguments_t *a, int argc, char **argv)
{
    run_options_t *o = &a->run;
    const option_row_t rows[] = {
        {"coordinator", OPTION_TEXT, &a->service.coordinator, "HOST:PORT",
         "where weft coordinator listens (default: WEFT_COORDINATOR)"},
        {"keys", OPTION_TEXT, &a->service.keys, "DIR",
         "server.pub, and the key of this rank (default: WEFT_KEYS)"},
        {"key-name", OPTION_TEXT, &a->service.key_name, "NAME",
         "of the key: NAME.key (default: WEFT_KEY_NAME, or client)"},
        {"rank", OPTION_COUNT, &a->service.rank, "N", "in the plan, trainers first (default: WEFT_RANK)"},
        {"model", OPTION_TEXT, &o->models, "DIR[,DIR...]",
         "checkpoints; a trainer publishes them in turn, rollouts read the shapes of the first"},
        {"trainer", OPTION_TEXT, &o->plan.trainer, "LAYOUT",
         "as in weft run; the same on all ranks, as is all that makes the plan"},
        {"rollout", OPTION_TEXT, &o->plan.rollout, "LAYOUT",
         "tp:T or tp:TxR for R replicas; ,ep for whole experts a rank"},
        {"scheme", OPTION_TEXT, &o->plan.scheme, "MAP", OPTION_SCHEMES " (default bf16)"},
        {"recipe", OPTION_TEXT, &o->plan.recipe, "FILE",
         "what tensors become in an engine, for a model_type that weft does not know"},
        {"profile", OPTION_TEXT, &o->plan.profile, "NAME",
         "fp8-block: ieee (default), vllm, pow2, vllm-pow2"},
        {"engine", OPTION_TEXT, &o->plan.engine, "NAME", OPTION_ENGINES},
        {"transport", OPTION_TEXT, &o->transport, "NAME",
         "ipc (default: one node, read in place) or zmq (host memory over TCP, encrypted); the same on all"},
        {"memory", OPTION_TEXT, &o->memory, "KIND",
         "ipc: where weights are, cuda (default with a GPU) or host"},
        {"host", OPTION_TEXT, &o->host, "ADDRESS",
         "address of this node for control messages and zmq (default 127.0.0.1)"},
        {"timeout", OPTION_COUNT, &a->timeout_s, "SECONDS",
         "for the coordinator to answer, and for ranks to meet (default 30)"},
        {"updates", OPTION_COUNT, &o->updates, "N",
         "trainer: publish N versions, cycling through the checkpoints (default: each once)"},
        {"first", OPTION_COUNT, &a->own.first, "V",
         "trainer: number of the first version (default 1); above all before when it comes back"},
        {"rate", OPTION_RATE, &o->rate, "RATE", "trainer: sends no faster, such as 5MB/s"},
        {"pause", OPTION_COUNT, &a->own.pause_ms, "MS", "trainer: between two versions (default 0)"},
        {"swap", OPTION_TEXT, &o->swap, "MODE", "rollout: flip (default) or copy"},
        {"step", OPTION_COUNT, &a->own.step_us, "US",
         "rollout: how long one of its steps takes (default 1000)"},
        {"until", OPTION_COUNT, &a->own.until, "V",
         "rollout: leave once version V, or a later one, is live (default: at SIGTERM)"},
        {"grace", OPTION_COUNT, &a->own.grace_s, "SECONDS",
         "to leave in an orderly way after SIGTERM (default 10); 2 s later it ends as it is"},
        {"dump", OPTION_TEXT, &o->dump, "DIR", "rollout: write the live weights when it leaves"},
        {"verbose", OPTION_FLAG, &o->verbose, NULL, "print what the library logs"},
    };
    const command_spec_t spec = {
        .name = "join",
        .synopsis = "--coordinator HOST:PORT --rank N --keys DIR --model DIR[,DIR...] --trainer LAYOUT "
                    "--rollout LAYOUT",
        .about = "One rank of a session that weft coordinator holds, started by itself: without mpirun. "
                 "Trainer ranks publish each\n"
                 "checkpoint as a version; rollout ranks step, without decoding, and swap between two steps. "
                 "A rank that ends may be\n"
                 "started again. SIGTERM: a trainer finishes its version, a rollout the swap in hand; then "
                 "they leave, within --grace.",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    int code = options_parse(&spec, argc, argv, false, none, &count);
    if (code < 0 && (!o->models || !o->plan.trainer || !o->plan.rollout)) {
        fprintf(stderr, "weft join: --model, --trainer and --rollout are needed; try 'weft join --help'\n");
        return EXIT_USAGE;
    }
    return code;
}

static weft_status_t make_plan(run_job_t *job, char *models, weft_error_t *error)
{
    run_options_t *o = &job->options;
    if (!models)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory");
    WEFT_TRY(run_split_models(o, models, error));
    if (strcmp(o->swap, "flip") != 0 && strcmp(o->swap, "copy") != 0)
        return weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "--swap %s: flip or copy", o->swap);
    if (strcmp(o->transport, "zmq") == 0 && o->memory && strcmp(o->memory, "host") != 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--memory %s: zmq moves host memory", o->memory);
    o->plan.max_groups = UINT32_MAX; /* neither has communicators, and relays could be absent */
    if (strcmp(o->transport, "zmq") == 0)
        o->plan.bucket_bytes = ZMQ_BUCKET_BYTES;
    else
        o->plan.budget_bytes = IPC_BUDGET_BYTES; /* as in weft run: nothing is staged */
    WEFT_TRY(weft_model_open(o->model_dirs[0], &job->model, error));
    return plan_from_arguments(job->model, &o->plan, &job->plan, error);
}

static weft_status_t open_session(run_job_t *job, const join_arguments_t *a, weft_error_t *error)
{
    weft_session_config_t config = WEFT_SESSION_CONFIG;
    weft_service_config_t service = a->service;
    service.transport = job->options.transport;
    service.memory = job->options.memory;
    service.timeout_us = (uint64_t)a->timeout_s * 1000000;
    config.plan = job->plan;
    config.service = &service;
    config.host = job->options.host;
    config.rate_bytes_per_s = job->options.rate;
    config.log = (weft_log_t){print_log, NULL, job->options.verbose ? WEFT_LOG_DEBUG : WEFT_LOG_ERROR};
    WEFT_TRY(weft_session_open(&config, &job->session, error));
    job->rank = weft_session_rank(job->session);
    job->transport = weft_session_transport(job->session);
    const weft_transport_base_t *base = weft_transport_base(job->transport);
    job->memory = base->queue;
    WEFT_TRY(weft_queue_open(base->queue, base->device, &job->queue, error));
    job->queue->ops->thread_begin(job->queue);
    printf("rank %u: joined, incarnation %llu\n", job->rank,
           (unsigned long long)weft_session_incarnation(job->session));
    fflush(stdout);
    return WEFT_OK;
}

static int run_rank(run_job_t *job, const join_arguments_t *a)
{
    weft_error_t error;
    char *models = strdup(job->options.models);
    weft_status_t status = make_plan(job, models, &error);
    if (status == WEFT_OK)
        status = open_session(job, a, &error);
    if (status == WEFT_OK)
        stop_catch("join", a->own.grace_s); /* before, there is nothing to leave */
    int code = status != WEFT_OK                       ? report_error("join", &error)
               : weft_session_is_trainer(job->session) ? join_trainer(job, &a->own)
                                                       : join_rollout(job, &a->own);
    weft_queue_close(job->queue);
    weft_session_close(job->session);
    weft_plan_destroy(job->plan);
    weft_model_close(job->model);
    free(models);
    return code;
}

int command_join(int argc, char **argv)
{
    join_arguments_t a = {.run = {.plan = PLAN_ARGUMENTS,
                                  .swap = "flip",
                                  .transport = "ipc",
                                  .updates = RUN_EACH_ONCE,
                                  .timeout_us = 120000000},
                          .own = {.first = 1, .step_us = 1000, .grace_s = 10},
                          .service = WEFT_SERVICE_CONFIG,
                          .timeout_s = 30};
    int code = parse(&a, argc, argv);
    if (code >= 0)
        return code;
    if (a.own.first == 0 || a.timeout_s == 0) {
        fprintf(stderr, "weft join: --first and --timeout are 1 or more\n");
        return EXIT_USAGE;
    }
    run_job_t job = {.options = a.run};
    return run_rank(&job, &a);
}
