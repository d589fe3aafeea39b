/* The JSON reader: any bytes. The first byte chooses what may follow the value. */
#include "src/model/json.h"
#include "tests/fuzz/fuzz.h"

static size_t walk(const cJSON *item)
{
    size_t count = 1;
    uint64_t value;
    FUZZ_CHECK(weft_json_kind(item) && (!weft_json_u64(item, &value) || value < UINT64_C(1) << 53));
    if (cJSON_IsString(item))
        FUZZ_CHECK(item->valuestring);
    for (const cJSON *child = item->child; child; child = child->next) {
        FUZZ_CHECK(!cJSON_IsObject(item) || child->string);
        count += walk(child);
    }
    return count;
}

/* By its name each member is found, and not an earlier one of the name. */
static void check_members(const cJSON *item)
{
    unsigned looked = 0;
    if (cJSON_IsObject(item))
        for (const cJSON *child = item->child; child && looked < 64; child = child->next, looked++)
            FUZZ_CHECK(weft_json_get(item, child->string) == child);
    for (const cJSON *child = item->child; child; child = child->next)
        if (child->child)
            check_members(child);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    bool whole = fuzz_number(&input, 1) & 1;
    size_t length;
    char *text = (char *)fuzz_take_bytes(&input, "", &length);
    cJSON *root = NULL;
    weft_error_t error = {0};
    fuzz_meter_begin();
    weft_status_t status = whole ? weft_json_parse_whole(text, length, &root, &error)
                                 : weft_json_parse(text, length, " ", &root, &error);
    fuzz_meter_end(64 * length + (128 << 10));
    if (status == WEFT_OK) {
        FUZZ_CHECK(walk(root) <= length + 1);
        if (whole)
            check_members(root);
        cJSON_Delete(root);
    } else {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(!root);
    }
    free(text);
    return 0;
}
