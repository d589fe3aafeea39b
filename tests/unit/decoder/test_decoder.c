/* The decoder against what another implementation computed: the likeliest next bytes, greedy text, bits per
 * byte. */
#include "launch/decoder/decoder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "tests/unit/decoder/fixture.h"

#define VOCAB 256

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1 /* no vector code, and every access checked */
#else
#define SLOW 0
#endif

/* A model with its decoder at one rank, and its entry of oracle.json. */
typedef struct subject {
    weft_model_t *model;
    kernel_rank_t weights;
    decoder_t *decoder;
    cJSON *oracles;
    const cJSON *oracle;
} subject_t;

static void open_subject(subject_t *subject, const char *path, const char *oracle)
{
    size_t bytes;
    weft_error_t error;
    char *text = read_demo("oracle.json", &bytes);
    *subject = (subject_t){.model = open_demo(path), .oracles = cJSON_Parse(text)};
    free(text);
    subject->oracle = cJSON_GetObjectItem(cJSON_GetObjectItem(subject->oracles, "models"), oracle);
    assert_non_null(subject->oracle);
    kernel_rank_build(&subject->weights, subject->model, (kernel_place_t){.ranks = 1});
    decoder_config_t config = {.model = subject->model,
                               .tp_size = 1,
                               .max_tokens = 256,
                               .find = kernel_rank_find,
                               .user = &subject->weights};
    if (decoder_create(&config, &subject->decoder, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(decoder_vocab(subject->decoder), VOCAB);
}

static void close_subject(subject_t *subject)
{
    decoder_destroy(subject->decoder);
    kernel_rank_free(&subject->weights);
    weft_model_close(subject->model);
    cJSON_Delete(subject->oracles);
}

static void feed(decoder_t *decoder, const char *text, float logits[VOCAB])
{
    for (; *text; text++)
        assert_int_equal(decoder_step(decoder, (uint8_t)*text, logits), WEFT_OK);
}

static uint32_t likeliest(const float logits[VOCAB])
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < VOCAB; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static double log_prob(const float logits[VOCAB], uint32_t token)
{
    double sum = 0;
    for (uint32_t i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i] - logits[token]);
    return -log(sum);
}

static const char *field(const subject_t *subject, const char *name)
{
    return cJSON_GetObjectItem(subject->oracle, name)->valuestring;
}

static void check_top5(const subject_t *subject, const float logits[VOCAB])
{
    float left[VOCAB];
    const cJSON *entry;
    memcpy(left, logits, sizeof left);
    cJSON_ArrayForEach(entry, cJSON_GetObjectItem(subject->oracle, "top5_next"))
    {
        uint32_t best = likeliest(left);
        assert_int_equal(best, cJSON_GetArrayItem(entry, 0)->valueint);
        assert_true(fabs(log_prob(logits, best) - cJSON_GetArrayItem(entry, 1)->valuedouble) < 0.01);
        left[best] = -INFINITY;
    }
}

/* Prompt, five likeliest, then 120 greedy bytes. */
static void check_text(const char *path, const char *oracle)
{
    subject_t subject;
    float logits[VOCAB];
    open_subject(&subject, path, oracle);
    const char *prompt = field(&subject, "prompt"), *text = field(&subject, "greedy_120") + strlen(prompt);
    feed(subject.decoder, prompt, logits);
    check_top5(&subject, logits);
    for (; *text; text++) {
        assert_int_equal(likeliest(logits), (uint8_t)*text);
        assert_int_equal(decoder_step(subject.decoder, (uint8_t)*text, logits), WEFT_OK);
    }
    assert_int_equal(decoder_position(subject.decoder), strlen(field(&subject, "greedy_120")));
    close_subject(&subject);
}

static void writes_what_the_oracle_writes(void **state)
{
    (void)state;
    check_text("tiny-qwen3/v1", "tiny-qwen3-v1");
    check_text("tiny-qwen3/v3", "tiny-qwen3-v3");
    check_text("tiny-qwen3-moe/v1", "tiny-qwen3-moe-v1");
}

static void check_bits(const char *path, const char *oracle)
{
    subject_t subject;
    size_t bytes;
    double bits = 0;
    char *text = read_demo("eval.txt", &bytes);
    open_subject(&subject, path, oracle);
    double expected =
        cJSON_GetObjectItem(subject.oracle, "bits_per_byte_fp32_math_on_bf16_weights")->valuedouble;
    assert_int_equal(decoder_score(subject.decoder, (const uint8_t *)text, bytes, 512, &bits), WEFT_OK);
    print_message("%s: %.5f bits per byte, expected %.5f\n", oracle, bits, expected);
    assert_true(fabs(bits - expected) < 0.002);
    close_subject(&subject);
    free(text);
}

static void scores_as_the_oracle_does(void **state)
{
    (void)state;
    if (SLOW) {
        print_message("a whole evaluation takes too long under this sanitizer\n");
        skip();
    }
    check_bits("tiny-qwen3/v3", "tiny-qwen3-v3");
    check_bits("tiny-qwen3-moe/v1", "tiny-qwen3-moe-v1");
}

/* Bits per byte of one window, token by token through the KV cache. */
static double bits_by_steps(decoder_t *decoder, const uint8_t *text, size_t bytes)
{
    double bits = 0;
    float logits[VOCAB];
    decoder_reset(decoder);
    for (size_t i = 0; i + 1 < bytes; i++) {
        assert_int_equal(decoder_step(decoder, text[i], logits), WEFT_OK);
        bits -= log_prob(logits, text[i + 1]) / log(2);
    }
    return bits / (double)(bytes - 1);
}

/* Lengths around the sizes of tiles and batches; every prefix differs by few tokens, so single errors show.
 */
static void check_steps(const char *path, const char *oracle)
{
    static const size_t lengths[] = {2, 3, 9, 64, 66, 131};
    subject_t subject;
    size_t bytes;
    double bits = 0;
    char *text = read_demo("eval.txt", &bytes);
    open_subject(&subject, path, oracle);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        double expected = bits_by_steps(subject.decoder, (const uint8_t *)text, lengths[i]);
        uint32_t position = decoder_position(subject.decoder);
        assert_int_equal(decoder_score(subject.decoder, (const uint8_t *)text, lengths[i], 512, &bits),
                         WEFT_OK);
        assert_true(fabs(bits - expected) < 1e-4);
        assert_int_equal(decoder_position(subject.decoder), position);
    }
    close_subject(&subject);
    free(text);
}

