/* The launcher: runs on the host between the supervisor and lxc-attach, then in the guest between lxc-attach and the
 * command. Linked statically, it needs nothing of either side. protocol.h is its contract.
 *
 *   launcher nursery   on the host: starts launches, each in host mode
 *   launcher           guest mode
 */
#include <string.h>

#include "guest.h"
#include "nursery.h"

enum { USAGE = 2 };

int main(int argc, char **argv)
{
    if (argc == 1)
        launch_in_guest();
    if (argc == 2 && strcmp(argv[1], "nursery") == 0)
        keep_nursery();
    return USAGE;
}
