/* Types that every other header shares: element types, the log callback. */
#ifndef WEFT_TYPES_H
#define WEFT_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <weft/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_MAX_DIMS 4

/* X(identifier, safetensors name, bytes an element). */
#define WEFT_DTYPE_LIST(X)                                                                                   \
    X(F64, "F64", 8)                                                                                         \
    X(F32, "F32", 4)                                                                                         \
    X(F16, "F16", 2)                                                                                         \
    X(BF16, "BF16", 2)                                                                                       \
    X(F8_E4M3, "F8_E4M3", 1)                                                                                 \
    X(F8_E5M2, "F8_E5M2", 1)                                                                                 \
    X(I64, "I64", 8)                                                                                         \
    X(I32, "I32", 4)                                                                                         \
    X(I16, "I16", 2)                                                                                         \
    X(I8, "I8", 1)                                                                                           \
    X(U8, "U8", 1)                                                                                           \
    X(BOOL, "BOOL", 1)

typedef enum weft_dtype {
#define X(id, name, bytes) WEFT_DTYPE_##id,
    WEFT_DTYPE_LIST(X)
#undef X
        WEFT_DTYPE_COUNT,
} weft_dtype_t;

/* Return the safetensors name of a dtype, such as "BF16"; never NULL. */
WEFT_API const char *weft_dtype_name(weft_dtype_t dtype);

/* Return the bytes of one element. */
WEFT_API size_t weft_dtype_bytes(weft_dtype_t dtype);

/* Find a dtype by its safetensors name.
 * **Returns** WEFT_OK, or WEFT_ERR_UNKNOWN_NAME and *dtype untouched. */
WEFT_API weft_status_t weft_dtype_parse(const char *name, weft_dtype_t *dtype);

/* A box of a tensor: offset and extent in each dimension. */
typedef struct weft_box {
    uint32_t num_dims;
    uint64_t offset[WEFT_MAX_DIMS], extent[WEFT_MAX_DIMS];
} weft_box_t;

typedef enum weft_log_level {
    WEFT_LOG_ERROR,
    WEFT_LOG_WARNING,
    WEFT_LOG_INFO,
    WEFT_LOG_DEBUG,
} weft_log_level_t;

/* Receive one line, without a line end. weft prints nothing by itself.
 * **Threads** called from any of weft's threads, one at a time per session; must not call weft. */
typedef void (*weft_log_fn)(void *user, weft_log_level_t level, const char *line);

typedef struct weft_log {
    weft_log_fn fn; /* NULL: lines are dropped */
    void *user;
    weft_log_level_t level; /* lines above this level are dropped */
} weft_log_t;

/* Something that a rank did, for a timeline. Times are CLOCK_MONOTONIC nanoseconds. */
typedef struct weft_span {
    const char *name; /* "pack", "receive", "quantize", "digest", "swap"; a constant */
    uint64_t start_ns, end_ns;
    uint64_t version;
    uint32_t index; /* of the bucket, the round or the unit */
} weft_span_t;

/* Receive one span when it has ended. **Threads** called from the progress thread and the step thread,
 * possibly at the same time. */
typedef void (*weft_span_fn)(void *user, const weft_span_t *span);

/* A 128-bit digest; `docs/numerics.md` defines the two that weft uses. */
typedef struct weft_digest {
    uint64_t word[2];
} weft_digest_t;

#ifdef __cplusplus
}
#endif
#endif
