/* Terminals: a pty of the guest's own devpts, made on the host, given to the command in the guest. */
#ifndef LAUNCHER_TERMINAL_H
#define LAUNCHER_TERMINAL_H

#include <sys/types.h>

/* Host mode: puts the slave of a new pty in the place of FD_TERMINAL, which is the guest's /proc/PID on entry. The pty
 * belongs to the guest's root. Gives back the master, non-blocking; -1 with errno. A guest's root can make the look-up
 * hang, in its own file systems; this process can be killed then. */
int open_terminal(void);

/* Guest mode: makes FD_TERMINAL the controlling terminal of this session and the process's 0 and 1, and gives it to
 * `uid`, as login(1) does, so that it can be opened again by its name. -1 with errno. */
int take_terminal(uid_t uid);

#endif
