"""Starts a command in a container: lxc-attach, with our launcher first in the guest, and a handshake between.

Nothing of a request is in the environment or argv of any process on the host: the request travels in a sealed
memfd that only the launcher reads, in the guest. `gateway/launcher/protocol.h` is the source of the descriptor
numbers, messages and stages; `spec.h` of the spec's format.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from dataclasses import dataclass

from gateway.config import LxcConfig
from gateway.exec.view import SpawnError
from gateway.supervisor.programs import Images, Programs, sealed_memfd

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
}
LAUNCH_FAILED = 127 << 8
"""The wait status of a launcher that could not become the command."""

_LOW_FDS = range(3, 10)
_CGROUP_FD, _ATTACH_FD = 7, 8
_CREDENTIALS = struct.Struct("3i")
_SPEC_HEADER = struct.Struct("<8sIIIII")
STDIN_PIPE_BYTES = 65536


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


def build_spec(*, argv: list[str], env: dict[str, str], cwd: str | None, user: str | None) -> bytes:
    """The bytes of a spec, as launcher/spec.h defines them."""
    words = [cwd or "", user or "", *argv, *(f"{name}={value}" for name, value in env.items())]
    area = b"".join(word.encode() + b"\x00" for word in words)
    return _SPEC_HEADER.pack(b"pvegspec", 1, 0, len(argv), len(env), len(area)) + area


@dataclass(frozen=True)
class Message:
    """One word of the handshake, with the pid that the kernel says sent it."""

    kind: bytes
    pid: int
    error: SpawnError | None


@dataclass
class Launched:
    """A launch in progress: the spawned pid and our ends of its pipes, each ours to close."""

    pid: int
    status: socket.socket
    stdin: int | None
    stdout: int
    stderr: int
    attach_stderr: int


class Launcher:
    """Knows how to put a command into a guest."""

    def __init__(self, config: LxcConfig) -> None:
        self._config = config
        self.programs = Programs(config)

    def launch(
        self,
        *,
        vmid: int,
        images: Images,
        spec: bytes,
        stdin: bytes,
        cgroup: int | None,
    ) -> Launched:
        """Spawns it; the handshake on `status` goes on from there. `cgroup` None: placed inside the guest's own.

        Raises OSError when the node is out of processes, descriptors or memory; nothing is left then.
        """
        elevated = [] if cgroup is None else ["--elevated-privileges=CGROUP"]
        attach = [
            str(self._config.attach) if images.attach is None else f"/proc/self/fd/{_ATTACH_FD}",
            "lxc-attach",
            "-P",
            str(self._config.path),
            "-n",
            str(vmid),
            *elevated,
            "--clear-env",
            "--",
            "/proc/self/fd/5",
        ]
        mode = "guest" if cgroup is None else "own"
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as child_side:
            memfd = sealed_memfd("pveg-spec", spec)
            child_side.callback(os.close, memfd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            child_side.callback(theirs.close)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.setblocking(False)
            pipes = []
            for _ in range(3):
                read, write = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, read)
                child_side.callback(os.close, write)
                os.set_blocking(read, False)
                pipes.append((read, write))
            (stdout, stdout_w), (stderr, stderr_w), (attach_stderr, attach_stderr_w) = pipes
            # Without input, too, a pipe: the node's /dev/null would be an inode of the node in the hands of the guest.
            stdin_r, stdin_w = os.pipe2(os.O_CLOEXEC)
            (undo if stdin else child_side).callback(os.close, stdin_w)
            os.set_blocking(stdin_w, False)
            child_side.callback(os.close, stdin_r)
            table = [(stdin_r, 0), (stdout_w, 1), (attach_stderr_w, 2), (memfd, 3), (theirs.fileno(), 4)]
            table += [(images.launcher, 5), (stderr_w, 6)]
            if cgroup is not None:
                table.append((cgroup, _CGROUP_FD))
            if images.attach is not None:
                table.append((images.attach, _ATTACH_FD))
            pid = os.posix_spawn(
                self._config.launcher,
                ["launcher", "host", mode, *attach],
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for source, target in table],
            )
            undo.pop_all()
        return Launched(pid, ours, stdin_w if stdin else None, stdout, stderr, attach_stderr)


def receive(status: socket.socket) -> Message | None:
    """The next word of the handshake: None when there is none yet, kind b"" at its end.

    There is room for the sender's credentials alone, so no descriptor can be handed in; whatever is not a word
    of the protocol counts as the end.
    """
    try:
        data, ancillary, _, _ = status.recvmsg(16, socket.CMSG_SPACE(_CREDENTIALS.size))
    except BlockingIOError:
        return None
    except ConnectionError:
        return Message(b"", 0, None)
    pid = 0
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(value) == _CREDENTIALS.size:
            pid = _CREDENTIALS.unpack(value)[0]
    word = data[:1]
    if word in (b"H", b"R") and len(data) == 1 and pid > 0:
        return Message(word, pid, None)
    if word in (b"X", b"F") and len(data) == 6:
        stage, number = struct.unpack("<BI", data[1:])
        return Message(word, pid, spawn_error(STAGES.get(stage, "spec"), number))
    return Message(b"", 0, None)


def send_go(status: socket.socket) -> bool:
    """Lets the command run. False when the launcher is gone."""
    try:
        return status.send(b"G") == 1
    except OSError:
        return False


def spawn_error(stage: str, number: int) -> SpawnError:
    """Why a command never began, in words; no word of the request is in it."""
    name = errno.errorcode.get(number, str(number))
    reason = os.strerror(number) if number in errno.errorcode else f"error {number}"
    return {"stage": stage, "errno": name, "message": f"{_STAGE_WORDS[stage]}: {reason}"}


def failed_exit_code(error: SpawnError) -> int:
    """What a shell would return for it: 127 for a program that does not exist, 126 for the rest."""
    return 127 if error["stage"] == "exec" and error["errno"] == "ENOENT" else 126
