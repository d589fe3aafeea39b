/* weft coordinator: the process that trainers and rollouts join by its address. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "launch/weft/stop.h"
#include "src/base/error.h"
#include "src/service/coordinator_process.h"

#define SECOND 1000000u

static void print_log(void *user, weft_log_level_t level, const char *line)
{
    (void)user;
    static const char *const names[] = {"error", "warning", "info", "debug"};
    char now[32] = "";
    time_t seconds = time(NULL);
    struct tm split;
    if (gmtime_r(&seconds, &split))
        strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &split);
    fprintf(stderr, "weft %s: %s %s\n", names[level], now, line);
}

typedef struct coordinator_options {
    weft_coordinator_process_config_t process;
    uint32_t rollouts, wait_s, transfer_s;
    bool verbose;
} coordinator_options_t;

static int parse(coordinator_options_t *o, int argc, char **argv)
{
    weft_coordinator_process_config_t *p = &o->process;
    const option_row_t rows[] = {
        {"bind", OPTION_TEXT, &p->bind, "ADDRESS:PORT",
         "where ranks join (default 127.0.0.1:7000); the address of one interface"},
        {"control-port", OPTION_COUNT, &p->control_port, "PORT",
         "for control messages, on the same address (default: PORT + 1)"},
        {"keys", OPTION_TEXT, &p->keys, "DIR",
         "server.key, and the .pub of all that may join: weft keygen makes them"},
        {"trainers", OPTION_COUNT, &p->topology.trainers, "N", "trainer ranks of the session's plan"},
        {"rollouts", OPTION_COUNT, &o->rollouts, "M", "rollout ranks of the session's plan"},
        {"tp", OPTION_COUNT, &p->topology.tp, "T", "rollout ranks that serve as one engine (default 1)"},
        {"state", OPTION_TEXT, &p->state, "FILE",
         "kept durably, mode 0600: a coordinator that starts with it again goes on with the session"},
        {"wait", OPTION_COUNT, &o->wait_s, "SECONDS",
         "for ranks to come, before the session begins without the others (default 60)"},
        {"transfer-timeout", OPTION_COUNT, &o->transfer_s, "SECONDS",
         "for a version to reach everybody (default 120)"},
        {"verbose", OPTION_FLAG, &o->verbose, NULL, "log who comes and goes, and every state"},
    };
    const command_spec_t spec = {
        .name = "coordinator",
        .synopsis = "--keys DIR --trainers N --rollouts M [options]",
        .about = "The coordinator as a process of its own: trainers and rollouts join it by address, without "
                 "mpirun, come late, leave\n"
                 "and come back (weft join, or weft_session_open with a service). It needs neither model nor "
                 "GPU and sees no\n"
                 "weights. Only who has a key on its list gets past the handshake.",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    int code = options_parse(&spec, argc, argv, false, none, &count);
    if (code < 0 && (!p->keys || !p->topology.trainers || !o->rollouts)) {
        fprintf(stderr, "weft coordinator: --keys, --trainers and --rollouts are needed; try 'weft "
                        "coordinator --help'\n");
        return EXIT_USAGE;
    }
    return code;
}

static weft_status_t configure(coordinator_options_t *o, weft_error_t *error)
{
    weft_topology_t *t = &o->process.topology;
    if (t->tp == 0 || o->rollouts % t->tp != 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--rollouts %u are not whole engines of --tp %u ranks",
                         o->rollouts, t->tp);
    if (o->wait_s == 0 || o->transfer_s == 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--wait and --transfer-timeout are 1 second or more");
    if (o->process.control_port > 65535)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--control-port %u is no port", o->process.control_port);
    t->replicas = o->rollouts / t->tp;
    o->process.wait_us = (uint64_t)o->wait_s * SECOND;
    o->process.transfer_timeout_us = (uint64_t)o->transfer_s * SECOND;
    o->process.log = (weft_log_t){print_log, NULL, o->verbose ? WEFT_LOG_INFO : WEFT_LOG_WARNING};
    return WEFT_OK;
}

int command_coordinator(int argc, char **argv)
{
    weft_error_t error;
    weft_coordinator_process_t *process;
    coordinator_options_t o = {.process = {.bind = "127.0.0.1:7000",
                                           .topology = {.tp = 1},
                                           .dead_after_us = 1500000,
                                           .commit_timeout_us = 10000000},
                               .wait_s = 60,
                               .transfer_s = 120};
    int code = parse(&o, argc, argv);
    if (code >= 0)
        return code;
    stop_catch("coordinator", 0); /* nothing is to be undone: whoever comes next reads the state file */
    weft_status_t status = configure(&o, &error);
    if (status == WEFT_OK)
        status = weft_coordinator_process_open(&o.process, &process, &error);
    if (status != WEFT_OK)
        return report_error("coordinator", &error);
    printf("weft coordinator: %s\n", weft_coordinator_process_endpoint(process));
    fflush(stdout);
    while (!stop_asked() && status == WEFT_OK)
        status = weft_coordinator_process_run(process, &error);
    weft_coordinator_process_close(process);
    return status == WEFT_OK ? EXIT_OK : report_error("coordinator", &error);
}
