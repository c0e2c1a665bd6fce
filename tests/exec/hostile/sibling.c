/* Makes one sibling of the command, another child of the supervisor, says its pid in the guest, and waits with it. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    if (pid > 0) {
        printf("%ld\n", pid);
        fflush(stdout);
    }
    for (;;)
        pause();
}
