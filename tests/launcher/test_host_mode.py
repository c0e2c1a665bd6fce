"""The nursery and host mode: the process that becomes lxc-attach, with other programs in its place."""

import ctypes
import errno
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher import harness
from tests.launcher.harness import LAUNCHER, NURSERY, Nursery, bear, finish, lxc_library

_KEYCTL = 250 if os.uname().machine == "x86_64" else 219
_JOIN_SESSION_KEYRING, _SESSION_KEYRING = 1, -3
_CLONE_NEWNS = 0x20000


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


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """One that ends with the test, without a word."""
    started = Nursery.start()
    yield started
    assert started.end() == 0


def run(nursery: Nursery, program: str, *arguments: str) -> harness.Ended:
    """Runs a program in lxc-attach's place, by its path and with no cgroup of its own."""
    return finish(bear(nursery, [program, program, *arguments]))


def test_is_born_in_the_cgroup(nursery: Nursery, cgroup: Path) -> None:
    """The process is a child of ours, not the nursery's, and in the cgroup from birth."""
    fd = harness.high(os.open(cgroup, os.O_PATH | os.O_DIRECTORY))
    script = "cat /proc/self/cgroup; echo $PPID"
    launch = bear(nursery, ["/bin/sh", "sh", "-c", script], cgroup=fd)
    os.close(fd)
    ended = finish(launch)
    assert (ended.last.kind, ended.code) == ("H", 0)
    *_, place, parent = ended.stdout.decode().splitlines()
    assert place.endswith(f"/{cgroup.name}")
    assert int(parent) == os.getpid()


def test_tells_of_a_cgroup_that_is_gone(nursery: Nursery, cgroup: Path) -> None:
    """A cgroup that was removed since it was opened is told in stage `cgroup`: the guest stopped. Others go on."""
    fd = harness.high(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
    cgroup.rmdir()
    launch = bear(nursery, ["/bin/true", "true"], cgroup=fd)
    os.close(fd)
    said = launch.receive()
    assert (said.kind, said.sender, said.stage) == ("X", nursery.pid, "cgroup")
    assert said.errno in (errno.ENOENT, errno.ENODEV)
    assert launch.receive().kind == ""  # it holds nothing of the launch any more
    launch.close()
    assert run(nursery, "/bin/true").code == 0


def test_names_itself_before_it_becomes_the_program(nursery: Nursery) -> None:
    """'H' comes from the pid that the program then has."""
    ended = run(nursery, "/bin/sh", "-c", "echo $$")
    assert (ended.last.kind, ended.last.sender) == ("H", int(ended.stdout))


def test_gives_a_fixed_environment(nursery: Nursery) -> None:
    """The program's environment has two variables, none of them the supervisor's."""
    ended = run(nursery, "/usr/bin/env")
    assert sorted(ended.stdout.splitlines()) == [b"LC_ALL=C.UTF-8", b"PATH=/usr/sbin:/usr/bin:/sbin:/bin"]


@pytest.mark.parametrize("own", [False, True], ids=["guest", "own"])
def test_lets_no_descriptor_through(cgroup: Path, own: bool) -> None:
    """The program holds 0 to 6: not the cgroup, not its own file, not the nursery's socket, and nothing that leaked out
    of the supervisor."""

    def leak() -> None:
        for number in (0, 7, 9, 10, 40, 1000):
            os.dup2(harness.REQUESTS, number, inheritable=True)

    nursery = Nursery.start(leak)
    fd = harness.high(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
    words = [harness.ATTACH, "sh", "-c", "exec /bin/ls /proc/$$/fd"]  # which it opens as 7
    ended = finish(bear(nursery, words, cgroup=fd if own else None, attach=Path("/bin/busybox").read_bytes()))
    os.close(fd)
    assert sorted(map(int, ended.stdout.split())) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert nursery.end() == 0


@pytest.mark.parametrize("program", ["/bin/busybox", harness.ATTACH])
def test_gives_the_program_its_name(nursery: Nursery, program: str) -> None:
    """ARG0 is argv[0], whatever the file is called; the file may be a sealed memfd, and is executed as that."""
    script = "readlink /proc/$$/exe; tr '\\0' ' ' < /proc/$$/cmdline; exit 3"
    ended = finish(bear(nursery, [program, "sh", "-c", script], attach=Path("/bin/busybox").read_bytes()))
    exe = "/memfd:attach (deleted)" if program == harness.ATTACH else Path(program).resolve()
    assert ended.code == 3
    assert ended.stdout.decode().startswith(f"{exe}\nsh -c ")


@pytest.mark.parametrize(("program", "error"), [("/no/such/lxc-attach", errno.ENOENT), (harness.ATTACH, errno.ENOEXEC)])
def test_tells_of_a_program_that_is_none(nursery: Nursery, program: str, error: int) -> None:
    """An lxc-attach that is not there, or is no program, is told in stage `attach`."""
    ended = run(nursery, program)
    assert ended.failure == ("attach", error)
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
    nursery = Nursery.start(spoil)
    ended = run(nursery, "/bin/sh", "-c", script)
    assert nursery.end() == 0
    *status, nice, oom_score_adj, pid = ended.stdout.decode().splitlines()
    values = dict(line.split(":\t") for line in status)
    assert {values["SigIgn"], values["SigBlk"]} == {"0" * 16}
    assert values["NoNewPrivs"] == "0"
    assert values["NSsid"].split("\t")[0] == pid
    assert (nice, oom_score_adj) == ("0", "0")


def test_leaves_the_supervisors_keyring() -> None:
    """The program has a session keyring of its own, so that no two guests and the host share one."""

    told_r, told_w = os.pipe()

    def join() -> None:
        keyring = ctypes.CDLL(None).syscall(_KEYCTL, _JOIN_SESSION_KEYRING, None)
        os.write(told_w, str(keyring).encode())

    script = f"import ctypes; print(ctypes.CDLL(None).syscall({_KEYCTL}, 0, {_SESSION_KEYRING}, 0))"
    nursery = Nursery.start(join)
    keyrings = [int(run(nursery, sys.executable, "-I", "-S", "-c", script).stdout) for _ in range(2)]
    keyrings.append(int(os.read(told_r, 20)))
    assert nursery.end() == 0
    os.close(told_r)
    os.close(told_w)
    assert min(keyrings) > 0
    assert len(set(keyrings)) == 3


def test_opens_the_pipes_to_the_user(nursery: Nursery) -> None:
    """The command's pipes may be reopened by any user who holds them; lxc-attach's own may not."""
    ended = run(nursery, "/bin/sh", "-c", "stat -Lc %a /proc/$$/fd/1 /proc/$$/fd/2 /proc/$$/fd/6")
    assert ended.stdout.split() == [b"666", b"600", b"666"]


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (b"\0/bin/true\0true\0", 8),
        (b"\0/bin/true\0true\0", 10),
        (b"\0/bin/true\0true\0", 250),
        (b"\0/bin/true\0true\0", 0),
        (b"\0/bin/true\0true", 9),
        (b"\0/bin/true\0", 9),
        (b"\0", 9),
        (b"\0/bin/true\0true\0" + b"x\0" * 4096, 9),
    ],
)
def test_forgets_what_is_no_request(nursery: Nursery, request_: bytes, count: int) -> None:
    """Nothing runs, all descriptors that came are closed, and the next request is served."""
    reading, writing = os.pipe()
    socket.send_fds(nursery.requests, [request_], [writing] * count)
    os.close(writing)
    assert os.read(reading, 1) == b""  # the end: nobody holds it any more
    os.close(reading)
    assert run(nursery, "/bin/true").code == 0
    assert sorted(os.listdir(f"/proc/{nursery.pid}/fd")) == list("0123456789")


