/* Owns host mode: a clean process in the exec's cgroup, without forking the supervisor's image. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process.h"
#include "protocol.h"

static char *const ENVIRONMENT[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", NULL};

/* Goes on as a child of the supervisor that is born in the cgroup. Being moved there instead, by a write to
 * cgroup.procs, takes a lock that stands against every fork and exit on the node and waits for RCU. */
static void enter_cgroup(void)
{
    struct clone_args how = {.flags = CLONE_INTO_CGROUP | CLONE_PARENT, .cgroup = FD_CGROUP};
    long child = syscall(SYS_clone3, &how, sizeof how);
    if (child < 0)
        fail(MESSAGE_HOST_FAILED, STAGE_CGROUP);
    if (child > 0)
        _exit(0);
}

/* Leaves the supervisor's session keyring, which every guest's commands would otherwise inherit and share: the root of a
 * privileged guest owns it as the host's root does. ENOSYS: a kernel without keyrings. */
static void leave_keyring(void)
{
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
        fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
}

/* The supervisor may run with a better place than its guests' commands: only here, as the host's root, can it be left. */
static void leave_privileged_scheduling(void)
{
    setpriority(PRIO_PROCESS, 0, 0);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, "0", 1) < 0)
            errno = 0; /* a courtesy */
        close(fd);
    }
}

_Noreturn void launch_on_host(bool own_cgroup, const char *program, char **argv)
{
    /* A hole would be filled by whatever lxc-attach opens next, and the guest would get that. */
    for (int fd = 0; fd < FD_CGROUP + own_cgroup; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    if (own_cgroup)
        enter_cgroup();
    /* Closed by the exec and not before it, for the program may be FD_ATTACH. */
    if (!close_unknown(CLOSE_RANGE_CLOEXEC))
        fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    reset_signals();
    setsid(); /* fails only where this leads a session already */
    leave_keyring();
    leave_privileged_scheduling();
    open_pipes_to_all();
    send_message(MESSAGE_HOST);
    execve(program, argv, ENVIRONMENT);
    fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
}
