"""Plays the supervisor to a launcher: descriptors, spec, handshake, end. The contract is launcher/protocol.h."""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(os.environ.get("LAUNCHER", Path(__file__).parents[2] / "build" / "launcher"))
NURSERY = LAUNCHER.with_name("nursery")
STAGES = ("none", "spec", "user", "groups", "cwd", "exec", "tty", "fds", "cgroup", "attach")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TTY = 1
ATTACH_STDERR = 2
REQUESTS = 3
OWN_CGROUP, TERMINAL, LIBRARY = 1, 2, 64
ATTACH = "/proc/self/fd/8"
_ANSWER_SECONDS = 20
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x20000
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
HIGH = 64  # our own descriptors stay clear of the numbers that a launch gives a meaning


def build_spec(
    argv: Sequence[str | bytes],
    env: Sequence[str | bytes] = (PATH,),
    *,
    cwd: str | bytes = "",
    user: str | bytes = "",
    flags: int = 0,
) -> bytes:
    """The bytes of a spec, as spec.h has them."""
    strings = [os.fsencode(word) + b"\0" for word in (cwd, user, *argv, *env)]
    area = b"".join(strings)
    return b"pvegspec" + struct.pack("<5I", 1, flags, len(argv), len(env), len(area)) + area


def high(fd: int) -> int:
    """Moves a descriptor out of the way of the launch's numbers."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(fd)
    return moved


def memfd(content: bytes, name: str = "test") -> int:
    """A memfd with this content, sealed and of the mode that protocol.h asks for."""
    fd = high(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    for start in range(0, len(content), 1 << 20):
        os.write(fd, content[start : start + (1 << 20)])
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    os.fchmod(fd, 0o555)
    return fd


@dataclass(frozen=True)
class Message:
    """One message of the launcher; `kind` is empty at EOF."""

    kind: str
    sender: int
    stage: str = "none"
    errno: int = 0


@dataclass
class Launch:
    """A launcher that was started, the other ends of its descriptors and what it said. Its pid, 0 until it is known."""

    pid: int
    status: socket.socket
    stdout: int
    stderr: int
    attach_stderr: int
    messages: list[Message] = field(default_factory=list)
    terminal: int | None = None
    """The master that came with a message."""

    def receive(self) -> Message:
        """The next message; raises TimeoutError rather than wait for ever."""
        try:
            room = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4)
            data, ancillary, _, _ = self.status.recvmsg(16, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # it died with a message of ours unread
            data, ancillary = b"", []
        values = {kind: value for _, kind, value in ancillary}
        sender = struct.unpack("3i", values[socket.SCM_CREDENTIALS])[0] if data else 0
        if socket.SCM_RIGHTS in values:
            self.terminal = high(*struct.unpack("i", values[socket.SCM_RIGHTS]))
        message = Message(data[:1].decode(), sender)
        if len(data) == 6:
            stage, errno = struct.unpack("<BI", data[1:])
            message = Message(data[:1].decode(), sender, STAGES[stage], errno)
        else:
            assert len(data) <= 1, data
        self.messages.append(message)
        self.pid = self.pid or sender
        return message

    def go(self) -> None:
        """Lets a launcher that is ready run its command."""
        self.status.send(b"G")

    def close(self) -> None:
        """Closes all of our ends."""
        self.status.close()
        for fd in (self.stdout, self.stderr, self.attach_stderr, self.terminal):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)


@dataclass(frozen=True)
class Ended:
    """What came of a launch: its last message before EOF, the exit code (-n for a signal), the streams."""

    last: Message
    code: int
    stdout: bytes
    stderr: bytes
    attach_stderr: bytes

    @property
    def failure(self) -> tuple[str, int]:
        """(stage, errno) of a launch that failed."""
        assert self.last.kind in ("F", "X"), self
        return self.last.stage, self.last.errno


@dataclass(frozen=True)
class Nursery:
    """A nursery and our end of its socket."""

    pid: int
    requests: socket.socket

    @classmethod
    def start(cls, prepare: Callable[[], None] | None = None) -> "Nursery":
        """Forks one; `prepare` runs in the child first."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        image, theirs_fd = memfd(NURSERY.read_bytes(), "nursery"), high(theirs.detach())
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.dup2(theirs_fd, REQUESTS)
                if prepare:
                    prepare()
                os.execve(image, ["nursery"], {"CANARY": "of the supervisor"})
            os._exit(99)
        os.close(image)
        os.close(theirs_fd)
        return cls(pid, ours)

    def end(self) -> int:
        """Closes our end; its exit code."""
        self.requests.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@dataclass(frozen=True)
