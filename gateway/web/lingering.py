"""Lingering: what clients still send when they have their answer is read and thrown away, so that they get to read it.

Closing a socket with unread bytes sends a reset, which destroys what the client has not read yet (RFC 9112, section
9.6). So our side is closed first, and the client's bytes are dropped, as nginx does (`lingering_close`), until it has
closed, too, is silent, or time or bytes run out.
"""

from __future__ import annotations

import socket

SILENCE_SECONDS = 5.0
"""How long a client may send nothing."""
LINGER_SECONDS = 30.0
"""How long it may go on sending."""
BURST_BYTES = 1 << 30
BYTES_PER_SECOND = 64 << 20
TURN_BYTES = 1 << 20
"""What is dropped of one connection before others have their turn."""

_READ_BYTES = 256 << 10


class Lingering:
    """What all connections of a process may still send, together: a gibibyte at once, and 64 MiB a second. No threads.

    The bytes are never copied (MSG_TRUNC, tcp(7)), so a gibibyte costs a tenth of a second of the processor.
    """

    def __init__(self, now: float) -> None:
        self._left = float(BURST_BYTES)
        self._since = now
        self._buffer = bytearray(_READ_BYTES)

    def drop(self, sock: socket.socket, now: float) -> bool:
        """Drop what has come, below TLS; whether more may come. Raises OSError, BlockingIOError when none is here."""
        self._left = min(BURST_BYTES, self._left + (now - self._since) * BYTES_PER_SECOND)
        self._since = now
        for _ in range(TURN_BYTES // _READ_BYTES):
            dropped = socket.socket.recv_into(sock, self._buffer, _READ_BYTES, socket.MSG_TRUNC)
            self._left -= dropped
            if not dropped or self._left <= 0:
                return False
        return True
