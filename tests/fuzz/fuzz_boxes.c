/* A layout by boxes from a file, and the plan that is made of it for a small model. */
#include "src/plan/layout.h"
#include "tests/fuzz/world.h"

#define MOST_RANKS 64

static void try_plan(const weft_layout_t *trainer)
{
    static weft_model_t *model;
    static weft_layout_t *rollout;
    weft_plan_t *plan = NULL;
    weft_error_t error = {0};
    if (!model) {
        model = fuzz_model(FUZZ_CONFIG);
        rollout = fuzz_layout("tp:2", WEFT_SIDE_ROLLOUT);
    }
    weft_status_t status = weft_plan_create(model, trainer, rollout, "bf16", NULL, &plan, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    else
        weft_plan_destroy(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file("boxes.json", data, size);
    char text[600];
    weft_layout_t *layout = NULL;
    weft_error_t error = {0};
    snprintf(text, sizeof text, "boxes:%s", path);
    fuzz_meter_begin();
    weft_status_t status = weft_layout_parse(text, WEFT_SIDE_TRAINER, &layout, &error);
    fuzz_meter_end(128 * size + (256 << 10));
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(!layout);
        return 0;
    }
    for (size_t i = 0; i < layout->num_boxes; i++)
        FUZZ_CHECK(layout->boxes[i].rank < layout->num_ranks && layout->boxes[i].box.num_dims >= 1 &&
                   layout->boxes[i].box.num_dims <= WEFT_MAX_DIMS);
    if (layout->num_ranks <= MOST_RANKS)
        try_plan(layout);
    weft_layout_destroy(layout);
    return 0;
}
