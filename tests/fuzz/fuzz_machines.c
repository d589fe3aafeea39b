/* The protocol's machines, all of a small session: their messages to each other arrive in any order, again,
 * changed or never, among such as nobody has sent, and between the events of the processes. Whatever comes
 * that the decoder lets through, the machines emit only messages that it lets through as well, to ranks there
 * are, and not many.
 *
 * Whether they agree on versions then is not asked: a rank that lies may break that. */
#include "src/control/coordinator.h"
#include "src/control/leader_machine.h"
#include "src/swap/guard.h"
#include "tests/fuzz/fuzz.h"

#define MOST_EVENTS   96
#define MOST_ACTIONS  4096 /* of one event: some for each of the ranks */
#define MOST_TRAINERS 2
#define MOST_REPLICAS 3
#define MOST_TP       3
#define MOST_ROLLOUTS (MOST_REPLICAS * MOST_TP)
#define MOST_RANKS    (MOST_TRAINERS + MOST_ROLLOUTS)
#define QUEUE         256

/* What a rank's data path was asked for and has not answered. */
typedef struct path {
    bool transfers, reports, drains, swaps;
    uint64_t version;
    uint32_t round;
} path_t;

static struct {
    weft_control_config_t config;
    weft_coordinator_t *coordinator;
    weft_trainer_machine_t trainers[MOST_TRAINERS];
    weft_rank_machine_t rollouts[MOST_ROLLOUTS];
    weft_leader_machine_t *leaders; /* [replicas] */
    weft_guard_t guards[MOST_ROLLOUTS];
    path_t paths[MOST_RANKS];
    weft_message_t queue[QUEUE];
    uint32_t queued, ranks;
    uint64_t now_us, published;
    unsigned actions;
    weft_log_level_t log_level; /* lines take most of the time: few inputs want all */
} world;

static bool is_trainer(uint32_t rank)
{
    return weft_topology_is_trainer(&world.config.topology, rank);
}

/* ---- what machines ask for ---- */

static void check_sent(const weft_message_t *message)
{
    weft_message_t decoded;
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    weft_error_t error = {0};
    size_t size = weft_message_encode(message, bytes);
    weft_status_t status = weft_message_decode(bytes, size, &decoded, &error);
    if (status != WEFT_OK)
        fprintf(stderr, "%s: %s\n", weft_message_type_name(message->type), error.message);
    FUZZ_CHECK(status == WEFT_OK && message->to < world.ranks && message->from < world.ranks);
    if (world.queued < QUEUE)
        world.queue[world.queued++] = decoded;
}

static void emit(void *user, const weft_action_t *action)
{
    path_t *path = user;
    FUZZ_CHECK(++world.actions <= MOST_ACTIONS);
    if (action->text)
        FUZZ_CHECK(strlen(action->text) < 512);
    switch (action->type) {
    case WEFT_ACTION_SEND:
        check_sent(action->message);
        break;
    case WEFT_ACTION_START_TRANSFER:
        FUZZ_CHECK(memchr(action->content->subset, 0, WEFT_SUBSET_BYTES));
        *path = (path_t){.transfers = true, .version = action->version};
        break;
    case WEFT_ACTION_REPORT_POSTED:
        path->reports = true;
        break;
    case WEFT_ACTION_STOP_TRANSFER_AT:
        path->drains = true;
        break;
    case WEFT_ACTION_ABORT_TRANSFER:
        path->transfers = path->reports = path->drains = false;
        break;
    case WEFT_ACTION_TRY_SWAP:
        path->swaps = true;
        break;
    default:
        break;
    }
}

static void handle(const weft_event_t *event, uint32_t rank, weft_role_t role)
{
    const weft_sink_t sink = {emit, &world.paths[rank], world.log_level};
    const weft_topology_t *t = &world.config.topology;
    world.actions = 0;
    if (role == WEFT_ROLE_COORDINATOR && rank == 0)
        weft_coordinator_handle(world.coordinator, event, &sink);
    else if (role == WEFT_ROLE_TRAINER && is_trainer(rank))
        weft_trainer_machine_handle(&world.trainers[rank], event, &sink);
    else if (role == WEFT_ROLE_RANK && !is_trainer(rank))
        weft_rank_machine_handle(&world.rollouts[rank - t->trainers], event, &sink);
    else if (role == WEFT_ROLE_LEADER && !is_trainer(rank) && weft_topology_tp_rank(t, rank) == 0)
        weft_leader_machine_handle(&world.leaders[weft_topology_replica(t, rank)], event, &sink);
}

