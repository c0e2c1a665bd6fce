/* Guest mode: inside the guest, as its root, between lxc-attach and the command. */
#ifndef LAUNCHER_GUEST_H
#define LAUNCHER_GUEST_H

_Noreturn void launch_in_guest(void);

#endif
