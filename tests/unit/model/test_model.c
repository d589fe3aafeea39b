#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <weft/model.h>

#include "src/model/config.h"
#include "src/model/safetensors.h"

#define DEMO(name) WEFT_SOURCE_DIR "/launch/demo/" name

/* A folder of its own for each test; the files written into it are removed with it. */
typedef struct folder {
    char path[64];
    const char *files[8];
    int num_files;
} folder_t;

static void file_path(const folder_t *folder, const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", folder->path, name);
}

static int make_folder(void **state)
{
    folder_t *folder = calloc(1, sizeof *folder);
    strcpy(folder->path, "/tmp/weft-test-XXXXXX");
    *state = folder;
    return mkdtemp(folder->path) ? 0 : -1;
}

static int remove_folder(void **state)
{
    folder_t *folder = *state;
    char path[128];
    for (int i = 0; i < folder->num_files; i++) {
        file_path(folder, folder->files[i], path);
        unlink(path);
    }
    rmdir(folder->path);
    free(folder);
    return 0;
}

static void write_text(folder_t *folder, const char *name, const char *text)
{
    char path[128];
    file_path(folder, name, path);
    folder->files[folder->num_files++] = name;
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    assert_int_equal(fwrite(text, 1, strlen(text), stream), strlen(text));
    assert_int_equal(fclose(stream), 0);
}

/* A shard of one-float tensors with the given names. */
static void write_shard(folder_t *folder, const char *file, const char *const *names, size_t count)
{
    static const float value = 1.5f;
    weft_tensor_t tensors[4];
    for (size_t i = 0; i < count; i++)
        tensors[i] = (weft_tensor_t){
            .name = names[i], .dtype = WEFT_DTYPE_F32, .num_dims = 1, .shape = {1}, .data = &value};
    char path[128];
    file_path(folder, file, path);
    folder->files[folder->num_files++] = file;
    weft_error_t error;
    if (weft_safetensors_write(path, tensors, count, NULL, 0, &error) != WEFT_OK)
        fail_msg("%s", error.message);
}

#define CONFIG "config.json"
#define INDEX  "model.safetensors.index.json"

/* Two shards: b and a in the first, c in the second. */
static void write_sharded(folder_t *folder, const char *weight_map)
{
    write_text(folder, CONFIG, "{\"model_type\":\"test\"}\n");
    write_text(folder, INDEX, weight_map);
    write_shard(folder, "1.safetensors", (const char *const[]){"b", "a"}, 2);
    write_shard(folder, "2.safetensors", (const char *const[]){"c"}, 1);
}

static void expect_refused(const char *path, weft_status_t status, const char *message)
{
    weft_model_t *model = NULL;
    weft_error_t error = {0};
    assert_int_equal(weft_model_open(path, &model, &error), status);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, message))
        fail_msg("'%s' is not in '%s'", message, error.message);
    assert_null(model);
    assert_int_equal(weft_model_open(path, &model, NULL), status);
}

