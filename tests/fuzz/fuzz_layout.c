/* Layouts as texts, of both sides: the first byte chooses. "boxes:" is fuzz_boxes'. */
#include "src/base/error.h"
#include "src/plan/layout.h"
#include "tests/fuzz/fuzz.h"

static void check_accepted(const weft_layout_t *layout, const char *text)
{
    weft_layout_t *copy = weft_layout_copy(layout);
    uint32_t ranks = weft_layout_num_ranks(layout);
    FUZZ_CHECK(ranks >= 1 && ranks <= WEFT_MAX_LAYOUT_RANKS);
    FUZZ_CHECK(strcmp(weft_layout_text(layout), text) == 0);
    FUZZ_CHECK(copy && weft_layout_num_ranks(copy) == ranks);
    if (layout->side == WEFT_SIDE_ROLLOUT) {
        FUZZ_CHECK(layout->tp * layout->replicas == ranks);
    } else {
        uint32_t product = 1, last = 0;
        for (unsigned axis = 0; axis < WEFT_AXIS_COUNT; axis++) {
            product *= layout->size[axis];
            last += weft_layout_coordinate(layout, ranks - 1, axis) * layout->stride[axis];
        }
        FUZZ_CHECK(product == ranks && last == ranks - 1);
    }
    weft_layout_destroy(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    weft_side_t side = fuzz_number(&input, 1) & 1 ? WEFT_SIDE_ROLLOUT : WEFT_SIDE_TRAINER;
    char *text = fuzz_take_text(&input, "");
    weft_layout_t *layout = NULL;
    weft_error_t error = {0};
    if (side == WEFT_SIDE_TRAINER && strncmp(text, "boxes:", 6) == 0) {
        free(text);
        return 0;
    }
    fuzz_meter_begin();
    weft_status_t status = weft_layout_parse(text, side, &layout, &error);
    fuzz_meter_end(4 * size + 4096);
    if (status == WEFT_OK) {
        check_accepted(layout, text);
        weft_layout_destroy(layout);
    } else {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(!layout);
    }
    free(text);
    return 0;
}
