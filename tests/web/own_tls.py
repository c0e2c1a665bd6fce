"""OwnTls: a TLS client on OpenSSL itself, which does what Python's ssl has no words for: key updates, groups."""

from __future__ import annotations

import ctypes
import socket
import ssl
from ctypes import c_char_p, c_int, c_long, c_void_p
from pathlib import Path
from typing import Any

from tests.opened import noted

_SET1_GROUPS_LIST = 92  # ssl.h: SSL_CTRL_SET_GROUPS_LIST
_ALERT = 21
_BUFFER_BYTES = 1 << 16


class OwnTls:
    """One connection over `sock`, its handshake done; raises OSError if that fails. Whatever certificate is taken."""

    def __init__(self, sock: socket.socket, *, groups: bytes | None = None) -> None:
        self.sock = noted(sock)
        self._lib = _load()
        self._context = self._lib.SSL_CTX_new(self._lib.TLS_client_method())
        self._ssl = self._lib.SSL_new(self._context)
        self._in, self._out = (self._lib.BIO_new(self._lib.BIO_s_mem()) for _ in range(2))
        self._lib.SSL_set_bio(self._ssl, self._in, self._out)
        self._lib.SSL_set_connect_state(self._ssl)
        self._buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
        try:
            self._shake(groups)
        except BaseException:
            self.close()
            raise

    def _shake(self, groups: bytes | None) -> None:
        if groups is not None and self._lib.SSL_ctrl(self._ssl, _SET1_GROUPS_LIST, 0, groups) != 1:
            raise OSError("this OpenSSL does not know the groups")
        while self._lib.SSL_do_handshake(self._ssl) != 1:
            if answer := self._take():
                self.sock.sendall(answer)
            if not (data := self.sock.recv(_BUFFER_BYTES)):
                raise ConnectionError("the server ended the handshake")
            if data[0] == _ALERT:
                raise ConnectionError("the server refused the handshake")
            self._lib.BIO_write(self._in, data, len(data))
        self.sock.sendall(self._take())

    def make_updates(self, count: int) -> bytes:
        """So many key updates, 27 bytes each (RFC 8446, 4.6.3), to be sent before what is made after them."""
        for _ in range(count):
            self._lib.SSL_key_update(self._ssl, 0)
            self._lib.SSL_do_handshake(self._ssl)
        return self._take()

    def encrypt(self, data: bytes) -> bytes:
        """Data for the server, to be sent in turn."""
        assert self._lib.SSL_write(self._ssl, data, len(data)) == len(data)
        return self._take()

    def receive(self) -> bytes:
        """What the server sends next. Raises ConnectionError at the end."""
        while (size := self._lib.SSL_read(self._ssl, self._buffer, _BUFFER_BYTES)) <= 0:
            if not (data := self.sock.recv(_BUFFER_BYTES)):
                raise ConnectionError("the server closed the connection")
            self._lib.BIO_write(self._in, data, len(data))
        return ctypes.string_at(self._buffer, size)

    def close(self) -> None:
        self.sock.close()
        self._lib.SSL_free(self._ssl)
        self._lib.SSL_CTX_free(self._context)

    def __enter__(self) -> OwnTls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> bytes:
        taken = bytearray()
        while (size := self._lib.BIO_read(self._out, self._buffer, _BUFFER_BYTES)) > 0:
            taken += ctypes.string_at(self._buffer, size)
        return bytes(taken)


def _load() -> Any:
    """The very library that Python's ssl uses, which is in this process already."""
    assert ssl.OPENSSL_VERSION_INFO >= (1, 1, 1)
    maps = Path("/proc/self/maps").read_text().splitlines()
    lib = ctypes.CDLL(next(line.split()[-1] for line in maps if "libssl" in line))
    for name in ("TLS_client_method", "BIO_s_mem"):
        getattr(lib, name).restype = c_void_p
    for name in ("SSL_CTX_new", "SSL_new", "BIO_new"):
        getattr(lib, name).restype, getattr(lib, name).argtypes = c_void_p, [c_void_p]
    for name in ("SSL_CTX_free", "SSL_free"):
        getattr(lib, name).restype, getattr(lib, name).argtypes = None, [c_void_p]
    for name in ("SSL_set_connect_state", "SSL_do_handshake"):
        getattr(lib, name).argtypes = [c_void_p]
    lib.SSL_set_bio.argtypes = [c_void_p, c_void_p, c_void_p]
    lib.SSL_key_update.argtypes = [c_void_p, c_int]
    lib.SSL_ctrl.argtypes, lib.SSL_ctrl.restype = [c_void_p, c_int, c_long, c_char_p], c_long
    for name in ("BIO_read", "SSL_read"):
        getattr(lib, name).argtypes = [c_void_p, c_void_p, c_int]
    for name in ("BIO_write", "SSL_write"):
        getattr(lib, name).argtypes = [c_void_p, c_char_p, c_int]
    return lib
