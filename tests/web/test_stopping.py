"""Stop and reload with replies under way that would take long: each is ended in the way that suits it, and soon."""

import signal
import threading
import time

import pytest

from tests.web.conftest import Client, Reply, Server, ServerClosed, StartServer

SOON = 8.0
"""What a stop may take where nothing has to be waited for, on a busy machine."""


@pytest.fixture(params=["stop", "reload"])
def way(request: pytest.FixtureRequest) -> str:
    """SIGTERM ends the service, SIGHUP changes its worker: the old one ends in the same way."""
    return str(request.param)


def end_worker(server: Server, way: str) -> None:
    server.process.send_signal(signal.SIGTERM if way == "stop" else signal.SIGHUP)


def check_end(server: Server, way: str, begin: float, within: float) -> None:
    """The worker has ended, or another one serves and the service stops at once."""
    if way == "stop":
        assert server.process.wait(30) == 0
        assert time.monotonic() - begin < within
        return
    assert server.client().request("GET", "/").status == 200
    begin = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begin < within


@pytest.mark.parametrize("tls", [True, False])
def test_live_reply_without_end_is_cut_at_once(start_server: StartServer, tls: bool, way: str) -> None:
    """What had come is sent; then the cut can be seen as one, and nobody is taken to have left."""
    server = start_server(tls=tls)
    live, speaker = server.client(), server.client()
    live.send("GET", "/live/spoken/word")
    live.read_head()
    speaker.request("POST", "/live/spoken/word", b"word")
    begin = time.monotonic()
    end_worker(server, way)
    assert live.read_chunk() == b"word"
    with pytest.raises((ServerClosed, ConnectionResetError)):
        live.read_chunk()
    assert time.monotonic() - begin < SOON
    assert server.report()["event"] == "closed"
    check_end(server, way, begin, SOON)
    assert "Traceback" not in server.log.read_text()


def test_live_reply_that_ends_by_itself_is_whole(start_server: StartServer, way: str) -> None:
    """A download in full flow comes to its end."""
    server = start_server()
    client = server.client()
    client.send("GET", f"/live/pieces?size={1 << 20}&count=24&length={24 << 20}")
    client.read_head()
    client.take(1 << 20)
    begin = time.monotonic()
    end_worker(server, way)
    for _ in range(23):
        client.take(1 << 20)
    check_end(server, way, begin, SOON + 1)


def test_upgraded_connection_says_goodbye(start_server: StartServer, way: str) -> None:
    """Another protocol ends in its own words."""
    server = start_server()
    client = server.client()
    client.send("GET", "/live/echo")
    client.read_head()
    begin = time.monotonic()
    end_worker(server, way)
    assert client.take(7) == b"goodbye"
    assert client.ended_properly()
    check_end(server, way, begin, SOON)


def test_reader_that_takes_nothing_is_not_waited_for(start_server: StartServer, way: str) -> None:
    """Whoever does not read what is sent last gets a second for it."""
    server = start_server()
    client = server.client()
    client.send("GET", "/live/endless")
    client.read_head()
    begin = time.monotonic()
    end_worker(server, way)
    check_end(server, way, begin, SOON)


class Asking(threading.Thread):
    """One request, sent and read in a thread of its own."""

    def __init__(self, client: Client, method: str, path: str) -> None:
        super().__init__()
        self._client = client
        self._asked = (method, path)
        self.reply: Reply | None = None
        self.start()

    def run(self) -> None:
        self.reply = self._client.request(*self._asked)


def test_request_that_waits_is_told_to_end(start_server: StartServer, way: str) -> None:
    """A handler that would wait for half a minute answers after two seconds."""
    server = start_server()
    asking = Asking(server.client(), "GET", "/watch?seconds=30")
    assert server.report()["event"] == "watching"
    begin = time.monotonic()
    end_worker(server, way)
    asking.join(20)
    assert 1.5 < time.monotonic() - begin < 10
    assert asking.reply is not None and asking.reply.json() == {"gone": False}
    check_end(server, way, begin, 15)


@pytest.mark.parametrize("path", ["/stream", "/echo"])
def test_body_that_does_not_come_is_told(start_server: StartServer, path: str) -> None:
    """An upload that rests gets a 503 to go on from, and keeps the service from ending for two seconds."""
    server = start_server()
    client = server.client()
    begin = time.monotonic()
    method = "PUT" if path == "/stream" else "POST"
    client.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhello".encode())
    if path == "/stream":
        assert server.report() == {"event": "took", "piece": "hello"}
    server.client().request("GET", "/")
    end_worker(server, "stop")
    reply = client.read()
    assert (reply.status, reply.json()["code"], reply.headers["retry-after"]) == (503, "gateway_restarting", "1")
    check_end(server, "stop", begin, 15)


def test_stop_in_the_middle_of_a_reload_is_heard(start_server: StartServer) -> None:
    """A worker that is told to end while it is being made does so (gunicorn alone would wait for it in vain)."""
    server = start_server()
    server.client().request("GET", "/")
    begin = time.monotonic()
    server.process.send_signal(signal.SIGHUP)
    server.client().request("GET", "/")
    assert server.stop() == 0
    assert time.monotonic() - begin < SOON + 2
