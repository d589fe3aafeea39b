/* weft quantize: a rollout's kernel-format files, or a quantized checkpoint, offline. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/error.h"
#include "src/base/text.h"
#include "src/model/model_private.h"
#include "src/model/stored.h"
#include "src/quantize/checkpoint.h"
#include "src/quantize/kernel_file.h"
#include "src/quantize/offline.h"

#define DEFAULT_SHARD_BYTES UINT64_C(5000000000)

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

/* What a rollout rank's outputs are written by. */
typedef struct rank_job {
    const weft_plan_t *plan;
    const char *source, *out;
    uint64_t shard_bytes;
    weft_checkpoint_written_t written;
} rank_job_t;

typedef weft_status_t (*rank_fn)(rank_job_t *job, const weft_program_t *program,
                                 const weft_outputs_t *outputs, uint32_t rollout_rank, weft_error_t *error);

static weft_status_t with_rank(rank_job_t *job, uint32_t rollout_rank, rank_fn fn, weft_error_t *error)
{
    const weft_plan_t *plan = job->plan;
    weft_outputs_t outputs = {0};
    weft_program_t *program = NULL;
    weft_status_t status = weft_outputs_create(plan, rollout_rank % weft_plan_tp(plan), &outputs);
    if (status == WEFT_OK)
        status = weft_program_create(plan, weft_plan_num_trainers(plan) + rollout_rank, &outputs, &program);
    if (status == WEFT_OK)
        status = fn(job, program, &outputs, rollout_rank, error);
    else
        weft_fail(error, status, "no memory for the program of rollout rank %u", rollout_rank);
    weft_program_destroy(program);
    weft_outputs_destroy(&outputs);
    return status;
}

static weft_status_t write_kernel_file(rank_job_t *job, const weft_program_t *program,
                                       const weft_outputs_t *outputs, uint32_t rollout_rank,
                                       weft_error_t *error)
{
    return write_rank(program, outputs, job->out, rollout_rank, error);
}

static weft_status_t write_checkpoint(rank_job_t *job, const weft_program_t *program,
                                      const weft_outputs_t *outputs, uint32_t rollout_rank,
                                      weft_error_t *error)
{
    (void)rollout_rank;
    return weft_checkpoint_write(program, outputs, job->source, job->out, job->shard_bytes, &job->written,
                                 error);
}

static weft_status_t quantize_to_kernel_files(rank_job_t *job, weft_error_t *error)
{
    uint32_t count = weft_plan_num_rollouts(job->plan);
    for (uint32_t r = 0; r < count; r++)
        WEFT_TRY(with_rank(job, r, write_kernel_file, error));
    printf("%u files in %s\n", count, job->out);
    return WEFT_OK;
}

static weft_status_t quantize_to_checkpoint(rank_job_t *job, weft_error_t *error)
{
    WEFT_TRY(with_rank(job, 0, write_checkpoint, error));
    char size[24];
    printf("%zu tensors, %s in %u files of %s\n", job->written.num_tensors,
           weft_text_bytes((double)job->written.bytes, size), job->written.num_files, job->out);
    if (job->written.num_left_out)
        printf("%u tensors are left out: engines make them, or do without\n", job->written.num_left_out);
    return WEFT_OK;
}

/* What may not be given together; -1 to go on. */
static int check_arguments(const plan_arguments_t *arguments, const char *format, uint64_t shard_bytes)
{
    bool checkpoint = strcmp(format, "checkpoint") == 0;
    const char *wrong = NULL;
    if (!checkpoint && strcmp(format, "kernel") != 0)
        wrong = "--format expects kernel or checkpoint";
    else if (!checkpoint && !arguments->rollout)
        wrong = "--rollout is needed, such as --rollout tp:2 (or --format checkpoint)";
    else if (checkpoint && arguments->rollout && strcmp(arguments->rollout, "tp:1") != 0)
        wrong = "a checkpoint is written whole, and engines cut it: leave --rollout out";
    else if (!checkpoint && shard_bytes)
        wrong = "--shard is for --format checkpoint";
    if (!wrong)
        return -1;
    fprintf(stderr, "weft quantize: %s\n", wrong);
    return EXIT_USAGE;
}

/* What a scheme need not be given for: a checkpoint that has one. */
static weft_status_t check_stored(const weft_model_t *model, weft_error_t *error)
{
    const weft_stored_t *stored;
    WEFT_TRY(weft_stored_read(weft_model_config(model), &stored, error));
    return weft_stored_of(model)
               ? WEFT_OK
               : weft_fail(
                     error, WEFT_ERR_ARGUMENT,
                     "--scheme (or --engine) is needed, such as --scheme fp8-block: the checkpoint is not "
                     "quantized");
}

int command_quantize(int argc, char **argv)
{
    plan_arguments_t arguments = PLAN_ARGUMENTS;
    arguments.trainer = "fsdp:1";
    arguments.budget_bytes = UINT64_C(1) << 40; /* nothing is staged */
    const char *format = "kernel";
    uint64_t shard_bytes = 0;
    const option_row_t options[] = {
        {"scheme", OPTION_TEXT, &arguments.scheme, "MAP", OPTION_SCHEMES},
        {"profile", OPTION_TEXT, &arguments.profile, "NAME",
         "exact arithmetic of the scheme; docs/numerics.md"},
        {"engine", OPTION_TEXT, &arguments.engine, "NAME", OPTION_ENGINES},
        {"rollout", OPTION_TEXT, &arguments.rollout, "LAYOUT",
         "tp:T or tp:TxR for R replicas; ,ep for whole experts a rank"},
        {"format", OPTION_TEXT, &format, "NAME",
         "kernel (default): a file a rank; checkpoint: a folder that engines load"},
        {"shard", OPTION_BYTES, &shard_bytes, "BYTES", "of a checkpoint's files, at most; default 5GB"},
        {"recipe", OPTION_TEXT, &arguments.recipe, "FILE",
         "what tensors become in an engine, for a model_type that weft does not know"},
    };
    const command_spec_t spec = {
        .name = "quantize",
        .synopsis = "DIR OUT [--scheme MAP] (--rollout LAYOUT | --format checkpoint) [options]",
        .about = "Write OUT/rank{r}.safetensors for each rollout rank r (replica by replica): the "
                 "kernel-format weights that a\n"
                 "sync of the checkpoint in DIR installs, byte for byte. With --format checkpoint, write the "
                 "folder OUT instead: the\n"
                 "same numbers under the checkpoint's own names, as compressed-tensors or fp8, which engines "
                 "load.",
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
    code = check_arguments(&arguments, format, shard_bytes);
    if (code >= 0)
        return code;
    bool checkpoint = strcmp(format, "checkpoint") == 0;
    if (checkpoint)
        arguments.rollout = "tp:1";
    weft_error_t error;
    weft_model_t *model = NULL;
    weft_plan_t *plan = NULL;
    weft_status_t status = weft_model_open(dirs[0], &model, &error);
    if (status == WEFT_OK && !arguments.scheme && !arguments.engine)
        status = check_stored(model, &error);
    if (status == WEFT_OK)
        status = plan_from_arguments(model, &arguments, &plan, &error);
    rank_job_t job = {plan, dirs[0], dirs[1], shard_bytes ? shard_bytes : DEFAULT_SHARD_BYTES};
    if (status == WEFT_OK)
        status = checkpoint ? quantize_to_checkpoint(&job, &error) : quantize_to_kernel_files(&job, &error);
    code = status == WEFT_OK ? EXIT_OK : report_error("quantize", &error);
    weft_plan_destroy(plan);
    weft_model_close(model);
    return code;
}
