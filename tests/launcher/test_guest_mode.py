"""Guest mode: what the command finds when it starts, and what is told of one that does not."""

import ctypes
import errno
import json
import os
import pty
import resource
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.launcher import harness
from tests.launcher.harness import PATH, build_spec, run, start

_RT_SIGACTION, _RT_SIGPROCMASK = (13, 14) if os.uname().machine == "x86_64" else (134, 135)
PROBE = """
import json, os, resource, sys
print(json.dumps({
    "argv": [os.fsencode(a).hex() for a in sys.argv[1:]],
    "fds": [fd for fd in range(2048) if os.path.exists(f"/proc/self/fd/{fd}")],
    "session": os.getsid(0) == os.getpid(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "stack": resource.getrlimit(resource.RLIMIT_STACK),
}))
"""


def test_gives_the_command_three_descriptors_and_a_session() -> None:
    """Nothing but 0, 1 and 2 is open in the command, whatever lxc-attach left open, and it leads a session."""

    def leak() -> None:
        for number in (7, 8, 30, 1000):
            os.dup2(0, number)

    spec = build_spec([sys.executable, "-I", "-S", "-c", PROBE])
    answer = json.loads(run(spec, prepare=leak).stdout)
    assert answer["fds"] == [0, 1, 2]
    assert answer["session"]


def test_sets_limits_as_the_init_has_them() -> None:
    """Files are 1024 soft and 524288 hard at most, cores 0, the rest as pid 1's, as far as it may raise them."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))

    spec = build_spec([sys.executable, "-I", "-S", "-c", PROBE])
    answer = json.loads(run(spec, prepare=lower).stdout)
    assert answer["files"][0] == 1024
    assert answer["files"][1] in (4096, min(524288, resource.prlimit(1, resource.RLIMIT_NOFILE)[1]))
    assert answer["core"] == 0
    assert answer["stack"] == list(resource.prlimit(1, resource.RLIMIT_STACK))


def test_resets_signals_umask_and_lets_privileges_rise() -> None:
    """Every signal that was ignored or blocked, 32 and 33 included, is default again; umask 022; no no_new_privs."""

    def spoil() -> None:
        libc = ctypes.CDLL(None)
        ignore = (ctypes.c_ulong * 8)(1)
        for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP}:
            assert libc.syscall(_RT_SIGACTION, number, ignore, None, 8) == 0
        assert libc.syscall(_RT_SIGPROCMASK, signal.SIG_BLOCK, ctypes.byref(ctypes.c_ulong(2**64 - 1)), None, 8) == 0
        os.umask(0o77)

    ended = run(build_spec(["cat", "/proc/self/status"]), prepare=spoil)
    status = dict(line.split(":\t", 1) for line in ended.stdout.decode().splitlines())
    assert {status[name] for name in ("SigIgn", "SigBlk", "SigCgt")} == {"0" * 16}
    assert status["Umask"] == "0022"
    assert status["NoNewPrivs"] == "0"


def test_gives_the_environment_of_the_spec_and_the_account(root: Path) -> None:
    """The command's environment is the spec's, in order, and the account's where the spec is silent; no other."""
    ended = run(build_spec(["env"], ["PATH=/bin", "LD_PRELOAD=/x.so", "USER=", "A=b=c"]), root=root)
    assert ended.stdout.decode().splitlines() == [
        "PATH=/bin", "LD_PRELOAD=/x.so", "USER=", "A=b=c", "HOME=/root", "LOGNAME=root", "SHELL=/bin/sh",
    ]  # fmt: skip


def test_passes_arguments_byte_for_byte() -> None:
    """Empty, spaced, quoted, shell-active, non-UTF-8 and 100 KiB arguments arrive as they were sent."""
    argv = [
        b"",
        b" ",
        b"a b",
        b'"',
        b"'",
        b"\n",
        b"*",
        b"$(id)",
        b"--",
        b"-x",
        bytes(range(1, 256)),
        b"x" * 100_000,
    ]
    spec = build_spec([sys.executable, "-I", "-S", "-c", PROBE, *argv], [PATH, "LC_ALL=C.UTF-8"])
    assert json.loads(run(spec).stdout)["argv"] == [word.hex() for word in argv]


@pytest.mark.parametrize("code", [0, 1, 2, 124, 125, 126, 127, 128, 137, 143, 255])
def test_passes_the_exit_code(root: Path, code: int) -> None:
    """A command's own exit code is never taken for a failed spawn."""
    ended = run(build_spec(["/bin/sh", "-c", f"exit {code}"]), root=root)
    assert (ended.last.kind, ended.code) == ("R", code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGPIPE, signal.SIGSEGV])
def test_passes_the_signal(root: Path, number: int) -> None:
    """A command that dies of a signal is seen to."""
    assert run(build_spec(["/bin/sh", "-c", f"kill -{number} $$"]), root=root).code == -number


def test_keeps_the_streams_apart(root: Path) -> None:
    """The command's two outputs arrive byte for byte, and nothing arrives where lxc-attach's own words do."""
    ended = run(build_spec(["sh", "-c", r"printf 'o\0\r'; printf 'e\377' >&2"], ["PATH=/bin"]), root=root)
    assert (ended.stdout, ended.stderr, ended.attach_stderr) == (b"o\0\r", b"e\xff", b"")


