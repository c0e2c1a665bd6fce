"""The small resident process on the node of which every launch is born: nothing as large as the supervisor forks.

`gateway/launcher/protocol.h` has its requests. It ends when the supervisor does, by the end of its socket; a new image
of the supervisor starts one of its own.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence

from gateway.supervisor.launching.programs import sealed_memfd

log = logging.getLogger(__name__)

_REQUESTS_FD = 3
_OWN_CGROUP, _TERMINAL, _INSPECT, _MOUNTS, _IN_MOUNTS, _STOPPED, _ATTACH = 1, 2, 4, 8, 16, 32, 64
_MAX_BYTES = 4096
_SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h
_QUEUE_BYTES = 4 << 20
"""Room for the requests of all execs that may run at once: none ever waits for the nursery to take one."""


class Nursery:
    """Starts processes that are the supervisor's own children. If it dies, the next launch starts another one."""

    def __init__(self, program: bytes) -> None:
        """`program`: the nursery's file."""
        self._program = program
        self._requests: socket.socket | None = None

    def look_for_library(self, timeout: float) -> tuple[str, str]:
        """The version of LXC's library, if it can be loaded as `attach` needs it, else why not; one of them is empty.
        Raises OSError."""
        with self._image() as image:
            command = [f"/proc/self/fd/{image}", "check"]
            try:  # its exit code is not asked for: where Children runs, that reaps it
                done = subprocess.run(
                    command, pass_fds=[image], env={}, capture_output=True, text=True, check=False, timeout=timeout
                )
            except subprocess.TimeoutExpired:
                return "", f"that has taken more than {timeout:g} s"
        version = done.stdout.strip()
        return version, "" if version else done.stderr.strip() or "the nursery does not say why"

    def start(self) -> None:
        """Starts the process; one that there is already ends once it has done what it was asked. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._image() as image, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            ours.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _QUEUE_BYTES)
            ours.setblocking(False)
            os.posix_spawn(
                f"/proc/self/fd/{image}",
                ["nursery"],
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), _REQUESTS_FD)],
            )
            undo.pop_all()
        self.close()
        self._requests = ours

    def bear(self, words: Sequence[str], descriptors: Sequence[int], *, own_cgroup: bool, terminal: bool) -> None:
        """Asks for a process: the program, its name and arguments; what it shall hold as 0 to 8.

        Only its own words on the status socket tell what came of it. Raises OSError when nothing was asked for.
        """
        self._ask(_OWN_CGROUP * own_cgroup + _TERMINAL * terminal, words, descriptors)

    def attach(self, words: Sequence[str], descriptors: Sequence[int], *, own_cgroup: bool, terminal: bool) -> None:
        """Asks for a process that enters a container by LXC's library: its directory, and its name. As `bear` else."""
        self._ask(_ATTACH + _OWN_CGROUP * own_cgroup + _TERMINAL * terminal, words, descriptors)

    def inspect(self, questions: Sequence[str], descriptors: Sequence[int]) -> None:
        """Asks for a process that answers these about a guest, in a cgroup of its own. Raises as `bear` does."""
        self._ask(_OWN_CGROUP + _INSPECT, ["", "", *questions], descriptors)

    def bear_in_mounts(self, words: Sequence[str], descriptors: Sequence[int], *, given: bool) -> None:
        """Asks for a tool of the node's in mounts of its own, or in those that are `given`. Raises as `bear` does."""
        self._ask(_IN_MOUNTS if given else _MOUNTS, words, descriptors)

    def serve_stopped(self, words: Sequence[str], descriptors: Sequence[int]) -> None:
        """Asks for a process that serves the files of a container that does not run. Raises as `bear` does."""
        self._ask(_STOPPED, ["", "", *words], descriptors)

    @contextlib.contextmanager
    def _image(self) -> Iterator[int]:
        """A memfd of its own for each process: the root of a privileged guest can take the right to run from the one
        that it finds as /proc/PID/exe of who attaches to it."""
        image = sealed_memfd("pveg-nursery", self._program)
        try:
            yield image
        finally:
            os.close(image)

    def close(self) -> None:
        """Ends it."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def _ask(self, flags: int, words: Sequence[str], descriptors: Sequence[int]) -> None:
        request = bytes([flags]) + b"".join(word.encode() + b"\x00" for word in words)
        if len(request) > _MAX_BYTES:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        try:
            self._send(request, descriptors)
        except (BrokenPipeError, ConnectionResetError):
            log.warning("the nursery had ended; starting another one")
            self._requests = None
            self._send(request, descriptors)

    def _send(self, request: bytes, descriptors: Sequence[int]) -> None:
        if self._requests is None:
            self.start()
        assert self._requests is not None
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self._requests.sendmsg([request], [rights])
