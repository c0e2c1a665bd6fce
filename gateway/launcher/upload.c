/* Owns the one upload: the file without a name, and the moment in which it gets that. */
#include "upload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tree.h"

enum { LINKS_MAX = 40 }; /* as the kernel has it */
enum { MODE_MAX = 07777, TEMPORARY_MODE = 0600 };
enum { FLUSH_BYTES = 8 << 20 }; /* so often the disk is given work, so that little is left for fsync(2) */

static struct {
    int fd;
    bool named; /* it has the temporary name */
    off_t written;
    off_t flushed;
    struct place place;
    char temporary[sizeof ".pveg-0123456789abcdef"];
} upload = {.fd = -1, .place = {.directory = -1}};

/* Opens the directory of `text`, seen from `base`, and keeps its last part. `text` is cut. */
static bool enter(int base, char *text, struct place *place)
{
    char *slash = strrchr(text, '/');
    const char *name = slash ? slash + 1 : text;
    size_t length = strlen(name);
    place->directory = -1;
    errno = length > NAME_MAX ? ENAMETOOLONG : EISDIR;
    if (!length || length > NAME_MAX || !strcmp(name, ".") || !strcmp(name, ".."))
        return false;
    memcpy(place->name, name, length + 1);
    if (slash)
        slash[1] = 0;
    place->directory = openat(base, slash ? text : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return place->directory >= 0;
}

bool split_path(const char *path, struct place *place)
{
    char text[PATH_MAX];
    size_t length = strlen(path);
    place->directory = -1;
    errno = ENAMETOOLONG;
    if (length >= sizeof text)
        return false;
    memcpy(text, path, length + 1);
    return enter(AT_FDCWD, text, place);
}

void leave_place(struct place *place)
{
    if (place->directory >= 0)
        close(place->directory);
    place->directory = -1;
}

/* Whether the kernel would follow the link that stands there, were it to: not one in a sticky directory that is somebody
 * else's (fs.protected_symlinks), nor for us one of /proc's that lead elsewhere than their text says. False with errno. */
static bool may_follow(const struct place *place)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, place->directory, place->name, &how, sizeof how);
    if (fd >= 0)
        close(fd);
    return fd >= 0 || errno == ENOENT; /* where it leads nothing is, yet */
}

/* split_path(), and then on to wherever a link in the last part leads. */
static bool find_place(const char *path, struct place *place)
{
    char text[PATH_MAX];
    bool found = split_path(path, place);
    for (int links = 0; found && links < LINKS_MAX; links++) {
        ssize_t size = readlinkat(place->directory, place->name, text, sizeof text - 1);
        if (size < 0)
            return errno == EINVAL || errno == ENOENT; /* no link; nothing */
        text[size] = 0;
        if (!may_follow(place))
            return false;
        int base = place->directory;
        found = enter(base, text, place);
        int error = errno;
        close(base);
        errno = error;
    }
    if (found)
        errno = ELOOP;
    return false;
}

static void path_of(int fd, char path[32])
{
    (void)snprintf(path, 32, "/proc/self/fd/%d", fd);
}

/* A file without a name is nothing that could be left behind. To give it one takes Linux 6.10, or a /proc that shows it. */
static int open_nameless(int directory)
{
    char path[32];
    struct stat own, seen;
    int fd = openat(directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, TEMPORARY_MODE);
    if (fd < 0)
        return -1;
    if (linkat(fd, "", directory, ".", AT_EMPTY_PATH) && errno == EEXIST) /* ENOENT from a kernel that would not */
        return fd;
    path_of(fd, path);
    if (!fstat(fd, &own) && !stat(path, &seen) && own.st_ino == seen.st_ino && own.st_dev == seen.st_dev)
        return fd;
    close(fd);
    return -1;
}

