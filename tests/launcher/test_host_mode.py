"""Host mode: the process that becomes lxc-attach, with other programs in its place."""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher import harness
from tests.launcher.harness import finish, start

_KEYCTL = 250 if os.uname().machine == "x86_64" else 219
_JOIN_SESSION_KEYRING, _SESSION_KEYRING = 1, -3


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2":
            return Path(words[1])
    raise AssertionError("this machine has no cgroup v2")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A fresh cgroup."""
    path = cgroup_root() / f"launcher-test-{os.getpid()}"
    path.mkdir()
    yield path
    if path.exists():
        harness.remove_cgroup(path)


def host_argv(mode: str, *command: str) -> list[str]:
    """Host mode's own argv for a program that is called by its path."""
    return ["launcher", "host", mode, command[0], *command]


def launch_guest_placed(*command: str) -> harness.Ended:
    """Runs `command` in lxc-attach's place, with no cgroup of its own."""
    return finish(start(host_argv("guest", *command), b"spec"))


def test_is_born_in_the_cgroup(cgroup: Path) -> None:
    """In mode `own` a second process, child of ours, is in the cgroup from birth; the spawned one exits 0."""
    fd = harness.high(os.open(cgroup, os.O_PATH | os.O_DIRECTORY))
    launch = start(host_argv("own", "/bin/cat", "/proc/self/cgroup"), b"spec", cgroup=fd)
    os.close(fd)
    said = launch.receive()
    assert said.kind == "H"
    assert said.sender != launch.pid
    assert os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1]) == 0
    ended = finish(launch, said.sender)
    assert ended.code == 0
    assert ended.stdout.decode().rstrip().endswith(f"/{cgroup.name}")


def test_tells_of_a_cgroup_that_is_gone(cgroup: Path) -> None:
    """A cgroup that was removed since it was opened is told in stage `cgroup`: the guest stopped."""
    fd = harness.high(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
    cgroup.rmdir()
    launch = start(host_argv("own", "/bin/true"), b"spec", cgroup=fd)
    os.close(fd)
    ended = finish(launch)
    assert ended.failure in {("cgroup", errno.ENOENT), ("cgroup", errno.ENODEV)}
    assert ended.code == 127


def test_names_itself_before_it_becomes_the_program() -> None:
    """In mode `guest` 'H' comes from the spawned pid itself."""
    launch = start(host_argv("guest", "/bin/sh", "-c", "echo $$"), b"spec")
    said = launch.receive()
    ended = finish(launch)
    assert (said.kind, said.sender, int(ended.stdout)) == ("H", launch.pid, launch.pid)


def test_gives_a_fixed_environment() -> None:
    """The program's environment has two variables, none of them the supervisor's."""
    ended = launch_guest_placed("/usr/bin/env")
    assert sorted(ended.stdout.splitlines()) == [b"LC_ALL=C.UTF-8", b"PATH=/usr/sbin:/usr/bin:/sbin:/bin"]


@pytest.mark.parametrize("sealed", [False, True], ids=["path", "memfd"])
@pytest.mark.parametrize("mode", ["own", "guest"])
def test_lets_no_descriptor_through(cgroup: Path, mode: str, sealed: bool) -> None:
    """The program holds 0 to 6: not the cgroup, not its own file, and nothing that leaked out of the supervisor."""
    fd = harness.high(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))

    def leak() -> None:
        for number in (9, 40, 1000) if sealed else (8, 9, 40, 1000):
            os.dup2(0, number, inheritable=True)

    program = harness.ATTACH if sealed else "/bin/busybox"
    argv = ["launcher", "host", mode, program, "sh", "-c", "exec /bin/ls /proc/$$/fd"]  # which it opens as 7
    attach = Path("/bin/busybox").read_bytes() if sealed else None
    launch = start(argv, b"spec", cgroup=fd, attach=attach, prepare=leak)
    os.close(fd)
    said = launch.receive()
    ended = finish(launch, said.sender)
    if mode == "own":
        os.waitpid(launch.pid, 0)
    assert sorted(map(int, ended.stdout.split())) == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("program", ["/bin/busybox", harness.ATTACH])
