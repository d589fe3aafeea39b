#include "src/plan/scheme.h"

#include <string.h>

#include "kernels/arrange.h"
#include "src/base/error.h"
#include "src/base/text.h"

#define BIT(profile) (1u << WEFT_PROFILE_##profile)

static const weft_scheme_t schemes[] = {
    {
        .name = "bf16",
        .kernel = WEFT_KERNEL_CAST,
        .dtype = WEFT_DTYPE_BF16,
        .profiles = BIT(DEFAULT),
    },
    {
        .name = "fp16",
        .kernel = WEFT_KERNEL_CAST,
        .dtype = WEFT_DTYPE_F16,
        .profiles = BIT(DEFAULT),
    },
    {
        .name = "fp32",
        .kernel = WEFT_KERNEL_CAST,
        .dtype = WEFT_DTYPE_F32,
        .profiles = BIT(DEFAULT),
    },
    {
        .name = "fp8-block",
        .kernel = WEFT_KERNEL_FP8_BLOCK,
        .dtype = WEFT_DTYPE_F8_E4M3,
        .scale_suffix = "_scale_inv",
        .profiles = BIT(IEEE) | BIT(VLLM) | BIT(POW2) | BIT(VLLM_POW2),
    },
    {
        .name = "fp8-channel",
        .kernel = WEFT_KERNEL_FP8_CHANNEL,
        .dtype = WEFT_DTYPE_F8_E4M3,
        .scale_suffix = "_scale",
        .amax = WEFT_AMAX_ROW,
        .profiles = BIT(DEFAULT),
    },
    {
        .name = "int8-channel",
        .kernel = WEFT_KERNEL_INT8_CHANNEL,
        .dtype = WEFT_DTYPE_I8,
        .scale_suffix = "_scale",
        .amax = WEFT_AMAX_ROW,
        .profiles = BIT(IEEE) | BIT(VLLM) | BIT(CT),
    },
    {
        .name = "mxfp8",
        .kernel = WEFT_KERNEL_MXFP8,
        .dtype = WEFT_DTYPE_F8_E4M3,
        .scale_suffix = "_scale",
        .profiles = BIT(DEFAULT),
    },
    {
        .name = "mxfp4",
        .kernel = WEFT_KERNEL_MXFP4,
        .dtype = WEFT_DTYPE_U8,
        .weight_suffix = "_packed",
        .scale_suffix = "_scale",
        .profiles = BIT(DEFAULT),
    },
    {
        .name = "int4-group-32",
        .kernel = WEFT_KERNEL_INT4_GROUP_32,
        .dtype = WEFT_DTYPE_I32,
        .weight_suffix = "_packed",
        .scale_suffix = "_scale",
        .shape_suffix = "_shape",
        .profiles = BIT(IEEE) | BIT(CT) | BIT(QAT),
    },
    {
        .name = "int4-group-64",
        .kernel = WEFT_KERNEL_INT4_GROUP_64,
        .dtype = WEFT_DTYPE_I32,
        .weight_suffix = "_packed",
        .scale_suffix = "_scale",
        .shape_suffix = "_shape",
        .profiles = BIT(IEEE) | BIT(CT) | BIT(QAT),
    },
    {
        .name = "int4-group-128",
        .kernel = WEFT_KERNEL_INT4_GROUP_128,
        .dtype = WEFT_DTYPE_I32,
        .weight_suffix = "_packed",
        .scale_suffix = "_scale",
        .shape_suffix = "_shape",
        .profiles = BIT(IEEE) | BIT(CT) | BIT(QAT),
    },
    {
        .name = "fp8-tensor",
        .kernel = WEFT_KERNEL_FP8_TENSOR,
        .dtype = WEFT_DTYPE_F8_E4M3,
        .scale_suffix = "_scale",
        .amax = WEFT_AMAX_TENSOR,
        .profiles = BIT(DEFAULT),
    },
    {
        .name = "nvfp4",
        .kernel = WEFT_KERNEL_NVFP4,
        .dtype = WEFT_DTYPE_U8,
        .scale_suffix = "_scale",
        .global_suffix = "_scale_2",
        .amax = WEFT_AMAX_TENSOR,
        .profiles = BIT(DEFAULT) | BIT(MODELOPT),
    },
};

