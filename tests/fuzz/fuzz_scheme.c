/* Names of schemes and profiles: two lines. */
#include "src/plan/scheme.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    char *name = fuzz_take_text(&input, "\n"), *profile_name = fuzz_take_text(&input, "\n");
    const weft_scheme_t *scheme = NULL;
    weft_profile_t profile;
    weft_error_t error = {0};
    weft_status_t status = weft_scheme_find(name, &scheme, &error);
    if (status == WEFT_OK) {
        FUZZ_CHECK(strcmp(scheme->name, name) == 0);
        FUZZ_CHECK(weft_scheme_profile(scheme, NULL, &profile, &error) == WEFT_OK);
        status = weft_scheme_profile(scheme, profile_name, &profile, &error);
        if (status == WEFT_OK)
            FUZZ_CHECK(strcmp(weft_profile_name(profile), profile_name) == 0 &&
                       (scheme->profiles >> profile & 1));
    }
    if (status != WEFT_OK)
        fuzz_check_error(status, &error);
    free(name);
    free(profile_name);
    return 0;
}
