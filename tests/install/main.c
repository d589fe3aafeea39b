/* What a stranger's program does first: open a model, plan, print the plan's hash. */
#include <inttypes.h>
#include <stdio.h>

#include <weft/weft.h>

static weft_status_t make_plan(const weft_model_t *model, weft_plan_t **plan, weft_error_t *error)
{
    weft_layout_t *trainer = NULL, *rollout = NULL;
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_status_t status = weft_layout_parse("fsdp:2", WEFT_SIDE_TRAINER, &trainer, error);
    if (status == WEFT_OK)
        status = weft_layout_parse("tp:2", WEFT_SIDE_ROLLOUT, &rollout, error);
    if (status == WEFT_OK)
        status = weft_plan_create(model, trainer, rollout, "fp8-block", &options, plan, error);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    return status;
}

int main(int argc, char **argv)
{
    weft_model_t *model = NULL;
    weft_plan_t *plan = NULL;
    weft_error_t error;
    if (argc != 2) {
        fprintf(stderr, "usage: consumer DIR\n");
        return 2;
    }
    weft_status_t status = weft_model_open(argv[1], &model, &error);
    if (status == WEFT_OK)
        status = make_plan(model, &plan, &error);
    if (status == WEFT_OK) {
        weft_digest_t hash = weft_plan_hash(plan);
        printf("%016" PRIx64 "%016" PRIx64 "\n", hash.word[1], hash.word[0]);
    } else {
        fprintf(stderr, "%s: %s\n", weft_status_name(status), error.message);
    }
    weft_plan_destroy(plan);
    weft_model_close(model);
    return status != WEFT_OK;
}
