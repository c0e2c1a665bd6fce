"""Source and Body: a request's bytes, as gunicorn's parser and then the application take them off a connection."""

import contextlib
import select
import ssl
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from gunicorn.http.body import ChunkedReader

from gateway.errors import ClientGone
from gateway.web import refusal
from gateway.web.connection import REPLY_SECONDS, Connection
from gateway.web.refusal import Refusal
from gateway.web.tls import forget_errors

BODY_BYTES_PER_SECOND = 64 * 1024
_READ_BYTES = 64 * 1024


class Source:
    """What gunicorn's parser takes for a socket: gives this request's bytes, and none of the next one's.

    Waits for the client only in the upload lane, and no longer than `body_s` seconds and one more for each 64 KiB that
    came (`renew` begins anew), nor once `ending` is readable. A body that ends early is an error here; gunicorn would
    pass it on as whole.
    """

    def __init__(self, connection: Connection, *, body_s: float, max_body_bytes: int, ending: int) -> None:
        self.left = connection.size
        self.head = connection.head
        self.failure: Refusal | ClientGone | None = None
        self._connection = connection
        self._deadline = time.monotonic() + body_s
        self._max_body_bytes = max_body_bytes
        self._ending = ending
        self._head_left = connection.head
        # What the body may still be; chunks' framing counts, too.
        self._room = float("inf") if connection.endless else connection.head + max_body_bytes

    @property
    def complete(self) -> bool:
        """Whether the rest of the request is here, so that the next one's beginning is known."""
        return self.left is not None and self.left <= len(self._connection.buffer)

    def check(self) -> None:
        """Raise what kept the body from coming: the application saw that it broke, and cannot know why."""
        if self.failure is not None:
            raise self.failure

    def skip(self) -> bool:
        """Drop what the application did not read; False if that has not all come."""
        if not self.complete:
            return False
        del self._connection.buffer[: self.left]
        return True

    def recv(self, size: int) -> bytes:
        """At most `size` bytes. Raises an OSError if they do not come."""
        if self.failure is not None:
            raise _BodyFailed
        if self.left is not None:
            size = min(size, self.left)
        if self._head_left:  # nothing of the body, so that gunicorn holds none of it
            size = min(size, self._head_left)
            self._head_left -= size
        buffer = self._connection.buffer
        if size == 0:
            return b""
        if buffer:
            data = bytes(buffer[:size])
            del buffer[:size]
        else:
            data = self._read(size)
        if self.left is None:
            self._room -= len(data)
            if self._room < 0:
                self._fail(refusal.body_too_large(self._max_body_bytes))
        else:
            self.left -= len(data)
        self._deadline += len(data) / BODY_BYTES_PER_SECOND
        return data

    def renew(self, seconds: float) -> None:
        """Wait for the client's next bytes for so long, however long it took so far."""
        self._deadline = time.monotonic() + seconds

    def ready(self) -> bool:
        """Whether `recv` would not wait."""
        buffer = self._connection.buffer
        if buffer or self.failure is not None:
            return True
        try:
            data = self._receive(_READ_BYTES)
        except OSError:
            return True  # `recv` meets it again
        if data is None:
            return False
        buffer += data
        return True

    def _read(self, size: int) -> bytes:
        poll = select.poll()
        poll.register(self._connection.fd, select.POLLIN)
        poll.register(self._ending, select.POLLIN)
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._fail(refusal.too_slow("body"))
            try:
                data = self._receive(size)
            except OSError:
                self._fail(ClientGone())
            if data:
                return data
            if data is not None:
                self._fail(ClientGone())
            if self._ending in dict(poll.poll(left * 1000)):
                self._fail(refusal.restarting())

    def _receive(self, size: int) -> bytes | None:
        """What is here; None if nothing is, b"" at the connection's end. Raises OSError."""
        sock = self._connection.sock
        try:
            sock.settimeout(0)
            return sock.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError:
            forget_errors()
            raise
        finally:
            with contextlib.suppress(OSError):
                sock.settimeout(REPLY_SECONDS)

    def _fail(self, failure: Refusal | ClientGone) -> NoReturn:
        self.failure = failure
        raise _BodyFailed from None


class _BodyFailed(OSError):
    """The rest of the body will not come; `Source.failure` says why."""


class Body:
    """A request's body as `wsgi.input`: gunicorn's, and `read1`."""

    def __init__(self, body: Any, source: Source, *, idle_s: float) -> None:
        self.read = body.read
        self.readline = body.readline
        self.readlines = body.readlines
        self._reader = body.reader
        self._source = source
        self._idle_s = idle_s
        self._rest = b""
        self._failure: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def read1(self, size: int) -> bytes:
        """What has come, at most `size` bytes; b"" at the end. For a body that is read in no other way.

        Waits for the first byte alone, as long as a connection may rest; raises an OSError if it does not come, and
        gunicorn's ParseException for broken chunks, but not before all that came has been taken.
        """
        pieces = [self._rest] if self._rest else []
        room = size - len(self._rest)
        self._source.renew(self._idle_s)
        while room > 0 and self._failure is None and (not pieces or self._source.ready()):
            try:
                piece = self._take(room)
            except Exception as error:
                self._failure = error
                break
            if not piece:
                break
            pieces.append(piece)
            room -= len(piece)
        if not pieces and self._failure is not None:
            raise self._failure
        data = b"".join(pieces)
        self._rest = data[size:]
        return data[:size]

    def _take(self, size: int) -> bytes:
        if isinstance(self._reader, ChunkedReader):
            for piece in self._reader.parser:
                if piece:  # gunicorn gives an empty one where a chunk's size is all that has come
                    return bytes(piece)
            return b""
        piece = self._source.recv(min(size, self._reader.length))
        self._reader.length -= len(piece)
        return piece
