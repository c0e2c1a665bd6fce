"""ServerTls: the server's TLS context, made anew when certificate or key change on disk."""

import contextlib
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

CHECK_SECONDS = 2.0

_Signature = tuple[tuple[int, int, int], tuple[int, int, int]]


def forget_errors() -> None:
    """Clears this thread's queue of OpenSSL errors; call it after any OSError of a TLS socket.

    Python 3.13.5 leaves the error of a failed read or write there, and then takes it for the cause when another
    connection of the same thread merely has nothing to read: one client's abrupt end would cut others' connections.
    Nothing in the ssl module clears the queue but the beginning of a handshake (8 us).
    """
    with contextlib.suppress(ssl.SSLError):
        _HANDSHAKER.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True).do_handshake()


_HANDSHAKER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class ServerTls:
    """Gives each accepted connection the context of the certificate that is on disk now.

    The files are looked at no more than every 2 s. A pair that cannot be loaded (half written, not
    matching, gone) leaves the last good one in place and is tried again. Connections keep the
    context they began with. Used by one thread.

    Raises ValueError if the pair cannot be loaded at the start.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        *,
        log: logging.Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cert = cert
        self._key = key
        self._log = log or logging.getLogger(__name__)
        self._clock = clock
        self._complaint = ""
        self._checked = clock()
        self._signature = self._sign()
        self._context = make_context(cert, key)

    def context(self) -> ssl.SSLContext:
        """The context for a connection accepted now."""
        now = self._clock()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._reload()
        return self._context

    def _reload(self) -> None:
        try:
            signature = self._sign()  # before the load: a change during it is seen the next time
            if signature == self._signature:
                self._complaint = ""
                return
            self._context = make_context(self._cert, self._key)
        except ValueError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._log.error("keeping the TLS certificate in use: %s", error)
            return
        self._signature = signature
        self._complaint = ""
        self._log.info("TLS certificate reloaded from %s", self._cert)

    def _sign(self) -> _Signature:
        return _stat(self._cert), _stat(self._key)


def make_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A server context: TLS 1.2 or 1.3, HTTP/1.1 by ALPN, no renegotiation, no client certificates.

    Raises ValueError, which names the files and never shows what is in them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot load TLS certificate {cert} with key {key}: {reason}") from error
    return context


def _refuse_password() -> str:
    """OpenSSL would otherwise ask on the terminal, and wait."""
    raise ValueError("the key is encrypted")


def _stat(path: Path) -> tuple[int, int, int]:
    # On pmxcfs mtimes are whole seconds; inode and size tell most rewrites within one.
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns
