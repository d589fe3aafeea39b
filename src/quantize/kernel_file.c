/* In: rank{r}.safetensors. Out: where the bytes of each output lie.
 * Invariant: an open file has exactly the outputs of the rank, made of the same kind of model in the same
 * way. */
#include "src/quantize/kernel_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/error.h"
#include "src/model/safetensors.h"
#include "src/model/shape.h"
#include "src/plan/layout.h"

#define PATH_BYTES   4096
#define DIGEST_BYTES 33
#define PLACE_BYTES  12
#define FORMAT       "weft-kernel"

struct weft_kernel_file {
    weft_safetensors_t *file;
    const weft_outputs_t *outputs;
    const uint8_t **data; /* [outputs] */
};

static const char *digest_text(weft_digest_t digest, char text[DIGEST_BYTES])
{
    snprintf(text, DIGEST_BYTES, "%016llx%016llx", (unsigned long long)digest.word[1],
             (unsigned long long)digest.word[0]);
    return text;
}

static const char *place_text(uint32_t tp_rank, char text[PLACE_BYTES])
{
    snprintf(text, PLACE_BYTES, "%u", tp_rank);
    return text;
}

weft_status_t weft_kernel_file_write(const char *dir, uint32_t rollout_rank, const weft_tensor_t *tensors,
                                     uint32_t count, const weft_plan_t *plan, weft_digest_t digest,
                                     weft_error_t *error)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return weft_fail(error, WEFT_ERR_IO, "%s cannot be made: %s", dir, strerror(errno));
    char path[PATH_BYTES], text[DIGEST_BYTES], place[PLACE_BYTES];
    if (snprintf(path, sizeof path, "%s/rank%u.safetensors", dir, rollout_rank) >= (int)sizeof path)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "%s is too long a path", dir);
    const weft_safetensors_metadata_t metadata[] = {
        {"format", FORMAT},
        {"model_type", weft_plan_model_type(plan)},
        {"rollout", weft_plan_rollout_text(plan)},
        {"scheme", weft_plan_scheme(plan)},
        {"profile", weft_plan_profile(plan)},
        {"tp_rank", place_text(rollout_rank % weft_plan_tp(plan), place)},
        {"digest", digest_text(digest, text)},
        {"experts", weft_engine_experts(plan->engine)}, /* the last: only where names are not plain */
    };
    size_t rows = sizeof metadata / sizeof metadata[0] - (*weft_engine_experts(plan->engine) == 0);
    return weft_safetensors_write(path, tensors, count, metadata, rows, error);
}

/* ---- which file ---- */

static bool make_path(char path[PATH_BYTES], const char *dir, uint32_t rank)
{
    int length = snprintf(path, PATH_BYTES, "%s/rank%u.safetensors", dir, rank);
    return length < PATH_BYTES && access(path, F_OK) == 0;
}

/* Where neither its own nor that of the first replica is there, the files are of fewer ranks: the first one
 * says of how many. */
static bool choose_path(char path[PATH_BYTES], const char *dir, const weft_program_t *program)
{
    uint32_t rank = program->rank - weft_plan_num_trainers(program->plan);
    return make_path(path, dir, rank) || make_path(path, dir, program->tp_rank) || make_path(path, dir, 0);
}

bool weft_kernel_file_exists(const char *dir, const weft_program_t *program)
{
    char path[PATH_BYTES];
    return choose_path(path, dir, program);
}

/* ---- how it was made ---- */

/* The number of replicas is in no rank's bytes. */
static bool same_layout(const char *found, const weft_layout_t *expected)
{
    weft_layout_t *layout;
    if (weft_layout_parse(found, WEFT_SIDE_ROLLOUT, &layout, NULL) != WEFT_OK)
        return false;
    bool same = layout->tp == expected->tp && layout->ep == expected->ep;
    weft_layout_destroy(layout);
    return same;
}

/* Maps may be written in different ways and give every layer the same. */
static bool same_schemes(const char *found, const char *profile, const weft_plan_t *plan)
{
    weft_scheme_map_t map;
    uint32_t *entries = calloc((size_t)plan->layers->count + 1, sizeof *entries);
    if (!entries || weft_scheme_map_read(found, profile, &map, NULL) != WEFT_OK) {
        free(entries);
        return false;
    }
    bool same = weft_scheme_map_assign(&map, plan->model, plan->layers, entries, NULL) == WEFT_OK &&
                weft_scheme_maps_agree(&map, entries, &plan->map, plan->layer_entry, plan->layers);
    weft_scheme_map_free(&map);
    free(entries);
    return same;
}

