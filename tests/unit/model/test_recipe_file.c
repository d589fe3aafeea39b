/* Recipes from files: what they make, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/model/layer.h"
#include "src/model/recipe_file.h"

#define CONFIG "{\"model_type\":\"mine\",\"num_hidden_layers\":3,\"hidden\":8,\"heads\":4,\"none\":null,\"half\":0.5,\"dense\":1}"

/* ---- expressions ---- */

static void expect_extent(const char *expression, uint64_t expected)
{
    weft_config_t *config;
    weft_error_t error;
    uint64_t value;
    assert_int_equal(weft_config_parse(CONFIG, &config, NULL), WEFT_OK);
    if (weft_recipe_evaluate(config, expression, &value, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(value, expected);
    weft_config_destroy(config);
}

static void expect_no_extent(const char *expression, const char *message)
{
    weft_config_t *config;
    weft_error_t error;
    uint64_t value = 77;
    assert_int_equal(weft_config_parse(CONFIG, &config, NULL), WEFT_OK);
    assert_int_equal(weft_recipe_evaluate(config, expression, &value, &error), WEFT_ERR_FILE);
    if (!strstr(error.message, message))
        fail_msg("'%s' is not in '%s'", message, error.message);
    assert_int_equal(value, 77);
    weft_config_destroy(config);
}

static void test_expressions(void **state)
{
    (void)state;
    expect_extent("12", 12);
    expect_extent(" hidden ", 8);
    expect_extent("hidden*heads", 32);
    expect_extent("2 * hidden + heads", 20);
    expect_extent("heads + 2 * hidden / 4", 8);
    expect_extent("0", 0);
    expect_extent("2147483647", INT32_MAX);
    expect_no_extent("", "expected a number");
    expect_no_extent("hidden +", "expected a number");
    expect_no_extent("hidden heads", "expected +, *, / or the end");
    expect_no_extent("width", "no such integer");
    expect_no_extent("none", "no such integer");
    expect_no_extent("half", "not an integer");
    expect_no_extent("heads / 3", "not exact");
    expect_no_extent("heads / 0", "not exact");
    expect_no_extent("2147483648", "above 2^31 - 1");
    expect_no_extent("2147483647 + 1", "more than 2^31 - 1");
    expect_no_extent("65536 * 65536", "more than 2^31 - 1");
}

/* ---- files ---- */

static char path[] = "/tmp/weft-recipe-XXXXXX";

static int make_path(void **state)
{
    (void)state;
    int file = mkstemp(path);
    return file < 0 ? -1 : close(file);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

static void write_recipe(const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void expect_refused(const char *text, const char *message)
{
    weft_recipe_file_t *file = NULL;
    weft_error_t error;
    write_recipe(text);
    assert_int_equal(weft_recipe_file_open(path, &file, &error), WEFT_ERR_FILE);
    assert_null(file);
    if (!strstr(error.message, message) || !strstr(error.message, path))
        fail_msg("'%s' is not in '%s'", message, error.message);
}

#define RECIPE(layers)      "{\"model_type\":\"mine\",\"layers\":[" layers "]}"
#define LAYER(more, parts)  "{\"layer\":\"l.{L}.up\"" more ",\"parts\":[" parts "]}"
#define PART(split, more)   "{\"tensor\":\"l.{L}.up\",\"split\":\"" split "\"," more "}"
#define MATRIX              "\"shape\":[\"hidden\",\"hidden\"]"

static void test_what_is_refused(void **state)
{
    (void)state;
    expect_refused("[]", "an array, expected an object");
    expect_refused("{\"layers\":[]}", "\"model_type\" is nothing, expected a string");
    expect_refused("{\"model_type\":\"mine\"}", "\"layers\" is nothing, expected an array");
    expect_refused("{\"model_type\":\"mine\",\"layer\":[]}", "member \"layer\" is not known; there are model_type");
    expect_refused(RECIPE("{}"), "\"layer\" is nothing");
    expect_refused(RECIPE(LAYER("", "")), "layer 'l.{L}.up': \"parts\"");
    expect_refused(RECIPE(LAYER(",\"quantise\":true", PART("rows", MATRIX))), "member \"quantise\" is not known");
    expect_refused(RECIPE(LAYER(",\"quantize\":1", PART("rows", MATRIX))), "\"quantize\" is a number, expected true");
    expect_refused(RECIPE(LAYER("", PART("row", MATRIX))), "split \"row\" is none of none, rows");
    expect_refused(RECIPE(LAYER("", PART("heads", MATRIX))), "\"together\"");
    expect_refused(RECIPE(LAYER("", PART("rows", "\"shape\":[\"a\",\"b\",\"c\"]"))), "\"shape\"");
    expect_refused(RECIPE(LAYER("", PART("rows", "\"shape\":[8]"))), "extents as strings");
    expect_refused(RECIPE(LAYER(",\"experts\":true", PART("rows", MATRIX))), "should name {L} and {E}");
    expect_refused(RECIPE(LAYER(",\"stacked\":true", PART("rows", MATRIX))), "\"experts\"");
    expect_refused(RECIPE(LAYER(",\"experts\":true,\"stacked\":true", PART("rows", MATRIX))), "how many there are");
    expect_refused(RECIPE("{\"layer\":\"up\",\"parts\":[" PART("rows", MATRIX) "]}"), "should name no {L}");
    expect_refused(RECIPE("{\"layer\":\"up\",\"from\":\"1\",\"parts\":[{\"tensor\":\"up\",\"split\":\"none\",\"shape\":[\"8\"]}]}"),
                   "\"from\"");
    expect_refused(RECIPE(LAYER("", PART("rows", MATRIX) "," PART("none", "\"shape\":[\"hidden\"]"))), "all of one");
}

static weft_model_t *make_model(uint32_t from, uint32_t until, uint64_t rows)
{
    weft_model_t *model;
    assert_int_equal(weft_model_create(CONFIG, &model, NULL), WEFT_OK);
    for (uint32_t block = from; block < until; block++) {
        char name[32];
        const uint64_t shape[2] = {rows, 8};
        snprintf(name, sizeof name, "l.%u.up.weight", block);
        assert_int_equal(weft_model_add(model, name, WEFT_DTYPE_BF16, shape, 2, NULL), WEFT_OK);
    }
    return model;
}

static void test_blocks_from_and_until(void **state)
{
    (void)state;
    write_recipe(RECIPE(LAYER(",\"from\":\"dense\",\"until\":\"dense + 1\"", PART("rows", MATRIX))));
    weft_model_t *model = make_model(1, 2, 8);
    weft_layers_t *layers = NULL;
    weft_error_t error = {.message = ""};
    assert_int_equal(weft_model_set_recipe(model, path, &error), WEFT_OK);
    if (weft_layers_create(model, &layers, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(layers->count, 1);
    assert_string_equal(layers->items[0].name, "l.1.up");
    weft_layers_destroy(layers);
    weft_model_close(model);
}

static void expect_no_layers(const char *recipe, weft_model_t *model, weft_status_t status, const char *message)
{
    weft_layers_t *layers = NULL;
    weft_error_t error = {.message = ""};
    write_recipe(recipe);
    assert_int_equal(weft_model_set_recipe(model, path, &error), WEFT_OK);
    assert_int_equal(weft_layers_create(model, &layers, &error), status);
    if (!strstr(error.message, message))
        fail_msg("'%s' is not in '%s'", message, error.message);
    weft_model_close(model);
}

static void test_what_does_not_fit_the_model(void **state)
{
    (void)state;
    expect_no_layers(RECIPE(LAYER("", PART("rows", MATRIX))), make_model(0, 3, 16), WEFT_ERR_SHAPE,
                     "has shape [16, 8], expected [8, 8]");
    expect_no_layers(RECIPE(LAYER("", PART("rows", MATRIX))), make_model(0, 2, 8), WEFT_ERR_MISSING_TENSOR, "'l.2.up.weight'");
    expect_no_layers(RECIPE(LAYER("", PART("rows", "\"shape\":[\"width\",\"hidden\"]"))), make_model(0, 3, 8),
                     WEFT_ERR_FILE, "extent 'width'");
    expect_no_layers(RECIPE(LAYER("", PART("heads", MATRIX ",\"together\":\"3\""))), make_model(0, 3, 8), WEFT_ERR_FILE,
                     "8 rows are no whole heads of 3");
    expect_no_layers(RECIPE(LAYER("", PART("rows", "\"shape\":[\"0\",\"hidden\"]"))), make_model(0, 3, 8), WEFT_ERR_FILE,
                     "an extent is 0");
    expect_no_layers("{\"model_type\":\"other\",\"layers\":[" LAYER("", PART("rows", MATRIX)) "]}", make_model(0, 3, 8),
                     WEFT_ERR_FILE, "for model_type 'other', the model's is 'mine'");
    expect_no_layers(RECIPE(LAYER("", PART("rows", MATRIX) "," PART("rows", "\"shape\":[\"hidden\",\"4\"]"))),
                     make_model(0, 3, 8), WEFT_ERR_FILE, "4 columns below a part of 8");
    /* No row misses a tensor, and still blocks are not counted to the end. */
    expect_no_layers("{\"model_type\":\"mine\",\"blocks\":\"2147483647\",\"layers\":[" LAYER(",\"optional\":true", PART("rows", MATRIX)) "]}",
                     make_model(0, 1, 8), WEFT_ERR_MISSING_TENSOR, "2147483647 blocks, the checkpoint only 1 tensors");
}

static void test_the_example_is_good(void **state)
{
    (void)state;
    weft_recipe_file_t *file = NULL;
    weft_error_t error;
    if (weft_recipe_file_open(WEFT_SOURCE_DIR "/docs/examples/phi3.recipe.json", &file, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    assert_string_equal(weft_recipe_file_recipe(file)->model_type, "phi3");
    weft_recipe_file_close(file);
    weft_recipe_file_close(NULL);
    assert_int_equal(weft_recipe_file_open("/nonexistent/recipe", &file, &error), WEFT_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_blocks_from_and_until),
        cmocka_unit_test(test_what_does_not_fit_the_model),
        cmocka_unit_test(test_the_example_is_good),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
