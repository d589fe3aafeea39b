/* In: what every rank has sent. Out: whether a session can be made of it. */
#include "src/introduction.h"

#include <string.h>

#include "src/base/error.h"

weft_status_t weft_introduction_compare(const weft_introduction_t *all, uint32_t count, uint32_t rank,
                                        weft_digest_t hash, weft_error_t *error)
{
    for (uint32_t other = 0; other < count; other++) {
        const weft_digest_t *found = &all[other].plan_hash;
        if (memcmp(found, &hash, sizeof hash) != 0)
            return weft_fail(error, WEFT_ERR_PLAN_MISMATCH,
                             "rank %u has plan %016llx%016llx, rank %u has %016llx%016llx: give all ranks "
                             "the same model, layouts, scheme, "
                             "budget and version of weft",
                             other, (unsigned long long)found->word[1], (unsigned long long)found->word[0],
                             rank, (unsigned long long)hash.word[1], (unsigned long long)hash.word[0]);
    }
    return WEFT_OK;
}

weft_status_t weft_introduction_check(const weft_introduction_t *all, uint32_t count, weft_error_t *error)
{
    for (uint32_t rank = 0; rank < count; rank++) {
        if (all[rank].failed)
            return weft_fail(error, WEFT_ERR_PEER_LOST, "rank %u could not open its session; see its message",
                             rank);
        if (!memchr(all[rank].endpoint, 0, sizeof all[rank].endpoint))
            return weft_fail(error, WEFT_ERR_PROTOCOL,
                             "the endpoint of rank %u does not end within %zu bytes: give all ranks the same "
                             "version of weft",
                             rank, sizeof all[rank].endpoint);
    }
    return WEFT_OK;
}
