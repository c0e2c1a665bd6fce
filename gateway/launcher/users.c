/* Owns users and groups: reading the guest's files, which its root may have made anything, and becoming one. */
#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct text {
    char *at;
    size_t size;
};

/* Takes what stands before the next `mark`, or all of a rest without one, and the mark. */
static struct text take_until(struct text *rest, char mark)
{
    char *found = rest->size ? memchr(rest->at, mark, rest->size) : NULL;
    struct text part = {rest->at, found ? (size_t)(found - rest->at) : rest->size};
    size_t taken = part.size + (found != NULL);
    rest->at += taken;
    rest->size -= taken;
    return part;
}

static bool equals(struct text part, const char *string)
{
    return part.size == strlen(string) && !memcmp(part.at, string, part.size);
}

static bool parse_id(struct text digits, uint32_t *id)
{
    uint64_t value = 0;
    for (size_t i = 0; i < digits.size; i++) {
        if (digits.at[i] < '0' || digits.at[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(digits.at[i] - '0');
        if (value > ID_MAX)
            return false;
    }
    *id = (uint32_t)value;
    return digits.size > 0;
}

/* A line of passwd or group that can be an entry: not a comment, not one of NIS's + and -, and without a NUL. */
static bool is_entry(struct text line)
{
    return line.size && !strchr("#+-", *line.at) && !memchr(line.at, 0, line.size);
}

/* Ends a field with a NUL, over the colon behind it, or over the newline or the place kept free behind the text. */
static const char *cut(struct text part)
{
    part.at[part.size] = 0;
    return part.at;
}

bool find_account(char *text, size_t size, const char *name, uid_t uid, struct account *account)
{
    struct text rest = {text, size};
    while (rest.size) {
        struct text line = take_until(&rest, '\n');
        if (!is_entry(line))
            continue;
        struct text entry_name = take_until(&line, ':');
        take_until(&line, ':');
        struct text entry_uid = take_until(&line, ':'), entry_gid = take_until(&line, ':');
        take_until(&line, ':');
        struct text home = take_until(&line, ':'), shell = take_until(&line, ':');
        uint32_t id, group;
        if (!entry_name.size || !parse_id(entry_uid, &id) || !parse_id(entry_gid, &group) ||
            !(name ? equals(entry_name, name) : id == uid))
            continue;
        *account = (struct account){
            .uid = id,
            .gid = group,
            .name = cut(entry_name),
            .home = home.size && *home.at == '/' ? cut(home) : "/",
            .shell = shell.size ? cut(shell) : "/bin/sh",
        };
        return true;
    }
    return false;
}

bool collect_groups(char *text, size_t size, const char *name, struct identity *who)
{
    struct text rest = {text, size};
    while (rest.size) {
        struct text line = take_until(&rest, '\n');
        if (!is_entry(line))
            continue;
        take_until(&line, ':');
        take_until(&line, ':');
        struct text entry_gid = take_until(&line, ':');
        uint32_t gid;
        if (!parse_id(entry_gid, &gid) || gid == who->account.gid)
            continue;
        while (line.size)
            if (equals(take_until(&line, ','), name)) {
                if (who->group_count == GROUPS_MAX)
                    return false;
                who->groups[who->group_count++] = gid;
                break;
            }
    }
    return true;
}

bool find_group(char *text, size_t size, const char *name, gid_t *gid)
{
    struct text rest = {text, size};
    while (rest.size) {
        struct text line = take_until(&rest, '\n');
        if (!is_entry(line) || !equals(take_until(&line, ':'), name))
            continue;
        take_until(&line, ':');
        if (parse_id(take_until(&line, ':'), gid))
            return true;
    }
    return false;
}

/* Reads a file that can hang nobody: no link as its last part, not a FIFO's end, not a byte past the limit. The text's
 * allocation has one byte more than its size, for cut(). False with errno; EINVAL: it is no regular file. */
static bool read_user_file(const char *path, struct text *text)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return false;
    text->size = 0;
    text->at = NULL;
    int error = fstat(fd, &status)               ? errno
                : !S_ISREG(status.st_mode)       ? EINVAL
                : status.st_size > USER_FILE_MAX ? EFBIG
                                                 : 0;
    if (!error && !(text->at = malloc(USER_FILE_MAX + 1)))
        error = ENOMEM;
    /* The size is only what it was a moment ago: read to the end, and one byte past the limit is too many. */
    while (!error) {
        ssize_t got = read(fd, text->at + text->size, USER_FILE_MAX + 1 - text->size);
        if (got == 0)
            break;
        if (got > 0)
            text->size += (size_t)got;
        if (got < 0 && errno != EINTR)
            error = errno;
        if (text->size > USER_FILE_MAX)
            error = EFBIG;
    }
    close(fd);
    if (error)
        free(text->at);
    errno = error;
    return !error;
}

/* Reads `user` as a number or two. False: it is a name, or nothing (EINVAL). */
static bool parse_numbers(char *user, struct identity *who, bool *gid_given)
{
    struct text rest = {user, strlen(user)};
    struct text uid = take_until(&rest, ':');
    *gid_given = uid.at + uid.size != rest.at;
    if (!parse_id(uid, &who->account.uid))
        return false;
    who->account.gid = who->account.uid;
    cut(uid);
    return !*gid_given || parse_id(rest, &who->account.gid);
}

enum stage resolve_identity(char *user, struct identity *who)
{
    static char root[] = "0";
    struct text text;
    bool gid_given;

    if (!*user)
        user = root;
    bool number = parse_numbers(user, who, &gid_given);
    if (!number && (gid_given || !user[strspn(user, "0123456789")])) {
        errno = EINVAL;
        return STAGE_USER;
    }
    who->named = !number;
    who->account.name = number && !who->account.uid ? "root" : user;
    who->account.home = number && !who->account.uid ? "/root" : "/";
    who->account.shell = "/bin/sh";

    struct account entry;
    bool readable = read_user_file("/etc/passwd", &text);
    bool found = readable && find_account(text.at, text.size, number ? NULL : user, who->account.uid, &entry);
    if (!found && who->named) {
        if (readable)
            errno = ENOENT;
        return STAGE_USER;
    }
    if (found) {
        if (gid_given)
            entry.gid = who->account.gid;
        who->account = entry;
    }
    who->groups[0] = who->account.gid;
    who->group_count = 1;
    if (gid_given || (!found && who->account.uid))
        return STAGE_NONE;

    readable = read_user_file("/etc/group", &text);
    if (!readable && who->named && errno != ENOENT)
        return STAGE_GROUPS;
    if (readable && !collect_groups(text.at, text.size, who->account.name, who)) {
        who->group_count = 1;
        errno = E2BIG;
        return who->named ? STAGE_GROUPS : STAGE_NONE;
    }
    return STAGE_NONE;
}

bool resolve_group(const char *name, gid_t *gid)
{
    struct text text;
    if (!read_user_file("/etc/group", &text))
        return false;
    bool found = find_group(text.at, text.size, name, gid);
    free(text.at);
    if (!found)
        errno = ENOENT;
    return found;
}

enum stage assume_identity(const struct identity *who)
{
    /* EINVAL: one of the groups is outside what the guest's user namespace maps. */
    if (setgroups(who->group_count, who->groups) && (who->named || setgroups(1, who->groups)))
        return STAGE_GROUPS;
    gid_t gid = who->account.gid;
    uid_t uid = who->account.uid;
    return setresgid(gid, gid, gid) || setresuid(uid, uid, uid) ? STAGE_USER : STAGE_NONE;
}