static void steps_equal_a_batch(void **state)
{
    (void)state;
    check_steps("tiny-qwen3/v1", "tiny-qwen3-v1");
    check_steps("tiny-qwen3-moe/v1", "tiny-qwen3-moe-v1");
}

/* 150 bytes in windows of 64: the mean over all scored bytes, and a last window of one byte scores nothing.
 */
static void windows_stand_alone(void **state)
{
    subject_t subject;
    size_t bytes;
    double bits = 0;
    (void)state;
    char *text = read_demo("eval.txt", &bytes);
    const uint8_t *data = (const uint8_t *)text;
    open_subject(&subject, "tiny-qwen3/v3", "tiny-qwen3-v3");
    double expected =
        (bits_by_steps(subject.decoder, data, 64) * 63 + bits_by_steps(subject.decoder, data + 64, 64) * 63 +
         bits_by_steps(subject.decoder, data + 128, 22) * 21) /
        (63 + 63 + 21);
    assert_int_equal(decoder_score(subject.decoder, data, 150, 64, &bits), WEFT_OK);
    assert_true(fabs(bits - expected) < 1e-4);
    expected = bits_by_steps(subject.decoder, data, 64);
    assert_int_equal(decoder_score(subject.decoder, data, 65, 64, &bits), WEFT_OK);
    assert_true(fabs(bits - expected) < 1e-4);
    close_subject(&subject);
    free(text);
}

static void a_swap_between_steps_changes_the_model(void **state)
{
    subject_t subject;
    kernel_rank_t next;
    float before[VOCAB], after[VOCAB];
    (void)state;
    open_subject(&subject, "tiny-qwen3/v1", "tiny-qwen3-v1");
    feed(subject.decoder, "In the beginning", before);
    weft_model_t *newer = open_demo("tiny-qwen3/v3");
    kernel_rank_build(&next, newer, (kernel_place_t){.ranks = 1});
    for (size_t i = 0; i < next.tensors.count; i++) {
        const uint64_t *shape = next.tensors.items[i].weight.shape;
        memcpy(kernel_rank_tensor(&subject.weights, next.tensors.items[i].name)->data,
               next.tensors.items[i].data, shape[0] * shape[1] * shape[2] * 2);
    }
    decoder_reset(subject.decoder);
    feed(subject.decoder, "And God said unto Moses, ", after);
    subject.oracle = cJSON_GetObjectItem(cJSON_GetObjectItem(subject.oracles, "models"), "tiny-qwen3-v3");
    check_top5(&subject, after);
    kernel_rank_free(&next);
    weft_model_close(newer);
    close_subject(&subject);
}

static void refuses_what_it_cannot_step(void **state)
{
    subject_t subject;
    float logits[VOCAB];
    double bits = -1;
    (void)state;
    open_subject(&subject, "tiny-qwen3/v1", "tiny-qwen3-v1");
    assert_int_equal(decoder_step(subject.decoder, VOCAB, logits), WEFT_ERR_ARGUMENT);
    assert_int_equal(decoder_position(subject.decoder), 0);
    for (int i = 0; i < 256; i++)
        assert_int_equal(decoder_step(subject.decoder, 'a', logits), WEFT_OK);
    assert_int_equal(decoder_step(subject.decoder, 'a', logits), WEFT_ERR_ARGUMENT);
    decoder_reset(subject.decoder);
    assert_int_equal(decoder_step(subject.decoder, 'a', logits), WEFT_OK);
    assert_int_equal(decoder_score(subject.decoder, (const uint8_t *)"ab", 2, 1, &bits), WEFT_ERR_ARGUMENT);
    assert_int_equal(decoder_score(subject.decoder, (const uint8_t *)"a", 1, 512, &bits), WEFT_ERR_ARGUMENT);
    assert_true(bits == -1);
    close_subject(&subject);
    decoder_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_what_the_oracle_writes),
        cmocka_unit_test(scores_as_the_oracle_does),
        cmocka_unit_test(steps_equal_a_batch),
        cmocka_unit_test(windows_stand_alone),
        cmocka_unit_test(a_swap_between_steps_changes_the_model),
        cmocka_unit_test(refuses_what_it_cannot_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
