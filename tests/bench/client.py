"""The cheapest HTTPS client there can be: one request prebuilt, one connection kept, next to no parsing.

The load must not cost what is measured: both cores of a small machine are shared by clients and gateway.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from tests.pvesim.services import make_client_context

_TRUE = b'{"command":["/bin/true"]}'
_SUCCESS = b'"exit_code":0'
_READ = 65536


class ExecClient:
    """Runs /bin/true in a guest over one kept-alive connection; calling it is one exec."""

    def __init__(self, address: tuple[str, int], ca: Path, token: str, vmid: int) -> None:
        self._socket = connect(address, ca)
        head = (
            f"POST /exec/{vmid} HTTP/1.1",
            f"Host: {address[0]}",
            f"Authorization: Bearer {token}",
            "Content-Type: application/json",
            f"Content-Length: {len(_TRUE)}",
        )
        self._request = "\r\n".join([*head, "", ""]).encode() + _TRUE

    def __call__(self) -> None:
        """Raises RuntimeError when the command did not run and exit with 0."""
        self._socket.sendall(self._request)
        reply = _read_reply(self._socket)
        if not reply.startswith(b"HTTP/1.1 200 ") or _SUCCESS not in reply:
            raise RuntimeError(f"an exec failed: {reply.decode(errors='replace')}")

    def close(self) -> None:
        self._socket.close()


def connect(address: tuple[str, int], ca: Path) -> ssl.SSLSocket:
    """A TLS connection that trusts `ca` alone. Raises OSError."""
    raw = socket.create_connection(address, timeout=10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return make_client_context(ca).wrap_socket(raw, server_hostname=address[0])
    except BaseException:
        raw.close()
        raise


def _read_reply(sock: ssl.SSLSocket) -> bytes:
    """Head and body of a reply with a Content-Length. Raises ConnectionError when it does not come whole."""
    reply = b""
    while (end := reply.find(b"\r\n\r\n")) < 0:
        reply += _read(sock)
    head = reply[:end].lower()
    start = head.find(b"content-length:") + len(b"content-length:")
    length = int(head[start:].split(b"\r\n", 1)[0])
    while len(reply) < end + 4 + length:
        reply += _read(sock)
    return reply


def _read(sock: ssl.SSLSocket) -> bytes:
    data = sock.recv(_READ)
    if not data:
        raise ConnectionError("the gateway closed the connection")
    return data
