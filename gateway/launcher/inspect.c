/* Owns inspection: from the host's root to the guest's, and what its files say of groups and device nodes.
 *
 * It enters the namespaces of users and of mounts and no other: in the guest's /proc it has no number, so that nobody
 * there sees, traces or opens anything of it. All that it holds is the socket that it answers on. */
#include "inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "process.h"
#include "protocol.h"
#include "users.h"

struct answers {
    unsigned char bytes[1 + INSPECT_MAX * INSPECT_ANSWER];
    size_t size;
};

static bool is_same(int there, const char *here)
{
    struct stat own, other;
    return !stat(here, &own) && !fstat(there, &other) && own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

/* The user namespace comes first: from inside it, one may enter the mounts that belong to it. */
static bool enter_guest(void)
{
    int users = openat(FD_TERMINAL, "ns/user", O_RDONLY | O_CLOEXEC);
    int mounts = openat(FD_TERMINAL, "ns/mnt", O_RDONLY | O_CLOEXEC);
    if (users < 0 || mounts < 0)
        return false;
    errno = EPERM;
    if (is_same(mounts, "/proc/self/ns/mnt")) /* no guest's, whatever else it may be */
        return false;
    if (!is_same(users, "/proc/self/ns/user") && setns(users, CLONE_NEWUSER))
        return false;
    return !setns(mounts, CLONE_NEWNS) && !setgroups(0, NULL) && !setresgid(0, 0, 0) && !setresuid(0, 0, 0) &&
           !syscall(SYS_close_range, FD_PROGRAM, ~0u, 0);
}

static void put_all(struct answers *answers, const uint32_t numbers[INSPECT_ANSWER / 4])
{
    for (int i = 0; i < INSPECT_ANSWER; i++)
        answers->bytes[answers->size++] = (unsigned char)(numbers[i / 4] >> 8 * (i % 4));
}

static void answer_group(struct answers *answers, const char *name)
{
    gid_t gid = 0;
    uint32_t error = resolve_group(name, &gid) ? 0 : (uint32_t)errno;
    const uint32_t numbers[INSPECT_ANSWER / 4] = {error, 0, 0, gid};
    put_all(answers, numbers);
}

static void answer_node(struct answers *answers, const char *path)
{
    struct stat node = {0};
    uint32_t error = lstat(path, &node) ? (uint32_t)errno : 0;
    const uint32_t numbers[INSPECT_ANSWER / 4] = {
        error,
        node.st_mode,
        node.st_uid,
        node.st_gid,
        major(node.st_rdev),
        minor(node.st_rdev),
        major(node.st_dev),
        minor(node.st_dev),
        (uint32_t)node.st_ino,
        (uint32_t)(node.st_ino >> 32),
    };
    put_all(answers, numbers);
}

_Noreturn void inspect_guest(char *const *questions)
{
    static struct answers answers = {.bytes = {MESSAGE_INSPECTED}, .size = 1};

    if (!close_unknown(0) || !enter_guest())
        fail(MESSAGE_HOST_FAILED, STAGE_ATTACH);
    for (size_t i = 0; questions[i] && i < INSPECT_MAX; i++)
        if (*questions[i] == '/')
            answer_node(&answers, questions[i]);
        else
            answer_group(&answers, questions[i]);
    while (send(FD_STATUS, answers.bytes, answers.size, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
    _exit(0);
}
