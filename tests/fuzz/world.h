/* A small model and plans over it, for harnesses that read what must fit one. */
#ifndef WEFT_TESTS_FUZZ_WORLD_H
#define WEFT_TESTS_FUZZ_WORLD_H

#include "src/model/model_private.h"
#include "src/plan/program.h"
#include "tests/fuzz/fuzz.h"

#define FUZZ_CONFIG                                                                                          \
    "{\"model_type\":\"qwen3\",\"num_hidden_layers\":1,\"hidden_size\":64,\"vocab_size\":64,"                \
    "\"intermediate_size\":64,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"head_dim\":32}"

/* The model of a configuration, with all tensors that its recipe asks for. */
static inline weft_model_t *fuzz_model(const char *config)
{
    weft_model_t *model = NULL;
    weft_error_t error;
    FUZZ_CHECK(weft_model_create(config, &model, &error) == WEFT_OK &&
               weft_model_complete(model, &error) == WEFT_OK);
    return model;
}

static inline weft_layout_t *fuzz_layout(const char *text, weft_side_t side)
{
    weft_layout_t *layout = NULL;
    weft_error_t error;
    FUZZ_CHECK(weft_layout_parse(text, side, &layout, &error) == WEFT_OK);
    return layout;
}

static inline weft_plan_t *fuzz_plan(const weft_model_t *model, const char *trainer_text,
                                     const char *rollout_text, const char *scheme)
{
    weft_layout_t *trainer = fuzz_layout(trainer_text, WEFT_SIDE_TRAINER),
                  *rollout = fuzz_layout(rollout_text, WEFT_SIDE_ROLLOUT);
    weft_plan_t *plan = NULL;
    weft_error_t error;
    FUZZ_CHECK(weft_plan_create(model, trainer, rollout, scheme, NULL, &plan, &error) == WEFT_OK);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    return plan;
}

/* What a session rank does; a rollout rank's `outputs` are made, and destroyed with weft_outputs_destroy. */
static inline weft_program_t *fuzz_program(const weft_plan_t *plan, uint32_t rank, weft_outputs_t *outputs)
{
    weft_program_t *program = NULL;
    uint32_t trainers = weft_plan_num_trainers(plan);
    bool sends = rank < trainers;
    if (!sends)
        FUZZ_CHECK(weft_outputs_create(plan, (rank - trainers) % weft_plan_tp(plan), outputs) == WEFT_OK);
    FUZZ_CHECK(weft_program_create(plan, rank, sends ? NULL : outputs, &program) == WEFT_OK);
    return program;
}

#endif
