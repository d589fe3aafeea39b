/* Layouts given box by box: one that says what axes would say makes the same plan, and what is wrong is refused by name. */
#include <unistd.h>

#include "tests/support/world.h"

static weft_layout_t *empty_layout(uint32_t ranks)
{
    weft_layout_t *layout;
    assert_int_equal(weft_layout_boxes(ranks, &layout, NULL), WEFT_OK);
    return layout;
}

static void add(weft_layout_t *layout, uint32_t rank, const char *tensor, const weft_tensor_t *of, weft_rect_t rect)
{
    weft_box_t box = {.num_dims = of->num_dims};
    uint32_t cols = of->num_dims - 1;
    box.offset[cols] = rect.col;
    box.extent[cols] = rect.cols;
    if (cols) {
        box.offset[cols - 1] = rect.row;
        box.extent[cols - 1] = rect.rows;
    }
    if (!weft_rect_empty(rect))
        assert_int_equal(weft_layout_add_box(layout, rank, tensor, &box, NULL), WEFT_OK);
}

/* The boxes that `text` gives to each rank, one by one. */
static weft_layout_t *spell_out(const world_t *w, const char *text)
{
    weft_layout_t *layout = empty_layout(w->num_trainers);
    for (uint32_t i = 0; i < w->num_tensors; i++)
        for (uint32_t rank = 0; rank < w->num_trainers; rank++) {
            const weft_tensor_t *tensor = weft_model_tensor(w->model, i);
            add(layout, rank, tensor->name, tensor, trainer_box(&w->cp->sources[w->tensor_source[i]], text, rank));
        }
    return layout;
}

static void check_same_program(const weft_program_t *a, const weft_program_t *b)
{
    assert_int_equal(a->num_buckets, b->num_buckets);
    assert_int_equal(a->num_fragments, b->num_fragments);
    for (size_t i = 0; i < a->num_fragments; i++) {
        assert_string_equal(weft_model_tensor(a->plan->model, a->fragments[i].tensor)->name,
                            weft_model_tensor(b->plan->model, b->fragments[i].tensor)->name);
        assert_true(weft_rect_equal(a->fragments[i].rect, b->fragments[i].rect));
    }
}

