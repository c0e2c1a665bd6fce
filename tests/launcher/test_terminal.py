"""Terminals in real containers of a simulated node: what a command finds there is what a local one gives."""

import errno
import hashlib
import os
import re
import select
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.launcher import harness
from tests.launcher.harness import Ended, build_spec, finish
from tests.launcher.into_guests import launched, run_in
from tests.pvesim import guests
from tests.pvesim.guests import Guest

pytestmark = pytest.mark.skipif(
    not Path("/etc/pve/.members").exists(), reason="runs inside a node of tests/pvesim, which has the containers"
)
_SECONDS = 20
ENV = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm-256color"]


class Screen:
    """Someone at a terminal: types, and reads until something is there."""

    def __init__(self, master: int) -> None:
        self.shown = b""
        self._master = master

    def type(self, text: bytes) -> None:
        """Writes it all, as fast as it is taken."""
        rest = memoryview(text)
        while rest:
            assert select.select([], [self._master], [], _SECONDS)[1], "nobody reads what is typed"
            with suppress(BlockingIOError):
                rest = rest[os.write(self._master, rest) :]

    def resize(self, rows: int, cols: int) -> None:
        termios.tcsetwinsize(self._master, (rows, cols))

    def wait_for(self, pattern: bytes) -> re.Match[bytes]:
        """Reads until `pattern` is there; forgets all up to its end."""
        deadline = time.monotonic() + _SECONDS
        while not (found := re.search(pattern, self.shown)):
            assert select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0], self.shown
            self.shown += os.read(self._master, 65536)
        self.shown = self.shown[found.end() :]
        return found

    def wait_for_foreground(self, name: str) -> None:
        """Waits until a program of this name leads the foreground: until then keys go to its parent, or are lost."""
        deadline = time.monotonic() + _SECONDS
        while Path(f"/proc/{os.tcgetpgrp(self._master)}/comm").read_text() != f"{name}\n":
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.005)

    def rest(self) -> bytes:
        """All that is still to come, to the end."""
        with suppress(OSError):  # EIO
            while select.select([self._master], [], [], _SECONDS)[0]:
                self.shown += os.read(self._master, 65536)
            raise AssertionError(f"it does not end: {self.shown!r}")
        return self.shown


class Session:
    """A command in a terminal of 24 rows and 80 columns."""

    def __init__(self, launch: harness.Launch, command: int) -> None:
        assert launch.terminal is not None
        self.screen = Screen(launch.terminal)
        self._launch = launch
        self._command = command

    def end(self) -> Ended:
        """Reads it to its end; its outcome, with what was left of the screen as its stdout."""
        rest = self.screen.rest()
        ended = finish(self._launch, self._command)
        return Ended(ended.last, ended.code, rest, b"", ended.attach_stderr)


@contextmanager
def terminal(vmid: int, argv: list[str], *, user: str = "") -> Iterator[Session]:
    """Runs `argv` in a terminal."""
    spec = build_spec(argv, ENV, user=user, flags=harness.TTY)
    with launched(vmid, spec, terminal=True) as (launch, _):
        attach = launch.receive().sender
        assert launch.terminal is not None
        termios.tcsetwinsize(launch.terminal, (24, 80))
        ready = launch.receive()
        assert ready.kind == "R", ready
        os.kill(attach, signal.SIGKILL)
        os.waitpid(attach, 0)
        launch.go()
        yield Session(launch, ready.sender)


@pytest.mark.parametrize("user", ["", "www-data", "12345:23456"])
def test_is_one_of_the_guests_own(vmid: int, user: str) -> None:
    """The command's user can name its terminal, open it again by that name and as /dev/tty, and owns it."""
    script = 'tty; echo one > /dev/tty; echo two > "$(tty)"; stat -c "%u %a" "$(tty)"; id -u; stty size; echo $TERM'
    with terminal(vmid, ["sh", "-c", script], user=user) as session:
        ended = session.end()
    name, one, two, owner, uid, size, term = ended.stdout.decode().splitlines()
    assert re.fullmatch(r"/dev/pts/[0-9]+", name)
    assert (one, two, size, term) == ("one", "two", "24 80", "xterm-256color")
    assert owner == f"{uid} 620"
    assert (ended.code, ended.attach_stderr) == (0, b"")


def test_is_all_that_the_command_holds(vmid: int) -> None:
    """Its 0, 1 and 2 are the terminal, and no other descriptor is there."""
    with terminal(vmid, ["sh", "-c", "ls -l /proc/$$/fd; tty"]) as session:
        shown = session.end().stdout.decode().splitlines()
    targets = dict(re.findall(r" (\d+) -> (\S+)", "\n".join(shown)))
    assert {number: targets.get(number) for number in "0123"} == {**dict.fromkeys("012", shown[-1]), "3": None}