def spoil_programs(root: Path) -> None:
    """Programs that cannot be run, each for its own reason."""
    (root / "bin/plain").write_text("no program\n")
    (root / "bin/headless").write_text("touch /ran\n")
    (root / "bin/headless").chmod(0o755)
    (root / "bin/orphan").write_text("#!/no/such/interpreter\n")
    (root / "bin/orphan").chmod(0o755)


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("/bin/missing", errno.ENOENT),
        ("missing", errno.ENOENT),
        ("", errno.ENOENT),
        ("/bin/true/x", errno.ENOTDIR),
        ("/bin/plain", errno.EACCES),
        ("plain", errno.EACCES),
        ("/bin", errno.EACCES),
        ("/bin/headless", errno.ENOEXEC),
        ("headless", errno.ENOEXEC),
        ("/bin/orphan", errno.ENOENT),
        ("x" * 300, errno.ENAMETOOLONG),
        ("x" * 5000, errno.ENOENT),
    ],
)
def test_tells_why_a_program_does_not_run(root: Path, program: str, error: int) -> None:
    """The errno of execve is told, a script without a first line is not handed to /bin/sh, both outputs stay empty."""
    spoil_programs(root)
    ended = run(build_spec([program], ["PATH=/bin:/sbin"]), root=root)
    assert ended.failure == ("exec", error)
    assert (ended.code, ended.stdout, ended.stderr, ended.attach_stderr) == (127, b"", b"", b"")
    assert not (root / "ran").exists()


def test_searches_the_path_of_the_spec(root: Path) -> None:
    """The first runnable one along PATH is taken, past one that is not; an empty part is the cwd."""
    spoil_programs(root)
    for folder in ("one", "two"):
        (root / folder).mkdir()
        (root / folder / "pick").write_text(f"#!/bin/sh\necho {folder}\n")
    (root / "two/pick").chmod(0o755)

    def pick(*env: str, cwd: str = "/") -> harness.Ended:
        return run(build_spec(["pick"], env, cwd=cwd), root=root)

    assert pick("PATH=/none:/bin/true:/one:/two").stdout == b"two\n"
    assert pick("PATH=/one").failure == ("exec", errno.EACCES)
    for path in (":/none", "/none:", "/none::/one", ""):
        assert pick(f"PATH={path}", cwd="/two").stdout == b"two\n", path
    assert pick("PATH=/none", "PATH=/two").failure == ("exec", errno.ENOENT)
    assert pick().failure == ("exec", errno.ENOENT)


def test_enters_the_folder_as_the_user(root: Path) -> None:
    """A cwd that is given is entered, from / on, or is the error; without one it is the home, or / where that is
    closed."""
    (root / "root").chmod(0o700)

    def where(cwd: str, user: str = "") -> harness.Ended:
        return run(build_spec(["pwd"], ["PATH=/bin"], cwd=cwd, user=user), root=root, prepare=lambda: os.chdir("/bin"))

    assert where("/srv").stdout == b"/srv\n"
    assert where("srv/./").stdout == b"/srv\n"
    assert where("").stdout == b"/root\n"
    assert where("", "www-data").stdout == b"/srv/www\n"
    assert where("", "maker").stdout == b"/\n"
    assert where("/missing").failure == ("cwd", errno.ENOENT)
    assert where("/bin/sh").failure == ("cwd", errno.ENOTDIR)
    assert where("/root", "www-data").failure == ("cwd", errno.EACCES)


def test_needs_nothing_of_the_guest(tmp_path: Path) -> None:
    """In a root with no file but the program, as any number, it runs."""
    (tmp_path / "true").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "true").chmod(0o755)
    tmp_path.chmod(0o755)
    assert run(build_spec(["/true"], [], user="4711:4712"), root=tmp_path).code == 0


@pytest.mark.parametrize("answer", [None, b"X", b"R", b""], ids=["EOF", "X", "R", "empty"])
def test_runs_nothing_without_go(root: Path, answer: bytes | None) -> None:
    """A supervisor that dies, or says anything but 'G', leaves no command behind."""
    launch = start(build_spec(["/bin/touch", "/ran"]), root=root)
    assert launch.receive().kind == "R"
    if answer is None:
        launch.status.shutdown(socket.SHUT_RDWR)
    else:
        launch.status.send(answer)
    ended = harness.finish(launch)
    assert ended.code == 127
    assert not (root / "ran").exists()


def test_names_the_process_that_becomes_the_command(root: Path) -> None:
    """The sender of 'R' is the pid that the command then has."""
    launch = start(build_spec(["/bin/sh", "-c", "echo $$"]), root=root)
    ready = launch.receive()
    launch.go()
    ended = harness.finish(launch)
    assert (ready.sender, int(ended.stdout)) == (launch.pid, launch.pid)


def test_gives_a_terminal() -> None:
    """With SPEC_TTY the pty is the command's controlling terminal and its 0, 1 and 2."""
    master, slave = map(harness.high, pty.openpty())
    script = "test -t 0 && test -t 1 && test -t 2 && echo fine > /dev/tty"
    launch = start(build_spec(["sh", "-c", script], flags=harness.TTY), terminal=slave)
    assert launch.receive().kind == "R"
    launch.go()
    ended = harness.finish(launch)
    assert (ended.code, os.read(master, 100)) == (0, b"fine\r\n")
    os.close(slave)
    os.close(master)


def test_tells_of_a_terminal_that_is_none(root: Path) -> None:
    """SPEC_TTY with a pipe is a failure of stage `tty`."""
    assert run(build_spec(["/bin/true"], flags=harness.TTY), root=root).failure == ("tty", errno.ENOTTY)