/* Whether the file says in this row what the plan expects, or what is as good. */
static bool row_fits(const weft_safetensors_t *file, const char *row, const char *expected,
                     const weft_plan_t *plan)
{
    const char *found = weft_safetensors_metadata(file, row);
    const char *profile = weft_safetensors_metadata(file, "profile");
    if (strcmp(row, "experts") == 0)
        return strcmp(found ? found : "", expected) == 0;
    if (!found)
        return false;
    if (strcmp(row, "rollout") == 0)
        return same_layout(found, plan->rollout);
    if (strcmp(row, "scheme") == 0 && strcmp(found, expected) != 0)
        return profile && same_schemes(found, profile, plan);
    return strcmp(found, expected) == 0;
}

static weft_status_t check_made(const weft_safetensors_t *file, const weft_program_t *program,
                                weft_error_t *error)
{
    const weft_plan_t *plan = program->plan;
    char place[PLACE_BYTES];
    const char *const rows[][2] = {{"format", FORMAT},
                                   {"model_type", weft_plan_model_type(plan)},
                                   {"rollout", weft_plan_rollout_text(plan)},
                                   {"scheme", weft_plan_scheme(plan)},
                                   {"profile", weft_plan_profile(plan)},
                                   {"tp_rank", place_text(program->tp_rank, place)},
                                   {"experts", weft_engine_experts(plan->engine)}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (row_fits(file, rows[i][0], rows[i][1], plan))
            continue;
        const char *found = weft_safetensors_metadata(file, rows[i][0]);
        return weft_fail(error, WEFT_ERR_MISFIT,
                         "its %s is %.200s, expected %.200s: write it anew with weft quantize", rows[i][0],
                         found ? found : "not given", *rows[i][1] ? rows[i][1] : "none");
    }
    return WEFT_OK;
}

/* ---- what it holds ---- */

static weft_status_t find_output(weft_kernel_file_t *f, uint32_t index, weft_error_t *error)
{
    char has[WEFT_SHAPE_TEXT_BYTES], wants[WEFT_SHAPE_TEXT_BYTES];
    const weft_output_t *output = &f->outputs->items[index];
    const weft_tensor_t *tensor = weft_safetensors_find(f->file, output->name);
    if (!tensor)
        return weft_fail(error, WEFT_ERR_MISSING_TENSOR, "tensor %s is missing", output->name);
    if (tensor->dtype != output->dtype || tensor->num_dims != output->num_dims ||
        memcmp(tensor->shape, output->shape, output->num_dims * sizeof *output->shape) != 0 ||
        tensor->bytes != output->bytes)
        return weft_fail(
            error, WEFT_ERR_SHAPE, "tensor %s is %s %s, expected %s %s", output->name,
            weft_dtype_name(tensor->dtype), weft_shape_text(tensor->shape, tensor->num_dims, has),
            weft_dtype_name(output->dtype), weft_shape_text(output->shape, output->num_dims, wants));
    f->data[index] = tensor->data;
    return WEFT_OK;
}

static weft_status_t check_file(weft_kernel_file_t *f, const weft_program_t *program, weft_error_t *error)
{
    WEFT_TRY(check_made(f->file, program, error));
    f->data = calloc((size_t)f->outputs->count + 1, sizeof *f->data);
    if (!f->data)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for its tensors");
    for (uint32_t i = 0; i < f->outputs->count; i++)
        WEFT_TRY(find_output(f, i, error));
    if (weft_safetensors_count(f->file) != f->outputs->count)
        return weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "it holds %u tensors, expected %u",
                         weft_safetensors_count(f->file), f->outputs->count);
    return WEFT_OK;
}

weft_status_t weft_kernel_file_open(const char *dir, const weft_program_t *program,
                                    const weft_outputs_t *outputs, weft_kernel_file_t **file,
                                    weft_error_t *error)
{
    char path[PATH_BYTES];
    weft_kernel_file_t *made = calloc(1, sizeof *made);
    if (!made)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "no memory for a file's tensors");
    choose_path(path, dir, program);
    made->outputs = outputs;
    weft_status_t status = weft_safetensors_open(path, &made->file, error);
    if (status == WEFT_OK && (status = check_file(made, program, error)) != WEFT_OK)
        weft_error_prefix(error, "%s", strrchr(path, '/') + 1);
    if (status != WEFT_OK) {
        weft_kernel_file_close(made);
        return status;
    }
    *file = made;
    return WEFT_OK;
}

void weft_kernel_file_close(weft_kernel_file_t *f)
{
    if (!f)
        return;
    weft_safetensors_close(f->file);
    free(f->data);
    free(f);
}

const uint8_t *weft_kernel_file_output(const weft_kernel_file_t *f, uint32_t output)
{
    return f->data[output];
}

weft_status_t weft_kernel_file_check_digest(const weft_kernel_file_t *f, weft_digest_t digest,
                                            weft_error_t *error)
{
    char text[DIGEST_BYTES];
    const char *expected = weft_safetensors_metadata(f->file, "digest");
    digest_text(digest, text);
    if (expected && strcmp(text, expected) == 0)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_DIGEST,
                     "the digest of its bytes is %s, and the file says %.40s: it is damaged", text,
                     expected ? expected : "none");
}
