#include <string.h>

#include <weft/types.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[WEFT_DTYPE_COUNT] = {
#define X(id, name_, bytes_) [WEFT_DTYPE_##id] = {name_, bytes_},
    WEFT_DTYPE_LIST(X)
#undef X
};

const char *weft_dtype_name(weft_dtype_t dtype)
{
    return (unsigned)dtype < WEFT_DTYPE_COUNT ? dtypes[dtype].name : "?";
}

size_t weft_dtype_bytes(weft_dtype_t dtype)
{
    return (unsigned)dtype < WEFT_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}

weft_status_t weft_dtype_parse(const char *name, weft_dtype_t *dtype)
{
    for (unsigned i = 0; i < WEFT_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *dtype = (weft_dtype_t)i;
            return WEFT_OK;
        }
    }
    return WEFT_ERR_UNKNOWN_NAME;
}
