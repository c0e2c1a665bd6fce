/* Owns host mode: a clean process in the exec's cgroup, without forking the supervisor's image. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
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

/* Lets the command's user reopen its streams (`> /dev/stderr`). A pipe made here belongs to the host's root, whom an
 * unprivileged guest does not map, so that it cannot be given away there; its mode is all that can be changed. It opens
 * the pipe to nobody new: the only way to it is /proc/PID/fd of a process that holds it. */
static void open_pipes_to_user(void)
{
    static const int streams[] = {FD_STDIN, FD_STDOUT, FD_COMMAND_STDERR};
    for (unsigned i = 0; i < sizeof streams / sizeof *streams; i++) {
        struct stat status;
        if (!fstat(streams[i], &status) && S_ISFIFO(status.st_mode))
            fchmod(streams[i], 0666);
    }
}

_Noreturn void launch_on_host(bool own_cgroup, char **argv)
{
    /* A hole would be filled by whatever lxc-attach opens next, and the guest would get that. */
    for (int fd = 0; fd < FD_CGROUP + own_cgroup; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    if (own_cgroup)
        enter_cgroup();
    if (close_range(FD_FIRST_UNKNOWN, ~0u, 0))
        fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    reset_signals();
    setsid(); /* fails only where this leads a session already */
    leave_privileged_scheduling();
    open_pipes_to_user();
    send_message(MESSAGE_HOST);
    execve(argv[0], argv, ENVIRONMENT);
    fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
}
