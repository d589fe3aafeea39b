#include "src/control/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "src/base/error.h"
#include "src/swap/guard.h"

static weft_status_t check_topology(const weft_topology_t *t, weft_error_t *error)
{
    if (t->trainers == 0 || t->replicas == 0 || t->tp == 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "topology: %u trainers, %u replicas of %u ranks; each must be at least 1",
                         t->trainers, t->replicas, t->tp);
    if (t->replicas > WEFT_CONTROL_MAX_REPLICAS || t->tp > WEFT_CONTROL_MAX_TP)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "topology: %u replicas of %u ranks; at most %d of %d",
                         t->replicas, t->tp, WEFT_CONTROL_MAX_REPLICAS, WEFT_CONTROL_MAX_TP);
    if (t->trainers > WEFT_CONTROL_MAX_RANKS || weft_topology_ranks(t) > WEFT_CONTROL_MAX_RANKS)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "topology: more than %d ranks", WEFT_CONTROL_MAX_RANKS);
    return WEFT_OK;
}

weft_status_t weft_control_config_check(const weft_control_config_t *config, weft_error_t *error)
{
    if (config->struct_size != sizeof *config)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "control config: struct_size is %u, expected %zu",
                         config->struct_size, sizeof *config);
    WEFT_TRY(check_topology(&config->topology, error));
    if (config->coordinator > weft_topology_ranks(&config->topology))
        return weft_fail(error, WEFT_ERR_ARGUMENT, "control config: coordinator %u is not one of %u ranks, nor next to them",
                         config->coordinator, weft_topology_ranks(&config->topology));
    if (config->margin > WEFT_GUARD_MAX_REMAINING)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "control config: margin is %u steps, at most %llu",
                         config->margin, (unsigned long long)WEFT_GUARD_MAX_REMAINING);
    if (config->incarnation == 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "control config: incarnation is 0; the first is 1");
    if (config->beat_us == 0 || config->dead_us < 2 * config->beat_us)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "control config: dead_us must be at least twice beat_us");
    return WEFT_OK;
}

void weft_emit(const weft_sink_t *sink, weft_action_type_t type, uint64_t version)
{
    weft_action_t action = {.type = type, .version = version, .text = ""};
    sink->emit(sink->user, &action);
}

void weft_emit_epoch(const weft_sink_t *sink, uint32_t epoch)
{
    weft_action_t action = {.type = WEFT_ACTION_ENTER_EPOCH, .epoch = epoch, .text = ""};
    sink->emit(sink->user, &action);
}

bool weft_is_for_life(const weft_message_t *in, uint64_t incarnation)
{
    return in->incarnation == incarnation || (in->type == WEFT_MESSAGE_WELCOME && in->incarnation == 0);
}

bool weft_admits(const weft_message_t *in, uint32_t epoch, bool joins)
{
    bool outside = in->incarnation == 0 || (in->flags & WEFT_FLAG_JOINS) != 0;
    return in->type == WEFT_MESSAGE_WELCOME && !outside && (in->epoch > epoch || (in->epoch == epoch && joins));
}

void weft_emit_log(const weft_sink_t *sink, weft_log_level_t level, const char *format, ...)
{
    if (level > sink->log_level)
        return;
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    weft_action_t action = {.type = WEFT_ACTION_LOG, .level = level, .text = line};
    sink->emit(sink->user, &action);
}

void weft_emit_send(const weft_sink_t *sink, const weft_message_t *message)
{
    weft_action_t action = {.type = WEFT_ACTION_SEND, .text = "", .message = message};
    sink->emit(sink->user, &action);
}

void weft_copy_text(char out[WEFT_MESSAGE_TEXT_BYTES], const char *text)
{
    size_t bytes = text == NULL ? 0 : strnlen(text, WEFT_MESSAGE_TEXT_BYTES - 1);
    for (size_t i = 0; i < bytes; i++)
        out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
    out[bytes] = '\0';
}
