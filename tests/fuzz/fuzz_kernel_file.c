/* A kernel-format file, which a rank reads that loads a version from its disk. Input: see
 * fuzz_take_safetensors; the model is world.h's, the rank one of two, in fp8-channel. */
#include "src/quantize/kernel_file.h"
#include "tests/fuzz/world.h"

#define MOST_DATA 131072

static struct {
    weft_model_t *model;
    weft_plan_t *plan;
    weft_program_t *program;
    weft_outputs_t outputs;
} world;

/* What a good file looks like, for who makes seeds. */
static void write_seed(const char *to)
{
    const weft_outputs_t *outputs = &world.outputs;
    weft_tensor_t *tensors = calloc(outputs->count, sizeof *tensors);
    uint8_t *bytes = calloc(outputs->bytes, 1);
    weft_error_t error;
    FUZZ_CHECK(tensors && bytes);
    for (uint32_t i = 0; i < outputs->count; i++) {
        const weft_output_t *output = &outputs->items[i];
        tensors[i] = (weft_tensor_t){.name = output->name,
                                     .dtype = output->dtype,
                                     .num_dims = output->num_dims,
                                     .data = bytes + output->offset};
        memcpy(tensors[i].shape, output->shape, sizeof output->shape);
    }
    FUZZ_CHECK(weft_kernel_file_write(to, 0, tensors, outputs->count, world.plan, (weft_digest_t){{1, 2}},
                                      &error) == WEFT_OK);
    free(tensors);
    free(bytes);
}

static void make_world(void)
{
    const char *seed = getenv("WEFT_FUZZ_WRITE_SEED"); /* a folder */
    world.model = fuzz_model(FUZZ_CONFIG);
    world.plan = fuzz_plan(world.model, "fsdp:1", "tp:2", "fp8-channel");
    world.program = fuzz_program(world.plan, 1, &world.outputs);
    if (seed)
        write_seed(seed);
}

static void check_accepted(const weft_kernel_file_t *file)
{
    volatile uint8_t sum = 0;
    weft_error_t error = {0};
    for (uint32_t i = 0; i < world.outputs.count; i++) {
        const uint8_t *bytes = weft_kernel_file_output(file, i);
        sum = (uint8_t)(sum + bytes[0] + bytes[world.outputs.items[i].bytes - 1]);
    }
    weft_status_t status = weft_kernel_file_check_digest(file, (weft_digest_t){{1, 2}}, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    size_t bytes;
    if (!world.model)
        make_world();
    uint8_t *contents = fuzz_take_safetensors(&input, "", MOST_DATA, &bytes);
    weft_kernel_file_t *file = NULL;
    weft_error_t error = {0};
    fuzz_file("rank0.safetensors", contents, bytes);
    FUZZ_CHECK(weft_kernel_file_exists(fuzz_folder(), world.program));
    fuzz_meter_begin();
    weft_status_t status = weft_kernel_file_open(fuzz_folder(), world.program, &world.outputs, &file, &error);
    fuzz_meter_end(128 * size + (256 << 10));
    if (status == WEFT_OK) {
        check_accepted(file);
        weft_kernel_file_close(file);
    } else {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(!file);
    }
    free(contents);
    return 0;
}
