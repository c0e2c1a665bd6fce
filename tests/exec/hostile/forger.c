/* Runs where the guest's root has put it in place of the launcher, and does on the status socket what /forge says:
 * `claim PID`  says that another process of the guest is the command
 * `flood N`    N processes say the same word for as long as somebody listens
 * `silent`     never says a word
 * `die`        says that it is ready, and is killed at once
 * `bequeath`   the same, and another process keeps its end of the status socket */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STATUS = 4 };

static void claim(int pid)
{
    struct ucred sender = {.pid = pid};
    char control[CMSG_SPACE(sizeof sender)] = {0};
    struct iovec word = {"R", 1};
    struct msghdr message = {
        .msg_iov = &word, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_CREDENTIALS;
    header->cmsg_len = CMSG_LEN(sizeof sender);
    memcpy(CMSG_DATA(header), &sender, sizeof sender);
    sendmsg(STATUS, &message, MSG_NOSIGNAL);
}

static void flood(int processes)
{
    while (--processes > 0 && fork() != 0)
        ;
    while (send(STATUS, "R", 1, MSG_NOSIGNAL) == 1 || errno == EINTR)
        ;
    _exit(0);
}

int main(void)
{
    char what[16] = "";
    int number = 0;
    FILE *orders = fopen("/forge", "re");
    if (orders == NULL || fscanf(orders, "%15s %d", what, &number) < 1)
        return 1;
    if (strcmp(what, "flood") == 0)
        flood(number);
    if (strcmp(what, "claim") == 0)
        claim(number);
    bool heir = strcmp(what, "bequeath") == 0;
    if (heir && fork() == 0)
        pause();
    if ((heir || strcmp(what, "die") == 0) && send(STATUS, "R", 1, MSG_NOSIGNAL) == 1)
        raise(SIGKILL);
    for (;;)
        pause();
}
