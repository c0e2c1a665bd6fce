/* Owns the tree: one directory that is held, what is made below it, and all of it sent. */
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "frames.h"

enum { MODE_MAX = 07777, NEW_MODE = 0700 };

static int tree = -1;

int open_in(int parent, const char *name, int flags)
{
    struct open_how how = {
        .flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (unsigned)flags,
        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS,
    };
    return (int)syscall(SYS_openat2, parent, name, &how, sizeof how);
}

bool find_below(const char *path, struct place *place)
{
    char text[PATH_MAX];
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    };
    size_t length = strlen(path);
    place->directory = -1;
    errno = ENAMETOOLONG;
    if (length >= sizeof text)
        return false;
    memcpy(text, path, length + 1);
    char *slash = strrchr(text, '/');
    const char *name = slash ? slash + 1 : text;
    length = strlen(name);
    if (length > NAME_MAX)
        return false;
    errno = EINVAL;
    if (!length || !strcmp(name, ".") || !strcmp(name, ".."))
        return false;
    memcpy(place->name, name, length + 1);
    if (slash)
        *slash = 0;
    place->directory = (int)syscall(SYS_openat2, tree, slash ? text : ".", &how, sizeof how);
    return place->directory >= 0;
}

void hold_tree(const struct files_request *request)
{
    struct stat status;
    if (tree >= 0)
        close(tree);
    tree = open(request->path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
    if (tree < 0 || fstat(tree, &status))
        send_error(FILES_PATH);
    else
        send_answer(&status, 0);
}

void tell_below(const struct files_request *request)
{
    struct place place;
    struct stat status;
    if (find_below(request->path, &place) && !fstatat(place.directory, place.name, &status, AT_SYMLINK_NOFOLLOW))
        send_answer(&status, 0);
    else
        send_error(FILES_PATH);
    leave_place(&place);
}

/* ---- making */

static struct timespec time_of(uint64_t nanoseconds)
{
    return (struct timespec){(time_t)(nanoseconds / 1000000000u), (long)(nanoseconds % 1000000000u)};
}

static bool make_directory(const struct files_request *request, struct place *place, struct stat *status)
{
    bool made = !mkdirat(place->directory, place->name, NEW_MODE);
    if (!made && errno != EEXIST)
        return false;
    int fd = openat(place->directory, place->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = !made || (!fchown(fd, request->uid, request->gid) && !fchmod(fd, request->mode & MODE_MAX));
    done = done && !fstat(fd, status);
    int error = errno;
    close(fd);
    if (made && !done)
        unlinkat(place->directory, place->name, AT_REMOVEDIR);
    errno = error;
    status->st_size = made;
    return done;
}

/* Gives what has the name `temporary` its place, at once instead of what stood there, or only if nothing did. */
static bool place_made(const struct place *place, const char *temporary, bool exclusive)
{
    int directory = place->directory;
    bool done = !syscall(SYS_renameat2, directory, temporary, directory, place->name, exclusive ? RENAME_NOREPLACE : 0);
    int error = errno;
    unlinkat(directory, temporary, 0); /* two names of one file: rename(2) leaves both */
    errno = error;
    return done;
}

static bool make_link(const struct files_request *request, struct place *place, const char *target,
                      const char *temporary)
{
    struct timespec times[2] = {time_of(request->offset), time_of(request->offset)};
    if (symlinkat(target, place->directory, temporary))
        return false;
    if (fchownat(place->directory, temporary, request->uid, request->gid, AT_SYMLINK_NOFOLLOW) ||
        utimensat(place->directory, temporary, times, AT_SYMLINK_NOFOLLOW)) {
        int error = errno;
        unlinkat(place->directory, temporary, 0);
        errno = error;
        return false;
    }
    return place_made(place, temporary, request->flags & FILES_EXCLUSIVE);
}

static bool make_name(const struct files_request *request, struct place *place, const char *old, const char *temporary)
{
    struct place from;
    struct stat status;
    bool done = find_below(old, &from) && !fstatat(from.directory, from.name, &status, AT_SYMLINK_NOFOLLOW);
    errno = done && !S_ISREG(status.st_mode) ? EINVAL : errno;
    done = done && S_ISREG(status.st_mode) && !linkat(from.directory, from.name, place->directory, temporary, 0) &&
           place_made(place, temporary, request->flags & FILES_EXCLUSIVE);
    int error = errno;
    leave_place(&from);
    errno = error;
    return done;
}

const char *second_path(const struct files_request *request)
{
    size_t whole = strlen(request->path);
    errno = EINVAL;
    if (!request->length || request->length >= whole || whole >= PATH_MAX)
        return NULL;
    return request->path + whole - (size_t)request->length;
}

static bool make_second_name(char kind, const struct files_request *request, struct place *place)
{
    char first[PATH_MAX], temporary[sizeof ".pveg-0123456789abcdef"];
    unsigned long long random;
    const char *second = second_path(request);
    place->directory = -1;
    if (!second)
        return false;
    memcpy(first, request->path, (size_t)(second - request->path));
    first[second - request->path] = 0;
    if (!find_below(first, place) || getrandom(&random, sizeof random, 0) != sizeof random)
        return false;
    (void)snprintf(temporary, sizeof temporary, ".pveg-%016llx", random);
    return kind == 'Y' ? make_link(request, place, second, temporary) : make_name(request, place, second, temporary);
}

static bool set_time(const struct files_request *request, struct place *place)
{
    struct timespec times[2] = {time_of(request->offset), time_of(request->offset)};
    return find_below(request->path, place) && !utimensat(place->directory, place->name, times, AT_SYMLINK_NOFOLLOW);
}

void change_tree(char kind, const struct files_request *request)
{
    struct place place = {.directory = -1};
    struct stat status;
    bool done = false;
    errno = EBADF;
    if (tree < 0)
        done = false;
    else if (kind == 'F')
        done = !syncfs(tree);
    else if (kind == 'I')
        done = set_time(request, &place);
    else if (kind == 'M')
        done = find_below(request->path, &place) && make_directory(request, &place, &status);
    else
        done = make_second_name(kind, request, &place);
    if (!done)
        send_error(kind == 'F' ? FILES_DATA : FILES_PLACE);
    else if (kind == 'M')
        send_answer(&status, 0);
    else
        send_frame('Z', 0);
    leave_place(&place);
}

/* ---- sending */

static char path[PATH_MAX]; /* of what is being sent */

static void send_name(size_t length)
{
    memcpy(frame + FILES_HEADER, path, length);
    send_frame('N', length);
}

/* As many bytes as the file was long when it was looked at. */
static void send_bytes(int fd, uint64_t left)
{
    while (left) {
        ssize_t got = read(fd, frame + FILES_HEADER, left < FILES_FRAME_MAX ? (size_t)left : FILES_FRAME_MAX);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got ? errno : ENODATA;
            send_error(FILES_DATA);
            end_files();
        }
        send_frame('D', (size_t)got);
        left -= (uint64_t)got;
    }
}

static void send_entries(int fd, size_t length, unsigned depth);

static void send_entry(int directory, const char *name, size_t length, unsigned depth) // NOLINT(misc-no-recursion)
{
    struct stat status;
    ssize_t target = 0;
    int fd = -1;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW)) {
        send_error(FILES_PATH);
        return;
    }
    mode_t type = status.st_mode & S_IFMT;
    if (type == S_IFREG || type == S_IFDIR) {
        errno = EMFILE;
        if (depth)
            fd = open_in(directory, name, type == S_IFDIR ? O_DIRECTORY : 0);
        if (fd < 0 || fstat(fd, &status) || (status.st_mode & S_IFMT) != type) {
            send_error(FILES_PATH);
            if (fd >= 0)
                close(fd);
            return;
        }
    } else if (type == S_IFLNK) {
        target = readlinkat(directory, name, frame + FILES_HEADER + FILES_ANSWER, PATH_MAX);
        if (target < 0) {
            send_error(FILES_PATH);
            return;
        }
    }
    send_answer(&status, (size_t)target);
    if (type == S_IFDIR) {
        send_entries(fd, length, depth - 1);
        return;
    }
    if (type == S_IFREG)
        send_bytes(fd, (uint64_t)status.st_size);
    if (fd >= 0)
        close(fd);
}

