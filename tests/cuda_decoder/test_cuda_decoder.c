/* The decoder on a GPU: the logits of the host's, the text and the scores of the oracle. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "launch/decoder/decoder.h"
#include "tests/cuda_decoder/device.h"
#include "tests/cuda_decoder/logits.h"
#include "tests/unit/decoder/fixture.h"

#define VOCAB      256
#define MAX_TOKENS 256
#define STEPS      48

static const char prompt[] = "And God said unto Moses, ";

/* A model at one rank, once on the host and once on the GPU. */
typedef struct subject {
    weft_model_t *model;
    kernel_rank_t weights;
    device_rank_t copies;
    decoder_t *host, *device;
} subject_t;

static void create(const decoder_config_t *config, decoder_t **decoder)
{
    weft_error_t error;
    if (decoder_create(config, decoder, &error) != WEFT_OK)
        fail_msg("%s", error.message);
}

static void open_subject(subject_t *subject, const char *path, decoder_format_id_t format, bool shifted)
{
    *subject = (subject_t){.model = open_demo(path)};
    kernel_rank_build(&subject->weights, subject->model, (kernel_place_t){.ranks = 1});
    if (format != DECODER_FORMAT_BF16) {
        kernel_rank_t plain = subject->weights;
        kernel_rank_convert(&plain, format, &subject->weights);
        kernel_rank_free(&plain);
    }
    decoder_config_t config = {.model = subject->model,
                               .tp_size = 1,
                               .max_tokens = MAX_TOKENS,
                               .find = kernel_rank_find,
                               .user = &subject->weights};
    create(&config, &subject->host);
    device_rank_wrap(&subject->copies, &config, shifted);
    create(&config, &subject->device);
    assert_non_null(decoder_stream(subject->device));
    assert_null(decoder_stream(subject->host));
}

static void close_subject(subject_t *subject)
{
    decoder_destroy(subject->device);
    decoder_destroy(subject->host);
    device_rank_free(&subject->copies);
    kernel_rank_free(&subject->weights);
    weft_model_close(subject->model);
}

/* The prompt and what the host writes after it, step by step on both. */
static void check_steps(const char *path, decoder_format_id_t format, bool shifted)
{
    subject_t subject;
    float expected[VOCAB], logits[VOCAB], largest = 0;
    uint32_t token = 0;
    open_subject(&subject, path, format, shifted);
    for (uint32_t i = 0; i < STEPS; i++) {
        token = i + 1 < sizeof prompt ? (uint8_t)prompt[i] : token;
        assert_int_equal(decoder_step(subject.host, token, expected), WEFT_OK);
        assert_int_equal(decoder_step_start(subject.device, token), WEFT_OK);
        assert_int_equal(decoder_step_finish(subject.device, logits), WEFT_OK);
        assert_int_equal(decoder_position(subject.device), i + 1);
        check_near(expected, logits, VOCAB, &largest);
        token = likeliest(expected, VOCAB);
    }
    print_message("%s, %s%s: logits off by at most %g\n", path, decoder_formats[format].scheme,
                  shifted ? ", shifted" : "", largest);
    close_subject(&subject);
}

static void steps_are_the_hosts(void **state)
{
    (void)state;
    check_steps("tiny-qwen3/v1", DECODER_FORMAT_BF16, false);
    for (uint32_t id = 0; id < DECODER_FORMAT_COUNT; id++) {
        check_steps("tiny-qwen3/v3", (decoder_format_id_t)id, false);
        check_steps("tiny-qwen3-moe/v1", (decoder_format_id_t)id, false);
    }
}

/* For sanitizers, under which everything takes a hundred times as long. */
static void kernels_of_each_kind(void **state)
{
    (void)state;
    check_steps("tiny-qwen3/v3", DECODER_FORMAT_FP8_CHANNEL, true);
    check_steps("tiny-qwen3-moe/v1", DECODER_FORMAT_FP8_BLOCK, false);
    check_steps("tiny-qwen3-moe/v1", DECODER_FORMAT_NVFP4, false);
}

/* Addresses that allow no 16-byte load. */
static void odd_addresses_are_read(void **state)
{
    (void)state;
    check_steps("tiny-qwen3/v3", DECODER_FORMAT_BF16, true);
    check_steps("tiny-qwen3/v3", DECODER_FORMAT_FP8_BLOCK, true);
    check_steps("tiny-qwen3-moe/v1", DECODER_FORMAT_FP8_CHANNEL, true);
    check_steps("tiny-qwen3-moe/v1", DECODER_FORMAT_INT4_GROUP_128, true);
}

