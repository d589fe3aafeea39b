/* Arguments of a command, one a line, and each of them as a number of every kind. */
#include "launch/weft/options.h"
#include "tests/fuzz/fuzz.h"

#define MOST_ARGUMENTS 16

static void try_numbers(const char *text)
{
    uint64_t bytes = UINT64_MAX;
    uint32_t count = 7, first = 7, second = 7;
    double rate = -1;
    if (options_read_bytes(text, &bytes))
        FUZZ_CHECK(bytes <= UINT64_C(1000000000000000000) && text[0] >= '0' && text[0] <= '9');
    else
        FUZZ_CHECK(bytes == UINT64_MAX);
    if (options_read_rate(text, &rate))
        FUZZ_CHECK(rate >= 1 && rate <= 1e18);
    else
        FUZZ_CHECK(rate == -1);
    if (options_read_count(text, &count))
        FUZZ_CHECK(strspn(text, "0123456789") == strlen(text) && strtoull(text, NULL, 10) == count);
    else
        FUZZ_CHECK(count == 7);
    if (options_read_pair(text, &first, &second))
        FUZZ_CHECK(strspn(text, "0123456789x") == strlen(text));
    else
        FUZZ_CHECK(first == 7 && second == 7);
}

static void try_parse(int argc, char **argv)
{
    const char *text = NULL, *positional[3];
    bool flag = false;
    uint64_t bytes = 1;
    uint32_t number = 0;
    double rate = 1;
    unsigned count = 0;
    const option_row_t rows[] = {
        {"text", OPTION_TEXT, &text, "TEXT", "any"},        {"flag", OPTION_FLAG, &flag, NULL, "one"},
        {"bytes", OPTION_BYTES, &bytes, "BYTES", "a size"}, {"count", OPTION_COUNT, &number, "N", "how many"},
        {"rate", OPTION_RATE, &rate, "RATE", "a speed"},
    };
    const command_spec_t spec = {.name = "fuzz",
                                 .synopsis = "A [B [C]]",
                                 .about = "",
                                 .options = rows,
                                 .num_options = sizeof rows / sizeof rows[0],
                                 .min_positional = 1,
                                 .max_positional = 3,
                                 .positional_names = "A"};
    int code = options_parse(&spec, argc, argv, true, positional, &count);
    FUZZ_CHECK(code == -1 || code == EXIT_OK || code == EXIT_USAGE);
    FUZZ_CHECK(code != -1 || (count >= 1 && count <= 3));
    FUZZ_CHECK(bytes > 0 && rate >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    char name[] = "fuzz", *argv[MOST_ARGUMENTS + 2] = {name};
    int argc = 1;
    while (input.left && argc <= MOST_ARGUMENTS)
        argv[argc++] = fuzz_take_text(&input, "\n");
    for (int i = 1; i < argc; i++)
        try_numbers(argv[i]);
    char *order[MOST_ARGUMENTS + 2];
    memcpy(order, argv, sizeof argv);
    try_parse(argc, argv); /* puts them in another order */
    for (int i = 1; i < argc; i++)
        free(order[i]);
    return 0;
}
