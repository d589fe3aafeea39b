/* Where a rank sits: the CPUs and the memory next to its GPU. The session asks once, binds its progress
 * thread and its pinned buffers, and the command prints the line.
 *
 *     weft_place_open("0000:1b:00.0", &place, &error);
 *     weft_place_bind_memory(place, buffer, bytes);    before it is pinned
 *     weft_place_bind_thread(place);                   first thing in the progress thread
 *     weft_log(..., "%s", weft_place_text(place, line));
 *     weft_place_close(place);
 *
 *     GPU 0000:1b:00.0 on NUMA 1, CPUs 16-31; progress thread on 16-31; pinned memory on NUMA 1
 *
 * All of it is best effort: a machine with one NUMA node, a container without rights, a launcher that has
 * bound the process elsewhere, are no errors. Then things stay where they are, and the line says why.
 */
#ifndef WEFT_PLACE_PLACE_H
#define WEFT_PLACE_PLACE_H

#include <stddef.h>
#include <stdint.h>

#include <weft/status.h>

#define WEFT_PLACE_TEXT_BYTES 512

typedef struct weft_place weft_place_t;

/* Look around GPU `pci_bus_id` ("0000:1b:00.0", as CUDA and NVML spell it), or around none (NULL), among the
 * CPUs that the process may run on now. Neither changes a binding nor touches the GPU.
 * **Returns** WEFT_OK, WEFT_ERR_NO_MEMORY. **Blocks** for tens of milliseconds. */
weft_status_t weft_place_open(const char *pci_bus_id, weft_place_t **place, weft_error_t *error);
void weft_place_close(weft_place_t *place); /* NULL is accepted */

/* Cores among those that the process may run on. **Threads** any. */
uint32_t weft_place_num_cores(const weft_place_t *place);

/* Bind the calling thread, and those it will start, to the CPUs of the GPU's NUMA nodes that the process may
 * run on. Leaves it alone when they are no narrower than the machine, when there are none, and when they are
 * a single core that the launcher has not chosen itself. **Threads** any. */
void weft_place_bind_thread(weft_place_t *place);

/* Prefer the GPU's NUMA nodes for the pages of a range, moving those that are there already; another node
 * serves when these are full. Leaves it alone when every node is as near. **Threads** any. */
void weft_place_bind_memory(weft_place_t *place, void *memory, size_t bytes);

/* Write one line, without a line end, that says where the GPU is and what was bound into `out`, and return
 * it.
 * **Threads** any, also while others bind. */
const char *weft_place_text(const weft_place_t *place, char out[WEFT_PLACE_TEXT_BYTES]);

#endif