/* An entry of oracle.json; *all is to be deleted. */
static const cJSON *open_oracle(const char *name, cJSON **all)
{
    size_t bytes;
    char *text = read_demo("oracle.json", &bytes);
    *all = cJSON_Parse(text);
    free(text);
    const cJSON *oracle = cJSON_GetObjectItem(cJSON_GetObjectItem(*all, "models"), name);
    assert_non_null(oracle);
    return oracle;
}

/* The prompt token by token, then the device goes on by itself. */
static void check_text(const char *path, const char *name)
{
    subject_t subject;
    cJSON *all;
    uint32_t tokens[MAX_TOKENS];
    float logits[VOCAB], after[VOCAB];
    const cJSON *oracle = open_oracle(name, &all);
    const char *whole = cJSON_GetObjectItem(oracle, "greedy_120")->valuestring,
               *text = whole + sizeof prompt - 1;
    uint32_t count = (uint32_t)strlen(text);
    open_subject(&subject, path, DECODER_FORMAT_BF16, false);
    assert_string_equal(cJSON_GetObjectItem(oracle, "prompt")->valuestring, prompt);
    for (uint32_t i = 0; i + 1 < sizeof prompt; i++)
        assert_int_equal(decoder_step(subject.device, (uint8_t)prompt[i], logits), WEFT_OK);
    assert_int_equal(likeliest(logits, VOCAB), (uint8_t)text[0]);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(decoder_step_next(subject.device), WEFT_OK);
    assert_int_equal(decoder_step_finish(subject.device, after), WEFT_OK);
    assert_int_equal(decoder_tokens(subject.device, tokens, count + 1), WEFT_OK);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(tokens[i], (uint8_t)text[i]);
    assert_int_equal(tokens[count], likeliest(after, VOCAB));
    assert_int_equal(decoder_position(subject.device), strlen(whole));
    close_subject(&subject);
    cJSON_Delete(all);
}

static void goes_on_by_itself(void **state)
{
    (void)state;
    check_text("tiny-qwen3/v1", "tiny-qwen3-v1");
    check_text("tiny-qwen3/v3", "tiny-qwen3-v3");
    check_text("tiny-qwen3-moe/v1", "tiny-qwen3-moe-v1");
}

static void check_bits(const char *path, const char *name)
{
    subject_t subject;
    cJSON *all;
    size_t bytes;
    double bits = 0;
    char *text = read_demo("eval.txt", &bytes);
    const cJSON *oracle = open_oracle(name, &all);
    double expected = cJSON_GetObjectItem(oracle, "bits_per_byte_fp32_math_on_bf16_weights")->valuedouble;
    open_subject(&subject, path, DECODER_FORMAT_BF16, false);
    assert_int_equal(decoder_score(subject.device, (const uint8_t *)text, bytes, 512, &bits), WEFT_OK);
    print_message("%s: %.5f bits per byte, expected %.5f\n", name, bits, expected);
    assert_true(fabs(bits - expected) < 0.002);
    close_subject(&subject);
    cJSON_Delete(all);
    free(text);
}

static void scores_as_the_oracle_does(void **state)
{
    (void)state;
    check_bits("tiny-qwen3/v1", "tiny-qwen3-v1");
    check_bits("tiny-qwen3/v3", "tiny-qwen3-v3");
    check_bits("tiny-qwen3-moe/v1", "tiny-qwen3-moe-v1");
}

/* Whole windows, short last ones, ones of a single byte, more windows than a batch takes; and the sequence
 * that is being decoded goes on as if nothing had been. */