def test_gives_the_program_its_name(program: str) -> None:
    """ARG0 is argv[0], whatever the file is called; the file may be a sealed memfd, and is executed as that."""
    script = "readlink /proc/$$/exe; tr '\\0' ' ' < /proc/$$/cmdline; exit 3"
    argv = ["launcher", "host", "guest", program, "sh", "-c", script]
    ended = finish(start(argv, b"spec", attach=Path("/bin/busybox").read_bytes()))
    exe = "/memfd:attach (deleted)" if program == harness.ATTACH else Path(program).resolve()
    assert ended.code == 3
    assert ended.stdout.decode().startswith(f"{exe}\nsh -c ")


def test_tells_of_an_attach_that_is_not_there() -> None:
    """Descriptor 8 as the program without a descriptor 8 is ENOENT in stage `attach`; a stray one is no program."""
    argv = ["launcher", "host", "guest", harness.ATTACH, "lxc-attach"]
    assert finish(start(argv, b"spec")).failure == ("attach", errno.ENOENT)
    assert finish(start(argv, b"spec", attach=b"no program")).failure == ("attach", errno.ENOEXEC)


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 5, 6])
def test_refuses_a_hole(missing: int) -> None:
    """With a descriptor missing it does not start, since lxc-attach would fill the hole."""
    launch = start(host_argv("guest", "/bin/true"), b"spec", hole=missing)
    assert finish(launch).failure == ("fds", errno.EBADF)


def test_refuses_a_missing_cgroup() -> None:
    """Mode `own` without descriptor 7 does not start either."""
    assert finish(start(host_argv("own", "/bin/true"), b"spec")).failure == ("fds", errno.EBADF)


def test_tells_of_a_program_that_is_missing() -> None:
    """An lxc-attach that is not there is ENOENT in stage `attach`."""
    ended = launch_guest_placed("/no/such/lxc-attach")
    assert ended.failure == ("attach", errno.ENOENT)
    assert ended.code == 127


def test_leaves_the_supervisors_signals_and_scheduling() -> None:
    """Ignored and blocked signals, niceness and oom_score_adj are the system's defaults, and it leads a session."""

    def spoil() -> None:
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGXFSZ, 50):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, 40])
        os.nice(5)
        Path("/proc/self/oom_score_adj").write_text("500")

    script = "grep -E 'Sig(Ign|Blk)|NoNewPrivs|NSsid' /proc/self/status; nice; cat /proc/self/oom_score_adj; echo $$"
    launch = start(host_argv("guest", "/bin/sh", "-c", script), b"spec", prepare=spoil)
    ended = finish(launch)
    *status, nice, oom_score_adj, pid = ended.stdout.decode().splitlines()
    values = dict(line.split(":\t") for line in status)
    assert {values["SigIgn"], values["SigBlk"]} == {"0" * 16}
    assert values["NoNewPrivs"] == "0"
    assert values["NSsid"].split("\t")[0] == pid
    assert (nice, oom_score_adj) == ("0", "0")


def test_leaves_the_supervisors_keyring() -> None:
    """The program has a session keyring of its own, so that no two guests and the host share one."""

    def join() -> None:
        keyring = ctypes.CDLL(None).syscall(_KEYCTL, _JOIN_SESSION_KEYRING, None)
        os.write(harness.ATTACH_STDERR, str(keyring).encode())

    script = f"import ctypes; print(ctypes.CDLL(None).syscall({_KEYCTL}, 0, {_SESSION_KEYRING}, 0))"
    argv = host_argv("guest", sys.executable, "-I", "-S", "-c", script)
    ended = finish(start(argv, b"spec", prepare=join))
    theirs, ours = int(ended.stdout), int(ended.attach_stderr)
    assert theirs > 0 < ours
    assert theirs != ours


def test_opens_the_pipes_to_the_user() -> None:
    """The command's pipes may be reopened by any user who holds them; lxc-attach's own may not."""
    ended = launch_guest_placed("/bin/sh", "-c", "stat -Lc %a /proc/$$/fd/1 /proc/$$/fd/2 /proc/$$/fd/6")
    assert ended.stdout.split() == [b"666", b"600", b"666"]


@pytest.mark.parametrize(
    "argv",
    [
        ["host"],
        ["host", "own"],
        ["host", "guest", "/bin/true"],
        ["host", "else", "/bin/true", "true"],
        ["x", "guest", "/bin/true", "true"],
    ],
)
def test_refuses_other_words(argv: list[str]) -> None:
    """A mode that it does not know, or a program without a name, is exit code 2, and nothing runs."""
    ended = finish(start(["launcher", *argv], b"spec"))
    assert (ended.last.kind, ended.code, ended.stdout) == ("", 2, b"")
