/* The launcher: runs on the host between the supervisor and lxc-attach, then in the guest between lxc-attach and the
 * command. Linked statically, it needs nothing of either side. protocol.h is its contract.
 *
 *   launcher host own EXE ARG0 ARG...     host mode; the exec has a cgroup of its own, on descriptor 7
 *   launcher host guest EXE ARG0 ARG...   host mode; EXE itself finds the guest's place
 *   launcher                              guest mode
 *
 * EXE is the file and ARG0 the name it is given: of a file that is /proc/self/fd/8, ps(1) shows the name.
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
    if (argc < 5 || strcmp(argv[1], "host") != 0)
        return USAGE;
    if (strcmp(argv[2], "own") == 0)
        launch_on_host(true, argv[3], argv + 4);
    if (strcmp(argv[2], "guest") == 0)
        launch_on_host(false, argv[3], argv + 4);
    return USAGE;
}
