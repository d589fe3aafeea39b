#include <stdio.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/error.h"
#include "src/model/stored.h"

int exit_code_of(weft_status_t status)
{
    switch (status) {
    case WEFT_OK:
        return EXIT_OK;
    case WEFT_ERR_MISFIT:
    case WEFT_ERR_BUDGET:
        return EXIT_PLAN;
    case WEFT_ERR_TIMEOUT:
    case WEFT_ERR_PEER_LOST:
    case WEFT_ERR_FENCED:
        return EXIT_PEER;
    case WEFT_ERR_UNKNOWN_NAME:
    case WEFT_ERR_ARGUMENT:
        return EXIT_USAGE;
    case WEFT_ERR_IO:
    case WEFT_ERR_NO_MEMORY:
    case WEFT_ERR_SYSTEM:
    case WEFT_ERR_UNSUPPORTED:
    case WEFT_ERR_TRANSPORT:
        return EXIT_ENVIRONMENT;
    default:
        return EXIT_CHECK_FAILED;
    }
}

int report_error(const char *command, const weft_error_t *error)
{
    fprintf(stderr, "weft %s: %s\n", command, error->message);
    return exit_code_of(error->status);
}

weft_status_t plan_from_arguments(weft_model_t *model, const plan_arguments_t *arguments, weft_plan_t **plan,
                                  weft_error_t *error)
{
    weft_layout_t *trainer = NULL, *rollout = NULL;
    bool chosen = arguments->scheme || arguments->engine || weft_stored_of(model);
    const char *scheme = chosen ? arguments->scheme : arguments->default_scheme;
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    options.profile = arguments->profile;
    options.engine = arguments->engine;
    options.max_groups = arguments->max_groups;
    if (arguments->budget_bytes)
        options.budget_bytes = arguments->budget_bytes;
    if (arguments->bucket_bytes)
        options.max_bucket_bytes =
            arguments->bucket_bytes < UINT32_MAX ? (uint32_t)arguments->bucket_bytes : UINT32_MAX;
    if (arguments->recipe)
        WEFT_TRY(weft_model_set_recipe(model, arguments->recipe, error));
    weft_status_t status = weft_layout_parse(arguments->trainer, WEFT_SIDE_TRAINER, &trainer, error);
    if (status == WEFT_OK)
        status = weft_layout_parse(arguments->rollout, WEFT_SIDE_ROLLOUT, &rollout, error);
    if (status == WEFT_OK)
        status = weft_plan_create(model, trainer, rollout, scheme, &options, plan, error);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    return status;
}