static void compare_with_axes(const checkpoint_t *cp, const char *trainer, const char *rollout, const char *scheme)
{
    world_t *w = world_create(cp, trainer, rollout, scheme, NULL);
    weft_layout_t *layout = spell_out(w, trainer);
    weft_plan_t *plan;
    weft_error_t error;
    if (weft_plan_create(w->model, layout, w->rollout, scheme, NULL, &plan, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    for (uint32_t rank = 0; rank < w->num_ranks; rank++) {
        const weft_outputs_t *outputs = rank < w->num_trainers ? NULL : &w->outputs[(rank - w->num_trainers) % w->tp];
        weft_program_t *program;
        assert_int_equal(weft_program_create(plan, rank, outputs, &program), WEFT_OK);
        check_same_program(w->programs[rank], program);
        weft_program_destroy(program);
    }
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    world_destroy(w);
}

static void test_same_as_axes(void **state)
{
    (void)state;
    checkpoint_t block = checkpoint_block(WEFT_DTYPE_BF16), moe = checkpoint_moe(WEFT_DTYPE_BF16);
    compare_with_axes(&block, "fsdp:3", "tp:2", "fp8-channel");
    compare_with_axes(&block, "tp:2,dp:2", "tp:1x2", "bf16");
    compare_with_axes(&moe, "fsdp:2", "tp:2", "fp8-channel");
    compare_with_axes(&moe, "ep:2", "tp:2,ep", "bf16");
}

/* ---- refusals ---- */

typedef struct refusal {
    world_t *w;
    weft_layout_t *layout;
} refusal_t;

static refusal_t begin(void)
{
    static checkpoint_t cp;
    cp = checkpoint_block(WEFT_DTYPE_BF16);
    refusal_t r = {.w = world_create(&cp, "fsdp:2", "tp:1", "bf16", NULL)};
    r.layout = spell_out(r.w, "fsdp:2");
    return r;
}

static void refuse(refusal_t *r, weft_status_t expected, const char *first, const char *second)
{
    weft_error_t error;
    weft_plan_t *plan;
    assert_int_equal(weft_plan_create(r->w->model, r->layout, r->w->rollout, "bf16", NULL, &plan, &error), expected);
    print_message("%s\n", error.message);
    assert_non_null(strstr(error.message, first));
    assert_non_null(strstr(error.message, second));
    weft_layout_destroy(r->layout);
    world_destroy(r->w);
}

static void test_not_covered(void **state)
{
    (void)state;
    refusal_t r = begin();
    free(r.layout->boxes[--r.layout->num_boxes].tensor);
    refuse(&r, WEFT_ERR_MISFIT, "elements", "add what is missing");
}

static void test_two_boxes_of_a_rank(void **state)
{
    (void)state;
    refusal_t r = begin();
    assert_int_equal(weft_layout_add_box(r.layout, r.layout->boxes[0].rank, r.layout->boxes[0].tensor, &r.layout->boxes[0].box, NULL),
                     WEFT_OK);
    refuse(&r, WEFT_ERR_MISFIT, r.layout->boxes[0].tensor, "two boxes");
}

static void test_overlap(void **state)
{
    (void)state;
    refusal_t r = begin();
    size_t i = 0;
    while (r.layout->boxes[i].rank != 0 || r.layout->boxes[i].box.num_dims != 2)
        i++;
    r.layout->boxes[i].box.extent[0]++;
    refuse(&r, WEFT_ERR_MISFIT, "ranks 0 and 1", "overlap in part");
}

static void test_outside(void **state)
{
    (void)state;
    refusal_t r = begin();
    r.layout->boxes[0].box.extent[0] = 1 << 20;
    refuse(&r, WEFT_ERR_SHAPE, r.layout->boxes[0].tensor, "outside");
}

static void test_unknown_tensor(void **state)
{
    (void)state;
    refusal_t r = begin();
    assert_int_equal(weft_layout_add_box(r.layout, 0, "no.such.weight", &r.layout->boxes[0].box, NULL), WEFT_OK);
    refuse(&r, WEFT_ERR_MISSING_TENSOR, "no.such.weight", "no tensor");
}

static void test_api(void **state)
{
    (void)state;
    weft_layout_t *layout, *axes = parse_layout("fsdp:2", WEFT_SIDE_TRAINER);
    weft_error_t error;
    weft_box_t box = {.num_dims = 1, .extent = {1}};
    assert_int_equal(weft_layout_boxes(0, &layout, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_layout_add_box(axes, 0, "x", &box, &error), WEFT_ERR_ARGUMENT);
    layout = empty_layout(2);
    assert_int_equal(weft_layout_add_box(layout, 2, "x", &box, &error), WEFT_ERR_ARGUMENT);
    box.num_dims = 0;
    assert_int_equal(weft_layout_add_box(layout, 1, "x", &box, &error), WEFT_ERR_ARGUMENT);
    weft_layout_destroy(layout);
    weft_layout_destroy(axes);
}

/* ---- files ---- */

static weft_status_t read_text(const char *text, weft_layout_t **layout, weft_error_t *error)
{
    char path[] = "/tmp/weft-boxes-XXXXXX", name[64];
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, strlen(text)), (ssize_t)strlen(text));
    close(file);
    snprintf(name, sizeof name, "boxes:%s", path);
    weft_status_t status = weft_layout_parse(name, WEFT_SIDE_TRAINER, layout, error);
    unlink(path);
    return status;
}

static void test_file(void **state)
{
    (void)state;
    weft_layout_t *layout;
    weft_error_t error;
    const char *good = "{\"ranks\": 2, \"boxes\": {\"a\": [{\"rank\": 1, \"offset\": [2, 0], \"extent\": [3, 4]}]}}";
    assert_int_equal(read_text(good, &layout, &error), WEFT_OK);
    assert_int_equal(weft_layout_num_ranks(layout), 2);
    assert_int_equal(layout->num_boxes, 1);
    assert_int_equal(layout->boxes[0].box.offset[0], 2);
    assert_int_equal(layout->boxes[0].box.extent[1], 4);
    weft_layout_destroy(layout);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{\"ranks\": 2}", "\"boxes\" is nothing"},
        {"{\"ranks\": 0, \"boxes\": {}}", "no \"ranks\""},
        {"{\"ranks\": 2, \"boxes\": {\"a\": 3}}", "tensor a has a number"},
        {"{\"ranks\": 2, \"boxes\": {\"a\": [{\"rank\": 2}]}}", "from 0 to 1"},
        {"{\"ranks\": 2, \"boxes\": {\"a\": [{\"rank\": 0, \"offset\": 1}]}}", "\"offset\" is a number"},
        {"{\"ranks\": 2, \"boxes\": {\"a\": [{\"rank\": 0, \"offset\": [1], \"extent\": [1, 2]}]}}", "1 offsets and 2 extents"},
        {"{\"ranks\": 2, \"boxes\": {\"a\": [{\"rank\": 0, \"offset\": [0,0,0,0,0], \"extent\": [1]}]}}", "up to 4"},
        {"{", "not JSON"},
    };
    weft_layout_t *layout;
    weft_error_t error;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(read_text(cases[i].text, &layout, &error), WEFT_ERR_FILE);
        if (!strstr(error.message, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", error.message, cases[i].says);
    }
    assert_int_equal(weft_layout_parse("boxes:/no/such/file", WEFT_SIDE_TRAINER, &layout, &error), WEFT_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_axes), cmocka_unit_test(test_not_covered),    cmocka_unit_test(test_two_boxes_of_a_rank),
        cmocka_unit_test(test_overlap),      cmocka_unit_test(test_outside),        cmocka_unit_test(test_unknown_tensor),
        cmocka_unit_test(test_api),          cmocka_unit_test(test_file),           cmocka_unit_test(test_bad_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
