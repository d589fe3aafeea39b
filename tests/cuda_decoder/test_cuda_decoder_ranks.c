/* Tensor and expert parallel ranks on a GPU, as threads: the same bits on every rank, and nearly those of the
 * host. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/decoder/decoder.h"
#include "tests/cuda_decoder/device.h"
#include "tests/cuda_decoder/logits.h"
#include "tests/unit/decoder/fixture.h"
#include "tests/unit/decoder/group.h"

#define VOCAB 256
#define STEPS 48

static const char prompt[] = "And God said unto Moses, ";
static const char passage[] =
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; "
    "and darkness was upon the face of the deep.";

/* What one rank saw: the logits of every step, prompt then greedy, and the score of the passage. */
typedef struct sight {
    bool on_device;
    weft_status_t status;
    weft_error_t error;
    uint32_t vocab;
    float logits[STEPS][VOCAB];
    double bits;
} sight_t;

static void decode(const decoder_config_t *given, void *user)
{
    sight_t *sight = user;
    decoder_config_t config = *given;
    device_rank_t copies = {0};
    decoder_t *decoder = NULL;
    uint32_t token = 0;
    if (sight->on_device)
        device_rank_wrap(&copies, &config, false);
    sight->status = decoder_create(&config, &decoder, &sight->error);
    sight->vocab = sight->status == WEFT_OK ? decoder_vocab(decoder) : 0;
    for (uint32_t i = 0; i < STEPS && sight->status == WEFT_OK; i++) {
        token = i + 1 < sizeof prompt ? (uint8_t)prompt[i] : token;
        sight->status = decoder_step(decoder, token, sight->logits[i]);
        token = likeliest(sight->logits[i], sight->vocab);
    }
    if (sight->status == WEFT_OK)
        sight->status =
            decoder_score(decoder, (const uint8_t *)passage, sizeof passage - 1, 80, &sight->bits);
    decoder_destroy(decoder);
    device_rank_free(&copies);
}

/* Run a group; all ranks must have seen the same, and *sight is that. */
static void look(const group_spec_t *spec, bool on_device, sight_t *sight)
{
    sight_t *sights[GROUP_MAX];
    for (uint32_t r = 0; r < spec->ranks; r++) {
        assert_non_null(sights[r] = calloc(1, sizeof *sights[r]));
        sights[r]->on_device = on_device;
    }
    group_run(spec, decode, (void **)sights);
    for (uint32_t r = 0; r < spec->ranks; r++) {
        if (sights[r]->status != WEFT_OK)
            fail_msg("rank %u: %s", r, sights[r]->error.message);
        assert_memory_equal(sights[r]->logits, sights[0]->logits, sizeof sights[0]->logits);
        assert_memory_equal(&sights[r]->bits, &sights[0]->bits, sizeof sights[0]->bits);
    }
    *sight = *sights[0];
    for (uint32_t r = 0; r < spec->ranks; r++)
        free(sights[r]);
}

static void check_group(const group_spec_t *spec)
{
    static sight_t expected, seen;
    float largest = 0;
    look(spec, false, &expected);
    look(spec, true, &seen);
    assert_int_equal(expected.vocab, seen.vocab);
    for (uint32_t i = 0; i < STEPS; i++)
        check_near(expected.logits[i], seen.logits[i], seen.vocab, &largest);
    assert_true(fabs(expected.bits - seen.bits) < 1e-3);
}

static void ranks_agree(void **state)
{
    (void)state;
    weft_model_t *dense = open_demo("tiny-qwen3/v3"), *sparse = open_demo("tiny-qwen3-moe/v1");
    check_group(&(group_spec_t){.model = dense, .ranks = 2});
    check_group(&(group_spec_t){.model = sparse, .ranks = 2});
    check_group(&(group_spec_t){.model = sparse, .ranks = 4, .expert_parallel = true});
    weft_model_close(sparse);
    weft_model_close(dense);
}

/* 130 tokens are padded to 192 rows: the last of four ranks holds padding only. */
static void padding_is_no_token(void **state)
{
    size_t bytes;
    weft_error_t error;
    weft_model_t *config = NULL;
    (void)state;
    weft_model_t *model = open_demo("tiny-qwen3/v3");
    char *text = read_demo("tiny-qwen3/v3/config.json", &bytes);
    char *place = strstr(text, "\"vocab_size\": 256");
    assert_non_null(place);
    memcpy(place + strlen("\"vocab_size\": "), "130", 3);
    if (weft_model_create(text, &config, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    free(text);
    check_group(&(group_spec_t){.model = model, .config = config, .ranks = 1, .vocab = 130});
    check_group(&(group_spec_t){.model = model, .config = config, .ranks = 4, .vocab = 130});
    weft_model_close(config);
    weft_model_close(model);
}

static bool lost(void *user, float *data, size_t count)
{
    (void)user, (void)data, (void)count;
    return false;
}

static void a_lost_peer_is_said(void **state)
{
    kernel_rank_t weights;
    device_rank_t copies;
    decoder_t *decoder;
    float logits[VOCAB];
    double bits;
    (void)state;
    weft_model_t *model = open_demo("tiny-qwen3/v1");
    kernel_rank_build(&weights, model, (kernel_place_t){.ranks = 2});
    decoder_config_t config = {.model = model,
                               .tp_size = 2,
                               .max_tokens = 8,
                               .find = kernel_rank_find,
                               .all_reduce = lost,
                               .user = &weights};
    device_rank_wrap(&copies, &config, false);
    config.all_reduce = lost;
    assert_int_equal(decoder_create(&config, &decoder, NULL), WEFT_OK);
    assert_int_equal(decoder_step(decoder, 'a', logits), WEFT_ERR_PEER_LOST);
    assert_int_equal(decoder_position(decoder), 0);
    assert_int_equal(decoder_score(decoder, (const uint8_t *)"abc", 3, 3, &bits), WEFT_ERR_PEER_LOST);
    decoder_destroy(decoder);
    device_rank_free(&copies);
    kernel_rank_free(&weights);
    weft_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_agree),
        cmocka_unit_test(padding_is_no_token),
        cmocka_unit_test(a_lost_peer_is_said),
    };
    if (!device_found())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
