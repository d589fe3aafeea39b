/* What decoder_create finds, and what it says when it does not; the schemes. */
#include "launch/decoder/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/decoder/fixture.h"

#define VOCAB 256

typedef struct subject {
    weft_model_t *model;
    kernel_rank_t weights;
} subject_t;

static void open_subject(subject_t *subject, const char *path)
{
    subject->model = open_demo(path);
    kernel_rank_build(&subject->weights, subject->model, (kernel_place_t){.ranks = 1});
}

static void close_subject(subject_t *subject)
{
    kernel_rank_free(&subject->weights);
    weft_model_close(subject->model);
}

static weft_status_t create(const weft_model_t *model, kernel_rank_t *weights, decoder_t **decoder,
                            weft_error_t *error)
{
    decoder_config_t config = {
        .model = model, .tp_size = 1, .max_tokens = 64, .find = kernel_rank_find, .user = weights};
    return decoder_create(&config, decoder, error);
}

/* Create must fail with `status`, and its message must hold both texts. */
static void expect_refusal(subject_t *subject, weft_status_t status, const char *first, const char *second)
{
    weft_error_t error = {0};
    decoder_t *decoder = NULL;
    assert_int_equal(create(subject->model, &subject->weights, &decoder, &error), status);
    assert_null(decoder);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, first) || !strstr(error.message, second))
        fail_msg("\"%s\" does not name both %s and %s", error.message, first, second);
}

static kernel_tensor_t *tensor(subject_t *subject, const char *name)
{
    kernel_tensor_t *found = kernel_rank_tensor(&subject->weights, name);
    assert_non_null(found);
    return found;
}

static void missing_weights_are_named(void **state)
{
    static const char *const dense[] = {"model.embed_tokens.weight",
                                        "lm_head.weight",
                                        "model.norm.weight",
                                        "model.layers.0.input_layernorm.weight",
                                        "model.layers.4.self_attn.qkv_proj.weight",
                                        "model.layers.2.self_attn.k_norm.weight",
                                        "model.layers.3.mlp.gate_up_proj.weight",
                                        "model.layers.3.mlp.down_proj.weight"};
    static const char *const sparse[] = {"model.layers.1.mlp.gate.weight",
                                         "model.layers.0.mlp.experts.w13_weight",
                                         "model.layers.2.mlp.experts.w2_weight"};
    subject_t subject;
    (void)state;
    open_subject(&subject, "tiny-qwen3/v1");
    for (size_t i = 0; i < sizeof dense / sizeof dense[0]; i++) {
        kernel_tensor_t *gone = tensor(&subject, dense[i]);
        gone->name[0] = '-';
        expect_refusal(&subject, WEFT_ERR_MISSING_TENSOR, dense[i], "missing");
        gone->name[0] = dense[i][0];
    }
    close_subject(&subject);
    open_subject(&subject, "tiny-qwen3-moe/v1");
    for (size_t i = 0; i < sizeof sparse / sizeof sparse[0]; i++) {
        kernel_tensor_t *gone = tensor(&subject, sparse[i]);
        gone->name[0] = '-';
        expect_refusal(&subject, WEFT_ERR_MISSING_TENSOR, sparse[i], "missing");
        gone->name[0] = sparse[i][0];
    }
    close_subject(&subject);
}

static void wrong_shapes_are_named(void **state)
{
    subject_t subject;
    (void)state;
    open_subject(&subject, "tiny-qwen3/v1");
    kernel_tensor_t *o_proj = tensor(&subject, "model.layers.1.self_attn.o_proj.weight");
    o_proj->weight.shape[1] = 256;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "layers.1.self_attn.o_proj.weight is [256, 256, 1]",
                   "[256, 512, 1]");
    o_proj->weight.shape[1] = 512;
    o_proj->weight.dtype = WEFT_DTYPE_I64;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "layers.1.self_attn.o_proj.weight is I64", "BF16");
    o_proj->weight.dtype = WEFT_DTYPE_BF16;
    o_proj->weight.data = (const char *)o_proj->data + 1;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "layers.1.self_attn.o_proj.weight", "aligned");
    o_proj->weight.data = o_proj->data;
    tensor(&subject, "model.norm.weight")->weight.shape[0] = 255;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "model.norm.weight", "255");
    close_subject(&subject);
}

static void scales_are_checked(void **state)
{
    static const char weight[] = "model.layers.0.mlp.down_proj.weight";
    subject_t subject;
    kernel_rank_t plain;
    (void)state;
    open_subject(&subject, "tiny-qwen3/v1");
    plain = subject.weights;
    kernel_rank_quantize(&plain, DECODER_FORMAT_FP8_BLOCK, &subject.weights);
    kernel_tensor_t *scale = tensor(&subject, "model.layers.0.mlp.down_proj.weight_scale_inv");
    scale->weight.shape[1] = 7;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "down_proj.weight_scale_inv is F32 [2, 7, 1]", "[2, 8, 1]");
    scale->weight.shape[1] = 8;
    scale->weight.dtype = WEFT_DTYPE_BF16;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "down_proj.weight_scale_inv is BF16", "F32");
    scale->name[0] = '-';
    expect_refusal(&subject, WEFT_ERR_MISSING_TENSOR, weight, "_scale_inv");
    kernel_rank_free(&plain);
    close_subject(&subject);
}

