/* Owns the frames of file mode: how they are put together, sent and received. */
#include "frames.h"

#include <errno.h>
#include <unistd.h>

#include "protocol.h"

char frame[FILES_HEADER + FILES_FRAME_MAX];

uint64_t get_number(const char *bytes, size_t size)
{
    uint64_t value = 0;
    while (size--)
        value = value << 8 | (unsigned char)bytes[size];
    return value;
}

static void put(char *bytes, size_t size, uint64_t value)
{
    for (size_t i = 0; i < size; i++, value >>= 8)
        bytes[i] = (char)(value & 0xff);
}

bool receive(char *bytes, size_t size)
{
    while (size) {
        ssize_t got = read(FD_STDIN, bytes, size);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        if (got > 0) {
            bytes += got;
            size -= (size_t)got;
        }
    }
    return true;
}

void send_frame(char kind, size_t length)
{
    put(frame, 4, (unsigned char)kind);
    put(frame + 4, 4, length);
    size_t size = FILES_HEADER + length, done = 0;
    while (done < size) {
        ssize_t sent = write(FD_STDOUT, frame + done, size - done);
        if (sent > 0)
            done += (size_t)sent;
        else if (sent == 0 || errno != EINTR)
            end_files();
    }
}

void send_error(enum files_step step)
{
    put(frame + FILES_HEADER, 4, (uint32_t)errno);
    put(frame + FILES_HEADER + 4, 4, step);
    send_frame('E', 8);
}

void send_answer(const struct stat *status, size_t more)
{
    char *at = frame + FILES_HEADER;
    put(at, 4, status->st_mode);
    put(at + 4, 4, status->st_uid);
    put(at + 8, 4, status->st_gid);
    put(at + 12, 4, status->st_nlink);
    put(at + 16, 8, (uint64_t)status->st_size);
    put(at + 24, 8, status->st_ino);
    put(at + 32, 8, status->st_dev);
    put(at + 40, 8, (uint64_t)status->st_mtim.tv_sec * 1000000000u + (uint64_t)status->st_mtim.tv_nsec);
    send_frame('A', FILES_ANSWER + more);
}
