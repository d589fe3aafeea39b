/* A control message as it comes over the wire. What is accepted is what encoding it gives. */
#include "src/control/message.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    weft_message_t message;
    weft_error_t error = {0};
    uint8_t again[WEFT_MESSAGE_MAX_BYTES];
    memset(&message, 0xa5, sizeof message);
    weft_status_t status = weft_message_decode(data, size, &message, &error);
    if (status != WEFT_OK) {
        fuzz_check_error(status, &error);
        FUZZ_CHECK(message.type == 0xa5 && message.content.load == UINT64_C(0xa5a5a5a5a5a5a5a5));
        return 0;
    }
    FUZZ_CHECK(weft_message_encode(&message, again) == size && memcmp(again, data, size) == 0);
    FUZZ_CHECK(memchr(message.text, 0, sizeof message.text));
    FUZZ_CHECK(memchr(message.content.subset, 0, sizeof message.content.subset));
    FUZZ_CHECK(weft_message_type_name(message.type)[0] != '?' &&
               weft_outcome_name(message.outcome)[0] != '?');
    return 0;
}
