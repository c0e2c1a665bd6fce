"""The supervisor's unix socket: who may speak there, and how many at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from gateway.errors import GatewayError
from gateway.supervisor.operations.connection import Connection, Dispatch, Peers

log = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")
_ACCEPT_PAUSE = 0.2
_MAX_CONNECTIONS = 4096


class Server:
    """Accepts connections and gives their requests to `dispatch`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatch: Dispatch,
        *,
        allowed_uids: tuple[int, ...],
        max_blob: int,
        closed: Callable[[Connection], None],
    ) -> None:
        """`closed` is told of every connection that has closed."""
        self.connections: set[Connection] = set()
        self._peers = Peers(loop, dispatch, max_blob, closed, self.connections)
        self._loop = loop
        self._allowed = {0, *allowed_uids}
        self._listener: socket.socket | None = None

    def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    def stop_listening(self) -> socket.socket | None:
        """No new connections from now on; those that exist go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
        return listener

    def ask_no_more(self, error: GatewayError) -> None:
        """Peers are asked nothing from now on: who waits for an answer of theirs, or would ask, is told this."""
        self._peers.silence = error
        for connection in self.connections:
            connection.ask_no_more(error)

    async def finish_replies(self, timeout: float) -> None:
        """Lets the answers in work be sent, at most `timeout` seconds, then closes every connection."""
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        for connection in list(self.connections):
            connection.close()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as exc:  # the peer left, or we are out of descriptors: not again at once
            log.error("cannot accept a connection: %s", exc.strerror)
            listener = self.stop_listening()
            if listener is not None:
                self._loop.call_later(_ACCEPT_PAUSE, self.listen, listener)
            return
        uid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
        if uid not in self._allowed or len(self.connections) >= _MAX_CONNECTIONS:
            log.warning("refused a connection of uid %d", uid)
            sock.close()
            return
        self.adopt(sock)

    def adopt(self, sock: socket.socket) -> Connection:
        sock.setblocking(False)
        connection = Connection(self._peers, sock)
        self.connections.add(connection)
        return connection


def bind(path: Path) -> socket.socket:
    """A listening unix socket that only its owner can reach, replacing one that a dead supervisor left."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(1024)
    return listener
