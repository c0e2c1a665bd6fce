/* Owns the nursery: for each request one child of the supervisor, and nothing kept of it; and which LXC it has. */
#include "nursery.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attach.h"
#include "host.h"
#include "inspect.h"
#include "protocol.h"
#include "stopped.h"

enum { PLACES = FD_ATTACH + 1, REQUESTS = PLACES };

static const char OWN_IMAGE[] = "/proc/self/exe";

struct request {
    int fds[PLACES]; /* by their numbers in the child */
    size_t fd_count;
    unsigned flags;
    char bytes[REQUEST_MAX];
    char *words[REQUEST_MAX]; /* NULL-terminated, into bytes */
};

/* Every number that means something to a child is in use here, so what comes gets others. */
static void fill_places(void)
{
    for (int number = 0; number < PLACES; number++)
        dup2(REQUESTS, number);
}

/* False: what came is no request; its descriptors have to be closed all the same. Ends with the supervisor. */
static bool receive_request(struct request *request)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof request->fds)];
    } rights;
    struct msghdr message = {
        .msg_iov = &(struct iovec){request->bytes, sizeof request->bytes},
        .msg_iovlen = 1,
        .msg_control = &rights,
        .msg_controllen = CMSG_LEN(sizeof request->fds), /* its padding would be room for one more */
    };
    memset(request->bytes, 0, sizeof request->bytes); /* who attaches is seen by its guest's root: only its own words */
    ssize_t size = recvmsg(REQUESTS, &message, MSG_CMSG_CLOEXEC);
    if (size <= 0)
        _exit(size < 0);
    request->fd_count = 0;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
        request->fd_count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(request->fds, CMSG_DATA(header), request->fd_count * sizeof(int));
    }
    if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || request->fd_count != PLACES || request->bytes[size - 1])
        return false;
    size_t count = 0;
    for (char *word = request->bytes + 1; word < request->bytes + size; word += strlen(word) + 1)
        request->words[count++] = word;
    request->words[count] = NULL;
    request->flags = (unsigned char)*request->bytes;
    return count >= 2;
}

static _Noreturn void report_unloaded(const char *why)
{
    dprintf(FD_STDERR, "%s\n", why);
    errno = ELIBACC;
    fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
}

/* The supervisor's child is born in the cgroup. Being moved there instead, by a write to cgroup.procs, takes a lock that
 * stands against every fork and exit on the node and waits for RCU. */
static void give_birth(const struct request *request)
{
    bool own_cgroup = request->flags & REQUEST_OWN_CGROUP;
    const char *unloaded = request->flags & REQUEST_ATTACH ? load_lxc() : NULL;
    struct clone_args how = {
        .flags = CLONE_PARENT | (own_cgroup ? CLONE_INTO_CGROUP : 0),
        .cgroup = own_cgroup ? (unsigned)request->fds[FD_CGROUP] : 0,
    };
    long child = syscall(SYS_clone3, &how, sizeof how);
    if (child > 0)
        return;
    int error = errno;
    for (int number = 0; number < PLACES; number++)
        dup2(request->fds[number], number);
    bool terminal = request->flags & REQUEST_TERMINAL;
    if (child == 0 && request->flags & REQUEST_INSPECT)
        inspect_guest(request->words + 2);
    if (child == 0 && request->flags & REQUEST_STOPPED)
        serve_stopped(request->words + 2);
    if (child == 0 && request->flags & (REQUEST_MOUNTS | REQUEST_IN_MOUNTS))
        run_in_mounts(request->flags & REQUEST_IN_MOUNTS, request->words[0], request->words + 1);
    if (child == 0 && request->flags & REQUEST_ATTACH && !unloaded)
        attach_on_host(terminal, request->words[0], request->words[1], own_cgroup);
    if (child == 0 && request->flags & REQUEST_ATTACH)
        report_unloaded(unloaded);
    if (child == 0)
        launch_on_host(terminal, request->words[0], request->words + 1);
    errno = error;
    send_failure(MESSAGE_HOST_FAILED, STAGE_CGROUP);
    fill_places();
}

/* An upgraded LXC is loaded by a new image of this program, with the requests that wait in the socket. Returns only where
 * that cannot be: then LXC stays what it was. The mode is set anew, for a privileged guest's root can have changed it. */
static void start_anew(void)
{
    char *const arguments[] = {"nursery", NULL}, *const environment[] = {NULL};
    chmod(OWN_IMAGE, 0555);
    execve(OWN_IMAGE, arguments, environment);
}

_Noreturn void keep_nursery(void)
{
    static struct request request;
    struct pollfd requests = {.fd = REQUESTS, .events = POLLIN};

    if (dup3(FD_REQUESTS, REQUESTS, O_CLOEXEC) < 0 || syscall(SYS_close_range, REQUESTS + 1, ~0u, 0))
        _exit(LAUNCH_FAILED);
    fill_places();
    leave_supervisor();
    setsid(); /* no key of a terminal ends it */
    /* A child that is on its way into an unprivileged guest is in its namespaces, and still the host's uid 0, for a while:
     * its root could trace it, and with it write what belongs to that (/proc/sys). Now nobody can who has no CAP_SYS_PTRACE
     * on the node, until it executes the launcher. */
    prctl(PR_SET_DUMPABLE, 0);
    load_lxc();
    for (;;) {
        poll(&requests, 1, -1);
        if (lxc_replaced())
            start_anew();
        if (receive_request(&request))
            give_birth(&request);
        for (size_t i = 0; i < request.fd_count; i++)
            close(request.fds[i]);
    }
}
