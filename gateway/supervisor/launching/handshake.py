"""The handshake with what has been launched: a status socket, the words on it, and the errors that they name.

`gateway/launcher/protocol.h` is the source of the messages and stages.
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

from gateway.exec.view import SpawnError

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

_CREDENTIALS = struct.Struct("3i")
_DESCRIPTOR = struct.Struct("i")


@dataclass(frozen=True)
class Message:
    """One word of the handshake, with the pid that the kernel says sent it, and the descriptor that came along."""

    kind: bytes
    pid: int
    error: SpawnError | None = None
    terminal: int | None = None


def open_status(ours_closed: contextlib.ExitStack, theirs_closed: contextlib.ExitStack) -> tuple[socket.socket, int]:
    """Our end, non-blocking, of which each word tells its sender; and theirs. Each is closed by its own stack."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours_closed.callback(ours.close)
    theirs_closed.callback(theirs.close)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.setblocking(False)
    return ours, theirs.fileno()


def open_pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
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
