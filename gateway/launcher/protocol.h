/* The wire between the supervisor and the launcher: descriptors, messages, stages. Python's side reads the same
 * numbers in gateway/supervisor/launching/launch.py; this file is the source.
 *
 * The nursery is one process of the supervisor's for as long as that lives. Its descriptor 3 is an AF_UNIX SOCK_SEQPACKET
 * socket, each message a request: a byte of REQUEST_* flags, then words, each ended by NUL: EXE, ARG0, ARG... With it come
 * nine descriptors (SCM_RIGHTS), in the order of their numbers below; where one has no meaning, any stands for it. For each
 * there is a new child of the supervisor, born in the exec's cgroup, with the descriptors in their places: host mode.
 * What is no request is forgotten, and so is all that came with it. At EOF the supervisor has ended, or has become a new
 * image of itself that has a nursery of its own: then this one ends.
 *
 * EXE is the file and ARG0 the name it is given: of a file that is /proc/self/fd/8, ps(1) shows the name.
 *
 * Descriptors in host mode and, through lxc-attach, in guest mode:
 *   0  the command's stdin
 *   1  the command's stdout
 *   2  lxc-attach's own stderr; never a word of the command, never a word of ours
 *   3  the spec (spec.h), a sealed memfd
 *   4  the status socket: AF_UNIX SOCK_SEQPACKET, one end of a socketpair; the other end has SO_PASSCRED set, so every
 *      message carries its sender's pid as the supervisor sees it
 *   5  this program, a sealed memfd of mode 0555. Seals hold its bytes, but not its mode, nor do they refuse to open it
 *      for writing, and while it is open so it cannot be executed (ETXTBSY). The mode refuses that to the root of an
 *      unprivileged guest. The root of a privileged one owns the memfd as the host's root does: so each such guest has
 *      one of its own, for were it shared, nothing would start in any other
 *   6  the command's stderr. Or, with REQUEST_TERMINAL, the /proc/PID of the guest's init, opened O_PATH, in
 *      whose place host mode puts the slave of a new pty of the guest's own devpts; with SPEC_TTY guest mode makes that
 *      0, 1 and 2 (a tty on 0, 1 or 2 would make lxc-attach put a pty and a proxy of its own between)
 *   7  host mode, with REQUEST_OWN_CGROUP: the exec's cgroup directory, opened O_PATH or O_RDONLY; the guest never sees
 *      it. Without it EXE itself finds the guest's place
 *   8  host mode, where EXE is /proc/self/fd/8: lxc-attach itself, a memfd of mode 0555 with the seals SEAL,
 *      SHRINK, GROW and WRITE (0xf) and no other. Run from its own file lxc-attach copies that into such a memfd and
 *      executes itself again, so that no guest can write to the file (CVE-2019-5736; lxc's src/lxc/rexec.c); run from
 *      such a memfd it goes on at once. A script has to be run by its path, and this is not used. The guest never
 *      sees the descriptor, but for a moment the file, as /proc/PID/exe of a process that is about to become 5: so it is
 *      shared as little as 5 is
 *
 * Messages, each one datagram on 4:
 *   'H'                    launcher -> supervisor   host mode, just before it becomes lxc-attach; the sender is the pid
 *                                                   that lxc-attach will have; with REQUEST_TERMINAL the pty's
 *                                                   master comes with it (SCM_RIGHTS)
 *   'X' u8 stage u32 errno launcher -> supervisor   host mode or the nursery failed; nothing of the guest was touched
 *   'R'                    launcher -> supervisor   guest mode is ready: all but execve is done; the sender will be the
 *                                                   command
 *   'G'                    supervisor -> launcher   go. Anything else, EOF too, ends the launcher and nothing has run
 *   'F' u8 stage u32 errno launcher -> supervisor   guest mode failed; the command did not run
 *   EOF                                             after 'G': the command runs; before: the spawn died on its way
 * Numbers are little-endian. A launcher that failed exits with LAUNCH_FAILED; only the message says why.
 *
 * With REQUEST_ATTACH the child executes nothing on the node: it goes on in LXC's library as lxc-attach would, and is
 * called lxc-attach here. EXE is the directory of LXC's containers, ARG0 the container's name. What a privileged guest's
 * root finds in such a process, besides the descriptors 0 to 6, is the nursery's memory, which holds this one request, and
 * where in memory things are: that is the same in every child. An unprivileged one's may not look. Where another file has
 * taken the place of LXC's library the nursery becomes a new image of itself, before it takes the next request.
 *
 * With REQUEST_INSPECT the child runs nothing. EXE and ARG0 have no meaning, the arguments behind them are up to
 * INSPECT_MAX questions: a path, or the name of a group. 6 is the /proc/PID of the guest's init, opened O_PATH; the child
 * enters its namespaces of users and mounts, and says on 4, in place of all else:
 *   'I' ten u32 each       launcher -> supervisor   of every question: errno (0: found), mode with the file's type, uid,
 *                                                   gid, major, minor, by lstat(2), as the guest's root sees them; its
 *                                                   file system's major, minor, and the inode, low and high; of a group
 *                                                   only its gid, by the guest's /etc/group, read as users.h says
 *   'X' as above           launcher -> supervisor   the guest could not be entered
 * Nobody in the guest has a way to this socket: the child is in none of its processes' sight.
 *
 * With REQUEST_MOUNTS the child becomes EXE, a tool of the node's that mounts (pct), in mounts of its own: a copy of the
 * node's, in which the node's changes are seen, and whose own nobody else sees. With REQUEST_IN_MOUNTS 6 is such mounts,
 * which it enters instead. 0, 1 and 2 are its streams, 4 is used as in host mode: 'H' brings the namespace. It dies with
 * the supervisor, and its mounts with the last who is in them or holds them.
 *
 * With REQUEST_STOPPED the child serves the files of a container that does not run (stopped.h). EXE and ARG0 have no
 * meaning, the arguments behind them are the path of its mounted root, its uid map and gid map as /proc/PID/uid_map takes
 * them, and "write" or "read". 6 is the mounts in which that path is; 0 and 1 are file mode's pipes. On 4 it says 'H', then
 * 'R', and waits for 'G', all as above; or 'X'. Nothing of the container runs, so that there nobody else has a say on 4.
 *
 * From the first instruction in the guest all of 4 is in the hands of the guest's root, who may trace the launcher and
 * take a copy of the socket. So the supervisor takes an 'R' as a claim: the sender must be its own child once lxc-attach
 * is gone (waitid), every wait has a limit, a message is at most 6 bytes, and from the first message on, which is the
 * host's, it receives with room for the credentials alone, so that no descriptor can be handed to it.
 */
