/* One rank of a session as a process of its own, by the public API: a trainer that publishes when it is told to, or a
 * rollout that decodes without a pause. tests/faults/world.py starts it, and says what it must live through.
 *
 *     faults_rank RANK TRAINER ROLLOUT SCHEME MODEL MODEL        odd versions are the first model, even ones the second
 *
 * Commands: "open E" joins session E beside the one that serves; "publish V TIMEOUT_US"; "queue V W TIMEOUT_US" (publishes
 * W when V is on its way, and waits for both); "hold PLACE"; "quit". SIGUSR1 and SIGUSR2 make the
 * time of day jump, forward and back.
 * Places: "join:N" and "plan:N" (the N-th time that ranks meet), "rank:PREPARED" and the like (a machine has come to
 * that state), "span:quantize:N", "publish:V" (the shards are filled).
 *
 * Weights travel by WEFT_FAULTS_TRANSPORT, ipc or zmq, the latter with keys; a rank listens on WEFT_FAULTS_HOST.
 *
 * Ranks of a replica keep step, as an engine's do, while all of them move: by counters in the file WEFT_FAULTS_PACE.
 *
 * A decode step is a checksum over all live weights, before step_end: what was read in it is reported whenever it
 * is not what the step before has read.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <weft/weft.h>
#include <zmq.h>

#include "tests/faults/clock_jump.h"
#include "tests/faults/meeting.h"

#define STEP_US   20000
#define PATIENCE  10000000
#define CLOCK_JUMP 3600 /* seconds */

typedef struct life {
    meeting_t meeting;
    weft_transport_t *transport;
    weft_session_t *session;
    weft_trainer_t *trainer;
    weft_rollout_t *rollout;
    pthread_t thread; /* opens it */
    _Atomic int state; /* OPENING, OPEN or FAILED */
    bool used, announced;
} life_t;

enum { OPENING, OPEN, FAILED };

#define PACE_RANKS   64
#define PACE_STEPS   2     /* nobody is further ahead */
#define PACE_WAIT_US 50000 /* of one that does not move */

/* How far a rank is, as others see it: its session in the upper half, its step in the lower. */
typedef struct pace {
    _Atomic uint64_t *shared; /* [PACE_RANKS]; NULL: everybody at his own */
    uint64_t seen[PACE_RANKS], moved_us[PACE_RANKS];
    uint32_t first, end; /* the ranks of this replica */
} pace_t;

typedef struct program {
    uint32_t rank, num_ranks;
    bool is_trainer;
    weft_model_t *models[2];
    weft_plan_t *plan;
    void **shards; /* trainer: [tensors] */
    life_t lives[2];
    life_t *now, *next, *past; /* serves; comes after it; a trainer's, to be closed with its next version */
    uint64_t step, version;
    uint32_t seen; /* checksum of the last step */
    weft_status_t said;
    char phase[64];
    double rate;
    pace_t pace;
} program_t;

static program_t program;

static const char *argument(const char *name, const char *fallback)
{
    const char *value = getenv(name);
    return value && *value ? value : fallback;
}

static void fail(const char *what, const weft_error_t *error)
{
    report("failed %s: %s", what, error->message);
    _exit(1);
}

/* ---- Deadlines ---- */

/* A call with a deadline has returned: not more than a tenth late, and what a busy machine takes to wake a thread. */
static void check_time(const char *call, uint64_t start_us, uint64_t timeout_us)
{
    uint64_t took_us = weft_now_us() - start_us;
    if (took_us > timeout_us + timeout_us / 10 + 50000)
        report("late %s %llu of %llu us", call, (unsigned long long)took_us, (unsigned long long)timeout_us);
}

/* ---- Where threads are held ---- */

/* "rank 2: rank 2: version 2: RECEIVING -> PREPARED" is the place "rank:PREPARED". */
static void on_log(void *user, weft_log_level_t level, const char *line)
{
    char place[96];
    (void)user;
    const char *arrow = strstr(line, " -> "), *kind = strstr(line, ": ");
    if (level <= WEFT_LOG_WARNING)
        report("log %s", line);
    if (!arrow || !kind)
        return;
    kind += 2;
    snprintf(place, sizeof place, "%.*s:%s", (int)strcspn(kind, " :"), kind, arrow + 4);
    reach(place);
}

static void on_span(void *user, const weft_span_t *span)
{
    static _Atomic uint32_t quantized;
    char place[96];
    (void)user;
    if (strcmp(span->name, "quantize") != 0 || span->version == 1)
        return;
    snprintf(place, sizeof place, "span:quantize:%u", ++quantized);
    reach(place);
}

