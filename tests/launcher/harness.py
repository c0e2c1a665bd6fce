"""Plays the supervisor to a launcher: descriptors, spec, handshake, end. The contract is launcher/protocol.h."""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(os.environ.get("LAUNCHER", Path(__file__).parents[2] / "build" / "launcher"))
STAGES = ("none", "spec", "user", "groups", "cwd", "exec", "tty", "fds", "cgroup", "attach")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TTY = 1
ATTACH_STDERR = 2
ATTACH = "/proc/self/fd/8"
_ANSWER_SECONDS = 20
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000
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
    """A launcher that was started, the other ends of its descriptors and what it said."""

    pid: int
    status: socket.socket
    stdout: int
    stderr: int
    attach_stderr: int
    messages: list[Message] = field(default_factory=list)

    def receive(self) -> Message:
        """The next message; raises TimeoutError rather than wait for ever."""
        try:
            data, ancillary, _, _ = self.status.recvmsg(16, socket.CMSG_SPACE(12))
        except ConnectionResetError:  # it died with a message of ours unread
            data, ancillary = b"", []
        sender = struct.unpack("3i", ancillary[0][2])[0] if data and ancillary else 0
        message = Message(data[:1].decode(), sender)
        if len(data) == 6:
            stage, errno = struct.unpack("<BI", data[1:])
            message = Message(data[:1].decode(), sender, STAGES[stage], errno)
        else:
            assert len(data) <= 1, data
        self.messages.append(message)
        return message

    def go(self) -> None:
        """Lets a launcher that is ready run its command."""
        self.status.send(b"G")

    def close(self) -> None:
        """Closes all of our ends."""
        self.status.close()
        for fd in (self.stdout, self.stderr, self.attach_stderr):
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


def start(
    argv: list[str],
    spec: bytes,
    *,
    root: Path | None = None,
    stdin: int | None = None,
    terminal: int | None = None,
    cgroup: int | None = None,
    attach: bytes | None = None,
    prepare: Callable[[], None] | None = None,
    hole: int | None = None,
) -> Launch:
    """Forks a launcher with its descriptors in place; `root` to chroot into, `prepare` to run in the child first.

    Without `stdin` it is /dev/null. `terminal` takes the place of the command's stderr. `attach` is the program that
    stands as `ATTACH`. `hole` is left closed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.settimeout(_ANSWER_SECONDS)
    pipes = [tuple(map(high, os.pipe())) for _ in range(3)]
    null = high(os.open(os.devnull, os.O_RDWR))
    made = [memfd(spec), high(theirs.detach()), memfd(LAUNCHER.read_bytes())]
    streams = [null if stdin is None else stdin, pipes[0][1], pipes[1][1]]
    table = dict(enumerate([*streams, *made, pipes[2][1] if terminal is None else terminal]))
    if cgroup is not None:
        table[7] = cgroup
    if attach is not None:
        made.append(memfd(attach, "attach"))
        table[8] = made[-1]
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            if root:
                enter_root(root)
            for number, fd in table.items():
                os.dup2(fd, number)
            if prepare:
                prepare()
            image = fcntl.fcntl(5, fcntl.F_DUPFD_CLOEXEC, HIGH)
            if hole is not None:
                os.close(hole)
            os.execve(image, argv, {"CANARY": "of the supervisor"})
        os._exit(99)
    for fd in {*made, null, *(write for _, write in pipes)}:
        os.close(fd)
    return Launch(pid, ours, pipes[0][0], pipes[2][0], pipes[1][0])


def enter_root(root: Path) -> None:
    """Makes `root` the root of this process, with a /proc where there is a place for it; its end unmounts it."""
    libc = ctypes.CDLL(None)
    if (root / "proc").is_dir():
        assert libc.unshare(_CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
        assert libc.mount(b"proc", os.fsencode(root / "proc"), b"proc", 0, None) == 0
    os.chroot(root)
    os.chdir("/")


def finish(launch: Launch, pid: int | None = None) -> Ended:
    """Reads a launch to its end and reaps `pid`, which is the forked one unless told otherwise."""
    while launch.receive().kind:
        pass
    streams = [_read_all(fd) for fd in (launch.stdout, launch.stderr, launch.attach_stderr)]
    _, status = os.waitpid(launch.pid if pid is None else pid, 0)
    launch.close()
    said = [message for message in launch.messages if message.kind]
    return Ended(said[-1] if said else Message("", 0), os.waitstatus_to_exitcode(status), *streams)


def run(spec: bytes, *, root: Path | None = None, prepare: Callable[[], None] | None = None) -> Ended:
    """Guest mode from start to end, with a 'G' for an 'R'."""
    launch = start(["/proc/self/fd/5"], spec, root=root, prepare=prepare)
    if launch.receive().kind == "R":
        launch.go()
    return finish(launch)


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
