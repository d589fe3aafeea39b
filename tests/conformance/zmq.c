/* The suite on ZeroMQ; started by mpirun, over an mpi bootstrap. `conformance_zmq suite` runs it twice,
 * renewed in between; `curve` runs it with keys; `abort` gives up operations that will never end, which
 * renewing mends; `deadline` waits for a rank that stays away; `refuse` meets what open refuses. Peers that
 * die: tests/unit/transport/test_zmq.c. WEFT_SEED repeats a run, WEFT_CASE names the only case to run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mpi.h>
#include <zmq.h>

#include "src/base/clock.h"
#include "tests/conformance/suite.h"

/* ---- Opening ---- */

static MPI_Comm world = MPI_COMM_WORLD;
static weft_transport_t *bootstrap;

static bool open_bootstrap(void)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_error_t error;
    config.mpi_comm = &world;
    if (weft_transport_open("mpi", &config, &bootstrap, &error) == WEFT_OK)
        return true;
    fprintf(stderr, "%s\n", error.message);
    return false;
}

static weft_status_t open_zmq(const weft_zmq_options_t *options, uint64_t timeout_us,
                              weft_transport_t **transport, weft_error_t *error)
{
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    config.bootstrap = bootstrap;
    config.zmq = options;
    config.timeout_us = timeout_us;
    return weft_transport_open("zmq", &config, transport, error);
}

static weft_transport_t *open_said(const weft_zmq_options_t *options, uint64_t timeout_us)
{
    weft_transport_t *transport = NULL;
    weft_error_t error;
    if (open_zmq(options, timeout_us, &transport, &error) != WEFT_OK)
        fprintf(stderr, "%s\n", error.message);
    return transport;
}

/* ---- suite, curve ---- */

