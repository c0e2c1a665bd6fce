"""One exchange on a thread: gunicorn's parser reads the request, the WSGI application answers it."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser

from gateway.errors import ClientGone
from gateway.web import refusal
from gateway.web.connection import REPLY_SECONDS, Connection
from gateway.web.refusal import SERVER, Refusal
from gateway.web.tls import forget_errors

BODY_BYTES_PER_SECOND = 64 * 1024
_RECORD_BYTES = 16 * 1024


class Exchange:
    """Answers requests of one worker. `cfg` is gunicorn's configuration; `application` is WSGI."""

    def __init__(
        self,
        cfg: Any,
        application: Callable[..., Any],
        log: logging.Logger,
        *,
        body_s: float,
        max_body_bytes: int,
    ) -> None:
        self._cfg = cfg
        self._application = application
        self._log = log
        self._body_s = body_s
        self._max_body_bytes = max_body_bytes

    def answer(self, connection: Connection, *, last: bool) -> bool:
        """Read one request from the connection and send its reply; whether another may follow.

        `last` announces that none will. Raises Refusal (nothing of a reply was sent) and ClientGone.
        """
        source = _Source(connection, self._body_s, self._max_body_bytes)
        request = self._parse(source, connection)
        writer = _ReplyWriter(connection.sock)
        try:
            reply, environ = wsgi.create(request, connection.sock, connection.client, connection.server, self._cfg)
        except ParseException as error:
            raise refusal.from_parse_error(error) from None
        except OSError:
            raise ClientGone from None  # it did not take the 100 Continue
        environ["wsgi.multithread"] = True
        reply.version = SERVER
        reply.sock = writer
        if last:
            reply.force_close()
        try:
            self._run(environ, reply, writer, source)
        except StopIteration:
            return False  # the handler took the socket over (a WebSocket) and is done with it
        except (Refusal, ClientGone):
            if writer.sent:
                raise ClientGone from None  # the reply is cut: all that is left is to close
            raise
        except Exception:
            fault = refusal.internal_error()
            self._log.exception("unhandled error in request %s", fault.request_id)
            if writer.sent:
                raise ClientGone from None
            raise fault from None
        return not reply.should_close() and source.skip()

    def _parse(self, source: "_Source", connection: Connection) -> Any:
        try:
            request = next(RequestParser(self._cfg, source, connection.client))
        except OSError:
            source.check()
            raise refusal.malformed() from None
        except (ParseException, StopIteration) as error:
            raise refusal.from_parse_error(error) from None
        # The connection was cut into requests by its own reading of the head. Should gunicorn see
        # another length, then nobody knows where the next request begins: that is how smuggling works.
        lengths = {name: value for name, value in request.headers if name in _LENGTH_FIELDS}
        if source.left is None:
            agreed = "TRANSFER-ENCODING" in lengths
        else:
            agreed = source.head + int(lengths.get("CONTENT-LENGTH", 0)) == connection.size
            agreed = agreed and "TRANSFER-ENCODING" not in lengths
        if not agreed:
            raise refusal.malformed()
        return request

    def _run(self, environ: dict[str, Any], reply: Any, writer: "_ReplyWriter", source: "_Source") -> None:
        try:
            body = self._application(environ, reply.start_response)
        except Exception:
            source.check()
            raise
        try:
            source.check()
            if not source.complete:
                reply.force_close()  # what the application left unread would be taken for a request
            for item in body:
                reply.write(item)
                writer.flush()
            reply.close()
            writer.flush()
        finally:
            if hasattr(body, "close"):
                body.close()


_LENGTH_FIELDS = frozenset(("CONTENT-LENGTH", "TRANSFER-ENCODING"))


class _Source:
    """What gunicorn's parser takes for a socket: gives this request's bytes, and none of the next one's.

    Waits for the client only in the upload lane, and no longer than `body_s` seconds and one more for
    each 64 KiB that came. A body that ends early is an error here; gunicorn would pass it on as whole.
    """

    def __init__(self, connection: Connection, body_s: float, max_body_bytes: int) -> None:
        self.left = connection.size
        self.head = connection.head
        self.failure: Refusal | ClientGone | None = None
        self._connection = connection
        self._deadline = time.monotonic() + body_s
        self._max_body_bytes = max_body_bytes
        self._room = connection.head + max_body_bytes  # chunks' framing counts, too

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

    def _read(self, size: int) -> bytes:
        sock = self._connection.sock
        left = self._deadline - time.monotonic()
        if left <= 0:
            self._fail(refusal.too_slow("body"))
        try:
            sock.settimeout(left)
            data = sock.recv(size)
        except TimeoutError:
            self._fail(refusal.too_slow("body"))
        except OSError:
            forget_errors()
            self._fail(ClientGone())
        finally:
            with contextlib.suppress(OSError):
                sock.settimeout(REPLY_SECONDS)
        if not data:
            self._fail(ClientGone())
        return data

    def _fail(self, failure: Refusal | ClientGone) -> NoReturn:
        self.failure = failure
        raise _BodyFailed from None


class _BodyFailed(OSError):
    """The rest of the body will not come; `_Source.failure` says why."""


class _ReplyWriter:
    """Sends a reply's head together with the first piece of its body: one packet, one TLS record."""

    __slots__ = ("_held", "_sock", "_started", "sent")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""
        self._started = False
        self.sent = False

    def sendall(self, data: bytes) -> None:
        """Send `data`, but hold the very first piece, the head. Raises ClientGone."""
        if not self._started:
            self._started = True
            self._held = data
            return
        if self._held:
            if len(data) <= _RECORD_BYTES:
                data = self._held + data
                self._held = b""
            else:
                self.flush()
        self._send(data)

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            held, self._held = self._held, b""
            self._send(held)

    def _send(self, data: bytes) -> None:
        self.sent = True
        try:
            self._sock.sendall(data)
        except OSError as error:
            forget_errors()
            raise ClientGone from error