/* ---- What serves ---- */

static uint32_t crc_table[256];

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
        crc_table[i] = c;
    }
}

/* As zlib's crc32, over all live tensors in plan order. */
static uint32_t live_crc(const weft_rollout_t *rollout)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (uint32_t i = 0; i < weft_rollout_num_tensors(rollout); i++) {
        weft_tensor_t t = weft_rollout_tensor(rollout, i);
        for (const uint8_t *at = t.data, *end = at + t.bytes; at < end; at++)
            crc = crc_table[(crc ^ *at) & 255] ^ crc >> 8;
    }
    return ~crc;
}

/* In plan order, for whoever computes the checksum elsewhere. */
static void report_names(const weft_rollout_t *rollout)
{
    for (uint32_t i = 0; i < weft_rollout_num_tensors(rollout); i++)
        report("tensor %s", weft_rollout_tensor(rollout, i).name);
}

static const char *const phases[] = {"idle", "receiving", "prepared", "armed", "committed", "lost", "tainted"};

static void note_phase(program_t *p)
{
    weft_rollout_status_t status;
    char phase[64];
    weft_rollout_get_status(p->now->rollout, &status);
    snprintf(phase, sizeof phase, "%s %llu %llu%s", phases[status.phase], (unsigned long long)status.pending_version,
             (unsigned long long)status.live_version, status.cut_off ? " cut off" : "");
    if (strcmp(phase, p->phase) != 0)
        report("phase %u %s", p->now->meeting.epoch, phase);
    strcpy(p->phase, phase);
}

/* Nothing may be decoded; the weights stay what they were all the same. */
static void note_refusal(program_t *p, weft_status_t status, const weft_error_t *error)
{
    if (status != p->said)
        report("step %s %08x %s", weft_status_name(status), live_crc(p->now->rollout), error->message);
    p->said = status;
}

static uint64_t place_of(const program_t *p)
{
    return (uint64_t)p->now->meeting.epoch << 32 | p->step;
}

/* Whether the next step would be too far ahead of a rank that moves. */
static bool is_ahead(program_t *p)
{
    pace_t *pace = &p->pace;
    bool ahead = false;
    if (!pace->shared)
        return false;
    pace->shared[p->rank] = place_of(p);
    for (uint32_t r = pace->first; r < pace->end; r++) {
        uint64_t there = pace->shared[r], now_us = weft_now_us();
        if (there != pace->seen[r])
            pace->moved_us[r] = now_us;
        pace->seen[r] = there;
        bool behind = there >> 32 == p->now->meeting.epoch && there + PACE_STEPS < place_of(p);
        ahead |= behind && now_us - pace->moved_us[r] < PACE_WAIT_US;
    }
    return ahead;
}

static void decode(program_t *p)
{
    if (is_ahead(p))
        return;
    weft_error_t error = {.message = ""};
    uint64_t version = 0, start_us = weft_now_us();
    weft_status_t status = weft_rollout_step_begin(p->now->rollout, p->step + 1, STEP_US, &version, &error);
    check_time("step_begin", start_us, STEP_US);
    note_phase(p);
    if (status != WEFT_OK) {
        note_refusal(p, status, &error);
        return;
    }
    uint32_t crc = live_crc(p->now->rollout);
    weft_rollout_step_end(p->now->rollout, ++p->step);
    if (crc != p->seen || version != p->version || p->said != WEFT_OK)
        report("serves %u %llu %08x from step %llu", p->now->meeting.epoch, (unsigned long long)version, crc,
               (unsigned long long)p->step);
    p->seen = crc;
    p->version = version;
    p->said = WEFT_OK;
}

/* ---- A session ---- */

static weft_status_t open_transport(life_t *life, weft_error_t *error)
{
    char public[41], secret[41];
    weft_transport_config_t config = WEFT_TRANSPORT_CONFIG;
    weft_zmq_options_t zmq = WEFT_ZMQ_OPTIONS;
    config.bootstrap = (weft_transport_t *)&life->meeting;
    config.memory = "host";
    config.timeout_us = strtoull(argument("WEFT_FAULTS_JOIN_US", "1500000"), NULL, 10);
    zmq.address = argument("WEFT_FAULTS_HOST", NULL);
    if (zmq_curve_keypair(public, secret) == 0)
        zmq.public_key = public, zmq.secret_key = secret;
    config.zmq = &zmq;
    return weft_transport_open(argument("WEFT_FAULTS_TRANSPORT", "ipc"), &config, &life->transport, error);
}