static void scales_of_small_groups_are_checked(void **state)
{
    subject_t subject;
    kernel_rank_t plain;
    (void)state;
    open_subject(&subject, "tiny-qwen3/v1");
    plain = subject.weights;
    kernel_rank_quantize(&plain, DECODER_FORMAT_NVFP4, &subject.weights);
    kernel_tensor_t *global = tensor(&subject, "model.layers.2.self_attn.o_proj.weight_scale_2");
    global->weight.dtype = WEFT_DTYPE_BF16;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "layers.2.self_attn.o_proj.weight_scale_2 is BF16", "F32");
    global->weight.dtype = WEFT_DTYPE_F32;
    global->weight.shape[0] = 2;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "o_proj.weight_scale_2 is [2, 1, 1]", "[1, 1, 1]");
    global->name[0] = '-';
    expect_refusal(&subject, WEFT_ERR_MISSING_TENSOR, "layers.2.self_attn.o_proj.weight_scale_2", "missing");
    kernel_rank_free(&subject.weights);
    kernel_rank_quantize(&plain, DECODER_FORMAT_INT4_GROUP_64, &subject.weights);
    kernel_tensor_t *scale = tensor(&subject, "model.layers.2.self_attn.o_proj.weight_scale");
    scale->weight.shape[1] = 5;
    expect_refusal(&subject, WEFT_ERR_SHAPE, "o_proj.weight_scale is BF16 [256, 5, 1]",
                   "BF16 [256, 8, 1] (int4-group-64)");
    scale->name[0] = '-';
    expect_refusal(&subject, WEFT_ERR_MISSING_TENSOR, "o_proj.weight_packed is I32", "its scale is missing");
    kernel_rank_free(&plain);
    close_subject(&subject);
}

static void configurations_are_checked(void **state)
{
    static const struct {
        const char *json;
        uint32_t ranks;
        weft_status_t status;
        const char *says;
    } cases[] = {
        {"{\"model_type\": \"gpt_oss\"}", 1, WEFT_ERR_UNSUPPORTED, "gpt_oss"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"factor\": 8}}", 1, WEFT_ERR_UNSUPPORTED, "RoPE"},
        {"{\"model_type\": \"llama\"}", 1, WEFT_ERR_FILE, "vocab_size"},
        {"{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 0}", 1, WEFT_ERR_FILE,
         "hidden_size"},
        {"{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 64, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 4, \"intermediate_size\": 64}",
         3, WEFT_ERR_MISFIT, "4 attention heads"},
        {"{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 64, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 4, \"intermediate_size\": 66}",
         4, WEFT_ERR_MISFIT, "66 MLP columns"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        weft_model_t *model;
        weft_error_t error;
        decoder_shape_t shape;
        assert_int_equal(weft_model_create(cases[i].json, &model, &error), WEFT_OK);
        decoder_config_t config = {.model = model, .tp_size = cases[i].ranks};
        assert_int_equal(decoder_shape_read(&config, &shape, &error), cases[i].status);
        if (!strstr(error.message, cases[i].says))
            fail_msg("\"%s\" does not say %s", error.message, cases[i].says);
        weft_model_close(model);
    }
}

static void decode(const weft_model_t *model, kernel_rank_t *weights, float logits[VOCAB], double *bits)
{
    static const char text[] = "And it came to pass";
    decoder_t *decoder = NULL;
    weft_error_t error;
    if (create(model, weights, &decoder, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    for (const char *c = text; c < text + 6; c++)
        assert_int_equal(decoder_step(decoder, (uint8_t)*c, logits), WEFT_OK);
    assert_int_equal(decoder_score(decoder, (const uint8_t *)text, sizeof text - 1, 512, bits), WEFT_OK);
    decoder_destroy(decoder);
}

/* Codes with power-of-two scales stand for bf16 numbers, so both forms of a model are one model. */
static void check_format(const char *path, decoder_format_id_t format)
{
    subject_t subject;
    kernel_rank_t quantized;
    float plain_logits[VOCAB], quantized_logits[VOCAB];
    double plain_bits, quantized_bits;
    open_subject(&subject, path);
    kernel_rank_convert(&subject.weights, format, &quantized);
    decode(subject.model, &subject.weights, plain_logits, &plain_bits);
    decode(subject.model, &quantized, quantized_logits, &quantized_bits);
    assert_memory_equal(plain_logits, quantized_logits, sizeof plain_logits);
    assert_memory_equal(&plain_bits, &quantized_bits, sizeof plain_bits);
    assert_true(plain_bits < 4); /* still a model */
    kernel_rank_free(&quantized);
    close_subject(&subject);
}

static void every_format_decodes_as_what_it_stands_for(void **state)
{
    (void)state;
    for (uint32_t id = 0; id < DECODER_FORMAT_COUNT; id++) {
        if (id == DECODER_FORMAT_BF16) /* what the others are compared with */
            continue;
        if (decoder_formats[id].scaling.scaled)
            check_format("tiny-qwen3/v3", (decoder_format_id_t)id);
        check_format("tiny-qwen3-moe/v1", (decoder_format_id_t)id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_weights_are_named),
        cmocka_unit_test(wrong_shapes_are_named),
        cmocka_unit_test(scales_are_checked),
        cmocka_unit_test(scales_of_small_groups_are_checked),
        cmocka_unit_test(configurations_are_checked),
        cmocka_unit_test(every_format_decodes_as_what_it_stands_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
