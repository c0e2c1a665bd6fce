/* Owns guest mode: from a spec to the command, or to file mode, with one handshake between. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "process.h"
#include "protocol.h"
#include "spec.h"
#include "terminal.h"
#include "users.h"

/* Why a guest's root who traces this process gains nothing: it runs in the guest's namespaces with the guest's
 * capabilities, and holds besides the command's own streams a spec and a program that are sealed, and a socket on
 * which the supervisor believes nothing (protocol.h). PR_SET_DUMPABLE would not stop that root; others in the guest are
 * stopped by the kernel, which clears the flag itself when the uid changes, until execve sets it again. */

static void load_spec(struct spec *spec)
{
    struct stat status;
    if (fstat(FD_SPEC, &status))
        fail(MESSAGE_FAILED, STAGE_SPEC);
    errno = EFBIG;
    if (status.st_size > SPEC_MAX)
        fail(MESSAGE_FAILED, STAGE_SPEC);
    size_t size = (size_t)status.st_size, done = 0;
    char *bytes = malloc(size + 1);
    if (!bytes)
        fail(MESSAGE_FAILED, STAGE_SPEC);
    while (done < size) {
        ssize_t got = pread(FD_SPEC, bytes + done, size - done, (off_t)done);
        if (got > 0)
            done += (size_t)got;
        else if (got == 0)
            size = done; /* cut short since: what is left is no spec */
        else if (errno != EINTR)
            fail(MESSAGE_FAILED, STAGE_SPEC);
    }
    if (!parse_spec(bytes, size, spec))
        fail(MESSAGE_FAILED, STAGE_SPEC);
}

/* One that does not begin with a slash is taken from the guest's root: whatever directory we began in is nobody's. */
static void enter_folder(const struct spec *spec, const char *home)
{
    if (*spec->cwd ? chdir("/") || chdir(spec->cwd) : chdir(home) && chdir("/"))
        fail(MESSAGE_FAILED, STAGE_CWD);
}

static void add_account_variables(struct spec *spec, const struct account *account)
{
    if (!default_variable(spec, "HOME", account->home) || !default_variable(spec, "USER", account->name) ||
        !default_variable(spec, "LOGNAME", account->name) || !default_variable(spec, "SHELL", account->shell))
        fail(MESSAGE_FAILED, STAGE_SPEC);
}

/* Waits for 'G'. The supervisor sends it when lxc-attach is gone, so that this process is the supervisor's own child and
 * its wait status the command's. Without it nothing runs: a supervisor that died never leaves a command behind. */
static void await_go(void)
{
    unsigned char message = 0;
    ssize_t got;
    while ((got = recv(FD_STATUS, &message, 1, 0)) < 0 && errno == EINTR)
        ;
    if (got != 1 || message != MESSAGE_GO)
        _exit(LAUNCH_FAILED);
}

_Noreturn void launch_in_guest(void)
{
    struct spec spec;
    static struct identity who;

    if (fcntl(FD_STATUS, F_SETFD, FD_CLOEXEC) || !close_unknown(0))
        fail(MESSAGE_FAILED, STAGE_FDS);
    load_spec(&spec);
    enum stage failed = resolve_identity(spec.user, &who);
    if (failed)
        fail(MESSAGE_FAILED, failed);
    add_account_variables(&spec, &who.account);

    reset_signals();
    umask(022);
    setsid(); /* fails only where this leads a session already */
    if ((spec.flags & SPEC_TTY) && take_terminal(who.account.uid))
        fail(MESSAGE_FAILED, STAGE_TTY);
    take_init_limits();
    open_pipes_to_all(); /* again, for lxc-attach makes them 0700 where it can: so can we */
    if ((failed = assume_identity(&who)))
        fail(MESSAGE_FAILED, failed);
    enter_folder(&spec, who.account.home);
    close(FD_SPEC);
    close(FD_PROGRAM);

    send_message(MESSAGE_READY);
    await_go();
    if (spec.flags & SPEC_FILES) {
        close(FD_STATUS); /* says that it runs */
        close(FD_COMMAND_STDERR);
        serve_files(spec.flags & SPEC_FILES_WRITE);
    }
    if (dup2(FD_COMMAND_STDERR, FD_STDERR) < 0)
        fail(MESSAGE_FAILED, STAGE_FDS);
    close(FD_COMMAND_STDERR);
    execute(spec.argv, spec.env, spec_variable(&spec, "PATH"));
    fail(MESSAGE_FAILED, STAGE_EXEC);
}
