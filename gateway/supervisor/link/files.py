"""FilesLink: the web's hold on one session of files; the supervisor ends that when this is closed."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from gateway.errors import SupervisorUnavailable
from gateway.supervisor.link.protocol import CLIENT_LEFT, encode


class FilesLink:
    """The connection on which it was asked for, and the two pipes that came with the answer."""

    def __init__(self, sock: socket.socket, audit_id: str, rights: list[int]) -> None:
        """Raises SupervisorUnavailable unless both pipes have come; the descriptors stay the caller's then."""
        if len(rights) != 2:
            sock.close()
            raise SupervisorUnavailable("the supervisor's answer makes no sense; see its log", retry_after=1)
        self.audit_id = audit_id
        self.reading, self.writing = rights
        self._sock = sock
        sock.setblocking(False)

    def end(self, outcome: dict[str, Any]) -> None:
        """Says what came of it, for the record, and lets go. Never waits: it is less than the socket's buffer."""
        with contextlib.suppress(OSError):
            self._sock.send(encode({"op": "files_end", "outcome": outcome}))
        self.close()

    def leave(self) -> None:
        """Says that the client has left, and lets go."""
        with contextlib.suppress(OSError):
            self._sock.send(CLIENT_LEFT)
        self.close()

    def close(self) -> None:
        """Lets go; the pipes are whoever's who reads and writes them. Without a word before, nobody knows what came of
        a change."""
        self._sock.close()
