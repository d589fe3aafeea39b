/* weft quantize: a rollout's kernel-format files, offline. */
#include <stdio.h>
#include <stdlib.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/error.h"
#include "src/quantize/kernel_file.h"
#include "src/quantize/offline.h"

/* The outputs of a rank as tensors of a file. */
static weft_tensor_t *list_tensors(const weft_outputs_t *outputs, const uint8_t *memory)
{
    weft_tensor_t *tensors = calloc(outputs->count + 1, sizeof *tensors);
    for (uint32_t i = 0; tensors && i < outputs->count; i++) {
        const weft_output_t *output = &outputs->items[i];
        tensors[i] = (weft_tensor_t){.name = output->name,
                                     .dtype = output->dtype,
                                     .num_dims = output->num_dims,
                                     .bytes = output->bytes,
                                     .data = memory + output->offset};
        for (uint32_t d = 0; d < output->num_dims; d++)
            tensors[i].shape[d] = output->shape[d];
    }
    return tensors;
}

static weft_status_t write_rank(const weft_program_t *program, const weft_outputs_t *outputs, const char *dir,
                                uint32_t rollout_rank, weft_error_t *error)
{
    uint8_t *memory = aligned_alloc(WEFT_OUTPUT_ALIGN, outputs->bytes + WEFT_OUTPUT_ALIGN);
    weft_tensor_t *tensors = memory ? list_tensors(outputs, memory) : NULL;
    weft_digest_t digest;
    weft_status_t status =
        tensors ? WEFT_OK : weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a rank's weights");
    if (status == WEFT_OK)
        status = weft_quantize_offline(program, outputs, memory, &digest, error);
    if (status == WEFT_OK)
        status =
            weft_kernel_file_write(dir, rollout_rank, tensors, outputs->count, program->plan, digest, error);
    free(tensors);
    free(memory);
    return status;
}

static weft_status_t quantize_rank(const weft_plan_t *plan, uint32_t rollout_rank, const char *dir,
                                   weft_error_t *error)
{
    weft_outputs_t outputs = {0};
    weft_program_t *program = NULL;
    weft_status_t status = weft_outputs_create(plan, rollout_rank % weft_plan_tp(plan), &outputs);
    if (status == WEFT_OK)
        status = weft_program_create(plan, weft_plan_num_trainers(plan) + rollout_rank, &outputs, &program);
    if (status == WEFT_OK)
        status = write_rank(program, &outputs, dir, rollout_rank, error);
    else
        weft_fail(error, status, "no memory for the program of rollout rank %u", rollout_rank);
    weft_program_destroy(program);
    weft_outputs_destroy(&outputs);
    return status;
}

int command_quantize(int argc, char **argv)
{
    plan_arguments_t arguments = PLAN_ARGUMENTS;
    arguments.trainer = "fsdp:1";
    arguments.budget_bytes = UINT64_C(1) << 40; /* nothing is staged */
    const option_row_t options[] = {
        {"scheme", OPTION_TEXT, &arguments.scheme, "MAP", OPTION_SCHEMES},
        {"profile", OPTION_TEXT, &arguments.profile, "NAME",
         "fp8-block: ieee (default), vllm, pow2, vllm-pow2"},
        {"engine", OPTION_TEXT, &arguments.engine, "NAME", OPTION_ENGINES},
        {"rollout", OPTION_TEXT, &arguments.rollout, "LAYOUT",
         "tp:T or tp:TxR for R replicas; ,ep for whole experts a rank"},
        {"recipe", OPTION_TEXT, &arguments.recipe, "FILE",
         "what tensors become in an engine, for a model_type that weft does not know"},
    };
    const command_spec_t spec = {
        .name = "quantize",
        .synopsis = "DIR OUT --scheme MAP --rollout LAYOUT [--profile NAME]",
        .about = "Write OUT/rank{r}.safetensors for each rollout rank r (replica by replica): the "
                 "kernel-format weights that a\n"
                 "sync of the checkpoint in DIR installs, byte for byte.",
        .options = options,
        .num_options = sizeof options / sizeof options[0],
        .min_positional = 2,
        .max_positional = 2,
        .positional_names = "DIR or OUT",
    };
    const char *dirs[2];
    unsigned count;
    int code = options_parse(&spec, argc, argv, false, dirs, &count);
    if (code >= 0)
        return code;
    if ((!arguments.scheme && !arguments.engine) || !arguments.rollout) {
        fprintf(stderr, "weft quantize: --scheme (or --engine) and --rollout are needed, such as --scheme "
                        "fp8-block --rollout tp:2\n");
        return EXIT_USAGE;
    }
    weft_error_t error;
    weft_model_t *model = NULL;
    weft_plan_t *plan = NULL;
    weft_status_t status = weft_model_open(dirs[0], &model, &error);
    if (status == WEFT_OK)
        status = plan_from_arguments(model, &arguments, &plan, &error);
    for (uint32_t r = 0; status == WEFT_OK && r < weft_plan_num_rollouts(plan); r++)
        status = quantize_rank(plan, r, dirs[1], &error);
    code = status == WEFT_OK ? EXIT_OK : report_error("quantize", &error);
    if (status == WEFT_OK)
        printf("%u files in %s\n", weft_plan_num_rollouts(plan), dirs[1]);
    weft_plan_destroy(plan);
    weft_model_close(model);
    return code;
}