/* Rank 0's seed, for all. */
static uint64_t agree_on_seed(void)
{
    const char *given = getenv("WEFT_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : weft_now_ns();
    MPI_Bcast(&seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    return seed;
}

static void meet(void *user)
{
    (void)user;
    MPI_Barrier(MPI_COMM_WORLD);
}

static bool run_open(weft_transport_t *transport, uint64_t seed)
{
    const suite_options_t suite_options = {.meet = meet};
    suite_t suite;
    bool passed = suite_run(&suite, transport, &suite_options, seed, getenv("WEFT_CASE"));
    if (!passed)
        fprintf(stderr, "%s\n", suite.note);
    return passed;
}

static bool renew(weft_transport_t *transport)
{
    weft_error_t error;
    if (weft_transport_table(transport)->renew(transport, &error) == WEFT_OK)
        return true;
    fprintf(stderr, "%s\n", error.message);
    return false;
}

static bool run_once(const weft_zmq_options_t *options, uint64_t seed)
{
    weft_transport_t *transport = open_said(options, 0);
    bool passed = transport && run_open(transport, seed);
    weft_transport_close(transport);
    return passed;
}

static bool run_renewed(const weft_zmq_options_t *options, uint64_t seed)
{
    weft_transport_t *transport = open_said(options, 0);
    bool passed = transport && run_open(transport, seed);
    passed = transport && renew(transport) && run_open(transport, seed + 1) && passed;
    weft_transport_close(transport);
    return passed;
}

static bool run_suite(void)
{
    return run_renewed(NULL, agree_on_seed());
}

/* Keys of each rank's own, told over the bootstrap; one pair for all, which every peer must prove to have;
 * keys that the transport makes. */
static bool run_curve(void)
{
    if (!zmq_has("curve"))
        return true;
    char public[41], secret[41];
    uint64_t seed = agree_on_seed();
    weft_zmq_options_t options = WEFT_ZMQ_OPTIONS;
    options.public_key = public;
    options.secret_key = secret;
    bool passed = zmq_curve_keypair(public, secret) == 0 && run_once(&options, seed);
    MPI_Bcast(public, sizeof public, MPI_BYTE, 0, MPI_COMM_WORLD);
    MPI_Bcast(secret, sizeof secret, MPI_BYTE, 0, MPI_COMM_WORLD);
    options.server_key = public;
    passed = run_once(&options, seed + 1) && passed;
    options = WEFT_ZMQ_OPTIONS;
    options.new_keys = true;
    return run_renewed(&options, seed + 2) && passed;
}

/* Another server's key is found out, well before the deadline of ZeroMQ's own handshake. */
static bool refuses_other_key(void)
{
    char public[41], secret[41], other[41], spare[41];
    weft_zmq_options_t options = WEFT_ZMQ_OPTIONS;
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    if (!zmq_has("curve"))
        return true;
    if (zmq_curve_keypair(public, secret) || zmq_curve_keypair(other, spare))
        return false;
    options.public_key = public;
    options.secret_key = secret;
    options.server_key = other;
    weft_status_t status = open_zmq(&options, 2000000, &transport, &error);
    return !transport && (status == WEFT_ERR_PEER_LOST || status == WEFT_ERR_TIMEOUT);
}

/* ---- refuse ---- */

static bool refuses(const weft_zmq_options_t *options, weft_status_t expected, const char *text)
{
    weft_transport_t *transport = NULL;
    weft_error_t error = {0};
    weft_status_t status = open_zmq(options, 2000000, &transport, &error);
    bool right = status == expected && !transport && strstr(error.message, text);
    if (!right)
        fprintf(stderr, "%s: %s, expected %s and \"%s\"\n", weft_status_name(status), error.message,
                weft_status_name(expected), text);
    return right;
}

static bool run_refuse(void)
{
    weft_zmq_options_t options = WEFT_ZMQ_OPTIONS;
    bool passed = true;
    static const char *const bad[] = {"*", "0.0.0.0", "127.0.0.1:80", "tcp://127.0.0.1", ""};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        options.address = bad[i];
        passed = refuses(&options, WEFT_ERR_ARGUMENT, "no address to listen on") && passed;
    }
    options.address = "no-such-interface";
    passed = refuses(&options, WEFT_ERR_SYSTEM, "cannot listen on no-such-interface") && passed;
    options.address = NULL;
    options.public_key = "short";
    passed = refuses(&options, WEFT_ERR_ARGUMENT, "keys come in pairs") && passed;
    options.secret_key = "short";
    passed = refuses(&options, WEFT_ERR_ARGUMENT, "public_key is not a key") && passed;
    options.new_keys = true;
    passed = refuses(&options, WEFT_ERR_ARGUMENT, "new_keys are made by the transport") && passed;
    options.struct_size = 3;
    passed = refuses(&options, WEFT_ERR_ARGUMENT, "WEFT_ZMQ_OPTIONS") && passed;
    bootstrap = (weft_transport_close(bootstrap), NULL);
    passed = refuses(NULL, WEFT_ERR_ARGUMENT, "config.bootstrap") && passed;
    return passed;
}

/* ---- abort ---- */

static weft_group_t *make_group(weft_transport_t *transport, uint32_t id)
{
    const uint32_t ranks[] = {0, 1};
    weft_group_t *group = NULL;
    weft_error_t error;
    if (weft_transport_table(transport)->group_create(transport, id, ranks, 2, &group, &error) != WEFT_OK)
        fprintf(stderr, "%s\n", error.message);
    return group;
}

/* Rank 1 starts what rank 0 never does, or rank 0 sends far more than rank 1 takes: all buffers come back at
 * once. */
static bool gives_up(weft_transport_t *transport, bool sends)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    weft_group_t *group = make_group(transport, 1);
    size_t bytes = (size_t)64 << 20;
    unsigned char *data = calloc(1, bytes);
    weft_op_t *op;
    bool passed = group && data, done;
    weft_error_t error;
    if (weft_transport_rank(transport) == (sends ? 0 : 1)) {
        passed = passed && ops->broadcast_start(transport, group, 0, data, bytes, &op) == WEFT_OK;
        for (int i = 0; passed && i < 100; i++) {
            passed = ops->test(transport, op, &done, &error) == WEFT_OK && !done;
            weft_sleep_us(500);
        }
    }
    MPI_Barrier(world);
    uint64_t start_us = weft_now_us();
    passed = ops->abort(transport) && passed && weft_now_us() - start_us < 1000000;
    free(data);
    passed = passed && ops->recv_start(transport, 0, NULL, 0, &op) == WEFT_ERR_CLOSED;
    return passed && ops->allgather(transport, "", 1, (char[2]){0}, &error) == WEFT_ERR_CLOSED;
}

