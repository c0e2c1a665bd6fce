"""One exchange on a thread: gunicorn's parser reads the request, the WSGI application answers it."""

import logging
import socket
from collections.abc import Callable
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser

from gateway.errors import ClientGone
from gateway.web import refusal
from gateway.web.connection import Connection, Next
from gateway.web.disconnect import ENDING
from gateway.web.flow import TURN_BYTES, WANTS, Flow
from gateway.web.framing import Bare, Chunked, Counted, Framing
from gateway.web.live import ROOM, Live
from gateway.web.refusal import SERVER, Refusal
from gateway.web.remainder import Remainder
from gateway.web.settings import WebSettings
from gateway.web.source import Body, Source
from gateway.web.tls import forget_errors

_RECORD_BYTES = 16 * 1024


class Exchange:
    """Answers requests of one worker. `cfg` is gunicorn's configuration; `application` is WSGI.

    `has_room` tells applications whether another live reply would be carried; `ending` is readable when the worker can
    wait for nothing any more.
    """

    def __init__(
        self,
        cfg: Any,
        application: Callable[..., Any],
        log: logging.Logger,
        *,
        settings: WebSettings,
        has_room: Callable[[], bool],
        ending: int,
    ) -> None:
        self._cfg = cfg
        self._application = application
        self._log = log
        self._settings = settings
        self._has_room = has_room
        self._ending = ending

    def answer(self, connection: Connection, *, last: bool) -> Next | Flow:
        """Read one request from the connection and send its reply.

        Next.READ: another one may follow; Next.GONE: none may; a Flow: the reply has yet to come, or the client to take
        the rest of it, and the connection is that Flow's. `last` announces that no request may follow. Raises Refusal
        (nothing of a reply was sent) and ClientGone.
        """
        settings = self._settings
        source = Source(connection, body_s=settings.body_s, max_body_bytes=settings.max_body_bytes, ending=self._ending)
        request = self._parse(source, connection)
        writer = _ReplyWriter(connection.sock)
        try:
            reply, environ = wsgi.create(request, connection.sock, connection.client, connection.server, self._cfg)
        except ParseException as error:
            raise refusal.from_parse_error(error) from None
        except OSError:
            raise ClientGone from None  # it did not take the 100 Continue
        environ["wsgi.multithread"] = True
        environ["wsgi.input"] = Body(request.body, source, idle_s=settings.keepalive_s)
        environ[ROOM] = self._has_room
        environ[ENDING] = self._ending
        reply.version = SERVER
        reply.sock = writer
        if last:
            reply.force_close()
        try:
            live = self._run(environ, reply, writer, source)
        except StopIteration:
            return Next.GONE  # the handler took the socket over (a WebSocket) and is done with it
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
        keep = not reply.should_close() and source.skip()
        if live is not None:
            return Flow(connection, live, _choose_framing(live, reply), writer.take(), keep=keep)
        if writer.unsent:
            return Flow(connection, Remainder(), Bare(), b"", keep=keep, unsent=writer.unsent)
        return Next.READ if keep else Next.GONE

    def _parse(self, source: Source, connection: Connection) -> Any:
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
        hosts = sum(name == "HOST" for name, _ in request.headers)
        if not agreed or hosts > 1 or (hosts == 0 and request.version >= (1, 1)):  # RFC 9112, 3.2
            raise refusal.malformed()
        return request

    def _run(self, environ: dict[str, Any], reply: Any, writer: "_ReplyWriter", source: Source) -> Live | None:
        """Send the reply; or, of a Live, no more than prepare its head."""
        try:
            body = self._application(environ, reply.start_response)
        except Exception:
            source.check()
            raise
        try:
            source.check()
            if not source.complete:
                reply.force_close()  # what the application left unread would be taken for a request
            if isinstance(body, Live) and _has_body(environ, reply):
                if not body.upgrades:
                    reply.send_headers()
                live, body = body, ()  # whose end is not here
                return live
            for item in () if isinstance(body, Live) else body:
                reply.write(item)
                writer.flush()
            reply.close()
            writer.flush()
            return None
        finally:
            if hasattr(body, "close"):
                body.close()


def _has_body(environ: dict[str, Any], reply: Any) -> bool:
    return environ["REQUEST_METHOD"] != "HEAD" and reply.status_code not in (204, 304)


def _choose_framing(live: Live, reply: Any) -> Framing:
    if live.upgrades:
        return Bare()
    if reply.response_length is not None:
        return Counted(reply.response_length)
    return Chunked() if reply.chunked else Bare()


_LENGTH_FIELDS = frozenset(("CONTENT-LENGTH", "TRANSFER-ENCODING"))


class _ReplyWriter:
    """Sends a reply's head together with the first piece of its body: one packet, one TLS record.

    It never waits for the client: what the socket does not take at once is `unsent`.
    """

    __slots__ = ("_held", "_sock", "_started", "sent", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.unsent: list[memoryview] = []
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
            self._send(self.take())

    def take(self) -> bytes:
        """Give up what is held."""
        held, self._held = self._held, b""
        return held

    def _send(self, data: bytes) -> None:
        self.sent = True
        rest = memoryview(data)
        try:
            if not self.unsent:
                self._sock.settimeout(0)
            while rest and not self.unsent:
                # After a TLS write that blocked, OpenSSL wants the same bytes again: `rest` begins with them still.
                rest = rest[self._sock.send(rest[:TURN_BYTES]) :]
        except WANTS:
            pass
        except OSError as error:
            forget_errors()
            raise ClientGone from error
        if rest:
            self.unsent.append(rest)