def test_keeps_nothing_of_a_launch(nursery: Nursery) -> None:
    """After a hundred launches the nursery holds what it held before, has no children, and is a process of its own
    session without a name of ours in its environment."""
    run(nursery, "/bin/true")
    place = Path(f"/proc/{nursery.pid}")
    before = {name: os.readlink(place / "fd" / name) for name in os.listdir(place / "fd")}
    assert {run(nursery, "/bin/true").code for _ in range(100)} == {0}
    assert {name: os.readlink(place / "fd" / name) for name in os.listdir(place / "fd")} == before
    assert set(before.values()) == {before["9"]}  # its socket, which is also where nothing else may be
    assert (place / f"task/{nursery.pid}/children").read_text() == ""
    assert os.getsid(nursery.pid) == nursery.pid


@pytest.mark.parametrize("argv", [[LAUNCHER, "nursery"], [LAUNCHER, "x"], [NURSERY, "check", "x"], [NURSERY, "x"]])
def test_refuses_other_words(argv: list[str]) -> None:
    """A mode that it does not know is exit code 2."""
    assert subprocess.run(argv, check=False).returncode == 2


def test_says_which_lxc_it_has() -> None:
    """The version of the library, which is lxc-attach's own; where it has none, why, with exit code 1."""
    told = subprocess.run([NURSERY, "check"], capture_output=True, check=False)
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout == subprocess.run(["lxc-attach", "--version"], capture_output=True, check=True).stdout
    hidden = f"mount --bind /dev/null {lxc_library()} && exec {shlex.quote(str(NURSERY))} check"
    told = subprocess.run(["unshare", "-m", "sh", "-c", hidden], capture_output=True, check=False)
    assert (told.returncode, told.stdout) == (1, b"")
    assert b"liblxc.so.1" in told.stderr


def test_tells_of_a_library_that_cannot_be_loaded() -> None:
    """Stage `attach`, and why in words; other requests are served. Once it is there, it is used."""
    nursery = Nursery.start(lambda: in_mounts_of_its_own(f"mount --bind /dev/null {lxc_library()}"))
    ended = finish(bear(nursery, ["/var/lib/lxc", "999"], library=True))
    assert ended.failure == ("attach", errno.ELIBACC)
    assert b"liblxc.so.1" in ended.attach_stderr
    assert run(nursery, "/bin/true").code == 0
    subprocess.run(["nsenter", "-m", "-t", str(nursery.pid), "umount", lxc_library()], check=True)
    ended = finish(bear(nursery, ["/var/lib/lxc", "999"], library=True))
    assert b"Failed to get init pid" in ended.attach_stderr
    assert nursery.end() == 0


def test_loads_an_upgraded_library(tmp_path: Path) -> None:
    """The first launch after an upgrade of LXC goes by the new library, and requests that wait meanwhile are served,
    even if a guest's root has taken the nursery's image the right to run. It is still the same process."""
    new = shutil.copy(lxc_library(), tmp_path / "liblxc.so.1")
    nursery = Nursery.start(lambda: in_mounts_of_its_own("true"))
    assert run(nursery, "/bin/true").code == 0
    os.chmod(f"/proc/{nursery.pid}/exe", 0)
    os.kill(nursery.pid, signal.SIGSTOP)
    waiting = [bear(nursery, ["/var/lib/lxc", "999"], library=True) for _ in range(20)]
    subprocess.run(["nsenter", "-m", "-t", str(nursery.pid), "mount", "--bind", new, lxc_library()], check=True)
    os.kill(nursery.pid, signal.SIGCONT)
    assert all(b"Failed to get init pid" in finish(launch).attach_stderr for launch in waiting)
    loaded = Path(f"/proc/{nursery.pid}/map_files").iterdir()
    assert os.stat(new).st_ino in {path.stat().st_ino for path in loaded}
    assert Path(f"/proc/{nursery.pid}/comm").read_text() == "pveg-nursery\n"
    assert nursery.end() == 0


def in_mounts_of_its_own(script: str) -> None:
    """Gives this process mounts of its own, and changes them by a script."""
    assert ctypes.CDLL(None).unshare(_CLONE_NEWNS) == 0
    assert os.system(f"mount --make-rprivate / && {script}") == 0
