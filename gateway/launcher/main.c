/* The launcher: runs on the host between the supervisor and lxc-attach, then in the guest between lxc-attach and the
 * command. Linked statically, it needs nothing of either side. protocol.h is its contract.
 *
 *   launcher host own EXE ARG...     host mode; the exec has a cgroup of its own, on descriptor 7
 *   launcher host guest EXE ARG...   host mode; EXE itself finds the guest's place
 *   launcher                         guest mode
 */
#include <string.h>
#include <unistd.h>

#include "guest.h"
#include "host.h"

enum { USAGE = 2 };

int main(int argc, char **argv)
{
    if (argc == 1)
        launch_in_guest();
    if (argc < 4 || strcmp(argv[1], "host") != 0)
        return USAGE;
    if (strcmp(argv[2], "own") == 0)
        launch_on_host(true, argv + 3);
    if (strcmp(argv[2], "guest") == 0)
        launch_on_host(false, argv + 3);
    return USAGE;
}