#define NUM_SCHEMES (sizeof schemes / sizeof schemes[0])

static const char *const profile_names[WEFT_PROFILE_COUNT] = {
    [WEFT_PROFILE_DEFAULT] = "default", [WEFT_PROFILE_IEEE] = "ieee",           [WEFT_PROFILE_VLLM] = "vllm",
    [WEFT_PROFILE_POW2] = "pow2",       [WEFT_PROFILE_VLLM_POW2] = "vllm-pow2", [WEFT_PROFILE_CT] = "ct",
    [WEFT_PROFILE_QAT] = "qat",         [WEFT_PROFILE_MODELOPT] = "modelopt",
};

const weft_scheme_t *weft_scheme_moved(void)
{
    static const weft_scheme_t moved = {
        .name = "moved", .kernel = WEFT_KERNEL_CAST, .profiles = BIT(DEFAULT)};
    return &moved;
}

const weft_scheme_t *weft_scheme_cast(void)
{
    return &schemes[0];
}

const char *weft_profile_name(weft_profile_t profile)
{
    return profile_names[profile];
}

weft_status_t weft_scheme_find(const char *name, const weft_scheme_t **scheme, weft_error_t *error)
{
    weft_text_t known = {0};
    for (size_t i = 0; i < NUM_SCHEMES; i++) {
        if (strcmp(schemes[i].name, name) == 0) {
            weft_text_free(&known);
            *scheme = &schemes[i];
            return WEFT_OK;
        }
        weft_text_add(&known, "%s%s", i ? ", " : "", schemes[i].name);
    }
    weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "scheme \"%s\" is not known; there are %s", name, known.data);
    weft_text_free(&known);
    return WEFT_ERR_UNKNOWN_NAME;
}

static weft_profile_t default_profile(const weft_scheme_t *scheme)
{
    weft_profile_t profile = WEFT_PROFILE_DEFAULT;
    while (!(scheme->profiles >> profile & 1))
        profile++;
    return profile;
}

weft_status_t weft_scheme_profile(const weft_scheme_t *scheme, const char *name, weft_profile_t *profile,
                                  weft_error_t *error)
{
    if (!name) {
        *profile = default_profile(scheme);
        return WEFT_OK;
    }
    weft_text_t known = {0};
    for (unsigned i = 0; i < WEFT_PROFILE_COUNT; i++) {
        if (!(scheme->profiles >> i & 1))
            continue;
        if (strcmp(profile_names[i], name) == 0) {
            weft_text_free(&known);
            *profile = (weft_profile_t)i;
            return WEFT_OK;
        }
        weft_text_add(&known, "%s%s", known.length ? ", " : "", profile_names[i]);
    }
    weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "scheme %s has no profile \"%s\"; it has %s", scheme->name, name,
              known.data);
    weft_text_free(&known);
    return WEFT_ERR_UNKNOWN_NAME;
}

weft_status_t weft_scheme_arrange(const weft_scheme_t *scheme, weft_profile_t profile, const char *name,
                                  weft_arrange_t *arrange, weft_error_t *error)
{
    weft_text_t known = {0};
    for (unsigned i = 0; i < WEFT_ARRANGE_COUNT; i++) {
        if (!weft_arrange_takes((weft_arrange_t)i, scheme->kernel, profile))
            continue;
        if (strcmp(weft_arrange_name((weft_arrange_t)i), name) == 0) {
            weft_text_free(&known);
            *arrange = (weft_arrange_t)i;
            return WEFT_OK;
        }
        weft_text_add(&known, "%s%s", known.length ? ", " : "", weft_arrange_name((weft_arrange_t)i));
    }
    weft_fail(error, WEFT_ERR_UNKNOWN_NAME,
              "a matrix of scheme %s, profile %s, cannot lie as \"%.100s\"; they can as %s", scheme->name,
              weft_profile_name(profile), name, known.data);
    weft_text_free(&known);
    return WEFT_ERR_UNKNOWN_NAME;
}
