/* Owns what the launcher says on its status socket. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol.h"

static void send_bytes(const unsigned char *bytes, size_t size)
{
    while (send(FD_STATUS, bytes, size, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

void send_message(enum message message)
{
    send_bytes(&(unsigned char){(unsigned char)message}, 1);
}

void send_host(int fd)
{
    unsigned char byte = MESSAGE_HOST;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof fd)];
    } rights = {.header = {.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct msghdr message = {.msg_iov = &(struct iovec){&byte, 1}, .msg_iovlen = 1};
    if (fd >= 0) {
        memcpy(CMSG_DATA(&rights.header), &fd, sizeof fd);
        message.msg_control = &rights;
        message.msg_controllen = sizeof rights;
    }
    while (sendmsg(FD_STATUS, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

void send_failure(enum message message, enum stage stage)
{
    int error = errno;
    unsigned char bytes[6] = {(unsigned char)message, (unsigned char)stage};
    for (int i = 0; i < 4; i++)
        bytes[2 + i] = (unsigned char)(error >> 8 * i);
    send_bytes(bytes, sizeof bytes);
}

_Noreturn void fail(enum message message, enum stage stage)
{
    send_failure(message, stage);
    _exit(LAUNCH_FAILED);
}
