/* The state of its process that a program expects to start with. */
#ifndef LAUNCHER_PROCESS_H
#define LAUNCHER_PROCESS_H

#include <stdbool.h>

/* Gives every signal its default action, the two that the C library keeps to itself too, and unblocks all. */
void reset_signals(void);

/* Closes every descriptor from FD_FIRST_UNKNOWN on: at once, or with CLOSE_RANGE_CLOEXEC by the next execve. False with
 * errno. */
bool close_unknown(unsigned flags);

/* Takes each limit of the guest's init (pid 1), as near as may be without CAP_SYS_RESOURCE; of files soft 1024, so that
 * select(2) works, and hard 524288 at most, as under systemd; no core by default. */
void take_init_limits(void);

/* Lets the command's user reopen its streams (`> /dev/stderr`). A pipe belongs to the host's root, whom an unprivileged
 * guest does not map: there it cannot be given away, so its mode is opened, on the host. That lets in nobody new: the
 * only way to a pipe is /proc/PID/fd of a process that holds it. */
void open_pipes_to_all(void);

/* Runs argv[0], which without a slash is searched along `path` as by execvp(3), but is never handed to /bin/sh. Returns
 * only on failure, with errno. */
void execute(char **argv, char **env, const char *path);

#endif
