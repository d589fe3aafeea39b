/* Kernel-format weights made the slow way: every tensor quantized whole by direct calls of the kernels, then
 * sliced.
 *
 *     whole tensor [rows, cols]  --kernels, 128 rows at a time-->  codes, scales  --slice-->  a rank's part
 * of an output
 *
 * Slicing after quantizing is right where scales do not depend on the slicing, which is what weft promises.
 */
#ifndef WEFT_TESTS_SUPPORT_REFERENCE_H
#define WEFT_TESTS_SUPPORT_REFERENCE_H

#include "kernels/format.h"
#include "tests/support/world.h"

/* One quantized tensor. */
typedef struct whole {
    const weft_format_t *format;
    uint8_t *codes, *scales;
    float global;
    size_t row_bytes;       /* of a row of codes */
    size_t scale_row_bytes; /* of a row of the grid of scales; 0: there are none */
    weft_dtype_t out_dtype;
} whole_t;

typedef struct recipe {
    weft_kernel_id_t kernel;
    weft_profile_t profile;
    weft_dtype_t out_dtype;
} recipe_t;

/* How `scheme`, where `all` is the map's default, treats an output of `rows` x `cols` on a rank: docs/numerics.md, "fp8-block" and "Stored
 * names". */
static inline recipe_t recipe_of(const char *all, const char *scheme, const char *profile, const output_t *output,
                                 weft_dtype_t dtype, bool ep, uint32_t rows, uint32_t cols)
{
    bool cast = strcmp(scheme, "bf16") == 0 || !output->quantized;
    if (cast && strcmp(all, "bf16") == 0)
        return (recipe_t){WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT, WEFT_DTYPE_BF16};
    if (cast)
        return (recipe_t){WEFT_KERNEL_CAST, WEFT_PROFILE_DEFAULT,
                          dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : WEFT_DTYPE_BF16};
    const weft_scheme_t *row;
    recipe_t recipe;
    assert_int_equal(weft_scheme_find(scheme, &row, NULL), WEFT_OK);
    recipe = (recipe_t){row->kernel, WEFT_PROFILE_DEFAULT, row->dtype};
    assert_int_equal(weft_scheme_profile(row, profile, &recipe.profile, NULL), WEFT_OK);
    if (row->kernel != WEFT_KERNEL_FP8_BLOCK)
        return recipe;
    weft_profile_t used = WEFT_PROFILE_IEEE;
    bool requantized = output->num_experts ? ep : rows % 64 == 0 && cols % 128 == 0;
    if (profile && strcmp(profile, "pow2") == 0)
        used = WEFT_PROFILE_POW2;
    if (profile && (strcmp(profile, "vllm") == 0 || (strcmp(profile, "vllm-pow2") == 0 && !requantized)))
        used = WEFT_PROFILE_VLLM;
    if (profile && strcmp(profile, "vllm-pow2") == 0 && requantized)
        used = WEFT_PROFILE_VLLM_POW2;
    return (recipe_t){WEFT_KERNEL_FP8_BLOCK, used, WEFT_DTYPE_F8_E4M3};
}

/* Fold the largest magnitude of a whole tensor into `amax`. */
static inline void fold_whole(const source_t *s, const uint8_t *data, uint16_t *amax)
{
    uint32_t row, col;
    for (uint32_t r = 0; r < s->rows; r++)
        assert_true(weft_kernels_find("ref")->amax(data + (size_t)r * s->cols * weft_dtype_bytes(s->dtype), s->cols, 1,
                                                   s->cols, s->dtype, amax, &row, &col));
}

/* `amax`: of all that shares a scale with it, where that is more than a row. */
static inline whole_t quantize_whole(const weft_kernels_t *kernels, const recipe_t *recipe, const source_t *s,
                                     const uint8_t *data, const uint16_t *amax)
{
    whole_t whole = {.format = weft_kernel_format(recipe->kernel), .out_dtype = recipe->out_dtype};
    uint64_t grid[2];
    weft_format_scales(whole.format, s->rows, s->cols, grid);
    whole.row_bytes = weft_format_row_bytes(whole.format, recipe->out_dtype, s->cols);
    whole.scale_row_bytes = grid[0] ? grid[1] * weft_dtype_bytes(whole.format->scale_dtype) : 0;
    whole.codes = malloc(s->rows * whole.row_bytes);
    whole.scales = malloc(grid[0] * whole.scale_row_bytes + 1);
    for (uint32_t row = 0; row < s->rows; row += 128) {
        uint32_t rows = s->rows - row < 128 ? s->rows - row : 128;
        weft_segment_t segment = {
            data + (size_t)row * s->cols * weft_dtype_bytes(s->dtype), s->cols, 0, 0, rows, s->cols};
        weft_quantize_unit_t unit = {.segments = &segment,
                                     .num_segments = 1,
                                     .dtype = s->dtype,
                                     .rows = rows,
                                     .cols = s->cols,
                                     .profile = recipe->profile,
                                     .tensor_amax = amax,
                                     .global = &whole.global,
                                     .out_dtype = recipe->out_dtype};
        weft_quantize_result_t result;
        unit.out = whole.codes + row * whole.row_bytes;
        unit.scale = grid[0] ? whole.scales + weft_format_scale_offset(whole.format, row, s->cols) : NULL;
        assert_int_equal(kernels->quantize[recipe->kernel](&unit, &result), WEFT_OK);
        assert_false(result.nonfinite);
    }
    return whole;
}

static inline void free_whole(whole_t *whole)
{
    free(whole->codes);
    free(whole->scales);
}

