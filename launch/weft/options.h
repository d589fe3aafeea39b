/* Command lines: one table a command, from which parsing and --help both come. */
#ifndef WEFT_LAUNCH_OPTIONS_H
#define WEFT_LAUNCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* For the help of --scheme and --engine. */
#define OPTION_SCHEMES "bf16, fp8-block, fp8-channel, int8-channel, mxfp8, mxfp4, int4-group-32 (64, 128), fp8-tensor, nvfp4; " \
    "or a map: 'fp8-block; *.experts.*=nvfp4; layers.0.*=bf16'"

#define OPTION_ENGINES "vllm-hopper, vllm-blackwell or sglang: chooses scheme and profile where they are not given, and names of parameters"

/* Exit codes of every command; docs/errors.md. */
enum {
    EXIT_OK = 0,
    EXIT_CHECK_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_ENVIRONMENT = 3,
    EXIT_PLAN = 4,
    EXIT_PEER = 5,
};

typedef enum option_kind {
    OPTION_TEXT,  /* const char ** */
    OPTION_FLAG,  /* bool * */
    OPTION_BYTES, /* uint64_t *: 64KiB, 256MiB, 1GiB, 1GB or a plain number; not 0 */
    OPTION_COUNT, /* uint32_t * */
    OPTION_RATE,  /* double *: bytes a second, 50GB/s */
} option_kind_t;

typedef struct option_row {
    const char *name; /* without the dashes */
    option_kind_t kind;
    void *value;
    const char *metavar; /* NULL for a flag */
    const char *help;
} option_row_t;

typedef struct command_spec {
    const char *name;
    const char *synopsis; /* after "weft NAME", such as "DIR --trainer L [options]" */
    const char *about;    /* a paragraph */
    const option_row_t *options;
    unsigned num_options;
    unsigned min_positional, max_positional;
    const char *positional_names; /* for the message when they are missing: "DIR" */
} command_spec_t;

/* Parse `argv` (argv[0] is the command). Prints help or a sentence on stderr by itself.
 * Returns -1 to go on, with the positional arguments in positional[] and their number in *count; otherwise
 * the exit code to end with. `quiet` suppresses printing: with several ranks one speaks for all. */
int options_parse(const command_spec_t *spec, int argc, char **argv, bool quiet, const char **positional,
                  unsigned *count);

/* Read "256MiB", "1GB", "4096", "1.5G": a number below 10^18 that begins with a digit, and a unit. False, and nothing
 * written, for all else; the same below. */
bool options_read_bytes(const char *text, uint64_t *bytes);

/* Read "50GB/s", the "/s" may be left out; above 0. */
bool options_read_rate(const char *text, double *rate);

/* Read digits: a number of 32 bits. */
bool options_read_count(const char *text, uint32_t *count);

/* Read "4096x12288". */
bool options_read_pair(const char *text, uint32_t *first, uint32_t *second);

#endif
