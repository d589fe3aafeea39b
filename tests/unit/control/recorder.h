/* A sink that keeps what a machine asked for, and a message to give it. */
#ifndef WEFT_TESTS_RECORDER_H
#define WEFT_TESTS_RECORDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "src/control/machine.h"

enum { RECORDED = 256 };

static struct recorder {
    unsigned count;
    weft_action_t action[RECORDED];
    weft_message_t message[RECORDED];
    char text[RECORDED][WEFT_MESSAGE_TEXT_BYTES];
} recorded;

static inline void record(void *user, const weft_action_t *action)
{
    (void)user;
    assert_true(recorded.count < RECORDED);
    unsigned i = recorded.count++;
    recorded.action[i] = *action;
    weft_copy_text(recorded.text[i], action->text);
    if (action->message != NULL)
        recorded.message[i] = *action->message;
}

static const weft_sink_t sink = {record, NULL, WEFT_LOG_ERROR};

static inline void forget(void)
{
    recorded.count = 0;
}

/* The last action of a type; NULL when there was none. */
static inline const weft_action_t *asked(weft_action_type_t type)
{
    for (unsigned i = recorded.count; i-- > 0;)
        if (recorded.action[i].type == type)
            return &recorded.action[i];
    return NULL;
}

static inline const char *asked_text(weft_action_type_t type)
{
    const weft_action_t *action = asked(type);
    return action == NULL ? "" : recorded.text[action - recorded.action];
}

/* The last message of a type, to a rank if `to` is one; NULL when there was none. */
static inline const weft_message_t *sent(weft_message_type_t type, uint32_t to)
{
    for (unsigned i = recorded.count; i-- > 0;)
        if (recorded.action[i].type == WEFT_ACTION_SEND && recorded.message[i].type == type &&
            (to == UINT32_MAX || recorded.message[i].to == to))
            return &recorded.message[i];
    return NULL;
}

/* Trainers 0 and 1, replica 0 with ranks 2 and 3, replica 1 with ranks 4 and 5. */
static inline weft_control_config_t test_config(void)
{
    weft_control_config_t config = WEFT_CONTROL_CONFIG_INIT;
    config.epoch = 1;
    config.topology = (weft_topology_t){2, 2, 2};
    assert_int_equal(weft_control_config_check(&config, NULL), WEFT_OK);
    return config;
}

static inline weft_message_t command(weft_message_type_t type, weft_role_t role, uint32_t from, uint32_t to,
                                     uint64_t term, uint64_t version)
{
    return (weft_message_t){.incarnation = 1,
                            .type = (uint8_t)type,
                            .role = (uint8_t)role,
                            .from = from,
                            .to = to,
                            .epoch = 1,
                            .term = term,
                            .version = version,
                            .members = {{3, 0}}};
}

#endif
