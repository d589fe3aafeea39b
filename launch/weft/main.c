/* weft: live weight sync from trainers to rollout engines. */
#include <stdio.h>
#include <string.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"run", command_run,
     "the main job under mpirun: trainers publish checkpoints, rollouts decode across the swaps"},
    {"plan", command_plan, "who sends what to whom, what it costs, and what does not fit"},
    {"quantize", command_quantize, "the kernel-format files of a rollout, offline: the same bytes as a sync"},
    {"verify", command_verify, "compare two checkpoints or dumps byte for byte"},
    {"gen", command_gen, "write a checkpoint with the exact shapes of a real model, sparse or random"},
    {"coordinator", command_coordinator, "the process that trainers and rollouts join by its address, without mpirun"},
    {"join", command_join, "one rank of a session that a coordinator holds: a trainer or a rollout"},
    {"keygen", command_keygen, "keys of a coordinator and of those that join it"},
    {"doctor", command_doctor, "what this machine and this build have, what would be chosen, what is wrong"},
    {"bench", command_bench, "sweeps: quantize, swap, broadcast, sync; each figure beside its bare counterpart"},
};

#define NUM_COMMANDS (sizeof commands / sizeof commands[0])

static int usage(FILE *out, int code)
{
    fprintf(out, "usage: weft COMMAND [arguments]\n\n");
    for (size_t i = 0; i < NUM_COMMANDS; i++)
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].about);
    fprintf(out, "\n'weft COMMAND --help' explains one. Exit codes: 0 ok, 1 check failed, 2 usage, 3 "
                 "environment, 4 plan\n"
                 "impossible, 5 timeout or peer lost.\n");
    return code;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return usage(stderr, EXIT_USAGE);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return usage(stdout, EXIT_OK);
    if (strcmp(argv[1], "--version") == 0) {
        printf("weft %s\n", WEFT_VERSION);
        return EXIT_OK;
    }
    for (size_t i = 0; i < NUM_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "weft: unknown command %s\n", argv[1]);
    return usage(stderr, EXIT_USAGE);
}
