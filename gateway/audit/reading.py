"""The writer's end of the reader: starts it when somebody first asks, again when it died, and hands it connections."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from gateway.audit.settings import AuditSettings


class ReaderProcess:
    """Never waits for it: what its socket does not take now is refused."""

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._link: socket.socket | None = None

    def hand_over(self, peer: socket.socket, question: bytes) -> bool:
        """Whether the reader has this connection now, to answer `question` (JSON, at most MAX_FRAME) on it."""
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
        self._reap()

    def _reap(self) -> None:
        """The writer has no other children."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _start(self) -> socket.socket:
        """A program of its own: a fork of two threads would carry the writer's locks along."""
        self._reap()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            module = ["-P", "-m", "gateway.audit.reader"]
            arguments = [sys.executable, *module, self._settings.to_json(), str(theirs.fileno())]
            environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
            try:
                os.posix_spawn(sys.executable, arguments, environment)
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return ours
