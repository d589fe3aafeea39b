#include "src/transfer.h"

void weft_transfer_begin(weft_transfer_t *transfer, uint64_t version, uint32_t num_rounds)
{
    *transfer = (weft_transfer_t){
        .version = version, .num_rounds = num_rounds, .stop_at = num_rounds, .active = true};
}

void weft_transfer_obey(weft_session_t *session, weft_transfer_t *transfer, const weft_command_t *command)
{
    if (command->version != transfer->version)
        return;
    switch (command->type) {
    case WEFT_ACTION_REPORT_POSTED:
        transfer->held = true;
        weft_session_post(session, WEFT_EVENT_POSTED, transfer->version, transfer->posted);
        break;
    case WEFT_ACTION_STOP_TRANSFER_AT:
        transfer->stopped = true;
        transfer->stop_at = command->round < transfer->num_rounds ? command->round : transfer->num_rounds;
        if (!transfer->active)
            weft_session_post(session, WEFT_EVENT_DRAINED, transfer->version, 0);
        break;
    case WEFT_ACTION_ABORT_TRANSFER:
        transfer->aborted = true;
        break;
    default:
        break;
    }
}

uint32_t weft_transfer_limit(const weft_transfer_t *transfer)
{
    if (transfer->stopped)
        return transfer->stop_at;
    return transfer->held ? transfer->posted : transfer->num_rounds;
}

void weft_transfer_obey_all(weft_session_t *session, weft_transfer_t *transfer)
{
    weft_command_t command;
    while (!transfer->aborted && weft_session_next_command(session, 0, &command))
        weft_transfer_obey(session, transfer, &command);
}
