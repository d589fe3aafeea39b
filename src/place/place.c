#include "src/place/place_private.h"

#include <errno.h>
#include <hwloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/error.h"

#define NOT_ASKED  (-1) /* else errno of the binding, 0 when it was made */
#define LIST_BYTES 96

/* What there is to say about the GPU and the CPUs that the process may run on. */
typedef enum advice {
    ADVICE_NO_TOPOLOGY, /* hwloc could not read the machine */
    ADVICE_NO_GPU,      /* none was named */
    ADVICE_NOT_FOUND,   /* the named one is not there */
    ADVICE_EQUAL,       /* every CPU is as near */
    ADVICE_ELSEWHERE,   /* none of the allowed CPUs is near */
    ADVICE_ONE_CORE,    /* only one core of them is, and the launcher allows more */
    ADVICE_BIND,        /* those in `target` are */
} advice_t;

struct weft_place {
    hwloc_topology_t topology; /* read only once open has returned */
    char gpu[32];
    hwloc_bitmap_t allowed; /* CPUs that the process may run on */
    hwloc_bitmap_t nodes;   /* NUMA nodes of the GPU */
    hwloc_bitmap_t near;    /* CPUs of these nodes */
    hwloc_bitmap_t target;  /* near and allowed */
    advice_t advice;
    atomic_int thread_result, memory_result;
};

/* ---- reading the machine ---- */

static int choose_source(hwloc_topology_t topology, const weft_place_machine_t *machine)
{
    if (machine->synthetic)
        return hwloc_topology_set_synthetic(topology, machine->synthetic);
    if (machine->xml_file)
        return hwloc_topology_set_xml(topology, machine->xml_file);
    return 0;
}

/* PCI devices, and no other I/O: hwloc's back ends for CUDA and the like would wake the driver up. They are
 * read from sysfs, which libpciaccess (the "pci" component, where there is one) finds fewer of in a
 * container. And no back end that moves the calling thread from CPU to CPU to ask each. */
static int configure(hwloc_topology_t topology, const weft_place_machine_t *machine)
{
    unsigned long flags = HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING;
    if (machine->bind)
        flags |= HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM;
    (void)hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "pci");
    if (hwloc_topology_set_flags(topology, flags))
        return -1;
    return hwloc_topology_set_type_filter(topology, HWLOC_OBJ_PCI_DEVICE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
}

static hwloc_topology_t load_topology(const weft_place_machine_t *machine)
{
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology))
        return NULL;
    if (choose_source(topology, machine) || configure(topology, machine) || hwloc_topology_load(topology)) {
        hwloc_topology_destroy(topology);
        return NULL;
    }
    return topology;
}

/* Of all threads, since the calling one may have been bound on its own. */
static void find_allowed(weft_place_t *place, const weft_place_machine_t *machine)
{
    hwloc_const_cpuset_t all = hwloc_topology_get_allowed_cpuset(place->topology);
    if (machine->allowed)
        hwloc_bitmap_list_sscanf(place->allowed, machine->allowed);
    else if (hwloc_get_cpubind(place->topology, place->allowed, HWLOC_CPUBIND_PROCESS))
        hwloc_bitmap_copy(place->allowed, all);
    hwloc_bitmap_and(place->allowed, place->allowed, all);
}

/* ---- deciding ---- */

static unsigned count_cores(hwloc_topology_t topology, hwloc_const_cpuset_t cpus)
{
    unsigned count = 0;
    hwloc_obj_t core = NULL;
    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)))
        count += hwloc_bitmap_intersects(core->cpuset, cpus) != 0;
    return count ? count : (unsigned)hwloc_bitmap_weight(cpus);
}

/* A device hangs off a package, a NUMA node or a part of one; what counts is the memory, so whole nodes. */
static void find_near(weft_place_t *place, hwloc_obj_t device)
{
    hwloc_obj_t holder = hwloc_get_non_io_ancestor_obj(place->topology, device);
    hwloc_bitmap_copy(place->nodes, holder->nodeset);
    hwloc_cpuset_from_nodeset(place->topology, place->near, place->nodes);
    hwloc_bitmap_and(place->target, place->near, place->allowed);
}

static advice_t decide(weft_place_t *place, const char *pci_bus_id)
{
    if (!place->topology)
        return ADVICE_NO_TOPOLOGY;
    if (!pci_bus_id)
        return ADVICE_NO_GPU;
    hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(place->topology, pci_bus_id);
    if (!device)
        return ADVICE_NOT_FOUND;
    find_near(place, device);
    if (hwloc_bitmap_isincluded(hwloc_topology_get_topology_cpuset(place->topology), place->near))
        return ADVICE_EQUAL;
    if (hwloc_bitmap_iszero(place->target))
        return ADVICE_ELSEWHERE;
    if (count_cores(place->topology, place->target) == 1 && count_cores(place->topology, place->allowed) > 1)
        return ADVICE_ONE_CORE;
    return ADVICE_BIND;
}

uint32_t weft_place_num_cores(const weft_place_t *place)
{
    return place->topology ? count_cores(place->topology, place->allowed) : 1;
}

/* ---- lifecycle ---- */

static weft_place_t *allocate(const char *pci_bus_id)
{
    weft_place_t *place = calloc(1, sizeof *place);
    if (!place)
        return NULL;
    snprintf(place->gpu, sizeof place->gpu, "%s", pci_bus_id ? pci_bus_id : "");
    atomic_init(&place->thread_result, NOT_ASKED);
    atomic_init(&place->memory_result, NOT_ASKED);
    place->allowed = hwloc_bitmap_alloc();
    place->nodes = hwloc_bitmap_alloc();
    place->near = hwloc_bitmap_alloc();
    place->target = hwloc_bitmap_alloc();
    if (place->allowed && place->nodes && place->near && place->target)
        return place;
    weft_place_close(place);
    return NULL;
}

