#include "src/plan/engine.h"

#include <stdio.h>
#include <string.h>

#include "src/base/error.h"
#include "src/base/text.h"

static const weft_engine_t engines[] = {
    {
        .name = "vllm-hopper",
        .scheme = "fp8-block",
        .profiles = {{"fp8-block", "vllm-pow2"}, {"int8-channel", "vllm"}},
        .experts = "routed_experts.",
    },
    {
        .name = "vllm-blackwell",
        .scheme = "fp8-block",
        .profiles = {{"fp8-block", "pow2"}, {"int8-channel", "vllm"}, {"nvfp4", "modelopt"}},
        .arranges = {{"fp8-block", "deepgemm"}, {"nvfp4", "128x4"}, {"mxfp8", "128x4"}, {"mxfp4", "128x4"}},
        .experts = "routed_experts.",
    },
    {
        .name = "sglang",
        .scheme = "fp8-block",
        .profiles = {{"fp8-block", "ieee"}},
    },
};

#define NUM_ENGINES (sizeof engines / sizeof engines[0])

weft_status_t weft_engine_find(const char *name, const weft_engine_t **engine, weft_error_t *error)
{
    weft_text_t known = {0};
    for (size_t i = 0; i < NUM_ENGINES; i++) {
        if (strcmp(engines[i].name, name) == 0) {
            weft_text_free(&known);
            *engine = &engines[i];
            return WEFT_OK;
        }
        weft_text_add(&known, "%s%s", i ? ", " : "", engines[i].name);
    }
    weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "engine \"%.100s\" is not known; there are %s", name, known.data);
    weft_text_free(&known);
    return WEFT_ERR_UNKNOWN_NAME;
}

const char *weft_engine_profile(const weft_engine_t *engine, const char *scheme)
{
    for (unsigned i = 0; engine && i < WEFT_ENGINE_PROFILES && engine->profiles[i].scheme; i++)
        if (strcmp(engine->profiles[i].scheme, scheme) == 0)
            return engine->profiles[i].profile;
    return NULL;
}

const char *weft_engine_arrange(const weft_engine_t *engine, const char *scheme)
{
    for (unsigned i = 0; engine && i < WEFT_ENGINE_PROFILES && engine->arranges[i].scheme; i++)
        if (strcmp(engine->arranges[i].scheme, scheme) == 0)
            return engine->arranges[i].arrange;
    return NULL;
}

const char *weft_engine_experts(const weft_engine_t *engine)
{
    return engine && engine->experts ? engine->experts : "";
}

bool weft_engine_name(const weft_engine_t *engine, const char *plain, char *name, size_t size)
{
    const char *dot = strrchr(plain, '.');
    int stem = dot ? (int)(dot + 1 - plain) : 0;
    int length = snprintf(name, size, "%.*s%s%s", stem, plain, weft_engine_experts(engine), plain + stem);
    return length >= 0 && (size_t)length < size;
}
