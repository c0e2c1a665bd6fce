"""The writer's listening socket: the one systemd passed, or one of our own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_FIRST_PASSED_FD = 3
_BACKLOG = 128


def listen(path: Path) -> socket.socket:
    """A non-blocking stream socket. LISTEN_FDS (sd_listen_fds(3)) wins over `path`.

    Our own is made 0600 in a directory made 0700, in place of a dead one's socket; the caller holds the log
    directory's lock, so no living writer loses it. Raises OSError.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        os.set_inheritable(_FIRST_PASSED_FD, False)
        listener = socket.socket(fileno=_FIRST_PASSED_FD)
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _bind(listener, path)
        listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _bind(listener: socket.socket, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
