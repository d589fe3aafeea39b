#include "launch/decoder/search.h"

#include <stdio.h>
#include <string.h>

#include "src/base/error.h"
#include "src/base/text.h"

#define NAME_BYTES 160
#define SHAPE_TEXT "[%llu, %llu, %llu]"
#define SHAPE_ARGUMENTS(shape)                                                                               \
    (unsigned long long)(shape)[0], (unsigned long long)(shape)[1], (unsigned long long)(shape)[2]

/* A weight that was found, and what it should be. */
typedef struct subject {
    const decoder_search_t *search;
    const char *leaf, *suffix; /* its name is prefix + leaf + suffix; its scales' prefix + leaf + theirs */
    uint32_t count, rows, cols;
    decoder_weight_t weight;
} subject_t;

static bool find(const decoder_search_t *search, const char *leaf, const char *suffix,
                 decoder_weight_t *weight)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s%s%s", search->prefix, leaf, suffix);
    return search->config->find(search->config->user, name, weight);
}

/* Under whichever name a format gives it. */
static bool find_weight(const decoder_search_t *search, const char *leaf, const char **suffix,
                        decoder_weight_t *weight)
{
    for (uint32_t i = 0; i < DECODER_FORMAT_COUNT; i++) {
        *suffix = decoder_formats[i].suffix;
        if (find(search, leaf, *suffix, weight))
            return true;
    }
    return false;
}

bool decoder_search_has(const decoder_search_t *search, const char *leaf)
{
    const char *suffix;
    decoder_weight_t ignored;
    return find_weight(search, leaf, &suffix, &ignored);
}

/* Three extents like decoder_weight_t: [rows, cols], or [count, rows, cols]. */
static void expect_shape(const subject_t *s, uint64_t rows, uint64_t cols, uint64_t shape[3])
{
    const uint64_t plain[3] = {rows, cols, 1}, stacked[3] = {s->count, rows, cols};
    memcpy(shape, s->count ? stacked : plain, sizeof plain);
}

/* Items of the format's dtype, which may hold several codes. */
static void expect_weight(const subject_t *s, const decoder_format_t *format, uint64_t shape[3])
{
    expect_shape(s, s->rows, (uint64_t)s->cols * format->bits / (8 * weft_dtype_bytes(format->dtype)), shape);
}

static void expect_scale(const subject_t *s, const decoder_format_t *format, uint64_t shape[3])
{
    uint32_t extent[2];
    decoder_scale_extent(&format->scaling, s->rows, s->cols, extent);
    expect_shape(s, extent[0], extent[1], shape);
}

/* Groups along a row end with it; blocks may be ragged. */
static bool fits(const subject_t *s, const decoder_format_t *format)
{
    return format->scaling.rows != 1 || format->scaling.cols == DECODER_WHOLE ||
           s->cols % format->scaling.cols == 0;
}

static bool is_candidate(const subject_t *s, const decoder_format_t *format)
{
    return strcmp(s->suffix, format->suffix) == 0 && s->weight.dtype == format->dtype;
}

/* Whether the format's scale is there, as the format has it. */
static bool has_scale(const subject_t *s, const decoder_format_t *format, decoder_weight_t *scale)
{
    uint64_t shape[3];
    if (!format->scaling.scaled)
        return true;
    expect_scale(s, format, shape);
    return find(s->search, s->leaf, format->scale_suffix, scale) && scale->dtype == format->scaling.dtype &&
           memcmp(scale->shape, shape, sizeof shape) == 0 && fits(s, format);
}

/* The format whose tensors are there; `scale` is then its scale. DECODER_FORMAT_COUNT: none. */
static decoder_format_id_t find_format(const subject_t *s, decoder_weight_t *scale)
{
    uint32_t id = 0;
    while (id < DECODER_FORMAT_COUNT &&
           !(is_candidate(s, &decoder_formats[id]) && has_scale(s, &decoder_formats[id], scale)))
        id++;
    return (decoder_format_id_t)id;
}

/* ---- what is said when something is not as it should be ---- */

static weft_status_t fail_dtype(const subject_t *s)
{
    weft_text_t known = {0};
    for (uint32_t i = 0; i < DECODER_FORMAT_COUNT; i++)
        if (strcmp(s->suffix, decoder_formats[i].suffix) == 0)
            weft_text_add(&known, "%s%s (%s)", known.length ? ", " : "",
                          weft_dtype_name(decoder_formats[i].dtype), decoder_formats[i].scheme);
    weft_status_t status =
        weft_fail(s->search->error, WEFT_ERR_SHAPE, "rollout rank %u: %s%s%s is %s, expected %s",
                  s->search->config->tp_rank, s->search->prefix, s->leaf, s->suffix,
                  weft_dtype_name(s->weight.dtype), known.data ? known.data : "?");
    weft_text_free(&known);
    return status;
}

/* The scales that are there for the weight's name and dtype. */
static void tell_scales(const subject_t *s, weft_text_t *found)
{
    const char *last = "";
    decoder_weight_t scale;
    for (uint32_t i = 0; i < DECODER_FORMAT_COUNT; i++) {
        const decoder_format_t *format = &decoder_formats[i];
        if (!is_candidate(s, format) || strcmp(format->scale_suffix, last) == 0)
            continue;
        last = format->scale_suffix;
        if (find(s->search, s->leaf, last, &scale))
            weft_text_add(found, "; %s%s%s is %s " SHAPE_TEXT, s->search->prefix, s->leaf, last,
                          weft_dtype_name(scale.dtype), SHAPE_ARGUMENTS(scale.shape));
    }
}

