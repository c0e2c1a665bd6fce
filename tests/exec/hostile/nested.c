/* Mounts the cgroup that it is in, its exec's own, makes cgroups in it one below the other, moves to the deepest, and
 * says how many they were and which errno stopped it; 2000 at most. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 2000 };

int main(void)
{
    if (unshare(CLONE_NEWCGROUP | CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/mnt", "cgroup2", 0, "") != 0)
        return 1;
    int depth = 0, error = 0, here = open("/mnt", O_RDONLY | O_DIRECTORY);
    while (depth < MOST) {
        if (mkdirat(here, "below", 0755) != 0) {
            error = errno;
            break;
        }
        int below = openat(here, "below", O_RDONLY | O_DIRECTORY);
        close(here);
        here = below;
        depth++;
    }
    dprintf(openat(here, "cgroup.procs", O_WRONLY), "%d", (int)getpid());
    printf("%d %d\n", depth, error);
    fflush(stdout);
    for (;;)
        pause();
}
