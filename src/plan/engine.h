/* Engines: what a plan is made for where nothing else is said. One row an engine.
 *
 * An engine has a scheme of its own, exact arithmetic for the schemes it quantizes itself, and names for
 * parameters where they differ from weft's plain ones. A scheme or a profile that is given outdoes it; the
 * names are always its own.
 *
 * To add an engine: a row in engine.c, a line in docs/schemes.md.
 */
#ifndef WEFT_PLAN_ENGINE_H
#define WEFT_PLAN_ENGINE_H

#include <stdbool.h>
#include <stddef.h>

#include <weft/status.h>

#define WEFT_ENGINE_PROFILES 4

typedef struct weft_engine {
    const char *name;
    const char *scheme; /* a map, where no scheme is given */
    struct {
        const char *scheme, *profile;
    } profiles[WEFT_ENGINE_PROFILES]; /* of schemes for which no profile is given; NULL ends them, the others'
                                         are their default */
    struct {
        const char *scheme, *arrange;
    } arranges[WEFT_ENGINE_PROFILES]; /* how scales lie, of schemes and profiles that can; the others' are plain */
    const char *experts;              /* what stands before the last name of parameters of experts, such as
                                         "routed_experts."; NULL: nothing */
} weft_engine_t;

/* Find an engine by name; the message lists those there are. */
weft_status_t weft_engine_find(const char *name, const weft_engine_t **engine, weft_error_t *error);

/* The engine's profile of a scheme; NULL where it has none of its own, or `engine` is NULL. */
const char *weft_engine_profile(const weft_engine_t *engine, const char *scheme);

/* How the engine wants scales of a scheme to lie, kernels/arrange.h; NULL where it wants nothing, or is NULL. */
const char *weft_engine_arrange(const weft_engine_t *engine, const char *scheme);

/* What stands before the last name of parameters of experts; "" for none, or where `engine` is NULL. */
const char *weft_engine_experts(const weft_engine_t *engine);

/* Write what the engine calls the parameter of experts that is plainly called `plain` into `name`, of `size`
 * bytes:
 * "...experts.w13_weight" is "...experts.routed_experts.w13_weight". Returns whether there was room. */
bool weft_engine_name(const weft_engine_t *engine, const char *plain, char *name, size_t size);

#endif
