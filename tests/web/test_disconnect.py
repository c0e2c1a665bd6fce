"""A handler that waits learns at once that its client has left, and is not fooled by one that has not."""

import socket
import struct
import time

import pytest
from flask import Flask, request

from gateway.web.disconnect import ClientConnection, Ready
from tests.web.conftest import StartServer


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
def test_client_that_leaves_is_seen_at_once(start_server: StartServer, tls: bool, reset: bool) -> None:
    """Closing and resetting the connection both wake the waiting handler."""
    server = start_server(tls=tls)
    client = server.client()
    client.send("GET", "/watch")
    assert server.report() == {"event": "watching", "gone": False}
    if reset:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    begin = time.monotonic()
    client.close()
    seen = server.report()
    assert seen["gone"]
    assert seen["at"] - begin < 1  # 5 ms on an idle machine


def test_client_that_pipelines_is_not_gone(start_server: StartServer) -> None:
    """Bytes that arrive while the handler waits (the next request) do not end its wait."""
    server = start_server()
    client = server.client()
    client.send("GET", "/watch?seconds=0.5")
    assert server.report()["event"] == "watching"
    client.send("GET", "/")
    assert not server.report()["gone"]
    assert client.read().json() == {"gone": False}
    assert client.read().status == 200


def test_wait_sees_the_other_descriptor() -> None:
    """What the handler really waits for ends the wait, with and without a client."""
    client, peer = socket.socketpair()
    ours, theirs = socket.socketpair()
    with client, peer, ours, theirs:
        connection = ClientConnection(client.fileno())
        assert connection.wait(ours.fileno(), 0) == Ready(fd=False, gone=False)
        theirs.send(b"x")
        assert connection.wait(ours.fileno(), 5) == Ready(fd=True, gone=False)
        peer.close()
        assert connection.wait(ours.fileno(), 5) == Ready(fd=True, gone=True)
        assert connection.gone()
        assert ClientConnection(None).wait(ours.fileno(), 5) == Ready(fd=True, gone=False)


def test_without_a_socket_nobody_is_gone() -> None:
    """Under Flask's test client there is no connection to lose."""
    app = Flask(__name__)

    @app.get("/")
    def index() -> dict[str, bool]:
        return {"gone": ClientConnection.of(request.environ).gone()}

    assert app.test_client().get("/").get_json() == {"gone": False}


def test_closed_socket_is_gone() -> None:
    """A socket that our own side has closed counts as a client that left."""
    sock = socket.socket()
    sock.close()
    assert ClientConnection.of({"gunicorn.socket": sock}).wait(None, None) == Ready(fd=False, gone=True)