/* Bytes of the codes and scales of one part of one expert on a rank. */
static inline size_t slice_bytes(const whole_t *whole, uint32_t rows, uint32_t cols, size_t *scale_bytes)
{
    uint64_t grid[2];
    weft_format_scales(whole->format, rows, cols, grid);
    *scale_bytes = grid[0] ? grid[0] * grid[1] * weft_dtype_bytes(whole->format->scale_dtype) : 0;
    return rows * weft_format_row_bytes(whole->format, whole->out_dtype, cols);
}

static inline void compare_scales(const source_t *s, const whole_t *whole, weft_rect_t box, const uint8_t *scales)
{
    const weft_format_t *f = whole->format;
    uint32_t high = f->scale_rows == WEFT_WHOLE ? s->rows + 1 : f->scale_rows, wide = f->scale_cols;
    uint64_t grid[2];
    weft_format_scales(f, box.rows, box.cols, grid);
    size_t bytes = grid[1] * weft_dtype_bytes(f->scale_dtype),
           right = wide == WEFT_WHOLE ? 0 : box.col / wide * weft_dtype_bytes(f->scale_dtype);
    for (uint32_t r = 0; r < grid[0]; r++)
        if (memcmp(scales + r * bytes, whole->scales + (box.row / high + r) * whole->scale_row_bytes + right, bytes) != 0)
            fail_msg("%s: the scales of row %u differ from those of the whole tensor", s->name, box.row + r * high);
}

/* Compare one part of one expert: its codes at `codes`, its scales at `scales`. */
static inline void compare_slice(const source_t *s, const whole_t *whole, weft_rect_t box,
                                 uint32_t padded_rows, const uint8_t *codes, const uint8_t *scales)
{
    size_t row_bytes = weft_format_row_bytes(whole->format, whole->out_dtype, box.cols),
           right = weft_format_row_bytes(whole->format, whole->out_dtype, box.col);
    for (uint32_t r = 0; r < box.rows; r++)
        if (memcmp(codes + r * row_bytes, whole->codes + (box.row + r) * whole->row_bytes + right, row_bytes) != 0)
            fail_msg("%s: the codes of row %u differ from those of the whole tensor", s->name, box.row + r);
    for (size_t i = box.rows * row_bytes; i < padded_rows * row_bytes; i++)
        assert_int_equal(codes[i], 0);
    if (whole->scale_row_bytes)
        compare_scales(s, whole, box, scales);
}

/* Where the whole tensor of source `index` lies, row-major. */
typedef const uint8_t *(*tensor_fn)(void *user, uint32_t index);

/* Compare all outputs of a rank in `stage` with slices of whole tensors; they must be named in the
 * checkpoint's order. */
static inline void compare_stage(const checkpoint_t *cp, const weft_plan_t *plan, const char *profile,
                                 uint32_t tp_rank, const weft_outputs_t *outputs, const uint8_t *stage,
                                 tensor_fn tensor, void *user)
{
    const char *all = plan->map.entries[0].scheme->name;
    bool mixed = plan->map.count > 1;
    uint32_t tp = weft_plan_tp(plan);
    bool ep = plan->rollout->ep;
    for (uint32_t i = 0; i < cp->num_outputs; i++) {
        const output_t *output = &cp->outputs[i];
        const weft_layer_outputs_t *layer = &outputs->layers[i];
        const weft_output_t *weight = &outputs->items[layer->weight];
        uint32_t first, experts = engine_experts(output, tp, tp_rank, ep, &first), padded;
        const uint8_t *codes = stage + weight->offset;
        const uint8_t *scales =
            layer->scale == UINT32_MAX ? NULL : stage + outputs->items[layer->scale].offset;
        assert_memory_equal(weight->name, output->name, strlen(output->name)); /* and perhaps "_packed" */
        for (uint32_t p = 0; p < experts * output->num_parts; p++) {
            uint32_t index = output->first_source + first * output->num_parts + p;
            const source_t *s = &cp->sources[index];
            const weft_scheme_entry_t *its = weft_plan_entry(plan, i);
            recipe_t recipe = recipe_of(all, its->scheme->name, mixed ? weft_profile_name(its->profile) : profile, output, s->dtype, ep, layer->rows, layer->cols);
            uint16_t amax = 0;
            for (uint32_t q = 0; q < output->num_parts; q++) {
                uint32_t with = index - p % output->num_parts + q;
                fold_whole(&cp->sources[with], tensor(user, with), &amax);
            }
            whole_t whole = quantize_whole(weft_kernels_find("ref"), &recipe, s, tensor(user, index), &amax);
            weft_rect_t box = engine_slice(s, tp, tp_rank, ep && output->num_experts, &padded);
            size_t scale_bytes, code_bytes = slice_bytes(&whole, padded, box.cols, &scale_bytes);
            assert_int_equal(weight->dtype, recipe.out_dtype);
            compare_slice(s, &whole, box, padded, codes, scales);
            codes += code_bytes;
            /* One scale for all parts of an expert: the next is the next expert's. */
            bool one = whole.format->scale_rows == WEFT_WHOLE && (p + 1) % output->num_parts;
            if (scales && !one)
                scales += scale_bytes;
            if (layer->global != WEFT_OUTPUT_NONE)
                assert_memory_equal(stage + outputs->items[layer->global].offset + p / output->num_parts * sizeof(float),
                                    &whole.global, sizeof(float));
            free_whole(&whole);
        }
        assert_ptr_equal(codes, stage + weight->offset + weight->bytes);
    }
}

#endif
