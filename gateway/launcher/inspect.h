/* Inspection: questions about a guest's files, answered from inside its namespaces and by no program of it. */
#ifndef LAUNCHER_INSPECT_H
#define LAUNCHER_INSPECT_H

/* Enters the guest whose init's /proc/PID is FD_TERMINAL, answers all `questions` on the status socket, and ends. What
 * they are, protocol.h says. A guest's root can make it hang, in its own file systems; it can be killed then. */
_Noreturn void inspect_guest(char *const *questions);

#endif