/* A trainer's or a rollout's own machine. */
static void tell(uint32_t rank, weft_event_t event)
{
    event.now_us = world.now_us;
    handle(&event, rank, is_trainer(rank) ? WEFT_ROLE_TRAINER : WEFT_ROLE_RANK);
}

/* ---- messages ---- */

static void deliver(const weft_message_t *message)
{
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = world.now_us, .message = message};
    if (message->to < world.ranks)
        handle(&event, message->to, message->role);
}

/* Take a message out; `keep`: it comes again. */
static bool take_queued(fuzz_input_t *input, bool keep, weft_message_t *message)
{
    if (world.queued == 0)
        return false;
    uint32_t at = (uint32_t)fuzz_number(input, 1) % world.queued;
    *message = world.queue[at];
    if (!keep)
        memmove(&world.queue[at], &world.queue[at + 1],
                (--world.queued - at) * sizeof *world.queue); /* in order, as a lane keeps it */
    return true;
}

/* Those that wait, in order; what they lead to waits for the next time. */
static void deliver_waiting(void)
{
    static weft_message_t waiting[QUEUE];
    uint32_t count = world.queued;
    memcpy(waiting, world.queue, count * sizeof *waiting);
    world.queued = 0;
    for (uint32_t i = 0; i < count; i++)
        deliver(&waiting[i]);
}

/* Small versions, steps and terms, so that messages meet; now and then any. */
static uint64_t small(fuzz_input_t *input)
{
    uint64_t value = fuzz_number(input, 1);
    return value < 0xf0 ? value % 8 : fuzz_number(input, 8);
}

static void set_content(fuzz_input_t *input, weft_content_t *content)
{
    unsigned how = (unsigned)fuzz_number(input, 1);
    *content = (weft_content_t){.base = how / 4 % 4, .load = how & 1};
    if (how & 2)
        strcpy(content->subset, "model.norm");
}

/* One field of a message that some rank has sent. */
static void change(fuzz_input_t *input, weft_message_t *m)
{
    uint64_t *const wide[] = {&m->term,
                              &m->sequence,
                              &m->version,
                              &m->live,
                              &m->done,
                              &m->wants,
                              &m->newest,
                              &m->ballot,
                              &m->step,
                              &m->limit,
                              &m->at_step,
                              &m->digest.word[0],
                              &m->members.word[0],
                              &m->members.word[1],
                              &m->content.base,
                              &m->content.load};
    uint32_t *const half[] = {&m->flags, &m->from, &m->to, &m->epoch, &m->status, &m->round, &m->stop_round};
    uint8_t *const narrow[] = {&m->type, &m->role, &m->state, &m->outcome};
    enum {
        WIDE = sizeof wide / sizeof wide[0],
        HALF = sizeof half / sizeof half[0],
        NARROW = sizeof narrow / sizeof narrow[0]
    };
    unsigned field = (unsigned)fuzz_number(input, 1) % (WIDE + HALF + NARROW);
    uint64_t value = small(input);
    if (field < WIDE)
        *wide[field] = fuzz_number(input, 1) & 1 ? *wide[field] + value : value;
    else if (field < WIDE + HALF)
        *half[field - WIDE] = (uint32_t)value;
    else
        *narrow[field - WIDE - HALF] = (uint8_t)value;
}

/* The decoder stands before the machines. */
static void deliver_decoded(const weft_message_t *message)
{
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    weft_message_t decoded;
    if (weft_message_decode(bytes, weft_message_encode(message, bytes), &decoded, NULL) == WEFT_OK)
        deliver(&decoded);
}

static void run_changed(fuzz_input_t *input)
{
    weft_message_t message;
    unsigned how = (unsigned)fuzz_number(input, 1);
    if (!take_queued(input, how & 1, &message))
        return;
    for (unsigned i = 0; i < 1 + how / 2 % 3; i++)
        change(input, &message);
    deliver_decoded(&message);
}

