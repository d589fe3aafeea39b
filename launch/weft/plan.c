/* weft plan: print a plan, or say why there is none. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/clock.h"

static long peak_memory_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

static int print_plan(const weft_plan_t *plan, bool json, const weft_plan_speeds_t *speeds, uint64_t plan_us)
{
    char *text;
    weft_status_t status = weft_plan_print(plan, json, speeds, &text);
    if (status != WEFT_OK)
        return exit_code_of(status);
    fputs(text, stdout);
    if (!json)
        printf("planned   in %.1f ms, peak memory of this process %.1f MiB\n", (double)plan_us / 1e3,
               (double)peak_memory_kib() / 1024);
    free(text);
    return EXIT_OK;
}

static int explain(const weft_plan_t *plan, const char *layers)
{
    char *text;
    weft_error_t error;
    if (weft_plan_explain(plan, layers, &text, &error) != WEFT_OK)
        return report_error("plan", &error);
    fputs(text, stdout);
    free(text);
    return EXIT_OK;
}

int command_plan(int argc, char **argv)
{
    plan_arguments_t arguments = PLAN_ARGUMENTS;
    bool json = false;
    const char *layers = NULL;
    weft_plan_speeds_t speeds = WEFT_PLAN_SPEEDS;
    const option_row_t options[] = {
        {"trainer", OPTION_TEXT, &arguments.trainer, "LAYOUT",
         "fsdp:N, tp:N, pp:N, ep:N, dp:N, a product such as tp:2,pp:2, or boxes:FILE"},
        {"rollout", OPTION_TEXT, &arguments.rollout, "LAYOUT",
         "tp:T or tp:TxR for R replicas; ,ep for whole experts a rank"},
        {"scheme", OPTION_TEXT, &arguments.scheme, "MAP", OPTION_SCHEMES " (default bf16)"},
        {"profile", OPTION_TEXT, &arguments.profile, "NAME",
         "fp8-block: ieee (default), vllm, pow2, vllm-pow2"},
        {"engine", OPTION_TEXT, &arguments.engine, "NAME", OPTION_ENGINES},
        {"recipe", OPTION_TEXT, &arguments.recipe, "FILE",
         "what tensors become in an engine, for a model_type that weft does not know"},
        {"budget", OPTION_BYTES, &arguments.budget_bytes, "BYTES",
         "staging memory of a rank (default 256MiB)"},
        {"bucket", OPTION_BYTES, &arguments.bucket_bytes, "BYTES", "largest broadcast (default 64MiB)"},
        {"max-groups", OPTION_COUNT, &arguments.max_groups, "N",
         "communicators a rank may hold (default 16; 0 forces relay)"},
        {"link", OPTION_RATE, &speeds.link_bytes_per_s, "RATE",
         "speed of a rank's network link for the predicted time (default 50GB/s)"},
        {"nvlink", OPTION_RATE, &speeds.nvlink_bytes_per_s, "RATE",
         "the same inside a node (default 450GB/s)"},
        {"hbm", OPTION_RATE, &speeds.hbm_bytes_per_s, "RATE", "speed of a rank's memory (default 4TB/s)"},
        {"ranks-per-node", OPTION_COUNT, &speeds.ranks_per_node, "N",
         "ranks that share a node (default: no two do)"},
        {"explain", OPTION_TEXT, &layers, "LAYER",
         "instead: where each byte of a layer comes from; a name or a glob"},
        {"json", OPTION_FLAG, &json, NULL, "print JSON"},
    };
    const command_spec_t spec = {
        .name = "plan",
        .synopsis = "DIR --trainer LAYOUT --rollout LAYOUT [options]",
        .about = "Plan the sync of the checkpoint in DIR (only its header is read) and print layers, bytes, "
                 "staging,\n"
                 "communicators and predicted time. A layout that does not fit is refused with what would "
                 "(exit 4).",
        .options = options,
        .num_options = sizeof options / sizeof options[0],
        .min_positional = 1,
        .max_positional = 1,
        .positional_names = "DIR",
    };
    const char *dir;
    unsigned count;
    int code = options_parse(&spec, argc, argv, false, &dir, &count);
    if (code >= 0)
        return code;
    if (!arguments.trainer || !arguments.rollout) {
        fprintf(stderr,
                "weft plan: --trainer and --rollout are needed, such as --trainer fsdp:4 --rollout tp:2\n");
        return EXIT_USAGE;
    }
    if (layers && json) {
        fprintf(stderr, "weft plan: --explain prints text; leave --json out\n");
        return EXIT_USAGE;
    }
    weft_error_t error;
    weft_model_t *model = NULL;
    weft_plan_t *plan = NULL;
    if (weft_model_open(dir, &model, &error) != WEFT_OK)
        return report_error("plan", &error);
    uint64_t start = weft_now_us();
    if (plan_from_arguments(model, &arguments, &plan, &error) == WEFT_OK)
        code = layers ? explain(plan, layers) : print_plan(plan, json, &speeds, weft_now_us() - start);
    else
        code = report_error("plan", &error);
    weft_plan_destroy(plan);
    weft_model_close(model);
    return code;
}
