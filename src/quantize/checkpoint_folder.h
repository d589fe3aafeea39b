/* A folder that appears under its name when it is whole, and never in the place of another.
 *
 *     weft_folder_begin("OUT", &folder, &error);          OUT.partial-x7Kq2a
 *     ... files are written into folder.path ...
 *     weft_folder_end(&folder, &error);                   renamed to OUT
 *     weft_folder_abandon(&folder);                       (instead) removed
 *
 * A process that is killed leaves OUT.partial-... behind.
 */
#ifndef WEFT_QUANTIZE_CHECKPOINT_FOLDER_H
#define WEFT_QUANTIZE_CHECKPOINT_FOLDER_H

#include <weft/types.h>

typedef struct weft_folder {
    char *path;   /* where it is written */
    char *target; /* what it will be called */
} weft_folder_t;

/* Make an empty folder beside `target`, which must not exist.
 * **Returns** WEFT_OK, WEFT_ERR_IO (there is something at `target`, or none can be made), WEFT_ERR_NO_MEMORY. */
weft_status_t weft_folder_begin(const char *target, weft_folder_t *folder, weft_error_t *error);

/* Give it its name. **Returns** WEFT_OK and the folder is gone from `folder`; WEFT_ERR_IO (something has come to be at
 * `target`) and it can be abandoned. */
weft_status_t weft_folder_end(weft_folder_t *folder, weft_error_t *error);

/* Remove it and the files in it. Nothing to do after an end. */
void weft_folder_abandon(weft_folder_t *folder);

/* Write `text` to a file of it. **Returns** WEFT_OK, WEFT_ERR_IO, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_folder_write(const weft_folder_t *folder, const char *name, const char *text, weft_error_t *error);

/* Copy from `source` what engines read beside weights: files of at most 64 MiB that are neither weights (by their
 * endings), nor an index of them, nor hidden, nor config.json.
 * **Returns** WEFT_OK, WEFT_ERR_IO, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_folder_copy_companions(const weft_folder_t *folder, const char *source, weft_error_t *error);

/* Read a whole file of at most 64 MiB; malloc'ed, NUL-terminated text in *text.
 * **Returns** WEFT_OK, WEFT_ERR_IO, WEFT_ERR_NO_MEMORY. */
weft_status_t weft_folder_read(const char *folder, const char *name, char **text, size_t *bytes, weft_error_t *error);

#endif
