/* Owns signals, descriptors in excess, limits, the modes of pipes and the search for a program. */
#include "process.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "protocol.h"

enum { KERNEL_SIGNALS = 64, KERNEL_SIGNAL_SET_BYTES = KERNEL_SIGNALS / 8 };
enum { FILES_SOFT = 1024, FILES_HARD = 524288 };

void reset_signals(void)
{
    /* The kernel's struct sigaction and sigset_t, all zero: SIG_DFL, no flags, nothing blocked. sigaction(3) itself
     * refuses 32 and 33, which a caller may have left ignored all the same. */
    static const unsigned long zeros[8];
    for (int number = 1; number <= KERNEL_SIGNALS; number++)
        syscall(SYS_rt_sigaction, number, zeros, NULL, KERNEL_SIGNAL_SET_BYTES);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, zeros, NULL, KERNEL_SIGNAL_SET_BYTES);
}

bool close_unknown(unsigned flags)
{
    return !syscall(SYS_close_range, FD_FIRST_UNKNOWN, ~0u, flags); /* musl has no function for it */
}

static rlim_t least(rlim_t a, rlim_t b)
{
    return a < b ? a : b; /* RLIM_INFINITY is the greatest value */
}

void take_init_limits(void)
{
    for (int resource = 0; resource < (int)RLIM_NLIMITS; resource++) {
        struct rlimit own, limit;
        if (prlimit(0, resource, NULL, &own))
            continue;
        if (prlimit(1, resource, NULL, &limit))
            limit = own;
        if (resource == RLIMIT_NOFILE)
            limit = (struct rlimit){least(FILES_SOFT, limit.rlim_max), least(FILES_HARD, limit.rlim_max)};
        if (resource == RLIMIT_CORE)
            limit.rlim_cur = 0;
        if (prlimit(0, resource, &limit, NULL)) {
            limit.rlim_max = least(limit.rlim_max, own.rlim_max);
            limit.rlim_cur = least(limit.rlim_cur, limit.rlim_max);
            prlimit(0, resource, &limit, NULL);
        }
    }
}

void open_pipes_to_all(void)
{
    static const int streams[] = {FD_STDIN, FD_STDOUT, FD_COMMAND_STDERR};
    for (unsigned i = 0; i < sizeof streams / sizeof *streams; i++) {
        struct stat status;
        if (!fstat(streams[i], &status) && S_ISFIFO(status.st_mode))
            fchmod(streams[i], 0666);
    }
}

void execute(char **argv, char **env, const char *path)
{
    const char *name = argv[0];
    size_t length = strlen(name);
    char candidate[PATH_MAX];
    bool denied = false;

    if (strchr(name, '/')) {
        execve(name, argv, env);
        return;
    }
    for (const char *end; length && path; path = *end ? end + 1 : NULL) {
        end = strchrnul(path, ':');
        size_t folder = (size_t)(end - path);
        if (folder + 1 + length >= sizeof candidate)
            continue;
        memcpy(candidate, path, folder);
        candidate[folder] = '/';
        /* An empty folder is the current one, and its candidate the bare name. */
        memcpy(candidate + folder + (folder > 0), name, length + 1);
        execve(candidate, argv, env);
        if (errno == EACCES)
            denied = true;
        else if (errno != ENOENT && errno != ENOTDIR && errno != ENODEV && errno != ESTALE && errno != ETIMEDOUT)
            return;
    }
    errno = denied ? EACCES : ENOENT;
}
