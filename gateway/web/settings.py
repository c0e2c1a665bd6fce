"""WebSettings: everything the HTTP edge can be told, checked once when it is made."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """What to listen on, with which certificate, and how much of us one client may take.

    Raises ValueError if a value is out of range, if only one of the two TLS files is given, or if
    plain HTTP (no TLS files) is asked for on anything but a loopback address.
    """

    listen: tuple[str, int] = ("127.0.0.1", 39377)
    """IP address or `localhost` (no other name: what is meant must not depend on a resolver), and port."""
    tls_cert: Path | None = None
    """PEM file: the server's certificate, then its chain."""
    tls_key: Path | None = None
    """PEM file: the certificate's private key, not encrypted."""
    threads: int = 64
    """Requests answered at the same time, per worker."""
    workers: int = 1
    """Worker processes."""
    keepalive_s: float = 75.0
    """How long a connection may rest between two requests."""
    handshake_s: float = 10.0
    """From accept to the end of the TLS handshake."""
    head_s: float = 10.0
    """From accept (later: from a request's first byte) to the end of the request's head."""
    body_s: float = 30.0
    """For a request's body, and one second more for each 64 KiB that have arrived."""
    connections_per_address: float | None = None
    """New connections a second of one client address (IPv6: one /64), twice as many at once; more wait for their turn,
    as many as `max_half_open` of all addresses together, and what comes then is closed. None: as they come."""
    max_half_open_per_address: int = 16
    """Connections of one client address (IPv6: one /64) that have no complete request yet. More are
    accepted in a burst; those still half-open a second later are closed, oldest first."""
    max_half_open: int = 256
    """The same for all addresses together. One more closes the oldest, at once."""
    max_streams: int = 2000
    """Live replies at the same time, per worker; fewer where the limit of open files (hard) is below 16,000."""
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Whose connections are many clients': no limit per address holds for these."""
    max_body_bytes: int = 16 * 1024 * 1024
    """A longer body is refused with 413; of a chunked body, the chunks' framing counts, too. A PUT's is a stream:
    its application reads it piece by piece, and bounds what it keeps."""

    def __post_init__(self) -> None:
        host, port = self.listen
        if not 0 <= port <= 65535:
            raise ValueError(f"listen: port {port} is not between 0 and 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls: a certificate needs its key, and a key its certificate")
        for name in _POSITIVE:
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not greater than 0")
        self.check_address(host)

    @property
    def tls(self) -> bool:
        """Whether clients speak TLS to us."""
        return self.tls_cert is not None

    def check_address(self, host: str) -> None:
        """Raise ValueError if we may not serve on this IP address: without TLS, only on loopback."""
        if host == "localhost":
            return
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"listen: {host!r} is not an IP address") from None
        if not self.tls and not address.is_loopback:
            raise ValueError(f"listen: plain HTTP on {host}: without TLS only a loopback address is allowed")


_POSITIVE = (
    "threads",
    "workers",
    "keepalive_s",
    "handshake_s",
    "head_s",
    "body_s",
    "connections_per_address",
    "max_half_open_per_address",
    "max_half_open",
    "max_streams",
    "max_body_bytes",
)
