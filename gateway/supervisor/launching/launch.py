"""Starts a command in a container: lxc-attach, with our launcher first in the guest.

lxc-attach is here what enters the container, be it the program of this name or LXC's library in a process of ours.

Nothing of a request is in the environment or argv of any process on the host: the request travels in a sealed
memfd that only the launcher reads, in the guest. `gateway/launcher/protocol.h` is the source of the descriptor
numbers; `spec.h` of the spec's format.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.config import Config, LxcConfig
from gateway.errors import ConfigError
from gateway.supervisor.launching.handshake import open_pipe, open_status
from gateway.supervisor.launching.library import look_at_library
from gateway.supervisor.launching.nursery import Nursery
from gateway.supervisor.launching.programs import Images, Programs, sealed_memfd
from gateway.supervisor.launching.tools import LibLxc, Tool

_LOW_FDS = range(3, 10)
_ATTACH_FD = 8
_SPEC_HEADER = struct.Struct("<8sIIIII")
_SPEC_TTY, _SPEC_FILES, _SPEC_FILES_WRITE = 1, 2, 4


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
    library = look_at_library(config)
    if library is not None and not library.ok:
        raise ConfigError(library.detail)


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
            ours, theirs = open_status(undo, child_side)
            # Without input, too, a pipe: the node's /dev/null would be an inode of the node in the hands of the guest.
            input_r, input_w = open_pipe(child_side, undo if stdin and terminal is None else child_side)
            words_r, words_w = open_pipe(undo, child_side)
            stdin_end = stdout_end = stderr_end = None
            if terminal is None:
                stdin_end = input_w if stdin else None
                stdout_end, output = open_pipe(undo, child_side)
                stderr_end, errors = open_pipe(undo, child_side)
            else:
                output, errors = words_w, os.open(terminal.process, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                child_side.callback(os.close, errors)
            for end in (stdin_end, stdout_end, stderr_end, words_r):
                if end is not None:
                    os.set_blocking(end, False)
            held = [input_r, output, words_w, memfd, theirs, images.launcher, errors]
            held.append(memfd if cgroup is None else cgroup)
            held.append(memfd if images.attach is None else images.attach)
            bear = self.nursery.attach if self.tool.library else self.nursery.bear
            bear(words, held, own_cgroup=cgroup is not None, terminal=terminal is not None)
            undo.pop_all()
        return Launched(ours, stdin_end, stdout_end, stderr_end, words_r, terminal, self.tool)
