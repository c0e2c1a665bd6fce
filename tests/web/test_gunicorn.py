"""The pieces of gunicorn that the worker stands on: a version that changes one fails here, by name."""

import inspect
import io

import pytest
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.http import errors, wsgi
from gunicorn.http.body import ChunkedReader
from gunicorn.http.parser import RequestParser
from gunicorn.workers.base import Worker

from gateway.web.server import _configuration
from gateway.web.settings import WebSettings


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_worker_life() -> None:
    """The base worker calls run() and keeps alive, sockets, PIPE, ppid, wsgi, notify() for it."""
    assert parameters(Worker.__init__) == ["self", "age", "ppid", "sockets", "app", "timeout", "cfg", "log"]
    assert "self.run()" in inspect.getsource(Worker.init_process)
    assert "self.wsgi = self.app.wsgi()" in inspect.getsource(Worker.load_wsgi)
    assert "set_wakeup_fd(self.PIPE[1])" in inspect.getsource(Worker.init_signals)
    assert "self.alive = False" in inspect.getsource(Worker.handle_exit)
    assert parameters(Worker.notify) == ["self"]


def test_parser_reads_from_recv_alone() -> None:
    """The parser takes anything with recv(), asks for no more than the request holds, and shows its headers."""
    raw = io.BytesIO(b"POST /a?b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")

    class Source:
        def recv(self, size: int) -> bytes:
            return raw.read(size)

    request = next(RequestParser(Config(), Source(), ("192.0.2.1", 1)))
    assert (request.method, request.headers) == ("POST", [("CONTENT-LENGTH", "3")])
    assert request.body.read() == b"abc"


@pytest.mark.parametrize(
    ("framing", "rest"),
    [("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"), ("Content-Length: 3", b"abc")],
    ids=["chunked", "counted"],
)
def test_body_can_be_taken_piece_by_piece(framing: str, rest: bytes) -> None:
    """A chunked body's reader has a generator of pieces; one with a length counts it down; both hold nothing else."""
    parts = iter([f"PUT / HTTP/1.1\r\n{framing}\r\n\r\n".encode(), rest])

    class Source:
        def recv(self, size: int) -> bytes:
            return next(parts)

    body = next(RequestParser(Config(), Source(), ("192.0.2.1", 1))).body
    assert callable(body.read) and callable(body.readline) and callable(body.readlines)
    if "chunked" in framing:
        assert isinstance(body.reader, ChunkedReader)
        assert [piece for piece in body.reader.parser if piece] == [b"abc"]
    else:
        assert body.reader.length == 3
        assert next(parts) == b"abc"


def test_reply() -> None:
    """create() gives a reply that writes to its `sock` by sendall alone, the head as one piece first."""
    assert parameters(wsgi.create)[:5] == ["req", "sock", "client", "server", "cfg"]
    source = io.BytesIO(b"GET / HTTP/1.1\r\n\r\n")

    class Socket:
        def __init__(self) -> None:
            self.sent: list[bytes] = []

        def recv(self, size: int) -> bytes:
            return source.read(size)

        def sendall(self, data: bytes) -> None:
            self.sent.append(data)

    sock, writer, cfg = Socket(), Socket(), Config()
    request = next(RequestParser(cfg, sock, ("192.0.2.1", 1)))
    reply, environ = wsgi.create(request, sock, ("192.0.2.1", 1), ("192.0.2.2", 2), cfg)
    reply.sock, reply.version = writer, "name"
    reply.start_response("200 OK", [("Content-Length", "2")])
    reply.write(b"ok")
    reply.close()
    assert environ["gunicorn.socket"] is sock
    assert [piece[:8] for piece in writer.sent] == [b"HTTP/1.1", b"ok"]
    assert b"Server: name\r\n" in writer.sent[0]
    assert not reply.should_close()
    reply.force_close()
    assert reply.should_close()


def test_settings_are_known() -> None:
    """Every setting we make exists, but for those that an older gunicorn does not need."""
    newer = {"control_socket_disable"}
    assert set(_configuration(WebSettings())) - newer <= set(Config().settings)


def test_errors_are_parse_errors() -> None:
    """What the parser raises can be told by class."""
    for name in ("LimitRequestLine", "LimitRequestHeaders", "InvalidHTTPVersion", "UnsupportedTransferCoding"):
        assert issubclass(getattr(errors, name), errors.ParseException)
    assert issubclass(errors.NoMoreData, OSError)


def test_application_and_arbiter() -> None:
    """The arbiter takes the application, makes workers of its class, and asks it anew on SIGHUP."""
    assert parameters(Arbiter.__init__) == ["self", "app"]
    assert "self.app.reload()" in inspect.getsource(Arbiter.reload)
    assert "if self.callable is None" in inspect.getsource(BaseApplication.wsgi)
    assert Config().settings["worker_class"].validator(Worker) is Worker
