/* Owns ptys: opening one in the guest's devpts without trusting the guest's files, and taking it over. */
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#include "protocol.h"

enum { PTMX_MAJOR = 5, PTMX_MINOR = 2 }; /* Documentation/admin-guide/devices.txt */
enum { SLAVE_MODE = 0620 };              /* as login(1) leaves it: messages by the group tty */

/* Whatever stands at that place in the guest is looked at before it is opened: nothing but a devpts has this inode, and
 * nobody can make another there. */
static int find_multiplexer(int guest, struct stat *status)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    struct statfs file_system;
    int root = openat(guest, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return -1;
    int found = (int)syscall(SYS_openat2, root, "dev/pts/ptmx", &how, sizeof how);
    close(root);
    if (found < 0 || fstatfs(found, &file_system) || fstat(found, status))
        return -1;
    errno = ENODEV;
    if (file_system.f_type != DEVPTS_SUPER_MAGIC || !S_ISCHR(status->st_mode) ||
        status->st_rdev != makedev(PTMX_MAJOR, PTMX_MINOR))
        return -1;
    return found;
}

int open_terminal(void)
{
    struct stat multiplexer, own;
    struct termios modes;
    int unlocked = 0;
    int found = find_multiplexer(FD_TERMINAL, &multiplexer);
    if (found < 0 || dup2(found, FD_TERMINAL) < 0)
        return -1;
    close(found);
    int master = open("/proc/self/fd/6", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked))
        return -1;
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    /* Rubbing out takes a whole character, as every terminal emulator has it. */
    if (slave < 0 || tcgetattr(slave, &modes))
        return -1;
    modes.c_iflag |= IUTF8;
    /* The host's root made it, whom an unprivileged guest does not map; the multiplexer belongs to the guest's root. The
     * group is the mount's (gid=5, as a rule), or else the host's root's, too. */
    if (tcsetattr(slave, TCSANOW, &modes) || fstat(slave, &own) ||
        fchown(slave, multiplexer.st_uid, own.st_gid ? own.st_gid : multiplexer.st_gid) ||
        dup2(slave, FD_TERMINAL) < 0)
        return -1;
    close(slave);
    return master;
}

int take_terminal(uid_t uid)
{
    if (ioctl(FD_TERMINAL, TIOCSCTTY, 0) || fchown(FD_TERMINAL, uid, -1) || fchmod(FD_TERMINAL, SLAVE_MODE) ||
        dup2(FD_TERMINAL, FD_STDIN) < 0 || dup2(FD_TERMINAL, FD_STDOUT) < 0)
        return -1;
    return 0;
}