static void check_windows(const char *path, decoder_format_id_t format)
{
    static const struct {
        size_t bytes;
        uint32_t window;
    } cases[] = {{2, 512}, {131, 512}, {128, 64}, {150, 64}, {150, 64}, {65, 64}, {150, 2}};
    subject_t subject;
    size_t bytes;
    double expected = 0, bits = 0;
    float before[VOCAB], after[VOCAB], largest = 0;
    char *text = read_demo("eval.txt", &bytes);
    const uint8_t *data = (const uint8_t *)text;
    open_subject(&subject, path, format, false);
    assert_int_equal(decoder_step(subject.device, 'A', after), WEFT_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(decoder_score(subject.host, data, cases[i].bytes, cases[i].window, &expected),
                         WEFT_OK);
        assert_int_equal(decoder_score(subject.device, data, cases[i].bytes, cases[i].window, &bits),
                         WEFT_OK);
        if (!(fabs(bits - expected) < 1e-3))
            fail_msg("%zu bytes in windows of %u: %f bits, expected %f", cases[i].bytes, cases[i].window,
                     bits, expected);
    }
    assert_int_equal(decoder_position(subject.device), 1);
    assert_int_equal(decoder_step(subject.host, 'A', before), WEFT_OK);
    assert_int_equal(decoder_step(subject.host, 'n', before), WEFT_OK);
    assert_int_equal(decoder_step(subject.device, 'n', after), WEFT_OK);
    check_near(before, after, VOCAB, &largest);
    close_subject(&subject);
    free(text);
}

static void windows_stand_alone(void **state)
{
    (void)state;
    check_windows("tiny-qwen3/v3", DECODER_FORMAT_FP8_BLOCK);
    check_windows("tiny-qwen3-moe/v1", DECODER_FORMAT_BF16);
}

/* Other bytes at the same addresses, and the graph that was captured long before reads them. */
static void a_swap_between_steps_changes_the_model(void **state)
{
    subject_t old, new;
    float expected[VOCAB], logits[VOCAB], largest = 0;
    (void)state;
    open_subject(&old, "tiny-qwen3/v1", DECODER_FORMAT_BF16, false);
    open_subject(&new, "tiny-qwen3/v3", DECODER_FORMAT_BF16, false);
    for (const char *c = prompt; *c; c++)
        assert_int_equal(decoder_step(old.device, (uint8_t)*c, logits), WEFT_OK);
    for (size_t i = 0; i < new.weights.tensors.count; i++) {
        const kernel_tensor_t *tensor = &new.weights.tensors.items[i];
        assert_true(device_rank_write(&old.copies, tensor->name, tensor->data));
    }
    decoder_reset(old.device);
    for (const char *c = prompt; *c; c++) {
        assert_int_equal(decoder_step(new.host, (uint8_t)*c, expected), WEFT_OK);
        assert_int_equal(decoder_step(old.device, (uint8_t)*c, logits), WEFT_OK);
        check_near(expected, logits, VOCAB, &largest);
    }
    close_subject(&new);
    close_subject(&old);
}

static void refuses_what_it_cannot_step(void **state)
{
    subject_t subject;
    uint32_t token;
    float logits[VOCAB];
    (void)state;
    open_subject(&subject, "tiny-qwen3/v1", DECODER_FORMAT_BF16, false);
    assert_int_equal(decoder_step_next(subject.device), WEFT_ERR_ARGUMENT);
    assert_int_equal(decoder_tokens(subject.device, &token, 1), WEFT_ERR_ARGUMENT);
    assert_int_equal(decoder_step(subject.device, VOCAB, logits), WEFT_ERR_ARGUMENT);
    assert_int_equal(decoder_position(subject.device), 0);
    assert_int_equal(decoder_step_start(subject.device, 'a'), WEFT_OK);
    for (int i = 1; i < MAX_TOKENS; i++)
        assert_int_equal(decoder_step_next(subject.device), WEFT_OK);
    assert_int_equal(decoder_step_next(subject.device), WEFT_ERR_ARGUMENT);
    assert_int_equal(decoder_step(subject.device, 'a', logits), WEFT_ERR_ARGUMENT);
    decoder_reset(subject.device);
    assert_int_equal(decoder_step(subject.device, 'a', logits), WEFT_OK);
    assert_int_equal(decoder_step_finish(subject.device, NULL), WEFT_OK);
    close_subject(&subject);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_the_hosts),
        cmocka_unit_test(odd_addresses_are_read),
        cmocka_unit_test(goes_on_by_itself),
        cmocka_unit_test(scores_as_the_oracle_does),
        cmocka_unit_test(windows_stand_alone),
        cmocka_unit_test(a_swap_between_steps_changes_the_model),
        cmocka_unit_test(refuses_what_it_cannot_step),
    };
    const struct CMUnitTest brief[] = {cmocka_unit_test(kernels_of_each_kind)};
    if (!device_found())
        return 77;
    if (getenv("WEFT_TEST_SHORT"))
        return cmocka_run_group_tests_name("short", brief, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
