"""A small application behind the real server, started as a process by the tests."""

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, Response, request

from gateway.api.cors import Cors
from gateway.web.disconnect import ClientConnection
from gateway.web.live import Live, has_room
from gateway.web.server import serve
from gateway.web.settings import WebSettings
from tests.web.served_lives import Echo, Endless, Faulty, Pieces, Spoken, Tell

PAGE = "https://panel.example.org"
"""Whose replies it may read."""


def main() -> None:
    """Serve with the settings in argv[1]; "inherit" is the descriptor of a listening socket."""
    options = json.loads(sys.argv[1])
    inherit = options.pop("inherit", None)
    report = options.pop("report")
    if inherit is not None:
        os.dup2(inherit, 3)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    for name in ("tls_cert", "tls_key"):
        if name in options:
            options[name] = Path(options[name])
    options["listen"] = tuple(options["listen"])
    cors = Cors([PAGE])
    serve(lambda: make_app(report), WebSettings(**options), cors=lambda _, environ: cors.headers(environ))


def make_app(report: str) -> Callable[..., Iterable[bytes]]:
    """The application; it tells what it sees to the datagram socket at `report`."""
    if Path(f"{report}.broken").exists():
        raise RuntimeError("this configuration cannot be used")
    app = Flask(__name__)
    app.config["PROPAGATE_EXCEPTIONS"] = True

    def tell(**facts: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(json.dumps(facts).encode(), report)

    @app.get("/")
    def index() -> dict[str, int]:
        return {"pid": os.getpid()}

    @app.post("/echo")
    def echo() -> Response:
        return Response(request.get_data(), mimetype="application/octet-stream")

    @app.post("/unread")
    def unread() -> tuple[dict[str, bool], int]:
        return {"ok": False}, 401

    @app.post("/hold")
    def hold() -> dict[str, int]:
        size = len(request.environ["wsgi.input"].read(int(request.environ["CONTENT_LENGTH"])))
        tell(event="held")
        ClientConnection.of(request.environ).wait(None, 10)
        return {"size": size}

    @app.put("/stream")
    def take() -> dict[str, Any]:
        digest, size = hashlib.sha256(), 0
        try:
            while piece := request.environ["wsgi.input"].read1(1 << 18):
                assert len(piece) <= 1 << 18
                size += len(piece)
                digest.update(piece)
                if len(piece) < 100:
                    tell(event="took", piece=piece.decode())
        except Exception as error:
            tell(event="broke", size=size, kind=type(error).__name__)
            raise
        return {"size": size, "sha256": digest.hexdigest()}

    @app.put("/unread")
    def unread_put() -> tuple[dict[str, bool], int]:
        return {"ok": False}, 401

    @app.get("/big")
    def big() -> Response:
        return Response(b"x" * 8 * 1024 * 1024, mimetype="application/octet-stream")

    @app.get("/stream")
    def stream() -> Response:
        return Response((f"{n}\n" for n in range(3)), mimetype="text/plain")

    @app.get("/options")
    def options() -> dict[str, int]:
        sock = request.environ["gunicorn.socket"]
        return {
            "nodelay": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            "user_timeout": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            "keepalive": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            "idle": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        }

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("secret-canary")

    @app.get("/slow")
    def slow() -> dict[str, int]:
        tell(event="begun")
        ClientConnection(None).wait(None, 1.0)
        return {"pid": os.getpid()}

    @app.get("/watch")
    def watch() -> dict[str, bool]:
        client = ClientConnection.of(request.environ)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            tell(event="watching", gone=client.gone())
            seconds = float(request.args.get("seconds", 10))
            ready = client.wait(ours.fileno(), seconds)
            tell(event="seen", gone=ready.gone, at=time.monotonic())
        return {"gone": ready.gone}

    add_lives(app, tell)

    def with_takeover(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/takeover":
            sock = environ["gunicorn.socket"]
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\nmine now")
            sock.close()
            raise StopIteration
        result: Iterable[bytes] = app(environ, start_response)
        return result

    return with_takeover


def add_lives(app: Flask, tell: Tell) -> None:
    """Replies that the pump carries."""
    spoken: dict[str, Spoken] = {}

    def carry(live: Live, **headers: str) -> Response:
        return Response(live, direct_passthrough=True, mimetype="application/octet-stream", headers=headers)

    @app.get("/live/pieces")
    def pieces() -> Response:
        size, count = int(request.args["size"]), int(request.args["count"])
        length = request.args.get("length")
        headers = {} if length is None else {"Content-Length": length}
        return carry(Pieces(tell, size, count), **headers)

    @app.get("/live/spoken/<name>")
    def listen(name: str) -> Response:
        spoken[name] = Spoken(tell, name)
        return carry(spoken[name])

    @app.post("/live/spoken/<name>")
    def speak(name: str) -> dict[str, bool]:
        spoken[name].say(request.get_data())
        return {"said": True}

    @app.get("/live/endless")
    def endless() -> Response:
        return carry(Endless(tell))

    @app.get("/live/faulty")
    def faulty() -> Response:
        return carry(Faulty(tell, request.args["where"]))

    @app.get("/live/echo")
    def echo_back() -> Response:
        return carry(Echo(tell))

    @app.get("/live/room")
    def room() -> dict[str, bool]:
        return {"room": has_room(request.environ)}


if __name__ == "__main__":
    main()
