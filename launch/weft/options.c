#include "launch/weft/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_OPTIONS 40

bool options_read_bytes(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {
        {"", 1},          {"B", 1},           {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0},
        {"KB", 1e3},      {"MB", 1e6},        {"GB", 1e9},     {"TB", 1e12},       {"K", 1024.0},
        {"M", 1048576.0}, {"G", 1073741824.0}};
    char *end;
    if (*text < '0' || *text > '9') /* of what strtod reads: no sign, white space, "inf" or "nan" */
        return false;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end > text + strspn(text, "0123456789.eE+-")) /* nor hexadecimal */
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(end, units[i].suffix) == 0 && value * units[i].factor < 1e18) {
            *bytes = (uint64_t)(value * units[i].factor);
            return true;
        }
    }
    return false;
}

bool options_read_rate(const char *text, double *rate)
{
    char copy[64];
    uint64_t bytes;
    size_t length = strlen(text);
    if (length >= 2 && strcmp(text + length - 2, "/s") == 0)
        length -= 2;
    if (length >= sizeof copy)
        return false;
    memcpy(copy, text, length);
    copy[length] = '\0';
    if (!options_read_bytes(copy, &bytes) || bytes == 0)
        return false;
    *rate = (double)bytes;
    return true;
}

/* Digits alone: neither sign nor white space. */
static bool read_digits(const char **cursor, uint32_t *count)
{
    uint64_t value = 0;
    const char *c = *cursor;
    for (; *c >= '0' && *c <= '9'; c++)
        if ((value = value * 10 + (uint64_t)(*c - '0')) > UINT32_MAX)
            return false;
    if (c == *cursor)
        return false;
    *cursor = c;
    *count = (uint32_t)value;
    return true;
}

bool options_read_count(const char *text, uint32_t *count)
{
    uint32_t value;
    if (!read_digits(&text, &value) || *text)
        return false;
    *count = value;
    return true;
}

bool options_read_pair(const char *text, uint32_t *first, uint32_t *second)
{
    uint32_t before, behind;
    if (!read_digits(&text, &before) || *text++ != 'x' || !read_digits(&text, &behind) || *text)
        return false;
    *first = before;
    *second = behind;
    return true;
}

static bool read_size(const char *text, uint64_t *bytes)
{
    uint64_t value;
    if (!options_read_bytes(text, &value) || value == 0)
        return false;
    *bytes = value;
    return true;
}

static bool store(const option_row_t *row, const char *text)
{
    switch (row->kind) {
    case OPTION_TEXT:
        *(const char **)row->value = text;
        return true;
    case OPTION_FLAG:
        *(bool *)row->value = true;
        return true;
    case OPTION_BYTES:
        return read_size(text, row->value);
    case OPTION_COUNT:
        return options_read_count(text, row->value);
    case OPTION_RATE:
        return options_read_rate(text, row->value);
    }
    return false;
}

static void print_help(const command_spec_t *spec, FILE *out)
{
    fprintf(out, "usage: weft %s %s\n\n%s\n\noptions:\n", spec->name, spec->synopsis, spec->about);
    for (unsigned i = 0; i < spec->num_options; i++) {
        const option_row_t *row = &spec->options[i];
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", row->name, row->metavar ? " " : "",
                 row->metavar ? row->metavar : "");
        fprintf(out, "  %-24s %s\n", left, row->help);
    }
    fprintf(out, "  %-24s %s\n", "--help", "show this");
}

static int usage_error(const command_spec_t *spec, bool quiet, const char *what, const char *detail)
{
    if (!quiet)
        fprintf(stderr, "weft %s: %s%s\nusage: weft %s %s\nTry 'weft %s --help'.\n", spec->name, what, detail,
                spec->name, spec->synopsis, spec->name);
    return EXIT_USAGE;
}

/* getopt says too little: a short option is in optopt, a flag that was given a value has its number there. */
static int unknown_option(const command_spec_t *spec, bool quiet, const char *word)
{
    char text[64];
    if (optopt >= 256) {
        snprintf(text, sizeof text, "--%s", spec->options[optopt - 256].name);
        return usage_error(spec, quiet, "no value is taken by ", text);
    }
    if (optopt) {
        snprintf(text, sizeof text, "-%c", optopt);
        word = text;
    }
    return usage_error(spec, quiet, "unknown option ", word);
}

int options_parse(const command_spec_t *spec, int argc, char **argv, bool quiet, const char **positional,
                  unsigned *count)
{
    struct option longs[MAX_OPTIONS + 2] = {0};
    for (unsigned i = 0; i < spec->num_options; i++)
        longs[i] = (struct option){spec->options[i].name,
                                   spec->options[i].kind == OPTION_FLAG ? no_argument : required_argument,
                                   NULL, (int)i + 256};
    longs[spec->num_options] = (struct option){"help", no_argument, NULL, 'h'};
    opterr = 0;
    optind = 0;
    int found;
    while ((found = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
        if (found == 'h') {
            if (!quiet)
                print_help(spec, stdout);
            return EXIT_OK;
        }
        if (found == ':')
            return usage_error(spec, quiet, "a value is missing after ", argv[optind - 1]);
        if (found == '?')
            return unknown_option(spec, quiet, argv[optind - 1]);
        const option_row_t *row = &spec->options[found - 256];
        if (!store(row, optarg)) {
            char what[128];
            snprintf(what, sizeof what, "--%s expects %s, found ", row->name, row->metavar);
            return usage_error(spec, quiet, what, optarg);
        }
    }
    *count = 0;
    while (optind < argc) {
        if (*count == spec->max_positional)
            return usage_error(spec, quiet, "unexpected argument ", argv[optind]);
        positional[(*count)++] = argv[optind++];
    }
    if (*count < spec->min_positional)
        return usage_error(spec, quiet, "missing argument ", spec->positional_names);
    return -1;
}
