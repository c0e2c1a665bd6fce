"""How the kernel is told to watch over a client's connection, and what it knows of a client that says nothing."""

import socket
import struct
from typing import NamedTuple

SILENCE_SECONDS = 30
"""After this long without a sign of life from its network a connection is given up."""
UNSENT_BYTES = 512 * 1024
"""What a slow reader of a live reply costs the kernel, instead of 4 MiB (tcp_wmem)."""

_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS // 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SECONDS // 6),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000),
)
_INFO = struct.Struct("=3xB20xI28xI60xQ100xI")
"""Of struct tcp_info (linux/tcp.h): probes, unacked, last_ack_recv (ms), bytes_acked, snd_wnd."""
_UNANSWERED_PROBES = 3


class Progress(NamedTuple):
    """What a client has taken of all that it was sent on its connection."""

    acknowledged: int
    """In bytes, by its kernel."""
    lost: bool
    """Its network owes an answer (to bytes sent into an open window, or to probes of a closed one) for 30 s."""


def watch(sock: socket.socket) -> None:
    """For a connection just accepted: a silent network ends it, small replies leave at once."""
    for option in _OPTIONS:
        sock.setsockopt(*option)


def begin_stream(sock: socket.socket) -> None:
    """From now on the client may pause: what it takes is judged by `read_progress`.

    TCP_USER_TIMEOUT would end the connection of a client that lives, answers, and has only not read for that long
    (net/ipv4/tcp_timer.c, tcp_probe_timer).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def end_stream(sock: socket.socket) -> None:
    """As before `begin_stream`."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)


def read_progress(sock: socket.socket) -> Progress:
    """Ask the kernel (TCP_INFO, Linux 5.4). Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    probes, unacknowledged, silent_ms, acknowledged, window = _INFO.unpack(info)
    owes = bool(unacknowledged and window) or probes >= _UNANSWERED_PROBES
    return Progress(acknowledged, owes and silent_ms >= SILENCE_SECONDS * 1000)