weft_status_t weft_place_open_on(const weft_place_machine_t *machine, const char *pci_bus_id,
                                 weft_place_t **place, weft_error_t *error)
{
    weft_place_t *opened = allocate(pci_bus_id);
    if (!opened)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "looking where the GPU sits: out of memory");
    opened->topology = load_topology(machine);
    if (opened->topology)
        find_allowed(opened, machine);
    opened->advice = decide(opened, pci_bus_id);
    *place = opened;
    return WEFT_OK;
}

weft_status_t weft_place_open(const char *pci_bus_id, weft_place_t **place, weft_error_t *error)
{
    return weft_place_open_on(&(weft_place_machine_t){0}, pci_bus_id, place, error);
}

void weft_place_close(weft_place_t *place)
{
    if (!place)
        return;
    hwloc_bitmap_free(place->allowed);
    hwloc_bitmap_free(place->nodes);
    hwloc_bitmap_free(place->near);
    hwloc_bitmap_free(place->target);
    if (place->topology)
        hwloc_topology_destroy(place->topology);
    free(place);
}

/* ---- binding ---- */

void weft_place_bind_thread(weft_place_t *place)
{
    if (place->advice != ADVICE_BIND)
        return;
    int failed = hwloc_set_cpubind(place->topology, place->target, HWLOC_CPUBIND_THREAD);
    atomic_store(&place->thread_result, failed ? errno : 0);
}

/* Without HWLOC_MEMBIND_STRICT a bound page may come from elsewhere when the nodes are full. */
void weft_place_bind_memory(weft_place_t *place, void *memory, size_t bytes)
{
    if (place->advice < ADVICE_ELSEWHERE || !bytes)
        return;
    int failed = hwloc_set_area_membind(place->topology, memory, bytes, place->nodes, HWLOC_MEMBIND_BIND,
                                        HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE);
    int before = NOT_ASKED, result = failed ? errno : 0;
    if (!atomic_compare_exchange_strong(&place->memory_result, &before, result) && failed)
        atomic_store(&place->memory_result, result); /* one that failed is what the line tells */
}

/* ---- saying so ---- */

typedef struct line {
    char *out;
    size_t used;
} line_t;

__attribute__((format(printf, 2, 3))) static void say(line_t *line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t room = WEFT_PLACE_TEXT_BYTES - line->used;
    int length = vsnprintf(line->out + line->used, room, format, args);
    va_end(args);
    if (length > 0)
        line->used += (size_t)length < room ? (size_t)length : room - 1;
}

/* "0-3,8"; a list that does not fit ends in dots. */
static const char *list(hwloc_const_bitmap_t set, char out[LIST_BYTES])
{
    if (hwloc_bitmap_list_snprintf(out, LIST_BYTES, set) >= LIST_BYTES)
        strcpy(out + LIST_BYTES - 4, "...");
    return out;
}

static void say_gpu(line_t *line, const weft_place_t *place)
{
    char nodes[LIST_BYTES], cpus[LIST_BYTES];
    switch (place->advice) {
    case ADVICE_NO_TOPOLOGY:
        say(line, "the machine's topology cannot be read");
        break;
    case ADVICE_NO_GPU:
        say(line, "no GPU");
        break;
    case ADVICE_NOT_FOUND:
        say(line, "GPU %s is not in the machine's topology", place->gpu);
        break;
    case ADVICE_EQUAL:
        say(line, "GPU %s is equally near to all CPUs", place->gpu);
        break;
    case ADVICE_ELSEWHERE:
    case ADVICE_ONE_CORE:
    case ADVICE_BIND:
        say(line, "GPU %s on NUMA %s, CPUs %s", place->gpu, list(place->nodes, nodes),
            list(place->near, cpus));
        break;
    }
}

static void say_bound_thread(line_t *line, const weft_place_t *place)
{
    char cpus[LIST_BYTES], text[128];
    int result = atomic_load(&place->thread_result);
    if (result == 0)
        say(line, "; progress thread on %s", list(place->target, cpus));
    else if (result == NOT_ASKED)
        say(line, "; progress thread not yet bound to %s", list(place->target, cpus));
    else
        say(line, "; progress thread left on %s: %s", list(place->allowed, cpus),
            strerror_r(result, text, sizeof text));
}

static void say_thread(line_t *line, const weft_place_t *place)
{
    char cpus[LIST_BYTES];
    if (place->advice == ADVICE_BIND) {
        say_bound_thread(line, place);
        return;
    }
    if (place->advice == ADVICE_NO_TOPOLOGY)
        return;
    say(line, "; progress thread left on %s", list(place->allowed, cpus));
    if (place->advice == ADVICE_ELSEWHERE)
        say(line, ", none of them near: let the launcher bind the process to the GPU's CPUs");
    else if (place->advice == ADVICE_ONE_CORE)
        say(line, ", of which a single core is near");
}

static void say_memory(line_t *line, const weft_place_t *place)
{
    char nodes[LIST_BYTES], text[128];
    int result = atomic_load(&place->memory_result);
    if (result == 0)
        say(line, "; pinned memory on NUMA %s", list(place->nodes, nodes));
    else if (result != NOT_ASKED)
        say(line, "; pinned memory left where it is: %s", strerror_r(result, text, sizeof text));
}

const char *weft_place_text(const weft_place_t *place, char out[WEFT_PLACE_TEXT_BYTES])
{
    line_t line = {out, 0};
    say_gpu(&line, place);
    say_thread(&line, place);
    say_memory(&line, place);
    return out;
}
