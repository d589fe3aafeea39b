/* Tensor and expert parallel ranks: the same bits on every rank, and nearly those of one rank. */
#include "launch/decoder/decoder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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
    weft_status_t status;
    weft_error_t error;
    uint32_t vocab;
    float logits[STEPS][VOCAB];
    double bits;
} sight_t;

static uint32_t likeliest(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void decode(const decoder_config_t *config, void *user)
{
    sight_t *sight = user;
    decoder_t *decoder = NULL;
    sight->status = decoder_create(config, &decoder, &sight->error);
    if (sight->status != WEFT_OK)
        return;
    sight->vocab = decoder_vocab(decoder);
    uint32_t token = 0;
    for (uint32_t i = 0; i < STEPS && sight->status == WEFT_OK; i++) {
        token = i + 1 < sizeof prompt ? (uint8_t)prompt[i] : token;
        sight->status = decoder_step(decoder, token, sight->logits[i]);
        token = likeliest(sight->logits[i], sight->vocab);
    }
    if (sight->status == WEFT_OK)
        sight->status =
            decoder_score(decoder, (const uint8_t *)passage, sizeof passage - 1, 80, &sight->bits);
    decoder_destroy(decoder);
}

/* Run a group; all ranks must have seen the same, and *sight is that. */
static void look(const group_spec_t *spec, sight_t *sight)
{
    sight_t *sights[GROUP_MAX];
    for (uint32_t r = 0; r < spec->ranks; r++)
        assert_non_null(sights[r] = calloc(1, sizeof *sights[r]));
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

static void check_near(const sight_t *one, const sight_t *many)
{
    for (uint32_t i = 0; i < STEPS; i++) {
        assert_int_equal(likeliest(one->logits[i], one->vocab), likeliest(many->logits[i], one->vocab));
        for (uint32_t t = 0; t < one->vocab; t++)
            assert_true(fabsf(one->logits[i][t] - many->logits[i][t]) < 1e-3f);
    }
    assert_true(fabs(one->bits - many->bits) < 1e-4);
}

/* tp 4 holds each of the two KV heads twice. */
static void dense_ranks_agree(void **state)
{
    static sight_t one, many;
    (void)state;
    weft_model_t *model = open_demo("tiny-qwen3/v3");
    look(&(group_spec_t){.model = model, .ranks = 1}, &one);
    look(&(group_spec_t){.model = model, .ranks = 2}, &many);
    check_near(&one, &many);
    look(&(group_spec_t){.model = model, .ranks = 4}, &many);
    check_near(&one, &many);
    weft_model_close(model);
}

static void sparse_ranks_agree(void **state)
{
    static sight_t one, many;
    (void)state;
    weft_model_t *model = open_demo("tiny-qwen3-moe/v1");
    look(&(group_spec_t){.model = model, .ranks = 1}, &one);
    look(&(group_spec_t){.model = model, .ranks = 2}, &many);
    check_near(&one, &many);
    look(&(group_spec_t){.model = model, .ranks = 2, .expert_parallel = true}, &many);
    check_near(&one, &many);
    look(&(group_spec_t){.model = model, .ranks = 4, .expert_parallel = true}, &many);
    check_near(&one, &many);
    weft_model_close(model);
}

/* The configuration of tiny-qwen3 with another vocabulary. */
static weft_model_t *config_with_vocab(uint32_t vocab)
{
    size_t bytes;
    weft_error_t error;
    weft_model_t *model = NULL;
    char *text = read_demo("tiny-qwen3/v3/config.json", &bytes), digits[4];
    char *place = strstr(text, "\"vocab_size\": 256");
    assert_non_null(place);
    snprintf(digits, sizeof digits, "%u", vocab);
    memcpy(place + strlen("\"vocab_size\": "), digits, 3);
    if (weft_model_create(text, &model, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    free(text);
    return model;
}

/* 130 tokens are padded to 192 rows: 48 on each of four ranks, the last one holding padding only. Tokens that
 * exist have the logits they had, those that do not are not there. */
static void padding_is_no_token(void **state)
{
    static sight_t whole, padded;
    (void)state;
    weft_model_t *model = open_demo("tiny-qwen3/v3"), *config = config_with_vocab(130);
    look(&(group_spec_t){.model = model, .ranks = 4}, &whole);
    look(&(group_spec_t){.model = model, .config = config, .ranks = 4, .vocab = 130}, &padded);
    assert_int_equal(padded.vocab, 130);
    for (uint32_t i = 0; i < STEPS; i++)
        assert_memory_equal(padded.logits[i], whole.logits[i], 130 * sizeof(float));
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
    assert_int_equal(decoder_create(&config, &decoder, NULL), WEFT_OK);
    assert_int_equal(decoder_step(decoder, 'a', logits), WEFT_ERR_PEER_LOST);
    assert_int_equal(decoder_score(decoder, (const uint8_t *)"abc", 3, 3, &bits), WEFT_ERR_PEER_LOST);
    decoder_destroy(decoder);
    kernel_rank_free(&weights);
    weft_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_ranks_agree),
        cmocka_unit_test(sparse_ranks_agree),
        cmocka_unit_test(padding_is_no_token),
        cmocka_unit_test(a_lost_peer_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
