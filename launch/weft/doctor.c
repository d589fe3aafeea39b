/* weft doctor: what this machine and this build have, what would be chosen and why, and what is wrong. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "kernels/queue.h"
#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/control/mailbox.h"
#include "src/place/place.h"
#include "transport/transport.h"

#define FEW_FILES 256u
#define SMALL_SHM (UINT64_C(1) << 30)
#define GIB       (1 << 30)
#define MANY_GPUS 64

static unsigned problems;

static void say(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void problem(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *what, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("%-12s ", what);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

/* Something that weft cannot work with, or not as it should, and what to do. */
static void problem(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("%-12s ", "PROBLEM");
    vprintf(format, args);
    putchar('\n');
    va_end(args);
    problems++;
}

/* ---- the machine ---- */

static void say_processor(void)
{
    static const char *const names[] = {"ref", "avx2", "avx512"};
    char there[64] = "";
    for (size_t i = 0, used = 0; i < sizeof names / sizeof names[0]; i++)
        if (weft_kernels_find(names[i]))
            used += (size_t)snprintf(there + used, sizeof there - used, "%s%s", used ? ", " : "", names[i]);
    say("processor", "%ld CPUs; host kernels %s, the fastest of %s", sysconf(_SC_NPROCESSORS_ONLN),
        weft_kernels_best()->name, there);
}

static void say_memory(void)
{
    struct sysinfo info;
    struct utsname system;
    struct statvfs shm;
    if (sysinfo(&info) == 0)
        say("memory", "%.1f GiB, %.1f free", (double)info.totalram * info.mem_unit / GIB,
            (double)info.freeram * info.mem_unit / GIB);
    if (uname(&system) == 0)
        say("system", "%s %s; a flip in host memory %s", system.sysname, system.release,
            strverscmp(system.release, "5.13") >= 0 ? "moves page tables"
                                                    : "enters every page anew: Linux 5.13 is faster");
    if (statvfs("/dev/shm", &shm) != 0) {
        problem("/dev/shm is missing: MPI and ipc in host memory need it; mount a tmpfs there");
        return;
    }
    uint64_t free_bytes = (uint64_t)shm.f_bavail * shm.f_frsize;
    say("/dev/shm", "%.1f GiB free", (double)free_bytes / GIB);
    if (free_bytes < SMALL_SHM)
        problem("/dev/shm has %.0f MiB free, and MPI between ranks of a node uses it; in a container give it "
                "more "
                "(docker run --shm-size 8g)",
                (double)free_bytes / (1 << 20));
}

static void say_limits(void)
{
    struct rlimit files, locked;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || getrlimit(RLIMIT_MEMLOCK, &locked) != 0)
        return;
    char text[32] = "unlimited";
    if (locked.rlim_cur != RLIM_INFINITY)
        snprintf(text, sizeof text, "%llu KiB", (unsigned long long)locked.rlim_cur / 1024);
    say("limits", "%llu open files, %s of locked memory", (unsigned long long)files.rlim_cur, text);
    if (files.rlim_cur < FEW_FILES)
        problem("%llu open files are few for a rank with its connections; raise it (ulimit -n 4096)",
                (unsigned long long)files.rlim_cur);
}

/* ---- GPUs ---- */

static bool has_transport(const char *name)
{
    const weft_transport_ops_t *ops;
    for (size_t i = 0; (ops = weft_transport_listed(i)); i++)
        if (strcmp(ops->name, name) == 0)
            return true;
    return false;
}

static unsigned say_gpus(void)
{
    char bus_id[WEFT_BUS_ID_BYTES], line[WEFT_PLACE_TEXT_BYTES];
    int number;
    unsigned count = 0;
    for (; count < MANY_GPUS && weft_queue_find("cuda", (int)count, &number, bus_id); count++) {
        weft_place_t *place;
        const char *label = count ? "" : "GPUs";
        if (weft_place_open(bus_id, &place, NULL) != WEFT_OK) {
            say(label, "%s: where it sits in the host is not known", bus_id);
            continue;
        }
        say(label, "%s", weft_place_text(place, line));
        weft_place_close(place);
    }
    if (!count)
        say("GPUs", "%s",
            has_transport("nccl") ? "none that CUDA can use"
                                  : "unknown: this build has no CUDA (configure with --preset cuda)");
    return count;
}

/* ---- what connects ranks ---- */

static bool on_path(const char *program)
{
    const char *path = getenv("PATH");
    char copy[4096], file[4352];
    snprintf(copy, sizeof copy, "%s", path ? path : "");
    for (char *folder = strtok(copy, ":"); folder; folder = strtok(NULL, ":")) {
        snprintf(file, sizeof file, "%s/%s", folder, program);
        if (access(file, X_OK) == 0)
            return true;
    }
    return false;
}

static void say_transports(void)
{
    const weft_transport_ops_t *ops;
    char control[96];
    for (size_t i = 0; (ops = weft_transport_listed(i)); i++) {
        char about[256] = "";
        if (ops->about)
            ops->about(about, sizeof about);
        say(i ? "" : "transports", "%s%s%s", ops->name, about[0] ? ": " : "", about);
    }
    weft_mailbox_about(control, sizeof control);
    say("control", "%s; ranks of one host and user by UNIX sockets", control);
    if (!on_path("mpirun"))
        problem("there is no mpirun on PATH: weft run and weft bench are started by it");
}

static void check_environment(void)
{
    const char *connections = getenv("CUDA_DEVICE_MAX_CONNECTIONS"),
               *yields = getenv("OMPI_MCA_mpi_yield_when_idle");
    if (connections && strcmp(connections, "1") == 0)
        problem("CUDA_DEVICE_MAX_CONNECTIONS=1 puts all streams into one hardware queue, and nccl refuses "
                "it; unset it");
    if (geteuid() == 0 && !getenv("OMPI_ALLOW_RUN_AS_ROOT"))
        say("note", "as root Open MPI's mpirun wants --allow-run-as-root");
    if (sysconf(_SC_NPROCESSORS_ONLN) < 4 && !(yields && strcmp(yields, "1") == 0))
        say("note", "with more ranks than CPUs set OMPI_MCA_mpi_yield_when_idle=1 and "
                    "OMPI_MCA_rmaps_base_oversubscribe=1, or "
                    "each barrier takes milliseconds");
}

static void say_choice(unsigned gpus)
{
    if (gpus)
        say("chosen",
            "--transport nccl while a node has no more than %u ranks (one GPU each), else mpi in host "
            "memory; ipc "
            "if you say so: trainer and rollout on one node, their memory read in place",
            gpus);
    else
        say("chosen", "--transport mpi, host memory: no rank has a GPU. ipc if you say so, on one node; "
                      "zmq if you say so, to keep the weights out of MPI");
}

int command_doctor(int argc, char **argv)
{
    const command_spec_t spec = {
        .name = "doctor",
        .synopsis = "",
        .about = "What this machine and this build have, what weft run would choose, and why. Lines that "
                 "begin with PROBLEM say\n"
                 "what is in the way and what to do; then the exit code is 3. Run it on each kind of node.",
        .positional_names = "",
    };
    const char *none[1];
    unsigned count;
    int code = options_parse(&spec, argc, argv, false, none, &count);
    if (code >= 0)
        return code;
    say("weft", "%s, compiled by %s%s", WEFT_VERSION, strstr(__VERSION__, "lang") ? "" : "gcc ", __VERSION__);
    say_processor();
    say_memory();
    say_limits();
    unsigned gpus = say_gpus();
    say_transports();
    check_environment();
    say_choice(gpus);
    return problems ? EXIT_ENVIRONMENT : EXIT_OK;
}
