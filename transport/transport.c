#include "transport/transport.h"

#include <stdio.h>
#include <string.h>

#include "src/base/error.h"

#define DEFAULT_TIMEOUT_US 30000000u

/* What this build can open. */
static const weft_transport_ops_t *const backends[] = {
    &weft_loopback_ops,
    &weft_mpi_ops,
    &weft_ipc_ops,
    &weft_zmq_ops,
#ifdef WEFT_HAVE_CUDA
    &weft_nccl_ops,
#endif
};

#define NUM_BACKENDS (sizeof backends / sizeof backends[0])

static const weft_transport_ops_t *find_backend(const char *name)
{
    for (size_t i = 0; i < NUM_BACKENDS; i++)
        if (!strcmp(backends[i]->name, name))
            return backends[i];
    return NULL;
}

const weft_transport_ops_t *weft_transport_listed(size_t index)
{
    return index < NUM_BACKENDS ? backends[index] : NULL;
}

static weft_status_t unknown_name(const char *name, weft_error_t *error)
{
    char list[256] = "";
    for (size_t i = 0, used = 0; i < NUM_BACKENDS && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", backends[i]->name);
    return weft_fail(error, WEFT_ERR_UNKNOWN_NAME, "there is no transport \"%s\"; this build has: %s", name,
                     list);
}

weft_status_t weft_transport_open(const char *name, const weft_transport_config_t *config,
                                  weft_transport_t **transport, weft_error_t *error)
{
    if (!name || !config || !transport)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "opening a transport takes a name, a config and a place for it");
    if (config->struct_size < sizeof config->struct_size || config->struct_size > sizeof *config)
        return weft_fail(error, WEFT_ERR_ARGUMENT,
                         "the transport config says it has %zu bytes, this library knows %zu; "
                         "start from WEFT_TRANSPORT_CONFIG",
                         config->struct_size, sizeof *config);
    const weft_transport_ops_t *ops = find_backend(name);
    if (!ops)
        return unknown_name(name, error);
    /* A caller compiled against an older header lacks the later fields: they are zero. */
    weft_transport_config_t full = {0};
    memcpy(&full, config, config->struct_size);
    return ops->open(&full, transport, error);
}

const weft_transport_base_t *weft_transport_base(const weft_transport_t *transport)
{
    return (const weft_transport_base_t *)transport;
}

void weft_transport_close(weft_transport_t *transport)
{
    if (transport)
        weft_transport_base(transport)->ops->close(transport);
}

uint32_t weft_transport_rank(const weft_transport_t *transport)
{
    return weft_transport_base(transport)->rank;
}

uint32_t weft_transport_num_ranks(const weft_transport_t *transport)
{
    return weft_transport_base(transport)->num_ranks;
}

const weft_transport_ops_t *weft_transport_table(const weft_transport_t *transport)
{
    return weft_transport_base(transport)->ops;
}

bool weft_transport_has(const weft_transport_t *bootstrap, uint32_t rank)
{
    const weft_transport_ops_t *ops = weft_transport_table(bootstrap);
    return !ops->present || ops->present(bootstrap, rank);
}

uint64_t weft_transport_timeout_us(const weft_transport_config_t *config)
{
    return config->timeout_us ? config->timeout_us : DEFAULT_TIMEOUT_US;
}

weft_status_t weft_transport_check_group(const weft_transport_base_t *base, uint32_t id,
                                         const uint32_t *ranks, uint32_t count, uint32_t *position,
                                         weft_error_t *error)
{
    if (id >= WEFT_MAX_GROUPS)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: group id %u is not below %u", base->rank, id,
                         WEFT_MAX_GROUPS);
    uint32_t found = count;
    for (uint32_t i = 0; i < count; i++) {
        if (ranks[i] >= base->num_ranks)
            return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: group %u names rank %u of %u", base->rank,
                             id, ranks[i], base->num_ranks);
        for (uint32_t j = 0; j < i; j++)
            if (ranks[j] == ranks[i])
                return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u: group %u names rank %u twice",
                                 base->rank, id, ranks[i]);
        if (ranks[i] == base->rank)
            found = i;
    }
    if (found == count)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "rank %u is not in group %u, which it creates", base->rank,
                         id);
    *position = found;
    return WEFT_OK;
}