/* A message that nobody has sent. */
static void run_made(fuzz_input_t *input)
{
    weft_message_t made = {
        .type = (uint8_t)(fuzz_number(input, 1) % WEFT_MESSAGE_TYPE_COUNT),
        .role = (uint8_t)(fuzz_number(input, 1) % WEFT_ROLE_COUNT),
        .state = (uint8_t)(fuzz_number(input, 1) % 10),
        .outcome = (uint8_t)(fuzz_number(input, 1) % WEFT_OUTCOME_COUNT),
        .flags = (uint32_t)fuzz_number(input, 1),
        .from = (uint32_t)fuzz_number(input, 1) % (world.ranks + 2),
        .to = (uint32_t)fuzz_number(input, 1) % (world.ranks + 2),
        .status = (uint32_t)(fuzz_number(input, 1) % 24),
        .term = small(input),
        .sequence = small(input),
        .version = small(input),
        .live = small(input),
        .done = small(input),
    };
    made.ballot = weft_ballot(made.term, small(input) & 0xffff);
    made.step = small(input);
    made.limit = small(input);
    made.at_step = small(input);
    made.round = (uint32_t)small(input);
    made.members.word[0] = fuzz_number(input, 1);
    set_content(input, &made.content);
    deliver_decoded(&made);
}

/* ---- processes ---- */

static void tick(uint64_t gap_us)
{
    world.now_us += gap_us;
    weft_event_t event = {.type = WEFT_EVENT_TICK, .now_us = world.now_us};
    for (uint32_t rank = 0; rank < world.ranks; rank++)
        for (unsigned role = 0; role < WEFT_ROLE_COUNT; role++)
            handle(&event, rank, role);
}

static void swap(uint32_t rank, bool good)
{
    uint64_t version, step;
    weft_guard_t *guard = &world.guards[rank - world.config.topology.trainers];
    world.paths[rank].swaps = false;
    if (!weft_guard_swap_begin(guard, &version, &step))
        return;
    weft_guard_swap_end(guard, good);
    tell(rank, (weft_event_t){.type = good ? WEFT_EVENT_SWAPPED : WEFT_EVENT_SWAP_FAILED,
                              .version = version,
                              .step = step,
                              .status = good ? WEFT_OK : WEFT_ERR_SYSTEM,
                              .text = "swap"});
}

/* The data path does what it was asked for; `how` other than 0: not well. */
static void answer(uint32_t rank, unsigned how)
{
    path_t *path = &world.paths[rank];
    weft_event_t event = {
        .version = path->version, .round = path->round, .status = WEFT_ERR_NONFINITE, .text = "why"};
    event.digest.word[0] = weft_topology_tp_rank(&world.config.topology, rank) + (how == 3);
    if (path->transfers) {
        path->transfers = how == 1;
        event.type = how == 1   ? WEFT_EVENT_TRANSFER_REFUSED
                     : how == 2 ? WEFT_EVENT_TRANSFER_FAILED
                                : WEFT_EVENT_TRANSFER_DONE;
        if (is_trainer(rank) && event.type == WEFT_EVENT_TRANSFER_DONE)
            event.type = WEFT_EVENT_SENT;
        tell(rank, event);
    } else if (path->reports) {
        path->reports = false;
        event.type = WEFT_EVENT_POSTED;
        event.round = how;
        tell(rank, event);
    } else if (path->drains) {
        path->drains = false;
        event.type = WEFT_EVENT_DRAINED;
        tell(rank, event);
    } else if (path->swaps && !is_trainer(rank)) {
        swap(rank, how != 1);
    }
}

static void run_answer(fuzz_input_t *input)
{
    unsigned how = (unsigned)fuzz_number(input, 2);
    answer(how % world.ranks, how >> 8 < 0xc0 ? 0 : how >> 8 & 3);
}

/* Everything goes well for a while. */
static void run_well(fuzz_input_t *input)
{
    unsigned times = (unsigned)fuzz_number(input, 1) % 8;
    for (unsigned i = 0; i <= times; i++) {
        deliver_waiting();
        for (uint32_t rank = 0; rank < world.ranks; rank++)
            answer(rank, 0);
        tick(world.config.beat_us / 2);
    }
}