#ifndef LAUNCHER_PROTOCOL_H
#define LAUNCHER_PROTOCOL_H

enum descriptor {
    FD_STDIN = 0,
    FD_STDOUT = 1,
    FD_STDERR = 2,
    FD_SPEC = 3,
    FD_STATUS = 4,
    FD_PROGRAM = 5,
    FD_COMMAND_STDERR = 6,
    FD_TERMINAL = 6,
    FD_MOUNTS = 6,
    FD_CGROUP = 7,
    FD_ATTACH = 8,
    FD_FIRST_UNKNOWN = 7, /* nothing from here on may reach lxc-attach or the command */
    FD_REQUESTS = 3,      /* the nursery's own */
};

enum request_flag {
    REQUEST_OWN_CGROUP = 1,
    REQUEST_TERMINAL = 2,
    REQUEST_INSPECT = 4,
    REQUEST_MOUNTS = 8,
    REQUEST_IN_MOUNTS = 16,
    REQUEST_STOPPED = 32,
    REQUEST_ATTACH = 64,
};
enum { REQUEST_MAX = 4096 };
enum { INSPECT_MAX = 64, INSPECT_ANSWER = 40 };

enum message {
    MESSAGE_HOST = 'H',
    MESSAGE_HOST_FAILED = 'X',
    MESSAGE_READY = 'R',
    MESSAGE_GO = 'G',
    MESSAGE_FAILED = 'F',
    MESSAGE_INSPECTED = 'I',
};

/* What could not be done. 'X' carries the last five, 'F' all but the last three. */
enum stage {
    STAGE_NONE = 0,   /* no failure; never sent */
    STAGE_SPEC = 1,   /* the spec cannot be read or contradicts itself; EINVAL, EFBIG or the read's errno */
    STAGE_USER = 2,   /* ENOENT no such user; EINVAL no valid id, or one that the guest does not map; ELOOP, EFBIG,
                         EINVAL (no regular file) or another errno of /etc/passwd when a name had to be looked up */
    STAGE_GROUPS = 3, /* the same of /etc/group; E2BIG: more than GROUPS_MAX groups */
    STAGE_CWD = 4,    /* errno of chdir into the cwd that the spec gives */
    STAGE_EXEC = 5,   /* errno of execve: ENOENT, EACCES, ENOEXEC, E2BIG, ... */
    STAGE_TTY = 6,    /* 'X': the guest has no devpts at /dev/pts, or none to spare in it; 'F': 6 is no terminal, or
                         another session's */
    STAGE_FDS = 7,    /* a descriptor is missing, or those in excess cannot be closed */
    STAGE_CGROUP = 8, /* errno of clone3 into the cgroup; ENOENT, ENODEV: it has been removed */
    STAGE_ATTACH = 9, /* errno of execve of lxc-attach, or of giving it a session keyring; ELIBACC: no liblxc */
    STAGE_ROOT = 10,  /* of entering mounts, or the root file system in them; ENOTDIR: nothing is mounted there */
};

enum { LAUNCH_FAILED = 127 };

/* Sends one message without a body. Whoever lost the supervisor learns it from the next receive. */
void send_message(enum message message);

/* Sends 'H', and with it a descriptor unless that is -1. */
void send_host(int fd);

/* Sends `message` with the stage and errno. */
void send_failure(enum message message, enum stage stage);

/* The same, then exits with LAUNCH_FAILED. */
_Noreturn void fail(enum message message, enum stage stage);

#endif
