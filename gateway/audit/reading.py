"""The writer's end of the reader: starts it when somebody first asks, again when it died, and hands it connections."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from typing import Any

from gateway.audit.settings import AuditSettings


class ReaderProcess:
    """Never waits for it: what its socket does not take now is refused."""

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._link: socket.socket | None = None
        self._pid = 0

    def hand_over(self, peer: socket.socket, message: dict[str, Any]) -> bool:
        """Whether the reader has this connection now, to answer `message` on it."""
        question = json.dumps(message).encode()
        for _ in range(2):
            try:
                if self._link is None:
                    self._link = self._start()
                socket.send_fds(self._link, [question], [peer.fileno()])
            except BlockingIOError:
                return False
            except OSError:
                self.close()
            else:
                return True
        return False

    def close(self) -> None:
        """The reader ends when it notices."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, os.WNOHANG)

    def _start(self) -> socket.socket:
        """A program of its own: a fork of two threads would carry the writer's locks along."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            module = ["-P", "-m", "gateway.audit.reader"]
            arguments = [sys.executable, *module, self._settings.to_json(), str(theirs.fileno())]
            environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
            try:
                self._pid = os.posix_spawn(sys.executable, arguments, environment)
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return ours
