"""Starts a command in a container: lxc-attach, with our launcher first in the guest, and a handshake between.

lxc-attach is here what enters the container, be it the program of this name or LXC's library in a process of ours.

Nothing of a request is in the environment or argv of any process on the host: the request travels in a sealed
memfd that only the launcher reads, in the guest. `gateway/launcher/protocol.h` is the source of the descriptor
numbers, messages and stages; `spec.h` of the spec's format.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.config import Config, LxcConfig
from gateway.errors import ConfigError
from gateway.exec.view import SpawnError
from gateway.supervisor.launching.nursery import Nursery
from gateway.supervisor.launching.programs import Images, Programs, sealed_memfd
from gateway.supervisor.launching.tools import LibLxc, Tool, choose_tool

STAGES = {
    1: "spec",
    2: "user",
    3: "groups",
    4: "cwd",
    5: "exec",
    6: "tty",
    7: "fds",
    8: "cgroup",
    9: "attach",
    10: "root",
}
_STAGE_WORDS = {
    "spec": "the launcher could not read what to run",
    "user": "the user could not be resolved in the guest",
    "groups": "the guest's groups could not be resolved",
    "cwd": "the working directory could not be entered",
    "exec": "the program could not be run",
    "tty": "the terminal could not be set up",
    "fds": "descriptors could not be set up",
    "cgroup": "the command's cgroup could not be joined",
    "attach": "lxc-attach could not be run, or ended before the command began",
    "root": "the guest's file system could not be entered",
    "spool": "its beginning could not be noted on the node's disk, so it did not begin",
}
LAUNCH_FAILED = 127 << 8
"""The wait status of a launcher that could not become the command."""

UNHEARD = b"unheard"

_LOW_FDS = range(3, 10)
_ATTACH_FD = 8
_CREDENTIALS = struct.Struct("3i")
_SPEC_HEADER = struct.Struct("<8sIIIII")
_SPEC_TTY, _SPEC_FILES, _SPEC_FILES_WRITE = 1, 2, 4
_DESCRIPTOR = struct.Struct("i")


def reserve_low_descriptors() -> None:
    """Occupies 3 to 9, so that no fd of ours ever has a number that a launch gives a meaning. Call once, early."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in _LOW_FDS:
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.dup2(null, number, inheritable=False)
    if null not in _LOW_FDS:
        os.close(null)


def require_programs(config: Config) -> None:
    """Raises ConfigError where no command could begin: without our own programs, or without LXC's library where that
    enters containers."""
    for key, path in (("launcher", config.lxc.launcher), ("nursery", config.lxc.nursery)):
        if not os.access(path, os.X_OK):
            raise ConfigError(f"{path} cannot be run; run make, or set lxc.{key}")
    if choose_tool(config).library:
        Nursery(config.lxc.nursery.read_bytes()).require_library()


def build_spec(
    *,
    argv: list[str],
    env: dict[str, str],
    cwd: str | None,
    user: str | None,
    tty: bool = False,
    files: Literal["read", "write"] | None = None,
) -> bytes:
    """The bytes of a spec, as launcher/spec.h defines them. `files` makes it file mode's, without a command."""
    flags = (_SPEC_TTY if tty else 0) | (_SPEC_FILES if files else 0) | (_SPEC_FILES_WRITE if files == "write" else 0)
    words = [cwd or "", user or "", *argv, *(f"{name}={value}" for name, value in env.items())]
    area = b"".join(word.encode() + b"\x00" for word in words)
    return _SPEC_HEADER.pack(b"pvegspec", 1, flags, len(argv), len(env), len(area)) + area


@dataclass(frozen=True)
class Message:
    """One word of the handshake, with the pid that the kernel says sent it, and the descriptor that came along."""

    kind: bytes
    pid: int
    error: SpawnError | None = None
    terminal: int | None = None


@dataclass(frozen=True)
class Terminal:
    """A terminal to be made in the guest whose init's place in /proc is `process`."""

    rows: int
    cols: int
    process: Path


@dataclass
class Launched:
    """A launch in progress: our ends of its pipes, each ours to close. Its pid comes with the first message.

    With a terminal there are none but lxc-attach's own stderr: its master comes with that message, too.
    """

    status: socket.socket
    stdin: int | None
    stdout: int | None
    stderr: int | None
    attach_stderr: int
    terminal: Terminal | None
    tool: Tool


