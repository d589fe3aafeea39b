/* Patterns of layer names: as the control plane carries them (a list, at most WEFT_SUBSET_BYTES) to select
 * what of a version travels, and as `weft plan --explain` takes one. */
#include "src/assemble/selection.h"
#include "src/control/message.h"
#include "tests/fuzz/world.h"

static struct {
    weft_model_t *model;
    weft_plan_t *plan;
    weft_program_t *program;
    weft_outputs_t outputs;
    weft_selection_t selection;
} world;

static void make_world(void)
{
    world.model = fuzz_model(FUZZ_CONFIG);
    world.plan = fuzz_plan(world.model, "fsdp:2", "tp:2", "fp8-channel");
    world.program = fuzz_program(world.plan, 2, &world.outputs);
    FUZZ_CHECK(weft_selection_create(world.program, &world.selection) == WEFT_OK);
}

static void try_selection(const char *patterns)
{
    weft_selection_t *s = &world.selection;
    uint32_t found = weft_selection_count(world.plan, patterns), chosen = 0;
    weft_selection_choose(s, patterns);
    for (uint32_t i = 0; i < world.plan->layers->count; i++)
        chosen += s->layers[i];
    FUZZ_CHECK(s->whole ? patterns[0] == '\0' : chosen == found);
    FUZZ_CHECK(s->num_units <= world.program->num_units && s->payload_bytes <= world.program->payload_bytes);
}

static void try_explain(const char *pattern)
{
    char *text = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_plan_explain(world.plan, pattern, &text, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    if (!world.model)
        make_world();
    char *text = fuzz_take_text(&input, "");
    if (strlen(text) < WEFT_SUBSET_BYTES)
        try_selection(text);
    try_explain(text);
    free(text);
    return 0;
}
