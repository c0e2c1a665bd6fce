/* Owns host mode: from what the supervisor is to what lxc-attach, program or library, shall start with. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attach.h"
#include "process.h"
#include "protocol.h"
#include "terminal.h"

static char *const ENVIRONMENT[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", NULL};

/* Leaves the supervisor's session keyring, which every guest's commands would otherwise inherit and share: the root of a
 * privileged guest owns it as the host's root does. ENOSYS: a kernel without keyrings. */
static void leave_keyring(void)
{
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
        fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
}

void die_with_supervisor(void)
{
    struct pollfd socket = {.fd = FD_STATUS};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* It holds the other end of the socket, so that it had not ended before this. */
    if (poll(&socket, 1, 0) < 0 || (socket.revents & POLLHUP))
        _exit(LAUNCH_FAILED);
}

_Noreturn void run_in_mounts(bool given, const char *program, char *const *argv)
{
    if (!close_unknown(CLOSE_RANGE_CLOEXEC) || syscall(SYS_close_range, FD_SPEC, FD_MOUNTS, CLOSE_RANGE_CLOEXEC))
        fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    die_with_supervisor();
    setsid();
    leave_keyring();
    if (given ? setns(FD_MOUNTS, CLONE_NEWNS) : unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        fail(MESSAGE_HOST_FAILED, STAGE_ROOT);
    int mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (mounts < 0)
        fail(MESSAGE_HOST_FAILED, STAGE_ROOT);
    send_host(mounts);
    execve(program, argv, ENVIRONMENT);
    fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
}

/* The supervisor may run with a better place than its guests' commands: only here, as the host's root, can it be left. */
void leave_supervisor(void)
{
    setpriority(PRIO_PROCESS, 0, 0);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, "0", 1) < 0)
            errno = 0; /* a courtesy */
        close(fd);
    }
    reset_signals();
}

static void get_ready(bool terminal, unsigned close_flags)
{
    if (!close_unknown(close_flags))
        fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    setsid();
    leave_keyring();
    open_pipes_to_all();
    int master = terminal ? open_terminal() : -1;
    if (terminal && master < 0)
        fail(MESSAGE_HOST_FAILED, STAGE_TTY);
    send_host(master);
    if (master >= 0)
        close(master);
}

_Noreturn void launch_on_host(bool terminal, const char *program, char *const *argv)
{
    /* Closed by the exec and not before it, for the program may be FD_ATTACH. */
    get_ready(terminal, CLOSE_RANGE_CLOEXEC);
    execve(program, argv, ENVIRONMENT);
    fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
}

_Noreturn void attach_on_host(bool terminal, const char *path, const char *name, bool own_cgroup)
{
    get_ready(terminal, 0);
    prctl(PR_SET_NAME, "lxc-attach");
    environ = (char **)ENVIRONMENT;
    attach(path, name, own_cgroup);
}