static void test_opens_the_demo_model(void **state)
{
    (void)state;
    weft_model_t *model = NULL;
    weft_error_t error;
    if (weft_model_open(DEMO("tiny-qwen3/v1"), &model, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(weft_model_num_tensors(model), 58);
    assert_string_equal(weft_model_type(model), "qwen3");
    const weft_tensor_t *q = weft_model_find(model, "model.layers.4.self_attn.q_proj.weight");
    assert_non_null(q);
    assert_int_equal(q->dtype, WEFT_DTYPE_BF16);
    assert_int_equal(q->num_dims, 2);
    assert_int_equal(q->shape[0], 512);
    assert_int_equal(q->shape[1], 256);
    assert_int_equal(q->bytes, 512 * 256 * 2);
    assert_non_null(q->data);
    assert_null(weft_model_find(model, "model.layers.5.self_attn.q_proj.weight"));
    for (uint32_t i = 1; i < 58; i++)
        assert_true(strcmp(weft_model_tensor(model, i - 1)->name, weft_model_tensor(model, i)->name) < 0);
    assert_null(weft_model_tensor(model, 58));
    weft_model_close(model);
}

static void test_reads_the_configuration(void **state)
{
    (void)state;
    weft_model_t *model = NULL;
    assert_int_equal(weft_model_open(DEMO("tiny-qwen3-moe/v1"), &model, NULL), WEFT_OK);
    assert_true(weft_model_config_number(model, "hidden_size", -1) == 256);
    assert_true(weft_model_config_number(model, "rms_norm_eps", -1) == 1e-6);
    assert_true(weft_model_config_number(model, "rope_parameters.rope_theta", -1) == 10000);
    assert_true(weft_model_config_number(model, "norm_topk_prob", -1) == 1);
    assert_true(weft_model_config_number(model, "attention_bias", -1) == 0);
    assert_true(weft_model_config_number(model, "sliding_window", -1) == -1);
    assert_true(weft_model_config_number(model, "no_such_key", 7) == 7);
    assert_true(weft_model_config_number(model, "rope_parameters.no_such_key", 7) == 7);
    assert_true(weft_model_config_number(model, "hidden_size.deeper", 7) == 7);
    assert_true(weft_model_config_number(model, "Hidden_Size", 7) == 7);
    weft_model_close(model);
}

static void test_config_accessors(void **state)
{
    (void)state;
    weft_config_t *config = NULL;
    weft_error_t error;
    assert_int_equal(
        weft_config_parse("{\"a\":[1,3],\"s\":\"x\",\"t\":true,\"half\":0.5,\"zero\":0,\"n\":null,"
                          "\"big\":2147483648,\"o\":{\"i\":5}}",
                          &config, &error),
        WEFT_OK);
    assert_true(weft_config_array_has(config, "a", 3));
    assert_false(weft_config_array_has(config, "a", 2));
    assert_false(weft_config_array_has(config, "s", 2));
    assert_string_equal(weft_config_string(config, "s", ""), "x");
    assert_string_equal(weft_config_string(config, "a", "none"), "none");
    assert_true(weft_config_bool(config, "t", false));
    assert_true(weft_config_has(config, "o.i"));
    assert_false(weft_config_has(config, "n"));
    uint64_t value = 0;
    assert_int_equal(weft_config_extent(config, "o.i", 0, &value, &error), WEFT_OK);
    assert_int_equal(value, 5);
    assert_int_equal(weft_config_extent(config, "n", 9, &value, &error), WEFT_OK);
    assert_int_equal(value, 9);
    assert_int_equal(weft_config_extent(config, "n", 0, &value, &error), WEFT_ERR_FILE);
    static const char *const bad[] = {"s", "t", "half", "zero", "big"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(weft_config_extent(config, bad[i], 9, &value, &error), WEFT_ERR_FILE);
        assert_non_null(strstr(error.message, bad[i]));
    }
    assert_int_equal(value, 9);
    weft_config_destroy(config);
}

static void test_opens_a_sharded_checkpoint(void **state)
{
    folder_t *folder = *state;
    write_sharded(folder, "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"a\":\"1.safetensors\","
                          "\"c\":\"2.safetensors\",\"b\":\"1.safetensors\"}}");
    weft_model_t *model = NULL;
    weft_error_t error;
    if (weft_model_open(folder->path, &model, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(weft_model_num_tensors(model), 3);
    assert_string_equal(weft_model_tensor(model, 0)->name, "a");
    assert_string_equal(weft_model_tensor(model, 2)->name, "c");
    assert_true(*(const float *)weft_model_find(model, "c")->data == 1.5f);
    weft_model_close(model);
}

static void test_refuses_a_tensor_the_index_does_not_place(void **state)
{
    write_sharded(*state, "{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}}");
    expect_refused(((folder_t *)*state)->path, WEFT_ERR_FILE, "1.safetensors holds tensor 'b'");
}

static void test_refuses_a_tensor_in_another_shard(void **state)
{
    write_sharded(*state, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\","
                          "\"c\":\"2.safetensors\"}}");
    expect_refused(((folder_t *)*state)->path, WEFT_ERR_FILE, "1.safetensors holds tensor 'b'");
}

static void test_refuses_a_tensor_that_no_shard_holds(void **state)
{
    write_sharded(*state, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\","
                          "\"c\":\"2.safetensors\",\"d\":\"2.safetensors\"}}");
    expect_refused(((folder_t *)*state)->path, WEFT_ERR_FILE,
                   "places tensor 'd' in 2.safetensors, which does not hold it");
}

static void test_refuses_a_missing_shard(void **state)
{
    write_sharded(*state, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\","
                          "\"c\":\"2.safetensors\",\"d\":\"3.safetensors\"}}");
    expect_refused(((folder_t *)*state)->path, WEFT_ERR_IO, "3.safetensors: No such file or directory");
}

static void test_refuses_bad_indexes(void **state)
{
    folder_t *folder = *state;
    static const struct {
        const char *index, *message;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "'../1.safetensors', expected a file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "'/etc/passwd', expected a file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "'..', expected a file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "'', expected a file name"},
        {"{\"weight_map\":{\"a\":1}}", "is a number, expected a string"},
        {"{\"weight_map\":{\"a\":\"1\",\"a\":\"1\"}}", "'a' is there twice"},
        {"{\"weight_map\":[]}", "weight_map is an array, expected an object"},
        {"{}", "weight_map is nothing, expected an object"},
        {"[]", "weight_map is nothing, expected an object"},
        {"{\"weight_map\":", "not JSON"},
    };
    write_text(folder, CONFIG, "{}");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(folder, INDEX, cases[i].index);
        folder->num_files = 2;
        expect_refused(folder->path, WEFT_ERR_FILE, cases[i].message);
        expect_refused(folder->path, WEFT_ERR_FILE, folder->path);
    }
}

static void test_refuses_folders_without_a_part(void **state)
{
    folder_t *folder = *state;
    expect_refused("/nonexistent", WEFT_ERR_IO, "/nonexistent/config.json: No such file or directory");
    write_text(folder, CONFIG, "{\"model_type\":\"qwen3\"}");
    expect_refused(folder->path, WEFT_ERR_IO, "neither model.safetensors nor model.safetensors.index.json");
    write_text(folder, "model.safetensors", "short");
    expect_refused(folder->path, WEFT_ERR_FILE, "model.safetensors: 5 bytes");
}

static void test_builds_a_model(void **state)
{
    (void)state;
    weft_model_t *model = NULL;
    weft_error_t error;
    assert_int_equal(weft_model_create("{\"hidden_size\":4}", &model, &error), WEFT_OK);
    assert_string_equal(weft_model_type(model), "");
    const uint64_t shape[] = {2, 3, 4, 5};
    assert_int_equal(weft_model_add(model, "b", WEFT_DTYPE_BF16, shape, 2, &error), WEFT_OK);
    const weft_tensor_t *b = weft_model_find(model, "b");
    assert_int_equal(weft_model_add(model, "a", WEFT_DTYPE_F32, shape, 4, &error), WEFT_OK);
    assert_string_equal(weft_model_tensor(model, 0)->name, "a");
    assert_int_equal(weft_model_add(model, "B", WEFT_DTYPE_F32, NULL, 0, &error), WEFT_OK);
    assert_string_equal(weft_model_tensor(model, 0)->name, "B");
    assert_ptr_equal(weft_model_tensor(model, 2), b);
    assert_int_equal(b->bytes, 12);
    assert_null(b->data);
    assert_int_equal(weft_model_find(model, "a")->bytes, 480);
    weft_model_close(model);
    weft_model_close(NULL);
}

static void test_builder_refusals(void **state)
{
    (void)state;
    weft_model_t *model = NULL;
    weft_error_t error;
    assert_int_equal(weft_model_create("", &model, &error), WEFT_ERR_FILE);
    assert_int_equal(weft_model_create("[]", &model, &error), WEFT_ERR_FILE);
    assert_int_equal(weft_model_create("{} x", &model, &error), WEFT_ERR_FILE);
    assert_int_equal(weft_model_create("{\"model_type\":3}", &model, &error), WEFT_ERR_FILE);
    assert_null(model);
    assert_int_equal(weft_model_create("{}\n", &model, &error), WEFT_OK);
    const uint64_t shape[] = {1ull << 40, 1ull << 40, 1, 1, 1};
    assert_int_equal(weft_model_add(model, "a", WEFT_DTYPE_F32, shape, 2, &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "overflows"));
    assert_int_equal(weft_model_add(model, "a", WEFT_DTYPE_F32, shape, 5, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_model_add(model, "a", WEFT_DTYPE_COUNT, shape, 1, &error), WEFT_ERR_ARGUMENT);
    assert_int_equal(weft_model_num_tensors(model), 0);
    assert_int_equal(weft_model_add(model, "a", WEFT_DTYPE_U8, shape, 1, &error), WEFT_OK);
    assert_int_equal(weft_model_add(model, "a", WEFT_DTYPE_U8, shape, 1, &error), WEFT_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "'a' is there twice"));
    assert_int_equal(weft_model_num_tensors(model), 1);
    weft_model_close(model);
}

#define folder_test(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens_the_demo_model),
        cmocka_unit_test(test_reads_the_configuration),
        cmocka_unit_test(test_config_accessors),
        folder_test(test_opens_a_sharded_checkpoint),
        folder_test(test_refuses_a_tensor_the_index_does_not_place),
        folder_test(test_refuses_a_tensor_in_another_shard),
        folder_test(test_refuses_a_tensor_that_no_shard_holds),
        folder_test(test_refuses_a_missing_shard),
        folder_test(test_refuses_bad_indexes),
        folder_test(test_refuses_folders_without_a_part),
        cmocka_unit_test(test_builds_a_model),
        cmocka_unit_test(test_builder_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
