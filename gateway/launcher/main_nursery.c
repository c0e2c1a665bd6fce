/* The nursery's program: runs on the node, beside the supervisor. It is linked as the node's programs are, for LXC's
 * library is the node's. protocol.h is its contract.
 *
 *   nursery            starts launches
 *   nursery check      says which LXC it has, or in words on 2 why it has none, with exit code 1
 */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "attach.h"
#include "nursery.h"

enum { USAGE = 2 };

static int check(void)
{
    const char *wrong = load_lxc();
    return dprintf(wrong ? STDERR_FILENO : STDOUT_FILENO, "%s\n", wrong ? wrong : lxc_version()) < 0 || wrong;
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        prctl(PR_SET_NAME, "pveg-nursery");
        keep_nursery();
    }
    if (argc == 2 && strcmp(argv[1], "check") == 0)
        return check();
    return USAGE;
}
