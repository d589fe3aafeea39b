/* The commands of `weft`, one file each. */
#ifndef WEFT_LAUNCH_COMMANDS_H
#define WEFT_LAUNCH_COMMANDS_H

#include <weft/plan.h>

int command_plan(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_run(int argc, char **argv);
int command_gen(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_keygen(int argc, char **argv);
int command_coordinator(int argc, char **argv);
int command_join(int argc, char **argv);

/* The exit code that a status ends a command with. */
int exit_code_of(weft_status_t status);

/* Print "weft NAME: message" on stderr and return the exit code of the error. */
int report_error(const char *command, const weft_error_t *error);

/* What plan, quantize and run share: model, layouts, scheme. */
typedef struct plan_arguments {
    const char *trainer, *rollout, *scheme, *profile, *engine;
    const char *default_scheme; /* where neither scheme nor engine is given */
    const char *recipe; /* a file; NULL: the one of the model_type */
    uint64_t budget_bytes; /* 0: the default */
    uint64_t bucket_bytes; /* 0: the default */
    uint32_t max_groups;
} plan_arguments_t;

#define PLAN_ARGUMENTS ((plan_arguments_t){.default_scheme = "bf16", .max_groups = 16})

/* Make a plan from them; the model gets the recipe. */
weft_status_t plan_from_arguments(weft_model_t *model, const plan_arguments_t *arguments,
                                  weft_plan_t **plan, weft_error_t *error);

#endif
