/* weft bench: sweeps, each figure beside its bare counterpart. */
#include "launch/weft/bench.h"

#include <string.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} benches[] = {
    {"quantize", command_bench_quantize, "the quantizer's kernels beside a copy of the same bytes"},
    {"swap", command_bench_swap, "live weights and stage exchanged, beside a copy of the same bytes"},
    {"broadcast", command_bench_broadcast,
     "under mpirun: a transport alone, by size and with the buckets of a plan"},
    {"sync", command_bench_sync,
     "under mpirun: whole updates beside a bare broadcast, or beside their floor"},
};

#define NUM_BENCHES (sizeof benches / sizeof benches[0])

static int usage(FILE *out, int code)
{
    fprintf(out, "usage: weft bench NAME [options]\n\n");
    for (size_t i = 0; i < NUM_BENCHES; i++)
        fprintf(out, "  %-10s %s\n", benches[i].name, benches[i].about);
    fprintf(out, "\n'weft bench NAME --help' explains one. Times are P50 and P99 over interleaved rounds; "
                 "#wrong counts\n"
                 "bytes that are not what they should be, and any ends the command with 1.\n");
    return code;
}

int command_bench(int argc, char **argv)
{
    if (argc < 2)
        return usage(stderr, EXIT_USAGE);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return usage(stdout, EXIT_OK);
    for (size_t i = 0; i < NUM_BENCHES; i++)
        if (strcmp(argv[1], benches[i].name) == 0)
            return benches[i].run(argc - 1, argv + 1);
    fprintf(stderr, "weft bench: unknown benchmark %s\n", argv[1]);
    return usage(stderr, EXIT_USAGE);
}
