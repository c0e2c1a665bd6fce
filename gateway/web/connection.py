"""Connection: one client's socket, what has arrived on it, how far its request is, and its deadline."""

import contextlib
import ipaddress
import re
import select
import socket
import ssl
import time
from collections.abc import Iterable
from enum import Enum, auto

from gateway.web import refusal
from gateway.web.lingering import LINGER_SECONDS, SILENCE_SECONDS, Lingering
from gateway.web.settings import WebSettings
from gateway.web.tls import forget_errors

MAX_HEAD_BYTES = 64 * 1024
MAX_EMPTY_LINES = 16
"""Before one request; more would be work without end for the thread that reads all heads."""
MAX_WAITED_BODY_BYTES = 64 * 1024
"""A body up to this size is complete before a thread sees its request."""
REPLY_SECONDS = 30.0
"""How long the client may take no byte of a reply."""

MAX_READS = 32
"""Of one connection before others have their turn: under TLS each gives one record, of one byte if its client likes."""
MAX_READ_SECONDS = 0.002
"""The same, for records that come with much else."""

_READ_BYTES = 64 * 1024
_ORIGIN = re.compile(rb"\r\norigin[ \t]*:([^\r\n]*)(?=\r\n)", re.IGNORECASE)
_PRINTABLE = re.compile(rb"[!-~]*")
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|expect)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)


class Phase(Enum):
    """How far a connection is. HANDSHAKE, HEAD and BODY are half-open: no complete request yet."""

    HANDSHAKE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    """A thread has it."""
    STREAMING = auto()
    """The pump has it."""
    UNREAD = auto()
    """Answered, but the client has not taken its replies: it gets no further thread until it does."""
    IDLE = auto()
    """Between two requests."""
    CLOSING = auto()
    """We have said our last; what still comes is thrown away (`lingering`)."""


class Next(Enum):
    """What a connection needs."""

    READ = auto()
    WRITE = auto()
    ANSWER = auto()
    """The whole request is here: a thread that takes it never waits for the client's bytes."""
    UPLOAD = auto()
    """A large or chunked body, or one that waits for 100 Continue: a thread must read it."""
    GONE = auto()


