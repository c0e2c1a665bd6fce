"""ServerTls: the server's TLS context, made anew when certificate or key change on disk."""

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from pathlib import Path

from gateway.web.threads import begin_thread
from gateway.web.watchdog import Watchdog, WatchedSocket

CHECK_SECONDS = 2.0
FIRST_LOOK_SECONDS = 2.0
USUAL_HANDSHAKES = 4
"""What a handshake may take, in handshakes with X25519: a client that chooses the dearest group, ffdhe8192, has us work
for two hundred, and Python cannot tell OpenSSL which groups to leave out."""
LEAST_HANDSHAKE_SECONDS = 0.001

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

    A thread of its own looks at the files every 2 s: they may be on a file system that hangs (pmxcfs), and then only a
    new certificate has to wait. A pair that cannot be loaded (half written, not matching, gone) leaves the last good
    one in place and is tried again. Connections keep the context they began with. `follow` and `secure` are one
    thread's.

    Raises ValueError if the pair cannot be loaded at the start.
    """

    def __init__(self, cert: Path, key: Path, *, log: logging.Logger | None = None) -> None:
        self._cert = cert
        self._key = key
        self._log = log or logging.getLogger(__name__)
        self._complaint = ""
        self._signature = self._sign()
        self._thread: threading.Thread | None = None
        self._looked = threading.Event()
        self._use(make_context(cert, key))

    @property
    def context(self) -> ssl.SSLContext:
        """The context for a connection accepted now."""
        return self._current[0]

    def secure(self, sock: socket.socket, watchdog: Watchdog, address: str) -> WatchedSocket:
        """A connection just accepted, its handshake yet to be done. Raises OSError."""
        self._follow()
        context, handshake_s = self._current
        secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        assert isinstance(secured, WatchedSocket)
        secured.watch(watchdog, address, handshake_s=USUAL_HANDSHAKES * handshake_s + LEAST_HANDSHAKE_SECONDS)
        return secured

    def follow(self) -> None:
        """Begin to look at the files, in this process; the first look is over by then, unless it hangs."""
        self._follow()
        self._looked.wait(FIRST_LOOK_SECONDS)

    def look(self) -> None:
        """Take what is on disk now, if that is new and good."""
        try:
            signature = self._sign()  # before the load: a change during it is seen the next time
            if signature == self._signature:
                self._complaint = ""
                return
            self._use(make_context(self._cert, self._key))
        except ValueError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._log.error("keeping the TLS certificate in use: %s", error)
            return
        self._signature = signature
        self._complaint = ""
        self._log.info("TLS certificate reloaded from %s", self._cert)

    def _use(self, context: ssl.SSLContext) -> None:
        self._current = context, measure_handshake(context)

    def _follow(self) -> None:
        if self._thread is None:
            self._thread = begin_thread("certificate", self._run)  # or else at the next connection

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                self._log.exception("cannot look at the TLS certificate")
            self._looked.set()
            time.sleep(CHECK_SECONDS)

    def _sign(self) -> _Signature:
        return _stat(self._cert), _stat(self._key)


def make_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A server context: TLS 1.2 or 1.3, HTTP/1.1 by ALPN, no renegotiation, no client certificates.

    Raises ValueError, which names the files and never shows what is in them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = WatchedSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot load TLS certificate {cert} with key {key}: {reason}") from error
    return context


def measure_handshake(context: ssl.SSLContext) -> float:
    """The seconds of processor time that a handshake usually takes a server with this context: the least of two."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return min(_measure_once(context, client) for _ in range(2))


def _measure_once(context: ssl.SSLContext, client: ssl.SSLContext) -> float:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking, answering = client.wrap_bio(down, up), context.wrap_bio(up, down, server_side=True)
    spent = 0.0
    for _ in range(2):  # flights of each
        with contextlib.suppress(ssl.SSLError):  # it wants to read; or a key too weak for our own client
            asking.do_handshake()
        began = time.thread_time()
        with contextlib.suppress(ssl.SSLError):
            answering.do_handshake()
        spent += time.thread_time() - began
    return spent


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
