/* Owns file mode: its requests, and reading and removing; what is written is upload.c's, a tree's is tree.c's. */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "frames.h"
#include "tree.h"
#include "upload.h"

bool parse_files_request(const char *bytes, size_t size, struct files_request *request)
{
    if (size <= FILES_REQUEST || size > FILES_REQUEST + PATH_MAX || bytes[size - 1] ||
        memchr(bytes + FILES_REQUEST, 0, size - FILES_REQUEST) != bytes + size - 1)
        return false;
    *request = (struct files_request){
        .flags = (uint32_t)get_number(bytes, 4),
        .mode = (uint32_t)get_number(bytes + 4, 4),
        .uid = (uint32_t)get_number(bytes + 8, 4),
        .gid = (uint32_t)get_number(bytes + 12, 4),
        .offset = get_number(bytes + 16, 8),
        .length = get_number(bytes + 24, 8),
        .path = bytes + FILES_REQUEST,
    };
    return !(request->flags & ~(uint32_t)FILES_FLAGS);
}

_Noreturn void end_files(void)
{
    drop_upload();
    _exit(0);
}

static void tell(const struct files_request *request)
{
    struct stat status;
    ssize_t target = 0;
    if (request->flags & FILES_BELOW) {
        tell_below(request);
        return;
    }
    if (fstatat(AT_FDCWD, request->path, &status, request->flags & FILES_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0)) {
        send_error(FILES_PATH);
        return;
    }
    if (S_ISLNK(status.st_mode))
        target = readlink(request->path, frame + FILES_HEADER + FILES_ANSWER, PATH_MAX);
    send_answer(&status, target > 0 ? (size_t)target : 0);
}

/* Opens what `wanted` (S_IFREG or S_IFDIR) says, and tells what there is. -1: nothing is open, and all is told. It is
 * looked at before it is opened, for to open a device can do something; and again after, for it can be another by then. */
static int open_told(const char *path, mode_t wanted)
{
    struct stat status;
    if (stat(path, &status)) {
        send_error(FILES_PATH);
        return -1;
    }
    int fd = -1;
    if ((status.st_mode & S_IFMT) == wanted) {
        fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &status)) {
            send_error(FILES_PATH);
            if (fd >= 0)
                close(fd);
            return -1;
        }
    }
    send_answer(&status, 0);
    if (fd >= 0 && (status.st_mode & S_IFMT) != wanted) {
        close(fd);
        fd = -1;
    }
    if (fd < 0)
        send_frame('Z', 0);
    return fd;
}

static void send_file(const struct files_request *request)
{
    int fd = open_told(request->path, S_IFREG);
    if (fd < 0)
        return;
    uint64_t left = request->length;
    ssize_t got = 0;
    if (request->offset && lseek(fd, (off_t)request->offset, SEEK_SET) < 0)
        got = -1;
    while (got >= 0 && left) {
        size_t most = left < FILES_FRAME_MAX ? (size_t)left : FILES_FRAME_MAX;
        got = read(fd, frame + FILES_HEADER, most);
        if (got < 0 && errno == EINTR)
            got = 0;
        else if (got <= 0)
            break;
        else
            send_frame('D', (size_t)got);
        left -= (uint64_t)got;
    }
    if (got < 0)
        send_error(FILES_PATH);
    else
        send_frame('Z', 0);
    close(fd);
}

static void send_names(const struct files_request *request)
{
    int fd = open_told(request->path, S_IFDIR);
    if (fd < 0)
        return;
    long got;
    while ((got = syscall(SYS_getdents64, fd, frame + FILES_HEADER, FILES_FRAME_MAX)) > 0)
        send_frame('D', (size_t)got);
    if (got < 0)
        send_error(FILES_PATH);
    else
        send_frame('Z', 0);
    close(fd);
}

/* Says that it is still at work, where the last word was long ago. */
static void send_progress(struct timespec *last)
{
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) || now.tv_sec - last->tv_sec < FILES_PROGRESS_SECONDS)
        return;
    *last = now;
    send_frame('P', 0);
}

/* Removes all that is in a directory, which it closes. False with errno. */
static bool empty(int fd, unsigned depth, struct timespec *told) // NOLINT(misc-no-recursion): DEPTH_MAX
{
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (!entries) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        errno = error;
        return false;
    }
    bool done = true;
    struct dirent *entry;
    while (done && (errno = 0, entry = readdir(entries))) {
        const char *name = entry->d_name;
        send_progress(told);
        if (!strcmp(name, ".") || !strcmp(name, "..") || !unlinkat(fd, name, 0) || errno == ENOENT)
            continue;
        done = false;
        if (errno != EISDIR)
            break;
        errno = EMFILE;
        done = depth && empty(open_in(fd, name, O_DIRECTORY), depth - 1, told) && !unlinkat(fd, name, AT_REMOVEDIR);
    }
    int error = errno;
    closedir(entries);
    errno = error;
    return done && !error;
}

static void remove_path(const struct files_request *request)
{
    struct place place;
    struct timespec told;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &told);
    bool done = split_path(request->path, &place);
    if (done && unlinkat(place.directory, place.name, 0))
        done = errno == EISDIR && (request->flags & FILES_RECURSIVE) &&
               empty(open_in(place.directory, place.name, O_DIRECTORY), DEPTH_MAX, &told) &&
               !unlinkat(place.directory, place.name, AT_REMOVEDIR);
    if (done)
        send_frame('Z', 0);
    else
        send_error(FILES_PATH);
    leave_place(&place);
}

static void begin_writing(const struct files_request *request)
{
    struct stat old;
    enum files_step step;
    if (begin_upload(request, &old, &step))
        send_answer(&old, 0);
    else
        send_error(step);
}

static void finish_writing(const struct files_request *request)
{
    struct stat status;
    enum files_step step;
    if (finish_upload(request, &status, &step))
        send_answer(&status, 0);
    else
        send_error(step);
}

static void write_piece(size_t length)
{
    if (!receive(frame, length))
        end_files();
    if (!write_upload(frame, length)) {
        send_error(FILES_DATA);
        end_files();
    }
}

static void serve(char kind, const struct files_request *request, bool may_write)
{
    if (kind == 'S')
        tell(request);
    else if (kind == 'R')
        send_file(request);
    else if (kind == 'L')
        send_names(request);
    else if (kind == 'T')
        hold_tree(request);
    else if (kind == 'G')
        send_tree();
    else if ((kind == 'M' || kind == 'Y' || kind == 'H' || kind == 'I' || kind == 'F') && may_write)
        change_tree(kind, request);
    else if (kind == 'U' && may_write)
        remove_path(request);
    else if (kind == 'W' && may_write)
        begin_writing(request);
    else if (kind == 'C' && may_write)
        finish_writing(request);
    else
        end_files();
}

_Noreturn void serve_files(bool may_write)
{
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* EFBIG tells */
    for (;;) {
        char header[FILES_HEADER];
        if (!receive(header, sizeof header))
            end_files();
        uint64_t kind = get_number(header, 4), length = get_number(header + 4, 4);
        struct files_request request;
        static char body[FILES_REQUEST + PATH_MAX];
        if (kind == 'D' && length <= FILES_FRAME_MAX) {
            write_piece((size_t)length);
            continue;
        }
        if (kind > CHAR_MAX || length > sizeof body || !receive(body, (size_t)length) ||
            !parse_files_request(body, (size_t)length, &request))
            end_files();
        serve((char)kind, &request, may_write);
    }
}
