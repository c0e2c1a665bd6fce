/* A file that is being written: nobody sees it before it is whole. One at a time. */
#ifndef LAUNCHER_UPLOAD_H
#define LAUNCHER_UPLOAD_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "files.h"

/* A name in a directory that is held: what becomes of the path to it does not matter any more. */
struct place {
    int directory; /* opened O_PATH; -1: none */
    char name[NAME_MAX + 1];
};

/* The place that a path names; its last part is not followed. False with errno; EISDIR: that is no name. Either way
 * leave_place() is due. */
bool split_path(const char *path, struct place *place);
void leave_place(struct place *place);

/* Follows the path, links included (with FILES_BELOW: in the tree, and none), to where its file is or will be, and opens a file without a name there, or where that
 * cannot be one with a temporary name. `old`: what stands there, of st_mode 0 if nothing does; unless that is a regular
 * file, or below a link, nothing is opened. False with errno and the step. */
bool begin_upload(const struct files_request *request, struct stat *old, enum files_step *step);

/* Appends. False with errno; ENODATA: no upload has begun. */
bool write_upload(const char *bytes, size_t size);

/* Gives it its owner, mode and name, at once instead of what stood there. False with errno and the step. It is over
 * either way. */
bool finish_upload(const struct files_request *request, struct stat *status, enum files_step *step);

/* As if it had never begun. */
void drop_upload(void);

#endif