class Ends:
    """The descriptors of a launch: those that it gets, by their numbers, and the launch with our ends of them."""

    theirs: dict[int, int]
    launch: Launch

    @classmethod
    def make(cls, spec: bytes, stdin: int | None = None, terminal: int | None = None) -> "Ends":
        """0 to 6. Without `stdin` it is /dev/null. `terminal` stands as the command's stderr."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(_ANSWER_SECONDS)
        (out, out_w), (words, words_w), (err, err_w) = (map(high, os.pipe()) for _ in range(3))
        first = high(os.open(os.devnull, os.O_RDWR)) if stdin is None else high(os.dup(stdin))
        made = [memfd(spec), high(theirs.detach()), memfd(LAUNCHER.read_bytes())]
        if terminal is not None:
            os.close(err_w)
            err_w = high(os.dup(terminal))
        return cls(dict(enumerate([first, out_w, words_w, *made, err_w])), Launch(0, ours, out, err, words))

    def close_theirs(self) -> None:
        for fd in self.theirs.values():
            os.close(fd)


def start(
    spec: bytes,
    *,
    root: Path | None = None,
    stdin: int | None = None,
    terminal: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Launch:
    """Forks a launcher in guest mode; `root` to chroot into, `prepare` to run in the child first."""
    ends = Ends.make(spec, stdin, terminal=terminal)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            if root:
                enter_root(root)
            for number, fd in ends.theirs.items():
                os.dup2(fd, number)
            if prepare:
                prepare()
            image = fcntl.fcntl(5, fcntl.F_DUPFD_CLOEXEC, HIGH)
            os.execve(image, ["/proc/self/fd/5"], {"CANARY": "of the supervisor"})
        os._exit(99)
    ends.close_theirs()
    ends.launch.pid = pid
    return ends.launch


def bear(
    nursery: Nursery,
    words: Sequence[str],
    spec: bytes = b"spec",
    *,
    terminal: int | None = None,
    cgroup: int | None = None,
    attach: bytes | None = None,
    library: bool = False,
) -> Launch:
    """Asks a nursery for a launch of `words`: the program, its name, its arguments. Its pid comes with a message.

    `terminal`: the process in whose guest one is made. `attach` is the program that stands as `ATTACH`. By LXC's
    `library` the words are its directory of containers, and which one.
    """
    ends = Ends.make(spec, terminal=terminal)
    program = memfd(attach or b"no program", "attach")
    held = [*ends.theirs.values(), program if cgroup is None else cgroup, program]
    flags = OWN_CGROUP * (cgroup is not None) + TERMINAL * (terminal is not None) + LIBRARY * library
    request = bytes([flags]) + b"".join(os.fsencode(word) + b"\0" for word in words)
    socket.send_fds(nursery.requests, [request], held)
    ends.close_theirs()
    os.close(program)
    return ends.launch


def enter_root(root: Path) -> None:
    """Makes `root` the root of this process, with a /proc where there is a place for it; its end unmounts it.

    Then, as in a guest, devices can be opened there, also where the test's directory is nodev: Debian 13's /tmp is.
    """
    libc = ctypes.CDLL(None)
    if (root / "proc").is_dir():
        place = os.fsencode(root)
        assert libc.unshare(_CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
        assert libc.mount(place, place, None, _MS_BIND, None) == 0
        assert libc.mount(b"none", place, None, _MS_REMOUNT | _MS_BIND, None) == 0
        assert libc.mount(b"proc", place + b"/proc", b"proc", 0, None) == 0
    os.chroot(root)
    os.chdir("/")


def finish(launch: Launch, pid: int | None = None) -> Ended:
    """Reads a launch to its end and reaps `pid`, which is its own unless told otherwise."""
    while launch.receive().kind:
        pass
    streams = [_read_all(fd) for fd in (launch.stdout, launch.stderr, launch.attach_stderr)]
    _, status = os.waitpid(launch.pid if pid is None else pid, 0)
    launch.close()
    said = [message for message in launch.messages if message.kind]
    return Ended(said[-1] if said else Message("", 0), os.waitstatus_to_exitcode(status), *streams)


def run(spec: bytes, *, root: Path | None = None, prepare: Callable[[], None] | None = None) -> Ended:
    """Guest mode from start to end, with a 'G' for an 'R'."""
    launch = start(spec, root=root, prepare=prepare)
    if launch.receive().kind == "R":
        launch.go()
    return finish(launch)


def lxc_library() -> str:
    """The path of the node's LXC library."""
    libraries = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout.splitlines()
    (path,) = (line.rpartition(" => ")[2] for line in libraries if line.strip().startswith("liblxc.so.1 "))
    return path


def adopt_orphans(adopt: bool) -> None:
    """Makes orphans of our descendants our children, as the supervisor does, or no longer."""
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) == 0


def end_cgroup(path: Path) -> None:
    """Kills what a cgroup holds, reaps what of it is ours, and removes it."""
    members = (path / "cgroup.procs").read_text().split()
    (path / "cgroup.kill").write_text("1")
    for pid in members:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(int(pid), 0)
    remove_cgroup(path)


def remove_cgroup(path: Path) -> None:
    """Removes a cgroup that has no members left; the kernel may say busy for a moment after the last was reaped."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            return path.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise


def _read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()