static void tell_expected(const subject_t *s, weft_text_t *expected)
{
    uint64_t shape[3];
    for (uint32_t i = 0; i < DECODER_FORMAT_COUNT; i++) {
        const decoder_format_t *format = &decoder_formats[i];
        if (!is_candidate(s, format) || !fits(s, format))
            continue;
        expect_scale(s, format, shape);
        weft_text_add(expected, "%s%s %s " SHAPE_TEXT " (%s)", expected->length ? ", " : "",
                      format->scale_suffix, weft_dtype_name(format->scaling.dtype), SHAPE_ARGUMENTS(shape),
                      format->scheme);
    }
}

static weft_status_t fail_scale(const subject_t *s)
{
    weft_text_t found = {0}, expected = {0};
    tell_scales(s, &found);
    tell_expected(s, &expected);
    weft_status_t status = weft_fail(
        s->search->error, found.length ? WEFT_ERR_SHAPE : WEFT_ERR_MISSING_TENSOR,
        "rollout rank %u: %s%s%s is %s%s, expected beside it %s (unused extents are 1)",
        s->search->config->tp_rank, s->search->prefix, s->leaf, s->suffix, weft_dtype_name(s->weight.dtype),
        found.length ? found.data : " and its scale is missing",
        expected.length ? expected.data : "no scale, as no format has groups that divide its columns");
    weft_text_free(&found);
    weft_text_free(&expected);
    return status;
}

static weft_status_t check_shape(const subject_t *s, const char *suffix, const decoder_weight_t *weight,
                                 const uint64_t expected[3])
{
    if (memcmp(weight->shape, expected, sizeof weight->shape) == 0)
        return WEFT_OK;
    return weft_fail(s->search->error, WEFT_ERR_SHAPE,
                     "rollout rank %u: %s%s%s is " SHAPE_TEXT ", expected " SHAPE_TEXT
                     " (unused extents are 1)",
                     s->search->config->tp_rank, s->search->prefix, s->leaf, suffix,
                     SHAPE_ARGUMENTS(weight->shape), SHAPE_ARGUMENTS(expected));
}

static weft_status_t check_address(const subject_t *s, const char *suffix, const decoder_weight_t *weight)
{
    if (weight->data && (uintptr_t)weight->data % weft_dtype_bytes(weight->dtype) == 0)
        return WEFT_OK;
    return weft_fail(
        s->search->error, WEFT_ERR_SHAPE, "rollout rank %u: %s%s%s has no address aligned to its %s elements",
        s->search->config->tp_rank, s->search->prefix, s->leaf, suffix, weft_dtype_name(weight->dtype));
}

/* ---- the search ---- */

/* Formats of one name and dtype have codes of one size, so any of them tells the shape. */
static weft_status_t check_weight(const subject_t *s)
{
    uint64_t shape[3];
    uint32_t id = 0;
    while (id < DECODER_FORMAT_COUNT && !is_candidate(s, &decoder_formats[id]))
        id++;
    if (id == DECODER_FORMAT_COUNT)
        return fail_dtype(s);
    expect_weight(s, &decoder_formats[id], shape);
    WEFT_TRY(check_shape(s, s->suffix, &s->weight, shape));
    return check_address(s, s->suffix, &s->weight);
}

static weft_status_t find_global(const subject_t *s, const decoder_format_t *format, const float **global)
{
    decoder_weight_t found;
    uint64_t shape[3];
    *global = NULL;
    if (!format->global_suffix)
        return WEFT_OK;
    if (!find(s->search, s->leaf, format->global_suffix, &found))
        return weft_fail(s->search->error, WEFT_ERR_MISSING_TENSOR,
                         "rollout rank %u: %s%s%s is missing, the scale of the whole tensor",
                         s->search->config->tp_rank, s->search->prefix, s->leaf, format->global_suffix);
    if (found.dtype != WEFT_DTYPE_F32)
        return weft_fail(s->search->error, WEFT_ERR_SHAPE, "rollout rank %u: %s%s%s is %s, expected F32",
                         s->search->config->tp_rank, s->search->prefix, s->leaf, format->global_suffix,
                         weft_dtype_name(found.dtype));
    expect_shape(s, 1, 1, shape);
    WEFT_TRY(check_shape(s, format->global_suffix, &found, shape));
    WEFT_TRY(check_address(s, format->global_suffix, &found));
    *global = found.data;
    return WEFT_OK;
}

weft_status_t decoder_search(const decoder_search_t *search, const char *leaf, uint32_t count, uint32_t rows,
                             uint32_t cols, decoder_matrix_t *matrix)
{
    subject_t s = {search, leaf, "", count, rows, cols, {0}};
    decoder_weight_t scale = {0};
    const float *global;
    if (!find_weight(search, leaf, &s.suffix, &s.weight))
        return weft_fail(search->error, WEFT_ERR_MISSING_TENSOR, "rollout rank %u: %s%s is missing",
                         search->config->tp_rank, search->prefix, leaf);
    WEFT_TRY(check_weight(&s));
    decoder_format_id_t id = find_format(&s, &scale);
    if (id == DECODER_FORMAT_COUNT)
        return fail_scale(&s);
    const decoder_format_t *format = &decoder_formats[id];
    if (format->scaling.scaled)
        WEFT_TRY(check_address(&s, format->scale_suffix, &scale));
    WEFT_TRY(find_global(&s, format, &global));
    *matrix =
        decoder_matrix(id, rows, cols, s.weight.data, format->scaling.scaled ? scale.data : NULL, global);
    return WEFT_OK;
}
