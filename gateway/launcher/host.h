/* Host mode: between the supervisor and the guest, as the host's root. */
#ifndef LAUNCHER_HOST_H
#define LAUNCHER_HOST_H

#include <stdbool.h>

/* Leaves what the supervisor is privileged by, and all that it set for itself: what is born of this process from now on
 * starts as from a shell. */
void leave_supervisor(void);

/* Becomes `program` with these arguments and a fixed environment. `program` may be the path of FD_ATTACH; from
 * FD_FIRST_UNKNOWN on it inherits nothing. Nothing of a request is in `argv`. With `terminal` FD_TERMINAL becomes a pty's
 * slave, and the supervisor gets its master. */
_Noreturn void launch_on_host(bool terminal, const char *program, char *const *argv);

/* Goes on as lxc-attach (attach.h), with nothing open from FD_FIRST_UNKNOWN on: no exec closes it before the guest's root
 * can look. */
_Noreturn void attach_on_host(bool terminal, const char *path, const char *name, bool own_cgroup);

/* Becomes `program`, in mounts of its own, or in those that FD_MOUNTS is. It dies with the supervisor, for what it changes
 * of the container (a lock, say) must not come after the next one has looked. */
_Noreturn void run_in_mounts(bool given, const char *program, char *const *argv);

/* Has the caller killed when the supervisor ends, or ends it if that has ended already. */
void die_with_supervisor(void);

#endif
