/* Enters containers by LXC's own library. Its program lxc-attach does the same; what that takes is mostly its start. */
#ifndef LAUNCHER_ATTACH_H
#define LAUNCHER_ATTACH_H

#include <stdbool.h>

/* Loads liblxc.so.1, unless it is, for all that are born of this process from now on; NULL, or why it cannot. */
const char *load_lxc(void);

/* Whether another file stands in the place of the one that is loaded, as when LXC has been upgraded. */
bool lxc_replaced(void);

/* LXC's version; only once it is loaded. */
const char *lxc_version(void);

/* Goes on as lxc-attach into the container `name` of the directory `path`: FD_PROGRAM runs there, in the guest's own
 * cgroup unless `own_cgroup`, with no variable of ours. Says in words on 2 why it could not. */
_Noreturn void attach(const char *path, const char *name, bool own_cgroup);

#endif