static weft_status_t open_session(program_t *p, life_t *life, weft_error_t *error)
{
    weft_session_config_t config = WEFT_SESSION_CONFIG;
    config.plan = p->plan;
    config.transport = life->transport;
    config.host = argument("WEFT_FAULTS_HOST", NULL);
    config.log = (weft_log_t){on_log, NULL, WEFT_LOG_DEBUG};
    config.span = on_span;
    config.rate_bytes_per_s = p->rate;
    config.dead_after_us = strtoull(argument("WEFT_FAULTS_DEAD_US", "1500000"), NULL, 10);
    config.transfer_timeout_us = PATIENCE;
    config.commit_timeout_us = strtoull(argument("WEFT_FAULTS_COMMIT_US", "2000000"), NULL, 10);
    return weft_session_open(&config, &life->session, error);
}

static weft_status_t bind_shards(program_t *p, life_t *life, weft_error_t *error)
{
    for (uint32_t i = 0; i < weft_model_num_tensors(p->models[0]); i++) {
        const weft_tensor_t *tensor = weft_model_tensor(p->models[0], i);
        weft_status_t status = p->shards[i] ? weft_trainer_bind(life->trainer, tensor->name, p->shards[i], 0, error)
                                            : WEFT_OK;
        if (status != WEFT_OK)
            return status;
    }
    return WEFT_OK;
}

static size_t box_bytes(const weft_tensor_t *tensor, const weft_box_t *box)
{
    size_t bytes = weft_dtype_bytes(tensor->dtype);
    for (uint32_t d = 0; d < box->num_dims; d++)
        bytes *= box->extent[d];
    return bytes;
}

/* FSDP shards are runs of whole rows. They are made once, in memory that other processes can map: one file in /dev/shm,
 * which whoever outlives this process removes. */