/* The rank that waits hears of the other's abort. */
static bool hears_of_abort(weft_transport_t *transport)
{
    const weft_transport_ops_t *ops = weft_transport_table(transport);
    weft_group_t *group = make_group(transport, 1);
    unsigned char data[64];
    weft_error_t error = {0};
    MPI_Barrier(world);
    if (weft_transport_rank(transport) == 0 || !group)
        return ops->abort(transport) && group;
    weft_op_t *op;
    bool done = false;
    weft_status_t status = ops->broadcast_start(transport, group, 0, data, sizeof data, &op);
    uint64_t start_us = weft_now_us();
    while (status == WEFT_OK && !done && weft_now_us() - start_us < 2000000)
        status = ops->test(transport, op, &done, &error);
    return status == WEFT_ERR_PEER_LOST && strstr(error.message, "0 of 64 bytes came from rank 0");
}

static bool run_abort(void)
{
    weft_transport_t *transport = open_said(NULL, 0);
    bool passed = transport != NULL;
    for (int what = 0; transport && what < 3; what++) {
        passed = (what < 2 ? gives_up(transport, what == 1) : hears_of_abort(transport)) && passed;
        MPI_Barrier(world);
        passed = renew(transport) && passed;
    }
    passed = passed && run_open(transport, agree_on_seed());
    weft_transport_close(transport);
    return passed;
}

/* ---- deadline ---- */

/* Rank 1 stays away; rank 0 meets the deadline. */
static bool run_deadline(void)
{
    bool passed = true;
    for (int group_call = 0; group_call < 2; group_call++) {
        weft_transport_t *transport = open_said(NULL, 300000);
        if (!transport)
            return false;
        const weft_transport_ops_t *ops = weft_transport_table(transport);
        const uint32_t ranks[] = {0, 1};
        weft_group_t *group;
        weft_error_t error = {0};
        unsigned char mine = 1, all[2];
        weft_status_t status = WEFT_ERR_TIMEOUT;
        if (weft_transport_rank(transport) == 0) {
            status = group_call ? ops->group_create(transport, 2, ranks, 2, &group, &error)
                                : ops->allgather(transport, &mine, 1, all, &error);
            passed = passed && strstr(error.message, "came from rank 1");
        }
        passed = passed && status == WEFT_ERR_TIMEOUT;
        MPI_Barrier(world);
        weft_transport_close(transport);
        MPI_Barrier(world);
    }
    return passed;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "suite";
    int provided, rank;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (provided < MPI_THREAD_MULTIPLE) {
        if (rank == 0)
            printf("skipped: this MPI has no MPI_THREAD_MULTIPLE\n");
        MPI_Finalize();
        return 77;
    }
    bool passed = open_bootstrap() && (!strcmp(what, "refuse")     ? run_refuse()
                                       : !strcmp(what, "curve")    ? run_curve() && refuses_other_key()
                                       : !strcmp(what, "abort")    ? run_abort()
                                       : !strcmp(what, "deadline") ? run_deadline()
                                                                   : run_suite());
    printf("rank %d: %s %s\n", rank, what, passed ? "passed" : "failed");
    fflush(stdout);
    if (!passed) /* the others may wait for this rank */
        MPI_Abort(MPI_COMM_WORLD, 1);
    weft_transport_close(bootstrap);
    MPI_Finalize();
    return 0;
}
