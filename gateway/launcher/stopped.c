/* Owns the way into the files of a container that does not run: from the host's root to a process that has nothing else. */
#include "stopped.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/mount.h>
#include <linux/stat.h>

#include "files.h"
#include "host.h"
#include "process.h"
#include "protocol.h"

enum { NUMBER_ROOM = 64 };

_Noreturn static void fail_root(void)
{
    fail(MESSAGE_HOST_FAILED, STAGE_ROOT);
}

/* Where nothing is mounted, the path is a directory of the node's own disk. */
static bool is_mounted(int fd)
{
    struct statx status = {0};
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, 0, &status))
        return false;
    errno = ENOTDIR;
    return status.stx_attributes & status.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT;
}

/* A copy of the tree's mounts that is attached nowhere; -1 with errno. */
static int copy_tree(const char *path, bool may_write)
{
    struct mount_attr attributes = {
        .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | (may_write ? 0 : MOUNT_ATTR_RDONLY),
        .propagation = MS_PRIVATE,
    };
    int place = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (place < 0 || !is_mounted(place))
        return -1;
    int tree = (int)syscall(SYS_open_tree, place, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH);
    if (tree < 0 ||
        syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes))
        return -1;
    return tree;
}

/* From here on there is nothing but the tree. It is put over its own path, where the node's root can see to it that there
 * is a directory; whatever it holds is not looked at. */
static bool enter_tree(int tree, const char *path)
{
    return !unshare(CLONE_NEWNS) && !syscall(SYS_mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
           !syscall(SYS_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) &&
           !fchdir(tree) && !syscall(SYS_pivot_root, ".", ".") && !syscall(SYS_umount2, ".", 2 /* MNT_DETACH */) &&
           !chdir("/");
}

static bool write_map(pid_t process, const char *name, const char *map)
{
    char path[NUMBER_ROOM];
    size_t size = strlen(map);
    (void)snprintf(path, sizeof path, "/proc/%d/%s", process, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, map, size) == (ssize_t)size;
}

/* Starts a process that stays the host's root, and gives `process` its users once it hears of its user namespace. Its
 * number, -1 with errno. `heard`: where to say so. */
static pid_t start_mapper(char *const *maps, int *heard)
{
    int ends[2];
    char byte;
    pid_t process = getpid();
    if (pipe2(ends, O_CLOEXEC))
        return -1;
    pid_t mapper = fork();
    if (mapper == 0) {
        close(ends[1]);
        bool done = read(ends[0], &byte, 1) == 1 && write_map(process, "uid_map", maps[0]) &&
                    write_map(process, "gid_map", maps[1]);
        _exit(done ? 0 : errno ? errno : EINVAL);
    }
    close(ends[0]);
    *heard = ends[1];
    return mapper;
}

static bool enter_users(pid_t mapper, int heard)
{
    int status;
    if (unshare(CLONE_NEWUSER) || write(heard, "", 1) != 1 || waitpid(mapper, &status, 0) != mapper)
        return false;
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
    return !errno && !setgroups(0, NULL) && !setresgid(0, 0, 0) && !setresuid(0, 0, 0);
}

static bool keep_what_files_take(void)
{
    const uint32_t kept = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | 1u << CAP_FSETID;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{.effective = kept, .permitted = kept}};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !syscall(SYS_capset, &header, data);
}

_Noreturn void serve_stopped(char *const *words)
{
    int heard = -1, count = 0;
    char go = 0;

    while (words[count])
        count++;
    errno = EINVAL;
    if (count != 4 || !close_unknown(0))
        fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    die_with_supervisor();
    send_host(-1);
    bool may_write = !strcmp(words[3], "write");
    if (setns(FD_MOUNTS, CLONE_NEWNS))
        fail_root();
    int tree = copy_tree(words[0], may_write);
    pid_t mapper = tree < 0 ? -1 : start_mapper(words + 1, &heard);
    if (mapper < 0 || !enter_tree(tree, words[0]) || !enter_users(mapper, heard) || !keep_what_files_take())
        fail_root();
    die_with_supervisor(); /* again, for who changes its users is let off */
    setsid();
    umask(022);
    if (close(FD_SPEC) || syscall(SYS_close_range, FD_STATUS + 1, ~0u, 0))
        fail(MESSAGE_HOST_FAILED, STAGE_FDS);
    send_message(MESSAGE_READY);
    ssize_t got;
    while ((got = recv(FD_STATUS, &go, 1, 0)) < 0 && errno == EINTR)
        ;
    if (got != 1 || go != MESSAGE_GO)
        _exit(LAUNCH_FAILED);
    close(FD_STATUS);
    serve_files(may_write);
}