/* Closes `fd`, whose path is the first `length` bytes of `path`. */
static void send_entries(int fd, size_t length, unsigned depth) // NOLINT(misc-no-recursion): DEPTH_MAX
{
    DIR *entries = fdopendir(fd);
    struct dirent *entry;
    if (!entries) {
        send_error(FILES_DATA);
        end_files();
    }
    if (length)
        path[length++] = '/';
    while ((errno = 0, entry = readdir(entries))) {
        const char *name = entry->d_name;
        size_t size = strlen(name);
        if (!strcmp(name, ".") || !strcmp(name, ".."))
            continue;
        if (length + size + 1 >= PATH_MAX) { /* with room for a slash */
            send_name(length - 1);
            errno = ENAMETOOLONG;
            send_error(FILES_PATH);
            continue;
        }
        memcpy(path + length, name, size + 1);
        send_name(length + size);
        send_entry(fd, name, length + size, depth);
    }
    if (errno) {
        send_error(FILES_DATA);
        end_files();
    }
    closedir(entries);
}

void send_tree(void)
{
    int fd = tree < 0 ? -1 : open_in(tree, ".", O_DIRECTORY);
    if (fd < 0) {
        send_error(FILES_PATH);
        return;
    }
    send_entries(fd, 0, DEPTH_MAX);
    send_frame('Z', 0);
}
