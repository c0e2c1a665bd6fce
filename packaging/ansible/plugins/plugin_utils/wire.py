"""How bytes reach a gateway: over TLS whose certificate is always verified, or through a keeper that holds such a
connection from one task to the next.

A keeper's client sends pieces of its request, each behind its length (4 bytes, big-endian), and reads a CONNECTED byte
and then what the gateway answers, as it comes. A length of 0 says that the answer was read whole: the connection may
serve the next. A REFUSED byte comes with JSON that says why there is none.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

CONNECTED = b"+"
REFUSED = b"-"
LENGTH = struct.Struct(">I")
RELEASE = LENGTH.pack(0)
_PORT = 39377
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Failure(Exception):
    """The root: its text is one line that says what to do."""


class Misconfigured(Failure):
    """An option cannot be used as it stands."""


class Unreachable(Failure):
    """No connection could be made: nothing was sent."""


class Untrusted(Failure):
    """The gateway's certificate is not signed by the CA that we trust."""


class Cut(Failure):
    """The connection ended before the answer did: what became of the request is not known."""


@dataclass(frozen=True)
class Address:
    """Where a gateway listens, and whose signature its certificate needs. `ca`: a PEM file, or None for the CAs of
    this machine; `seconds`: what connecting may take."""

    host: str
    port: int
    secure: bool
    ca: str | None
    seconds: float

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def parse_address(url: str, ca: str | None, seconds: float) -> Address:
    """Raises Misconfigured for what is no gateway's address; http:// is for a gateway on this machine."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.username or parts.path.strip("/") or parts.query:
        raise Misconfigured("ansible_pve_exec_url is no gateway's address: give https://HOST:39377")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise Misconfigured("ansible_pve_exec_url would send the token unencrypted: give https://")
    return Address(host, port or _PORT, parts.scheme == "https", ca, seconds)


def make_context(ca: str | None) -> ssl.SSLContext:
    """What the gateway's certificate is verified by. Raises Misconfigured for a CA file that is none."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as exc:  # an SSLError is one, too
        raise Misconfigured(f"cannot use the CA {ca}: {exc.strerror or exc}; give one in PEM") from exc
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # PVE's CA has no keyUsage, which Python 3.13 asks for
    return context


def connect(address: Address) -> http.client.HTTPConnection:
    """A connection of our own. Raises Failure."""
    made: http.client.HTTPConnection
    if address.secure:
        context = make_context(address.ca)
        made = http.client.HTTPSConnection(address.host, address.port, timeout=address.seconds, context=context)
    else:
        made = http.client.HTTPConnection(address.host, address.port, timeout=address.seconds)
    try:
        made.connect()
    except OSError as exc:
        made.close()
        raise explain(address, exc) from exc
    return made


class KeptConnection(http.client.HTTPConnection):
    """A connection that a keeper holds; `path` is its socket. It is ours until it is closed."""

    def __init__(self, address: Address, path: str) -> None:
        super().__init__(address.host, address.port)
        self._address = address
        self._path = path

    def connect(self) -> None:
        """Raises OSError where no keeper answers, else as the other `connect`."""
        plain = socket.socket(socket.AF_UNIX)
        try:
            plain.settimeout(self._address.seconds + 5)
            plain.connect(self._path)
            verdict = plain.recv(1)
            if not verdict:
                raise ConnectionRefusedError("the keeper ends")
            if verdict != CONNECTED:
                with plain.makefile("rb") as told:
                    raise _read_refusal(told.read())
        except BaseException:
            plain.close()
            raise
        self.sock = _Framed(plain)

    def release(self) -> None:
        """The last answer was read whole: the next who asks may have the connection."""
        try:
            if self.sock is not None:
                self.sock.sendall(b"")
        except OSError:
            pass
        self.close()


class _Framed:
    """A keeper's socket as http.client needs one."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self.settimeout = plain.settimeout
        self.makefile = plain.makefile
        self.close = plain.close

    def sendall(self, data: bytes) -> None:
        self._plain.sendall(LENGTH.pack(len(data)))
        self._plain.sendall(data)


def explain(address: Address, exc: Exception) -> Failure:
    """Why there is no connection, and what to do."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        trusted = f"the CA in {address.ca}" if address.ca else "the CAs of this machine"
        return Untrusted(
            f"the certificate of {address.url} is not one of {trusted} ({exc.verify_message}): give the cluster's "
            "/etc/pve/pve-root-ca.pem as ansible_pve_exec_ca"
        )
    reason = getattr(exc, "strerror", None) or str(exc) or "no answer in time"
    if isinstance(exc, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)):
        return Cut(f"{address.url} cuts connections before TLS is set up ({reason}): is that the gateway's port?")
    if isinstance(exc, ssl.SSLError):
        return Unreachable(f"no TLS with {address.url} ({reason}): is that the gateway's port?")
    return Unreachable(
        f"cannot reach {address.url} ({reason}): is the gateway running, and ansible_pve_exec_url right?"
    )


def show_refusal(failure: Failure) -> bytes:
    """As a keeper tells its client."""
    return REFUSED + json.dumps({"kind": type(failure).__name__, "text": str(failure)}).encode()


def _read_refusal(data: bytes) -> Exception:
    kinds: dict[str, type[Failure]] = {kind.__name__: kind for kind in (Cut, Unreachable, Untrusted, Misconfigured)}
    try:
        told: dict[str, Any] = json.loads(data)
        return kinds[told["kind"]](told["text"])
    except (ValueError, KeyError, TypeError):
        return ConnectionRefusedError("the keeper ends")
