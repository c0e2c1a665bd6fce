/* A directory that is held, and what is named below it: without a link followed on the way. */
#ifndef LAUNCHER_TREE_H
#define LAUNCHER_TREE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "files.h"
#include "upload.h"

enum { DEPTH_MAX = 200 }; /* directories that are open at once while a tree is sent or removed */

/* Opens what stands in `parent` itself to be read: no link, and nothing that is mounted there. */
int open_in(int parent, const char *name, int flags);

/* The place in the tree that a path names. False with errno. Either way leave_place() is due. */
bool find_below(const char *path, struct place *place);

void hold_tree(const struct files_request *request);
void send_tree(void);
void tell_below(const struct files_request *request);

/* 'M', 'Y', 'H', 'I', 'F'. */
void change_tree(char kind, const struct files_request *request);

#endif