static void make_shards(program_t *p, const weft_trainer_t *trainer)
{
    uint32_t count = weft_model_num_tensors(p->models[0]);
    size_t total = 0;
    char path[64];
    p->shards = calloc(count, sizeof *p->shards);
    size_t *offsets = calloc(count, sizeof *offsets), *sizes = calloc(count, sizeof *sizes);
    for (uint32_t i = 0; i < count; i++) {
        const weft_tensor_t *tensor = weft_model_tensor(p->models[0], i);
        weft_box_t box;
        weft_trainer_box(trainer, tensor->name, &box);
        sizes[i] = box_bytes(tensor, &box);
        offsets[i] = total;
        total += (sizes[i] + 255) & ~(size_t)255;
    }
    snprintf(path, sizeof path, "/dev/shm/weft-faults-%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)total))
        _exit(2);
    uint8_t *memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    for (uint32_t i = 0; i < count; i++)
        p->shards[i] = sizes[i] ? memory + offsets[i] : NULL;
    free(offsets);
    free(sizes);
}

static void fill_shards(program_t *p, uint64_t version)
{
    const weft_model_t *model = p->models[(version + 1) % 2];
    for (uint32_t i = 0; i < weft_model_num_tensors(model); i++) {
        const weft_tensor_t *tensor = weft_model_tensor(model, i);
        weft_box_t box;
        weft_trainer_box(p->now->trainer, tensor->name, &box);
        size_t bytes = box_bytes(tensor, &box);
        if (bytes)
            memcpy(p->shards[i], (const uint8_t *)tensor->data + bytes / box.extent[0] * box.offset[0], bytes);
    }
}

static weft_status_t open_role(program_t *p, life_t *life, weft_error_t *error)
{
    weft_rollout_config_t config = WEFT_ROLLOUT_CONFIG;
    config.swap = argument("WEFT_FAULTS_SWAP", "flip");
    if (!p->is_trainer)
        return weft_rollout_create(life->session, &config, &life->rollout, error);
    weft_status_t status = weft_trainer_create(life->session, &life->trainer, error);
    if (status == WEFT_OK && !p->shards)
        make_shards(p, life->trainer);
    return status == WEFT_OK ? bind_shards(p, life, error) : status;
}

static void close_life(life_t *life)
{
    life->meeting.label = "leave";
    life->meeting.count = 0;
    weft_trainer_destroy(life->trainer);
    weft_rollout_destroy(life->rollout);
    weft_session_close(life->session);
    weft_transport_close(life->transport);
    *life = (life_t){.used = false};
}

static void *open_life(void *user)
{
    life_t *life = user;
    weft_error_t error = {.message = ""};
    uint64_t start_us = weft_now_us();
    weft_status_t status = open_transport(life, &error);
    life->meeting.label = "plan";
    life->meeting.count = 0;
    if (status == WEFT_OK)
        status = open_session(&program, life, &error);
    if (status == WEFT_OK)
        status = open_role(&program, life, &error);
    uint64_t took_us = weft_now_us() - start_us;
    uint32_t epoch = life->meeting.epoch;
    if (status != WEFT_OK)
        close_life(life);
    life->state = status == WEFT_OK ? OPEN : FAILED;
    if (status != WEFT_OK) /* the last thing: the supervisor may ask for another session at once */
        report("unopened %u %s %llu %s", epoch, weft_status_name(status), (unsigned long long)took_us, error.message);
    return NULL;
}

static void close_past(program_t *p)
{
    if (!p->past)
        return;
    uint64_t start_us = weft_now_us();
    uint32_t epoch = p->past->meeting.epoch;
    close_life(p->past);
    p->past = NULL;
    report("closed %u %llu", epoch, (unsigned long long)(weft_now_us() - start_us));
}

/* It could not be opened, or not by all. */
static void give_up_next(program_t *p)
{
    if (!p->next)
        return;
    pthread_join(p->next->thread, NULL);
    if (p->next->state == OPEN)
        close_life(p->next);
    p->next->used = false;
    p->next = NULL;
}

static void begin_open(program_t *p, uint32_t epoch)
{
    close_past(p);
    give_up_next(p);
    life_t *life = p->lives[0].used ? &p->lives[1] : &p->lives[0];
    *life = (life_t){.meeting = {{&meeting_ops, p->rank, p->num_ranks, "host", -1}, epoch, "join", 0}, .used = true};
    p->next = life;
    pthread_create(&life->thread, NULL, open_life, life);
}

/* A trainer goes over to a session as soon as it is open, and leaves the one before when its version is live in the next, as
 * rollouts do: all close together. */
static bool may_go_over(const program_t *p)
{
    weft_rollout_status_t status;
    if (p->next->state == OPENING || p->is_trainer || !p->now || p->next->state == FAILED)
        return p->next->state != OPENING;
    weft_rollout_get_status(p->next->rollout, &status);
    return status.live_version > 0;
}

static void announce(life_t *life)
{
    if (life->state == OPEN && !life->announced)
        report("opened %u", life->meeting.epoch);
    life->announced = life->state == OPEN;
}

static void go_over(program_t *p)
{
    life_t *before = p->now, *next = p->next;
    if (!may_go_over(p)) {
        announce(next);
        return;
    }
    pthread_join(next->thread, NULL);
    p->next = NULL;
    if (next->state == FAILED) {
        next->used = false;
        return;
    }
    p->now = next;
    p->step = 0;
    announce(next);
    if (p->rank + 1 == p->num_ranks && !before)
        report_names(next->rollout);
    p->past = before;
    if (!p->is_trainer)
        close_past(p);
}

/* ---- Commands ---- */

static void await(program_t *p, uint64_t version, uint64_t timeout_us)
{
    weft_error_t error = {.message = ""};
    uint64_t start_us = weft_now_us();
    weft_status_t status = weft_trainer_wait(p->now->trainer, version, WEFT_PUBLISH_APPLIED, timeout_us, &error);
    check_time("wait", start_us, timeout_us);
    report("outcome %llu %s %s", (unsigned long long)version, weft_status_name(status), error.message);
    close_past(p);
}

static bool begin_publish(program_t *p, uint64_t version)
{
    weft_error_t error = {.message = ""};
    report("publishes %llu", (unsigned long long)version);
    weft_status_t status = weft_trainer_publish(p->now->trainer, version, &error);
    if (status != WEFT_OK)
        report("outcome %llu %s %s", (unsigned long long)version, weft_status_name(status), error.message);
    return status == WEFT_OK;
}

static void publish(program_t *p, uint64_t version, uint64_t timeout_us)
{
    char place[32];
    fill_shards(p, version);
    snprintf(place, sizeof place, "publish:%llu", (unsigned long long)version);
    reach(place);
    if (begin_publish(p, version))
        await(p, version, timeout_us);
}

/* Two at once. Both are of the same weights: those of the first are still read when the second is published. */
static void queue(program_t *p, uint64_t version, uint64_t second, uint64_t timeout_us)
{
    fill_shards(p, version);
    bool begun = begin_publish(p, version), queued = begin_publish(p, second);
    if (begun)
        await(p, version, timeout_us);
    if (queued)
        await(p, second, timeout_us);
}

static void quit(program_t *p)
{
    for (unsigned i = 0; i < 2; i++)
        if (p->lives[i].used)
            close_life(&p->lives[i]);
    weft_plan_destroy(p->plan);
    for (unsigned i = 0; i < 2; i++)
        weft_model_close(p->models[i]);
    free(p->shards);
    report("quits");
    exit(0);
}

static void obey(program_t *p, const char *line)
{
    unsigned long long version, second, timeout_us;
    unsigned epoch;
    if (sscanf(line, "open %u", &epoch) == 1)
        begin_open(p, epoch);
    else if (sscanf(line, "publish %llu %llu", &version, &timeout_us) == 2)
        publish(p, version, timeout_us);
    else if (sscanf(line, "queue %llu %llu %llu", &version, &second, &timeout_us) == 3)
        queue(p, version, second, timeout_us);
    else if (strncmp(line, "hold ", 5) == 0)
        hold_at(line + 5), report("holds");
    else if (strcmp(line, "quit") == 0)
        quit(p);
    else
        report("failed command %s", line);
}

/* ---- The time of day ---- */

static void on_signal(int number)
{
    jump_clock(number == SIGUSR1 ? CLOCK_JUMP : -2 * CLOCK_JUMP);
}

static void listen_for_jumps(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
}

static void note_jump(void)
{
    static long long seen;
    long long jumped = clock_jumped_s;
    if (jumped != seen)
        report("clock %lld", jumped);
    seen = jumped;
}

/* ---- All ---- */

static void keep_pace(program_t *p, const char *rollout)
{
    const char *path = argument("WEFT_FAULTS_PACE", NULL);
    unsigned tp = 1;
    uint32_t first = weft_plan_num_trainers(p->plan);
    int fd = path && !p->is_trainer && p->num_ranks <= PACE_RANKS ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *shared = mmap(NULL, PACE_RANKS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    sscanf(rollout, "tp:%u", &tp);
    p->pace.first = p->rank - (p->rank - first) % tp;
    p->pace.end = p->pace.first + tp;
    p->pace.shared = shared == MAP_FAILED ? NULL : shared;
}

static void make_plan(program_t *p, char **argv)
{
    weft_layout_t *trainer, *rollout;
    weft_plan_options_t options = WEFT_PLAN_OPTIONS;
    weft_error_t error;
    options.max_bucket_bytes = 128 << 10;
    options.budget_bytes = 1 << 20;
    for (unsigned i = 0; i < 2; i++)
        if (weft_model_open(argv[5 + i], &p->models[i], &error) != WEFT_OK)
            fail("model", &error);
    if (weft_layout_parse(argv[2], WEFT_SIDE_TRAINER, &trainer, &error) != WEFT_OK ||
        weft_layout_parse(argv[3], WEFT_SIDE_ROLLOUT, &rollout, &error) != WEFT_OK ||
        weft_plan_create(p->models[0], trainer, rollout, argv[4], &options, &p->plan, &error) != WEFT_OK)
        fail("plan", &error);
    weft_layout_destroy(trainer);
    weft_layout_destroy(rollout);
    p->rank = (uint32_t)atoi(argv[1]);
    p->num_ranks = weft_plan_num_trainers(p->plan) + weft_plan_num_rollouts(p->plan);
    p->is_trainer = p->rank < weft_plan_num_trainers(p->plan);
}

int main(int argc, char **argv)
{
    char line[CHANNEL_LINE];
    if (argc != 7) {
        fprintf(stderr, "usage: %s RANK TRAINER ROLLOUT SCHEME MODEL MODEL\n", argv[0]);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    listen_for_jumps();
    make_crc_table();
    make_plan(&program, argv);
    keep_pace(&program, argv[3]);
    program.rate = strtod(argument("WEFT_FAULTS_RATE", "0"), NULL);
    report("ready");
    for (;;) {
        bool serves = program.now && program.now->rollout;
        if (next_command(serves ? 0 : 5000, line))
            obey(&program, line);
        note_jump();
        if (program.next)
            go_over(&program);
        if (serves)
            decode(&program), weft_sleep_us(1000);
    }
}
