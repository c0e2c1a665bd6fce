/* Owns what the launcher says on its status socket. */
#include <errno.h>
#include <stddef.h>
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

_Noreturn void fail(enum message message, enum stage stage)
{
    int error = errno;
    unsigned char bytes[6] = {(unsigned char)message, (unsigned char)stage};
    for (int i = 0; i < 4; i++)
        bytes[2 + i] = (unsigned char)(error >> 8 * i);
    send_bytes(bytes, sizeof bytes);
    _exit(LAUNCH_FAILED);
}