/* Trainers publish, or rollouts load: some or all of them. */
static void run_user(fuzz_input_t *input)
{
    unsigned how = (unsigned)fuzz_number(input, 2);
    weft_event_t event = {.type = how & 1 ? WEFT_EVENT_LOAD : WEFT_EVENT_PUBLISH, .supersedes = how & 2};
    set_content(input, &event.content);
    event.content.load = 0;
    event.version = how & 4 ? small(input) : world.published + 1;
    world.published = event.version < 1000 ? event.version : world.published;
    for (uint32_t rank = 0; rank < world.ranks; rank++)
        if (is_trainer(rank) != (how & 1) && !(how >> 4 & 1u << rank % 12))
            tell(rank, event);
}

static void run_steps(fuzz_input_t *input)
{
    unsigned how = (unsigned)fuzz_number(input, 2), rollouts = world.ranks - world.config.topology.trainers;
    for (uint32_t i = 0; i < rollouts; i++) {
        weft_guard_view_t view = weft_guard_look(&world.guards[i]);
        uint64_t version;
        if (how >> 4 & 1u << i)
            continue;
        if (view.open)
            weft_guard_step_end(&world.guards[i]);
        else
            weft_guard_step_begin(&world.guards[i], view.started ? view.step + 1 : 1 + how % 3, &version);
    }
}

/* ---- the world ---- */

static void make_machines(unsigned how)
{
    const weft_topology_t *t = &world.config.topology;
    if (!world.coordinator) { /* large: touched as far as there are ranks */
        world.coordinator = malloc(sizeof *world.coordinator);
        world.leaders = malloc(MOST_REPLICAS * sizeof *world.leaders);
        FUZZ_CHECK(world.coordinator && world.leaders);
    }
    weft_coordinator_init(world.coordinator, &world.config, 0, how & 1 ? 1 : 0, world.now_us);
    for (uint32_t i = 0; i < t->trainers; i++)
        weft_trainer_machine_init(&world.trainers[i], &world.config, i);
    for (uint32_t i = 0; i < t->replicas * t->tp; i++) {
        weft_guard_init(&world.guards[i]);
        weft_rank_machine_init(&world.rollouts[i], &world.config, t->trainers + i, &world.guards[i]);
    }
    for (uint32_t i = 0; i < t->replicas; i++)
        weft_leader_machine_init(&world.leaders[i], &world.config, weft_topology_leader(t, i));
}

static void make_world(fuzz_input_t *input)
{
    unsigned how = (unsigned)fuzz_number(input, 2);
    weft_control_config_t config = WEFT_CONTROL_CONFIG_INIT;
    config.topology =
        (weft_topology_t){1 + how % MOST_TRAINERS, 1 + how / 2 % MOST_REPLICAS, 1 + how / 8 % MOST_TP};
    config.margin = how / 32 % 8;
    FUZZ_CHECK(weft_control_config_check(&config, NULL) == WEFT_OK);
    world.config = config;
    world.ranks = weft_topology_ranks(&config.topology);
    world.now_us = 1000000;
    world.published = world.queued = 0;
    memset(world.paths, 0, sizeof world.paths);
    world.log_level = how >> 9 & 1 ? WEFT_LOG_DEBUG : WEFT_LOG_ERROR;
    make_machines(how >> 8);
}

static void run_one(fuzz_input_t *input)
{
    weft_message_t message;
    switch (fuzz_number(input, 1) % 10) {
    case 0:
        tick(fuzz_number(input, 2) * 1000);
        break;
    case 1:
        if (take_queued(input, false, &message))
            deliver(&message);
        break;
    case 2: /* lost */
        take_queued(input, false, &message);
        break;
    case 3: /* again, or late */
        if (take_queued(input, true, &message))
            deliver(&message);
        break;
    case 4:
        run_changed(input);
        break;
    case 5:
        run_made(input);
        break;
    case 6:
        run_answer(input);
        break;
    case 7:
        run_user(input);
        break;
    case 8:
        run_steps(input);
        break;
    default:
        run_well(input);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    make_world(&input);
    for (unsigned i = 0; i < MOST_EVENTS && input.left; i++)
        run_one(&input);
    return 0;
}
