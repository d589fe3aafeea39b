/* The protocol's machines, given any message that the decoder lets through, in any order, between the events
 * of their own process. What they emit must be messages that the decoder lets through as well, to ranks there
 * are, and not many. */
#include "src/control/coordinator.h"
#include "src/control/leader_machine.h"
#include "src/swap/guard.h"
#include "tests/fuzz/fuzz.h"

#define MOST_EVENTS  256
#define MOST_ACTIONS 4096 /* of one event: some for each of at most 18 ranks */

static struct {
    weft_control_config_t config;
    weft_coordinator_t *coordinator;
    weft_leader_machine_t *leader;
    weft_rank_machine_t rank;
    weft_trainer_machine_t trainer;
    weft_guard_t guard;
    uint64_t now_us;
    unsigned actions;
    uint32_t ranks;
} world;

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
}

static void emit(void *user, const weft_action_t *action)
{
    (void)user;
    FUZZ_CHECK(++world.actions <= MOST_ACTIONS);
    if (action->type == WEFT_ACTION_SEND)
        check_sent(action->message);
    if (action->text)
        FUZZ_CHECK(strlen(action->text) < 512);
}

static const weft_sink_t sink = {emit, NULL, WEFT_LOG_DEBUG};

static void handle(const weft_event_t *event, weft_role_t role)
{
    world.actions = 0;
    switch (role) {
    case WEFT_ROLE_COORDINATOR:
        weft_coordinator_handle(world.coordinator, event, &sink);
        break;
    case WEFT_ROLE_LEADER:
        weft_leader_machine_handle(world.leader, event, &sink);
        break;
    case WEFT_ROLE_RANK:
        weft_rank_machine_handle(&world.rank, event, &sink);
        break;
    default:
        weft_trainer_machine_handle(&world.trainer, event, &sink);
    }
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

static bool take_message(fuzz_input_t *input, weft_message_t *message)
{
    weft_message_t made = {
        .type = (uint8_t)(fuzz_number(input, 1) % WEFT_MESSAGE_TYPE_COUNT),
        .role = (uint8_t)(fuzz_number(input, 1) % WEFT_ROLE_COUNT),
        .state = (uint8_t)(fuzz_number(input, 1) % 10),
        .outcome = (uint8_t)(fuzz_number(input, 1) % WEFT_OUTCOME_COUNT),
        .flags = (uint32_t)fuzz_number(input, 1),
        .from = (uint32_t)fuzz_number(input, 1) % (world.ranks + 2),
        .to = (uint32_t)fuzz_number(input, 1) % (world.ranks + 2),
        .epoch = (uint32_t)(fuzz_number(input, 1) == 255),
        .status = (uint32_t)(fuzz_number(input, 1) % 24),
        .term = small(input),
        .sequence = small(input),
        .version = small(input),
        .live = small(input),
        .done = small(input),
        .wants = small(input),
        .newest = small(input),
    };
    uint64_t sequence = small(input);
    made.ballot = weft_ballot(made.term, sequence & 0xffff);
    made.step = small(input);
    made.limit = small(input);
    made.at_step = small(input);
    made.round = (uint32_t)small(input);
    made.stop_round = (uint32_t)small(input);
    made.digest.word[0] = fuzz_number(input, 1);
    made.members.word[0] = fuzz_number(input, 1);
    set_content(input, &made.content);
    uint8_t bytes[WEFT_MESSAGE_MAX_BYTES];
    return weft_message_decode(bytes, weft_message_encode(&made, bytes), message, NULL) == WEFT_OK;
}

static void run_message(fuzz_input_t *input)
{
    weft_message_t message;
    if (!take_message(input, &message))
        return;
    weft_event_t event = {.type = WEFT_EVENT_MESSAGE, .now_us = world.now_us, .message = &message};
    handle(&event, message.role);
}

static void run_event(fuzz_input_t *input)
{
    static const weft_event_type_t of_rank[] = {
        WEFT_EVENT_LOAD,   WEFT_EVENT_TRANSFER_DONE, WEFT_EVENT_TRANSFER_REFUSED, WEFT_EVENT_TRANSFER_FAILED,
        WEFT_EVENT_POSTED, WEFT_EVENT_DRAINED};
    static const weft_event_type_t of_trainer[] = {WEFT_EVENT_PUBLISH,          WEFT_EVENT_SENT,
                                                   WEFT_EVENT_TRANSFER_REFUSED, WEFT_EVENT_TRANSFER_FAILED,
                                                   WEFT_EVENT_POSTED,           WEFT_EVENT_DRAINED};
    unsigned which = (unsigned)fuzz_number(input, 1);
    weft_event_t event = {.now_us = world.now_us,
                          .version = small(input),
                          .round = (uint32_t)fuzz_number(input, 1),
                          .digest.word[0] = fuzz_number(input, 1) % 4,
                          .status = (weft_status_t)(fuzz_number(input, 1) % 24),
                          .text = "why"};
    bool trainer = which & 1;
    event.type = trainer ? of_trainer[which / 2 % 6] : of_rank[which / 2 % 6];
    event.supersedes = which & 0x80;
    set_content(input, &event.content);
    event.content.load = 0;
    handle(&event, trainer ? WEFT_ROLE_TRAINER : WEFT_ROLE_RANK);
}

static void run_tick(fuzz_input_t *input)
{
    world.now_us += fuzz_number(input, 2) * 1000;
    weft_event_t event = {.type = WEFT_EVENT_TICK, .now_us = world.now_us};
    for (unsigned role = 0; role < WEFT_ROLE_COUNT; role++)
        handle(&event, role);
}

/* What the step thread and the progress thread of a rollout do. */
static void run_steps(fuzz_input_t *input)
{
    uint64_t version, step;
    weft_guard_view_t view = weft_guard_look(&world.guard);
    if (fuzz_number(input, 1) & 1)
        weft_guard_step_end(&world.guard);
    else
        weft_guard_step_begin(&world.guard, view.started ? view.step + 1 : 1 + small(input), &version);
    if (!weft_guard_swap_begin(&world.guard, &version, &step))
        return;
    bool applied = fuzz_number(input, 1) % 8 != 7;
    weft_guard_swap_end(&world.guard, applied);
    weft_event_t event = {.type = applied ? WEFT_EVENT_SWAPPED : WEFT_EVENT_SWAP_FAILED,
                          .now_us = world.now_us,
                          .version = version,
                          .step = step,
                          .status = applied ? WEFT_OK : WEFT_ERR_SYSTEM,
                          .text = "swap"};
    handle(&event, WEFT_ROLE_RANK);
}

static void make_world(fuzz_input_t *input)
{
    unsigned how = (unsigned)fuzz_number(input, 2);
    weft_control_config_t config = WEFT_CONTROL_CONFIG_INIT;
    config.topology = (weft_topology_t){1 + how % 2, 1 + how / 2 % 4, 1 + how / 8 % 4};
    config.coordinator = 0;
    config.margin = how / 32 % 8;
    FUZZ_CHECK(weft_control_config_check(&config, NULL) == WEFT_OK);
    world.config = config;
    world.ranks = weft_topology_ranks(&config.topology);
    world.now_us = 1000000;
    uint32_t leader = weft_topology_leader(&config.topology, 0);
    uint32_t rank = leader + (config.topology.tp > 1 && how & 0x100);
    if (!world.coordinator) { /* large: touched as far as there are ranks */
        world.coordinator = malloc(sizeof *world.coordinator);
        world.leader = malloc(sizeof *world.leader);
        FUZZ_CHECK(world.coordinator && world.leader);
    }
    weft_guard_init(&world.guard);
    weft_coordinator_init(world.coordinator, &config, 0, how & 0x200 ? 1 : 0, world.now_us);
    weft_leader_machine_init(world.leader, &config, leader);
    weft_rank_machine_init(&world.rank, &config, rank, &world.guard);
    weft_trainer_machine_init(&world.trainer, &config, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input_t input = {data, size};
    make_world(&input);
    for (unsigned i = 0; i < MOST_EVENTS && input.left; i++) {
        switch (fuzz_number(&input, 1) % 8) {
        case 0:
            run_tick(&input);
            break;
        case 1:
        case 2:
            run_event(&input);
            break;
        case 3:
            run_steps(&input);
            break;
        default:
            run_message(&input);
        }
    }
    return 0;
}
