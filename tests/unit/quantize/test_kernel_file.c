/* Kernel-format files: what is written is found again by the rank that it is for, and by no other. */
#include "src/quantize/kernel_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include "src/quantize/offline.h"
#include "tests/support/world.h"

static char root[64];

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/weft_kernel_file_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    for (uint32_t rank = 0; rank < 8; rank++) {
        char path[128];
        snprintf(path, sizeof path, "%s/rank%u.safetensors", root, rank);
        unlink(path);
    }
    return rmdir(root);
}

static world_t *make_world(const checkpoint_t *cp, const char *rollout, const char *scheme)
{
    return world_create(cp, "fsdp:1", rollout, scheme, NULL);
}

static checkpoint_t checkpoint(void)
{
    checkpoint_t cp = {.type = "qwen3", .hidden = 128, .blocks = 1, .heads = 4, .kv_heads = 2, .head_dim = 128,
                       .mlp = 512, .vocab = 200, .expert_mlp = 1, .dtype = WEFT_DTYPE_BF16};
    checkpoint_describe(&cp);
    return cp;
}

/* Bytes that say whose they are and where. */
static uint8_t *write_rank(const world_t *w, uint32_t rollout_rank)
{
    const weft_outputs_t *outputs = &w->outputs[rollout_rank % w->tp];
    weft_tensor_t *tensors = calloc(outputs->count, sizeof *tensors);
    uint8_t *bytes = malloc(outputs->bytes);
    weft_error_t error;
    for (uint64_t i = 0; i < outputs->bytes; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 251 + rollout_rank);
    for (uint32_t i = 0; i < outputs->count; i++) {
        const weft_output_t *output = &outputs->items[i];
        tensors[i] = (weft_tensor_t){
            .name = output->name, .dtype = output->dtype, .num_dims = output->num_dims, .data = bytes + output->offset};
        memcpy(tensors[i].shape, output->shape, sizeof output->shape);
    }
    if (weft_kernel_file_write(root, rollout_rank, tensors, outputs->count, w->plan, (weft_digest_t){{1, 2}}, &error) != WEFT_OK)
        fail_msg("%s", error.message);
    free(tensors);
    return bytes;
}

static weft_status_t open_for(const world_t *w, uint32_t replica, uint32_t tp_rank, weft_kernel_file_t **file, weft_error_t *error)
{
    return weft_kernel_file_open(root, rollout_program(w, replica, tp_rank), &w->outputs[tp_rank], file, error);
}

static void test_what_is_written_is_found(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint();
    world_t *w = make_world(&cp, "tp:2x2", "fp8-block");
    assert_false(weft_kernel_file_exists(root, rollout_program(w, 0, 0)));
    uint8_t *bytes[2] = {write_rank(w, 0), write_rank(w, 1)}, *own = write_rank(w, 2);
    for (uint32_t rank = 0; rank < 4; rank++) { /* 2 has a file of its own, 3 that of the first replica */
        const weft_outputs_t *outputs = &w->outputs[rank % 2];
        weft_kernel_file_t *file;
        weft_error_t error;
        assert_true(weft_kernel_file_exists(root, rollout_program(w, rank / 2, rank % 2)));
        if (open_for(w, rank / 2, rank % 2, &file, &error) != WEFT_OK)
            fail_msg("%s", error.message);
        const uint8_t *expected = rank == 2 ? own : bytes[rank % 2];
        for (uint32_t i = 0; i < outputs->count; i++)
            assert_memory_equal(weft_kernel_file_output(file, i), expected + outputs->items[i].offset,
                                outputs->items[i].bytes);
        assert_int_equal(weft_kernel_file_check_digest(file, (weft_digest_t){{1, 2}}, &error), WEFT_OK);
        assert_int_equal(weft_kernel_file_check_digest(file, (weft_digest_t){{1, 3}}, &error), WEFT_ERR_DIGEST);
        weft_kernel_file_close(file);
    }
    free(bytes[0]);
    free(bytes[1]);
    free(own);
    world_destroy(w);
}

static void refused(const checkpoint_t *cp, const char *rollout, const char *scheme, uint32_t tp_rank, weft_status_t expected,
                    const char *text)
{
    world_t *w = make_world(cp, rollout, scheme);
    weft_kernel_file_t *file;
    weft_error_t error = {.message = ""};
    weft_status_t status = open_for(w, 0, tp_rank, &file, &error);
    if (status != expected || !strstr(error.message, text))
        fail_msg("%s %s: %s, expected %s \"%s\": %s", rollout, scheme, weft_status_name(status), weft_status_name(expected),
                 text, error.message);
    world_destroy(w);
}

static void test_others_are_refused(void **state)
{
    (void)state;
    checkpoint_t cp = checkpoint(), larger = checkpoint();
    world_t *w = make_world(&cp, "tp:2", "fp8-block");
    uint8_t *bytes = write_rank(w, 0);
    larger.mlp = 1024;
    checkpoint_describe(&larger);
    refused(&cp, "tp:2", "fp8-channel", 0, WEFT_ERR_MISFIT, "its scheme is fp8-block, expected fp8-channel");
    refused(&cp, "tp:4", "fp8-block", 3, WEFT_ERR_MISFIT, "its rollout is tp:2, expected tp:4");
    refused(&cp, "tp:2,ep", "fp8-block", 0, WEFT_ERR_MISFIT, "its rollout is tp:2, expected tp:2,ep");
    refused(&cp, "tp:2", "fp8-block", 1, WEFT_ERR_MISFIT, "rank0.safetensors: its tp_rank is 0, expected 1");
    refused(&larger, "tp:2", "fp8-block", 0, WEFT_ERR_SHAPE, "expected F8_E4M3");
    free(bytes);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_written_is_found, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_others_are_refused, make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
