/* A plan from texts: configuration, trainer, rollout, scheme, profile, budget, bucket, groups and a pattern
 * of layers, separated by FUZZ_FILES. The plan is the same when it is made again, prints, and each rank's
 * program follows. */
#include "src/model/json.h"
#include "src/plan/layout.h"
#include "tests/fuzz/world.h"

#define MOST_RANKS 16
#define MOST_BYTES (64 << 20) /* of a model: more only takes longer */

static bool same_digest(weft_digest_t a, weft_digest_t b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static void try_print(const weft_plan_t *plan)
{
    char *text = NULL;
    cJSON *root = NULL;
    weft_error_t error;
    FUZZ_CHECK(weft_plan_print(plan, false, NULL, &text) == WEFT_OK && text[0]);
    free(text);
    FUZZ_CHECK(weft_plan_print(plan, true, NULL, &text) == WEFT_OK);
    FUZZ_CHECK(weft_json_parse_whole(text, strlen(text), &root, &error) == WEFT_OK);
    cJSON_Delete(root);
    free(text);
}

static void try_explain(const weft_plan_t *plan, const char *layers)
{
    char *text = NULL;
    weft_error_t error = {0};
    weft_status_t status = weft_plan_explain(plan, layers, &text, &error);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    free(text);
}

/* What a rank sends others receive. */
static void try_programs(const weft_plan_t *plan)
{
    uint64_t sent = 0;
    for (uint32_t rank = 0; rank < weft_plan_num_ranks(plan); rank++) {
        weft_outputs_t outputs = {0};
        weft_program_t *program = fuzz_program(plan, rank, &outputs);
        sent += program->is_trainer ? program->payload_bytes : 0;
        FUZZ_CHECK(program->num_rounds == plan->num_rounds);
        weft_program_destroy(program);
        weft_outputs_destroy(&outputs);
    }
    FUZZ_CHECK(sent > 0);
}

typedef struct texts {
    char *config, *trainer, *rollout, *scheme, *profile, *budget, *bucket, *groups, *layers;
} texts_t;

static void try_plan(const texts_t *t, const weft_model_t *model, const weft_layout_t *trainer,
                     const weft_layout_t *rollout)
{
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_plan_t *plan = NULL, *again = NULL;
    weft_plan_summary_t summary;
    weft_error_t error = {0};
    options.profile = t->profile[0] ? t->profile : NULL;
    if (t->budget[0])
        options.budget_bytes = strtoull(t->budget, NULL, 10);
    if (t->bucket[0])
        options.max_bucket_bytes = (uint32_t)strtoull(t->bucket, NULL, 10);
    if (t->groups[0])
        options.max_groups = (uint32_t)strtoull(t->groups, NULL, 10);
    weft_status_t status = weft_plan_create(model, trainer, rollout, t->scheme, &options, &plan, &error);
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(!plan);
        return;
    }
    FUZZ_CHECK(weft_plan_create(model, trainer, rollout, t->scheme, &options, &again, &error) == WEFT_OK);
    FUZZ_CHECK(same_digest(weft_plan_hash(plan), weft_plan_hash(again)));
    weft_plan_destroy(again);
    weft_plan_summarize(plan, &summary);
    FUZZ_CHECK(summary.staging_bytes <= options.budget_bytes);
    if (plan->num_rounds <= 256) {
        try_print(plan);
        try_programs(plan);
        try_explain(plan, t->layers);
    }
    weft_plan_destroy(plan);
}

/* Whether it is a model, and small enough. */
static weft_model_t *try_model(const char *config)
{
    weft_model_t *model = NULL;
    weft_error_t error = {0};
    uint64_t bytes = 0;
    weft_status_t status = weft_model_create(config, &model, &error);
    if (status == WEFT_OK) {
        bool few = weft_model_config_number(model, "num_hidden_layers", 0) <= 4 &&
                   weft_model_config_number(model, "num_experts", 0) <= 8 &&
                   weft_model_config_number(model, "num_local_experts", 0) <= 8 &&
                   weft_model_config_number(model, "n_routed_experts", 0) <= 8;
        status = few ? weft_model_complete(model, &error) : WEFT_ERR_UNSUPPORTED;
    }
    for (uint32_t i = 0; status == WEFT_OK && i < weft_model_num_tensors(model); i++)
        bytes += weft_model_tensor(model, i)->bytes;
    if (status == WEFT_OK && bytes <= MOST_BYTES)
        return model;
    weft_model_close(model);
    return NULL;
}

static weft_layout_t *try_layout(const char *text, weft_side_t side)
{
    weft_layout_t *layout = NULL;
    if (strncmp(text, "boxes:", 6) == 0 || weft_layout_parse(text, side, &layout, NULL) != WEFT_OK)
        return NULL;
    if (weft_layout_num_ranks(layout) <= MOST_RANKS)
        return layout;
    weft_layout_destroy(layout);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    texts_t t;
    char **texts[] = {&t.config, &t.trainer, &t.rollout, &t.scheme, &t.profile,
                      &t.budget, &t.bucket,  &t.groups,  &t.layers};
    enum { COUNT = sizeof texts / sizeof texts[0] };
    for (size_t i = 0; i < COUNT; i++)
        *texts[i] = fuzz_take_text(&input, FUZZ_FILES);
    weft_layout_t *trainer = try_layout(t.trainer, WEFT_SIDE_TRAINER),
                  *rollout = try_layout(t.rollout, WEFT_SIDE_ROLLOUT);
    weft_model_t *model = trainer && rollout ? try_model(t.config) : NULL;
    if (model)
        try_plan(&t, model, trainer, rollout);
    weft_model_close(model);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    for (size_t i = 0; i < COUNT; i++)
        free(*texts[i]);
    return 0;
}
