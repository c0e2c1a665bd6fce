/* Who the command runs as, from the guest's own files and without NSS.
 *
 *   user      uid, gid                 home, name, shell       supplementary groups
 *   ""        as "0"
 *   name      its passwd entry's       its entry's             all that list the name, in /etc/group
 *   uid       uid; its entry's gid,    its entry's             all that list its entry's name
 *             else gid = uid
 *   uid:gid   as given                 its uid's entry's       none
 *
 * Only digits make a number, up to ID_MAX; 4294967295 means "unchanged" to the kernel and is refused. A number without
 * an entry gets HOME=/ (root: /root), SHELL=/bin/sh, and its digits (root: root) as its name; its gid is its
 * own number and not 0, since files open to the group root are not meant for it. For a number the files are a courtesy:
 * whatever is wrong with them, it runs. For a name they are the only answer: whatever is wrong with them is the error.
 */
#ifndef LAUNCHER_USERS_H
#define LAUNCHER_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "protocol.h"

#define ID_MAX 4294967294u
enum { USER_FILE_MAX = 1 << 20 }; /* bytes of /etc/passwd or /etc/group that are read */
enum { GROUPS_MAX = 1024 };       /* the kernel's own NGROUPS_MAX is 65536 */

struct account {
    uid_t uid;
    gid_t gid;
    const char *name;
    const char *home;
    const char *shell;
};

struct identity {
    struct account account;
    bool named; /* asked for by name: nothing may be left out */
    size_t group_count;
    gid_t groups[GROUPS_MAX]; /* the first is account.gid */
};

/* Finds out who `user` is; cuts it at its colon. Not STAGE_NONE: failed there, with errno. */
enum stage resolve_identity(char *user, struct identity *who);

/* Becomes `who` for good. Not STAGE_NONE: failed there, with errno. */
enum stage assume_identity(const struct identity *who);

/* The gid of the first entry of /etc/group with this name. False with errno; ENOENT: there is none. */
bool resolve_group(const char *name, gid_t *gid);

/* The same in the text of a group(5) file. */
bool find_group(char *text, size_t size, const char *name, gid_t *gid);

/* The first entry with this name, or where `name` is NULL with this uid, in the text of a passwd(5) file. Lines that are
 * no entry (too few fields, ids that are none, a NUL) are passed over. The entry's strings are cut in place. */
bool find_account(char *text, size_t size, const char *name, uid_t uid, struct account *account);

/* Appends the gids of the group(5) lines that list `name`. False: they are more than GROUPS_MAX. */
bool collect_groups(char *text, size_t size, const char *name, struct identity *who);

#endif
