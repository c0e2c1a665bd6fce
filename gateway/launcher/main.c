/* The launcher: runs in the guest between lxc-attach and the command. Linked statically, it needs nothing of the guest.
 * protocol.h is its contract.
 */
#include "guest.h"

enum { USAGE = 2 };

int main(int argc, char **argv)
{
    (void)argv;
    if (argc == 1)
        launch_in_guest();
    return USAGE;
}
