/* Owns the way into a container by liblxc, as src/lxc/tools/lxc_attach.c goes it.
 *
 * The library is loaded at run time: PVE's own package of it (lxc-pve) and Debian's are not each other's versions, and
 * both have the name liblxc.so.1 with what is used here since LXC 2.1. Structures are the caller's to give and only ever
 * get longer at their ends; what a longer one has is asked for by flags that are not set here. */
#include "attach.h"

#include <dlfcn.h>
#include <errno.h> /* which LXC_ATTACH_OPTIONS_DEFAULT uses */
#include <link.h>
#include <lxc/attach_options.h>
#include <lxc/lxccontainer.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol.h"

enum { NOT_ATTACHED = 1, KILLED = 128 };

static char PROGRAM[] = "/proc/self/fd/5"; /* FD_PROGRAM */

static struct {
    typeof(lxc_get_version) *get_version;
    typeof(lxc_log_init) *log_init;
    typeof(lxc_container_new) *container_new;
    struct link_map *place; /* NULL: not loaded */
    struct stat file;
} lxc;

const char *load_lxc(void)
{
    struct link_map *place;
    if (lxc.place)
        return NULL;
    void *library = dlopen("liblxc.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library || dlinfo(library, RTLD_DI_LINKMAP, &place))
        return dlerror();
    lxc.get_version = dlsym(library, "lxc_get_version");
    lxc.log_init = dlsym(library, "lxc_log_init");
    lxc.container_new = dlsym(library, "lxc_container_new");
    if (!lxc.get_version || !lxc.log_init || !lxc.container_new)
        return "liblxc.so.1: it is older than LXC 2.1";
    if (stat(place->l_name, &lxc.file))
        return "liblxc.so.1: it has just been removed";
    lxc.place = place;
    return NULL;
}

bool lxc_replaced(void)
{
    struct stat now;
    return lxc.place && !stat(lxc.place->l_name, &now) &&
           (now.st_dev != lxc.file.st_dev || now.st_ino != lxc.file.st_ino || now.st_size != lxc.file.st_size ||
            now.st_mtim.tv_sec != lxc.file.st_mtim.tv_sec || now.st_mtim.tv_nsec != lxc.file.st_mtim.tv_nsec);
}

const char *lxc_version(void)
{
    return lxc.get_version();
}

_Noreturn void attach(const char *path, const char *name, bool own_cgroup)
{
    struct lxc_log log = {.name = name, .lxcpath = path, .file = "none", .level = "ERROR", .prefix = "lxc-attach"};
    struct lxc_container *container = lxc.log_init(&log) ? NULL : lxc.container_new(name, path);
    if (!container)
        _exit(NOT_ATTACHED);
    lxc_attach_options_t options = LXC_ATTACH_OPTIONS_DEFAULT;
    options.env_policy = LXC_ATTACH_CLEAR_ENV;
    if (own_cgroup)
        options.attach_flags &= ~LXC_ATTACH_MOVE_TO_CGROUP;
    const char *const argv[] = {PROGRAM, NULL};
    int status = container->attach_run_wait(container, &options, PROGRAM, argv);
    if (status < 0)
        _exit(NOT_ATTACHED);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : KILLED + WTERMSIG(status));
}
