"""How the pieces of a live reply's body go onto the wire, its end told from a cut (RFC 9112 section 6)."""

from abc import ABC, abstractmethod

JOINED_BYTES = 16 * 1024
"""Up to this size, a TLS record's, copying is cheaper than sending twice."""


class Framing(ABC):
    """One body's. `wrap` gets its pieces in order, none of them empty."""

    @property
    def full(self) -> bool:
        """Whether the client has all that was promised, so that nothing may follow."""
        return False

    @abstractmethod
    def wrap(self, piece: bytes) -> list[bytes]:
        """What to send for a piece, one after the other."""

    @abstractmethod
    def finish(self) -> list[bytes]:
        """What to send behind the last one. Raises ValueError if the body may not end here."""


class Chunked(Framing):
    """HTTP/1.1 without a Content-Length."""

    def wrap(self, piece: bytes) -> list[bytes]:
        if len(piece) <= JOINED_BYTES:
            return [b"%x\r\n%b\r\n" % (len(piece), piece)]
        return [b"%x\r\n" % len(piece), piece, b"\r\n"]

    def finish(self) -> list[bytes]:
        return [b"0\r\n\r\n"]


class Counted(Framing):
    """A body whose Content-Length is told."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._left = length

    @property
    def full(self) -> bool:
        return not self._left

    def wrap(self, piece: bytes) -> list[bytes]:
        """Raises ValueError if it is more than was told."""
        if len(piece) > self._left:
            raise ValueError(f"a live reply has more bytes than its Content-Length of {self._length}")
        self._left -= len(piece)
        return [piece]

    def finish(self) -> list[bytes]:
        if self._left:
            raise ValueError(f"a live reply lacks {self._left} bytes of its Content-Length of {self._length}")
        return []


class Bare(Framing):
    """The connection's end is the body's: HTTP/1.0, and all that is no longer HTTP."""

    def wrap(self, piece: bytes) -> list[bytes]:
        return [piece]

    def finish(self) -> list[bytes]:
        return []