class Launcher:
    """Knows how to put a command into a guest."""

    def __init__(self, config: LxcConfig, tool: Tool | None = None) -> None:
        """`tool` None: LXC's library."""
        self.tool = tool or LibLxc(config)
        self.programs = Programs(config, self.tool.program, library=self.tool.library)
        self.nursery = Nursery(config.nursery.read_bytes())
        self.nursery.start()

    def launch(
        self,
        *,
        vmid: int,
        images: Images,
        spec: bytes,
        stdin: bool,
        cgroup: int | None,
        terminal: Terminal | None = None,
    ) -> Launched:
        """Asks for it to be spawned; the handshake on `status` goes on from there.

        `cgroup` None: placed inside the guest's own. `stdin`: whether there will be input. A terminal, which the spec
        has to ask for too, is all three streams.

        Raises OSError when the node is out of descriptors or memory; nothing is left then.
        """
        words = self.tool.arguments(vmid, own_cgroup=cgroup is not None)
        if not self.tool.library:
            words.insert(0, str(self.tool.program) if images.attach is None else f"/proc/self/fd/{_ATTACH_FD}")
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as child_side:
            memfd = sealed_memfd("pveg-spec", spec)
            child_side.callback(os.close, memfd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            child_side.callback(theirs.close)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.setblocking(False)
            # Without input, too, a pipe: the node's /dev/null would be an inode of the node in the hands of the guest.
            input_r, input_w = _pipe(child_side, undo if stdin and terminal is None else child_side)
            words_r, words_w = _pipe(undo, child_side)
            stdin_end = stdout_end = stderr_end = None
            if terminal is None:
                stdin_end = input_w if stdin else None
                stdout_end, output = _pipe(undo, child_side)
                stderr_end, errors = _pipe(undo, child_side)
            else:
                output, errors = words_w, os.open(terminal.process, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                child_side.callback(os.close, errors)
            for end in (stdin_end, stdout_end, stderr_end, words_r):
                if end is not None:
                    os.set_blocking(end, False)
            held = [input_r, output, words_w, memfd, theirs.fileno(), images.launcher, errors]
            held.append(memfd if cgroup is None else cgroup)
            held.append(memfd if images.attach is None else images.attach)
            bear = self.nursery.attach if self.tool.library else self.nursery.bear
            bear(words, held, own_cgroup=cgroup is not None, terminal=terminal is not None)
            undo.pop_all()
        return Launched(ours, stdin_end, stdout_end, stderr_end, words_r, terminal, self.tool)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, each end closed by its own stack."""
    read, write = os.pipe2(os.O_CLOEXEC)
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def receive(status: socket.socket, *, terminal: bool) -> Message | None:
    """The next word of the handshake: None when there is none yet, kind b"" at its end, UNHEARD where nobody had read
    what we said last.

    `terminal`: it is the first one, from the host, and brings a terminal. Else there is room for the sender's
    credentials alone, so no descriptor can be handed in. Whatever is not a word of the protocol counts as the end.
    """
    room = socket.CMSG_SPACE(_CREDENTIALS.size) + (socket.CMSG_SPACE(_DESCRIPTOR.size) if terminal else 0)
    try:
        data, ancillary, _, _ = status.recvmsg(16, room, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except ConnectionResetError:  # it was closed with our last word in it unread (unix(7))
        return Message(UNHEARD, 0)
    except ConnectionError:
        return Message(b"", 0)
    pid, master = 0, None
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(value) == _CREDENTIALS.size:
            pid = _CREDENTIALS.unpack(value)[0]
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(value) == _DESCRIPTOR.size:
            master = _DESCRIPTOR.unpack(value)[0]
    word = data[:1]
    if word in (b"H", b"R") and len(data) == 1 and pid > 0:
        return Message(word, pid, terminal=master)
    if word in (b"X", b"F") and len(data) == 6:
        stage, number = struct.unpack("<BI", data[1:])
        return Message(word, pid, error=spawn_error(STAGES.get(stage, "spec"), number))
    return Message(b"", 0)


def send_go(status: socket.socket) -> bool:
    """Lets the command run. False when the launcher is gone."""
    try:
        return status.send(b"G") == 1
    except OSError:
        return False


def unheard(status: socket.socket) -> bool:
    """Whether what we said last has been read by nobody (unix(7), SIOCOUTQ)."""
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(status, termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):
        return False
    return bool(size)


def spawn_error(stage: str, number: int) -> SpawnError:
    """Why a command never began, in words; no word of the request is in it."""
    name = errno.errorcode.get(number, str(number))
    reason = os.strerror(number) if number in errno.errorcode else f"error {number}"
    return {"stage": stage, "errno": name, "message": f"{_STAGE_WORDS[stage]}: {reason}"}


def failed_exit_code(error: SpawnError) -> int:
    """What a shell would return for it: 127 for a program that does not exist, 126 for the rest."""
    return 127 if error["stage"] == "exec" and error["errno"] == "ENOENT" else 126