class Connection:
    """Owned by one thread at a time: the poller's, the one that answers its request, or the pump's."""

    __slots__ = (
        "_empty_lines", "_limits", "_origin", "_scanned", "buffer", "client", "deadline", "endless", "fd", "head",
        "key", "lane", "phase", "polled", "server", "since", "size", "sock",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        client: tuple[str, int],
        server: tuple[str, int],
        limits: WebSettings,
        now: float,
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.client = client
        self.server = server
        self.key = counted_address(client[0], limits)
        self.buffer = bytearray()
        self.since = now
        self.head = 0
        """Bytes of the request's head."""
        self.size: int | None = 0
        """Bytes of head and body together; None if only the body itself tells (chunked)."""
        self.endless = False
        """Whether the body may be of any length: a PUT's, which its application takes as it comes (`Body.read1`)."""
        self.polled = False
        self.lane = Next.GONE
        self._limits = limits
        self._origin = ""
        self._scanned = 0
        self._empty_lines = 0
        if isinstance(sock, ssl.SSLSocket):
            self.phase = Phase.HANDSHAKE
            self.deadline = now + limits.handshake_s
        else:
            self.phase = Phase.HEAD
            self.deadline = now + limits.head_s

    @property
    def spoke(self) -> bool:
        """Whether the client has begun a request that it could be told something about."""
        return self.phase is Phase.BODY or (self.phase is Phase.HEAD and bool(self.buffer))

    @property
    def origin(self) -> str:
        """The page that the request comes from, as far as it has been heard; empty for none, and for more than one."""
        return _find_origin(bytes(self.buffer)) if self.phase is Phase.HEAD else self._origin

    def advance(self, now: float) -> Next:
        """Take the connection as far as it goes without waiting. Raises Refusal."""
        try:
            if self.phase is Phase.UNREAD:
                self.rest(now)
            if self.phase is Phase.HANDSHAKE:
                assert isinstance(self.sock, ssl.SSLSocket)
                self.sock.do_handshake()
                self.phase = Phase.HEAD
                self.deadline = self.since + self._limits.head_s
            enough = time.monotonic() + MAX_READ_SECONDS
            for _ in range(MAX_READS):
                if (step := self.frame(now)) is not Next.READ:
                    return step
                if not (data := self.sock.recv(_READ_BYTES)):
                    return Next.GONE
                self.buffer += data
                if time.monotonic() >= enough:
                    break
            return self.frame(now)  # what is left is in the kernel: it wakes us again
        except (ssl.SSLWantReadError, BlockingIOError):
            return Next.READ
        except ssl.SSLWantWriteError:
            return Next.WRITE
        except ssl.SSLError as error:
            forget_errors()
            if self.phase is Phase.HANDSHAKE and error.reason == "HTTP_REQUEST":
                raise refusal.tls_required() from None
            return Next.GONE
        except OSError:
            forget_errors()
            return Next.GONE

    def receive(self) -> Next:
        """Wait for the client as long as the socket's timeout says, and take what comes. Raises Refusal."""
        try:
            data = self.sock.recv(_READ_BYTES)
        except TimeoutError:
            return Next.READ
        except OSError:
            forget_errors()
            return Next.GONE
        if not data:
            return Next.GONE
        self.buffer += data
        return self.frame(time.monotonic())

    def frame(self, now: float) -> Next:
        """Say, from the bytes that are here, what the request needs; never touches the socket."""
        buffer = self.buffer
        if self.phase is Phase.IDLE:
            if not buffer:
                return Next.READ
            self.phase = Phase.HEAD
            self.since = now
            self.deadline = now + self._limits.head_s
        if self.phase is Phase.HEAD:
            while buffer.startswith(b"\r\n"):  # RFC 9112 section 2.2
                del buffer[:2]
                self._empty_lines += 1
                if self._empty_lines > MAX_EMPTY_LINES:
                    raise refusal.malformed()
            end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
            self._scanned = len(buffer)
            if end < 0 and len(buffer) <= MAX_HEAD_BYTES:
                return Next.READ
            if end < 0 or end > MAX_HEAD_BYTES:
                raise refusal.head_too_large()
            self._scanned = self._empty_lines = 0
            self.phase = Phase.BODY
            self.deadline = now + self._limits.body_s
            self.lane = self._measure(bytes(buffer[: end + 2]), end + 4)
        if self.lane is Next.UPLOAD:
            return Next.UPLOAD
        assert self.size is not None
        return Next.ANSWER if len(buffer) >= self.size else Next.READ

    def _measure(self, head: bytes, length: int) -> Next:
        """Set `size` and name the lane. gunicorn's parser has the last word on what the head means;
        where it sees another length than this, the request is refused (`exchange.py`)."""
        self._origin = _find_origin(head)
        self.head = length
        self.endless = head.startswith(b"PUT ")
        body = 0
        lane = Next.ANSWER
        for name, value in _FRAMING.findall(head):
            kind = name[:1].lower()
            if kind == b"t":
                self.size = None
                return Next.UPLOAD
            if kind == b"e":
                lane = Next.UPLOAD
            elif value.strip().isdigit() and len(value) < 20:
                body = int(value)
        if body > self._limits.max_body_bytes and not self.endless:
            raise refusal.body_too_large(self._limits.max_body_bytes)
        self.size = length + body
        if not body:
            return Next.ANSWER
        return Next.UPLOAD if body > MAX_WAITED_BODY_BYTES else lane

    def rest(self, now: float) -> None:
        """Begin waiting for the next request."""
        self.phase = Phase.IDLE
        self._origin = ""
        self.deadline = now + self._limits.keepalive_s

    def wait_until_read(self, now: float) -> None:
        """Begin waiting for the client to take what it has been sent."""
        self.phase = Phase.UNREAD
        self.deadline = now + REPLY_SECONDS

    def writable(self) -> bool:
        """Whether the client has taken enough of our replies that a short one would not block."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(0))

    def say(self, data: bytes) -> None:
        """Send a short last word as far as the socket takes it at once; never raises OSError."""
        try:
            self.sock.settimeout(0)
            if self.phase is Phase.HANDSHAKE:  # in clear, to one who speaks plain HTTP
                socket.socket.send(self.sock, data)
            else:
                self.sock.send(data)
        except (OSError, ValueError):
            forget_errors()

    def end(self, now: float) -> None:
        """Close our side (TLS close_notify, then FIN) and begin to wait for the client's."""
        with contextlib.suppress(OSError, ValueError):
            self.sock.settimeout(0)
            if isinstance(self.sock, ssl.SSLSocket) and self.phase is not Phase.HANDSHAKE:
                try:
                    self.sock.unwrap()
                except (OSError, ValueError):
                    forget_errors()
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        self.phase = Phase.CLOSING
        self.since = now
        self.deadline = now + SILENCE_SECONDS

    def linger(self, lingering: Lingering, now: float) -> Next:
        """What a connection needs that has been ended: to be read until the client is done, too."""
        try:
            if not lingering.drop(self.sock, now):
                return Next.GONE
        except BlockingIOError:
            pass
        except OSError:
            return Next.GONE
        self.deadline = min(now + SILENCE_SECONDS, self.since + LINGER_SECONDS)
        return Next.READ


def _find_origin(head: bytes) -> str:
    """Of lines that are whole."""
    found = _ORIGIN.findall(head)  # and no more by this expression: blanks that it could divide in many ways would
    origin = found[0].strip(b" \t") if len(found) == 1 else b""  # take a head's length squared
    return str(origin, "ascii") if _PRINTABLE.fullmatch(origin) else ""


def counted_address(address: str, limits: WebSettings) -> str:
    """Whom a limit per address counts; empty for a trusted proxy, whom none does."""
    return "" if limits.trusted_proxies and _is_in(address, limits.trusted_proxies) else address_key(address)


def _is_in(address: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in network for network in networks)


def address_key(address: str) -> str:
    """Whom a limit per address counts: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.partition("%")[0])
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else ip.packed[:8].hex()