bool begin_upload(const struct files_request *request, struct stat *old, enum files_step *step)
{
    unsigned long long random;
    *step = FILES_PATH;
    errno = EBUSY;
    if (upload.fd >= 0)
        return false;
    leave_place(&upload.place);
    bool below = request->flags & FILES_BELOW;
    if (!(below ? find_below(request->path, &upload.place) : find_place(request->path, &upload.place)))
        return false;
    int directory = upload.place.directory;
    if (fstatat(directory, upload.place.name, old, AT_SYMLINK_NOFOLLOW)) {
        if (errno != ENOENT)
            return false;
        *old = (struct stat){0};
    } else if (!S_ISREG(old->st_mode) && !(below && S_ISLNK(old->st_mode)))
        return true;
    *step = FILES_CREATE;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return false;
    (void)snprintf(upload.temporary, sizeof upload.temporary, ".pveg-%016llx", random);
    upload.written = upload.flushed = 0;
    upload.fd = open_nameless(directory);
    upload.named = upload.fd < 0;
    if (upload.named)
        upload.fd = openat(directory, upload.temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                           TEMPORARY_MODE);
    if (upload.fd < 0)
        upload.named = false;
    return upload.fd >= 0;
}

bool write_upload(const char *bytes, size_t size)
{
    errno = ENODATA;
    if (upload.fd < 0)
        return false;
    while (size) {
        ssize_t written = write(upload.fd, bytes, size);
        if (written < 0 && errno != EINTR)
            return false;
        if (written > 0) {
            bytes += written;
            size -= (size_t)written;
            upload.written += written;
        }
    }
    if (upload.written - upload.flushed >= FLUSH_BYTES) {
        /* Begins it, and waits for nothing; what it cannot do, or fails at, fsync(2) tells. */
        (void)sync_file_range(upload.fd, upload.flushed, upload.written - upload.flushed, SYNC_FILE_RANGE_WRITE);
        upload.flushed = upload.written;
    }
    return true;
}

static bool link_nameless(int fd, int directory, const char *name)
{
    char path[32];
    if (!linkat(fd, "", directory, name, AT_EMPTY_PATH))
        return true;
    path_of(fd, path);
    return errno == ENOENT && !linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW);
}

static bool give_name(bool exclusive)
{
    int directory = upload.place.directory;
    if (!upload.named) {
        if (!link_nameless(upload.fd, directory, exclusive ? upload.place.name : upload.temporary))
            return false;
        if (exclusive)
            return true;
        upload.named = true;
    }
    if (exclusive ? linkat(directory, upload.temporary, directory, upload.place.name, 0)
                  : renameat(directory, upload.temporary, directory, upload.place.name))
        return false;
    upload.named = exclusive; /* then it has two */
    return true;
}

static bool finish(const struct files_request *request, enum files_step *step)
{
    *step = FILES_OWNER; /* before the mode, for it clears set-user-id */
    if (fchown(upload.fd, request->uid, request->gid))
        return false;
    *step = FILES_MODE;
    if (fchmod(upload.fd, request->mode & MODE_MAX))
        return false;
    *step = FILES_DATA;
    if (request->flags & FILES_TIMED) {
        struct timespec moment = {(time_t)(request->offset / 1000000000u), (long)(request->offset % 1000000000u)};
        if (futimens(upload.fd, (struct timespec[]){moment, moment}))
            return false;
    }
    if (!(request->flags & FILES_LATER) && fsync(upload.fd))
        return false;
    *step = FILES_PLACE;
    return give_name(request->flags & FILES_EXCLUSIVE);
}

bool finish_upload(const struct files_request *request, struct stat *status, enum files_step *step)
{
    *step = FILES_DATA;
    errno = ENODATA;
    bool done = upload.fd >= 0 && finish(request, step) && !fstat(upload.fd, status);
    int error = errno;
    drop_upload();
    errno = error;
    return done;
}

void drop_upload(void)
{
    if (upload.fd >= 0)
        close(upload.fd);
    if (upload.named)
        unlinkat(upload.place.directory, upload.temporary, 0);
    leave_place(&upload.place);
    upload.fd = -1;
    upload.named = false;
}
