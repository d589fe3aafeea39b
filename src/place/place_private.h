/* For the tests of a place: other machines than this one. */
#ifndef WEFT_PLACE_PLACE_PRIVATE_H
#define WEFT_PLACE_PLACE_PRIVATE_H

#include <stdbool.h>

#include "src/place/place.h"

/* All zero: this machine. */
typedef struct weft_place_machine {
    const char *synthetic; /* hwloc's description, such as "pack:2 [numa] core:8 pu:1" */
    const char *xml_file;  /* or a topology that hwloc exported */
    const char *allowed;   /* CPUs that the process may run on, such as "0-3,8"; NULL: asks */
    bool bind; /* bindings are made as if it were this machine; else they succeed and do nothing */
} weft_place_machine_t;

weft_status_t weft_place_open_on(const weft_place_machine_t *machine, const char *pci_bus_id,
                                 weft_place_t **place, weft_error_t *error);

#endif
