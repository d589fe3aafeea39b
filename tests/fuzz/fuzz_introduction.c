/* What ranks say of themselves when a session is opened, as a faulty or another weft would send it:
 * introductions one behind the other, after one byte for the rank that reads them. */
#include "src/introduction.h"
#include "tests/fuzz/fuzz.h"

#define MOST_RANKS 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    uint32_t rank = (uint32_t)fuzz_number(&input, 1);
    uint32_t count = (uint32_t)(input.left / sizeof(weft_introduction_t));
    count = count > MOST_RANKS ? MOST_RANKS : count;
    if (count == 0)
        return 0;
    weft_introduction_t *all = malloc(count * sizeof *all);
    weft_error_t error = {0};
    FUZZ_CHECK(all);
    memcpy(all, input.at, count * sizeof *all);
    rank %= count;
    weft_status_t status = weft_introduction_compare(all, count, rank, all[rank].plan_hash, &error);
    for (uint32_t i = 0; i < count && status == WEFT_OK; i++)
        FUZZ_CHECK(memcmp(&all[i].plan_hash, &all[rank].plan_hash, sizeof all[i].plan_hash) == 0);
    if (status == WEFT_OK)
        status = weft_introduction_check(all, count, &error);
    for (uint32_t i = 0; i < count && status == WEFT_OK; i++)
        FUZZ_CHECK(!all[i].failed && strlen(all[i].endpoint) < sizeof all[i].endpoint);
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    free(all);
    return 0;
}
