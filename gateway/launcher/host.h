/* Host mode: between the supervisor and lxc-attach, as the host's root. */
#ifndef LAUNCHER_HOST_H
#define LAUNCHER_HOST_H

#include <stdbool.h>

/* Becomes `program` with these arguments and a fixed environment; with `own_cgroup` as a new child of the supervisor that
 * is born in the cgroup of FD_CGROUP, while the process that was spawned exits 0. `program` may be the path of FD_ATTACH;
 * from FD_FIRST_UNKNOWN on it inherits nothing. Nothing of a request is in `argv`. */
_Noreturn void launch_on_host(bool own_cgroup, const char *program, char **argv);

#endif