def test_tells_of_a_resize(vmid: int) -> None:
    """Another size is there at once, with a SIGWINCH for the foreground."""
    script = "trap 'stty size; exit 7' WINCH; echo on; while :; do sleep 0.05; done"
    with terminal(vmid, ["sh", "-c", script]) as session:
        session.screen.wait_for(b"on\r\n")
        session.screen.resize(50, 132)
        session.screen.wait_for(b"50 132\r\n")
        assert session.end().code == 7


@pytest.mark.parametrize(("key", "code"), [(b"\x03", -signal.SIGINT), (b"\x1c", -signal.SIGQUIT)])
def test_passes_the_keys_that_are_signals(vmid: int, key: bytes, code: int) -> None:
    """Ctrl-C and Ctrl-backslash end what is in the foreground."""
    with terminal(vmid, ["sleep", "1000"]) as session:
        session.screen.wait_for_foreground("sleep")
        session.screen.type(key)
        assert session.end().code == code


def test_ends_input_at_ctrl_d(vmid: int) -> None:
    """Ctrl-D at the beginning of a line is the end of input, and lines are edited and echoed until then."""
    with terminal(vmid, ["cat"]) as session:
        session.screen.type("grüß\x7fßex\x7f\n".encode())
        session.screen.wait_for("grüße\r\n$".encode())
        session.screen.type(b"\x04")
        assert session.end().code == 0


def test_controls_jobs(vmid: int) -> None:
    """An interactive shell finds a terminal that it can control: Ctrl-Z stops a job, `fg` goes on with it."""
    shell = ["bash", "--norc", "-i"] if guests.get(vmid).template == "debian13" else ["sh", "-i"]
    with terminal(vmid, shell) as session:
        screen = session.screen
        assert b"job control" not in screen.wait_for(rb"(?s).*# ").group()
        screen.type(b"sleep 1000\n")
        screen.wait_for_foreground("sleep")
        screen.type(b"\x1a")
        screen.wait_for(rb"(?s)Stopped.*# ")
        screen.type(b"fg\n")
        screen.wait_for_foreground("sleep")
        screen.type(b"\x03")
        screen.wait_for(rb"(?s)\^C.*# ")
        screen.type(b"exit 5\n")
        assert session.end().code == 5


def test_runs_an_editor() -> None:
    """vi draws its screen in the size of the terminal, and saves what is typed."""
    typed = guests.get(101).rootfs / "tmp/typed"
    typed.unlink(missing_ok=True)
    with terminal(101, ["vi", "/tmp/typed"]) as session:
        session.screen.wait_for(rb"~\r?\n?.*typed")
        session.screen.type(b"ihello")
        session.screen.wait_for(b"hello")
        session.screen.type(b"\x1b")
        session.screen.wait_for(b"1/1")
        session.screen.type(b":wq\r")
        assert session.end().code == 0
    assert typed.read_bytes() == b"hello\n"


def test_takes_a_long_paste() -> None:
    """1 MiB that is typed at once arrives whole where the command reads it raw, as fast as it reads."""
    size = 1 << 20
    with terminal(101, ["sh", "-c", f"stty raw -echo; echo on; head -c {size} | md5sum"]) as session:
        session.screen.wait_for(b"on\n")
        paste = bytes(range(256)) * (size // 256)
        session.screen.type(paste)

        assert hashlib.md5(paste).hexdigest().encode() in session.end().stdout


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A privileged guest to be spoiled."""
    made = guests.create(985)
    yield made
    made.destroy()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        ("mkfifo /dev/pts/ptmx", errno.ENODEV),
        ("mknod /dev/pts/ptmx c 5 2", errno.ENODEV),
        ("mknod /dev/pts/ptmx c 1 3", errno.ENODEV),
        ("ln -s /proc/1/root/dev/null /dev/pts/ptmx", errno.ELOOP),
        ("ln -s ../../../../../../dev/null /dev/pts/ptmx", errno.ENODEV),
        ("true", errno.ENOENT),
    ],
)
def test_opens_nothing_but_a_multiplexer(guest: Guest, spoil: str, error: int) -> None:
    """Whatever a guest's root puts in the place of its ptmx is not opened, and nothing of the node is reached."""
    done = guest.attach(["sh", "-c", f"umount -l /dev/pts; mount -t tmpfs none /dev/pts && rm -f /dev/ptmx; {spoil}"])
    assert done.returncode == 0, done
    spec = build_spec(["sh", "-c", "echo ran > /ran"], ENV, flags=harness.TTY)
    assert run_in(guest.vmid, spec, terminal=True).failure == ("tty", error)
    assert not (guest.rootfs / "ran").exists()
