"""PUT /execs/{id}/stdin, POST .../signal and .../resize, POST /tickets: they work first, then the refusals."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from .fake_exec import FakeExec
from .fakes import Api, assert_problem

Running = tuple[str, str, FakeExec]


@pytest.fixture
def running(api: Api) -> Running:
    """A token, the path of a running exec of it with a terminal, and the exec."""
    token = api.token()
    api.supervisor.plays = lambda exec_: None
    body = {"command": ["x"], "tty": {}}
    view = api.request("POST", "/exec/101", token, headers={"Prefer": "respond-async"}, json=body).json
    return token, f"/execs/{view['id']}", api.supervisor.live[view["id"]]


class Slow:
    """A body that comes in the given pieces, and then breaks off, or ends."""

    def __init__(self, pieces: list[bytes], *, breaks: bool = False) -> None:
        self._pieces = pieces
        self._breaks = breaks
        self.sizes: list[int] = []

    def read1(self, size: int) -> bytes:
        self.sizes.append(size)
        if self._pieces:
            piece, self._pieces[0] = self._pieces[0][:size], self._pieces[0][size:]
            if not self._pieces[0]:
                self._pieces.pop(0)
            return piece
        if self._breaks:
            raise ConnectionResetError
        return b""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("it would wait for all of it")


def put(api: Api, running: Running, query: str = "", **options: Any) -> Any:
    return api.request("PUT", f"{running[1]}/stdin{query}", running[0], **options)


def upload(api: Api, running: Running, body: Slow, query: str = "", length: str = "") -> Any:
    environ = {"wsgi.input": body, "CONTENT_LENGTH": length, "wsgi.input_terminated": not length}
    return put(api, running, query, environ_overrides=environ)


def test_input_is_taken(api: Api, running: Running) -> None:
    """Bytes of any kind, one request after another, and the end with the last; each answer tells how far it is."""
    every = bytes(range(256))
    assert put(api, running, data=every).json == {"offset": 256, "eof": False}
    assert put(api, running, data=b"x", content_type="text/plain").json == {"offset": 257, "eof": False}
    assert put(api, running).json == {"offset": 257, "eof": False}
    assert put(api, running, "?eof=1").json == {"offset": 257, "eof": True}
    assert (running[2].stdin, running[2].eof) == (every + b"x", True)


def test_the_same_offset_twice_is_written_once(api: Api, running: Running) -> None:
    """A request that is sent again, whole or in part, adds nothing twice; also when it held the end."""
    for query, data, offset in (
        ("?offset=0", b"hello", 5),
        ("?offset=0", b"hello", 5),
        ("?offset=3", b"lo world", 11),
        ("?offset=5&eof=true", b" world", 11),
        ("?offset=5&eof=true", b" world", 11),
    ):
        assert put(api, running, query, data=data).json["offset"] == offset
    assert running[2].stdin == b"hello world"


def test_a_body_is_handed_on_as_it_comes(api: Api, running: Running) -> None:
    """What is typed reaches the command at once, and never more than 256 KiB is held, however long the body."""
    pieces = [b"ls\n", b"a" * (1 << 20), b"b"]
    body = Slow(list(pieces))
    assert upload(api, running, body, "?offset=0&eof=1").json == {"offset": 4 + (1 << 20), "eof": True}
    assert running[2].stdin == b"".join(pieces)
    assert set(body.sizes) == {256 << 10}


@pytest.mark.parametrize("length", ["", "100"])
def test_a_body_that_breaks_off_loses_nothing(api: Api, running: Running, length: str) -> None:
    """What came before the break has been taken, the end has not, and the request can be sent again from 0."""
    response = upload(api, running, Slow([b"one", b"two"], breaks=True), "?offset=0&eof=1", length)
    assert_problem(response, 400, "malformed_request")
    assert (running[2].stdin, running[2].eof) == (b"onetwo", False)
    again = upload(api, running, Slow([b"onetwothree"]), "?offset=0&eof=1", "11")
    assert again.json == {"offset": 11, "eof": True}
    assert running[2].stdin == b"onetwothree"


def test_a_body_cut_short_is_malformed(api: Api, running: Running) -> None:
    """A body that ends before its Content-Length says so has not told the end of the input."""
    assert_problem(upload(api, running, Slow([b"one"]), "?eof=1", "4"), 400, "malformed_request")
    assert (running[2].stdin, running[2].eof) == (b"one", False)


def test_input_elsewhere_is_refused(api: Api, running: Running) -> None:
    """A gap in the input is 409 and names the offset to go on from."""
    put(api, running, data=b"abc")
    response = put(api, running, "?offset=4", data=b"x")
    assert assert_problem(response, 409, "stdin_offset_mismatch")["expected"] == 3
    assert running[2].stdin == b"abc"


def test_closed_input_is_refused(api: Api, running: Running) -> None:
    """After the end nothing more is taken; nor by a command without open input, nor by one that has ended."""
    put(api, running, "?eof=1", data=b"abc")
    assert_problem(put(api, running, data=b"x"), 409, "stdin_closed")
    running[2].stdin_open = False
    assert_problem(put(api, running, data=b"x"), 409, "stdin_closed")
    running[2].end()
    assert_problem(put(api, running, data=b"x"), 409, "exec_ended")


def test_encoded_bodies_are_refused(api: Api, running: Running) -> None:
    """Compressed input would reach the command compressed."""
    response = put(api, running, data=b"x", headers={"Content-Encoding": "gzip"})
    assert_problem(response, 415, "unsupported_media_type")
    assert running[2].stdin == b""


@pytest.mark.parametrize("query", ["?offset=-1", "?offset=x", "?eof=maybe", "?end=1"])
def test_bad_stdin_queries(api: Api, running: Running, query: str) -> None:
    """What is wrong is named, and nothing is taken."""
    assert_problem(put(api, running, query, data=b"x"), 422, "invalid_request")
    assert running[2].stdin == b""


@pytest.mark.parametrize("path", ["stdin", "signal", "resize"])
def test_another_tokens_exec(api: Api, running: Running, path: str) -> None:
    """Another token's exec does not exist, and goes on untouched."""
    method = "PUT" if path == "stdin" else "POST"
    body: dict[str, Any] = {"signal": {"signal": 9}, "resize": {"rows": 1, "cols": 1}}.get(path, {})
    response = api.request(method, f"{running[1]}/{path}", api.token(), json=body)
    assert_problem(response, 404, "exec_not_found")
    assert (running[2].stdin, running[2].signals, running[2].tty) == (b"", [], (24, 80))


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"signal": "TERM"}, (signal.SIGTERM, False)),
        ({"signal": "SIGTERM", "to": "tree"}, (signal.SIGTERM, True)),
        ({"signal": "sigusr1", "to": "command"}, (signal.SIGUSR1, False)),
        ({"signal": 1}, (1, False)),
        ({"signal": 64}, (64, False)),
        ({"signal": "RTMIN"}, (signal.SIGRTMIN, False)),
    ],
)
def test_signals(api: Api, running: Running, body: Any, sent: tuple[int, bool]) -> None:
    """By name, with or without SIG, or by number; to the command or its tree."""
    response = api.request("POST", f"{running[1]}/signal", running[0], json=body)
    assert (response.status_code, response.json["state"]) == (200, "running")
    assert running[2].signals == [sent]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "signal"),
        *(
            ({"signal": name}, "signal")
            for name in ("HUNTER2", "", "SIG", "9", "SIGSIGTERM", 0, 65, -9, True, 1.0, None)
        ),
        ({"signal": 9, "to": "all"}, "to"),
        ({"signal": 9, "pid": 1}, "pid"),
    ],
)
def test_bad_signals(api: Api, running: Running, body: Any, path: str) -> None:
    """What is no signal is named, and none is sent."""
    response = api.request("POST", f"{running[1]}/signal", running[0], json=body)
    problem = assert_problem(response, 422, "invalid_request")
    assert [error["path"] for error in problem["errors"]] == [path]
    assert "HUNTER2" not in response.text
    assert running[2].signals == []


def test_resizes(api: Api, running: Running) -> None:
    """A terminal gets the size; an exec without one, and an ended one, refuse."""
    path = f"{running[1]}/resize"
    assert api.request("POST", path, running[0], json={"rows": 50, "cols": 132}).status_code == 200
    assert running[2].tty == (50, 132)
    for size in ({"rows": 0, "cols": 1}, {"rows": 1, "cols": 32768}, {"rows": 1}):
        assert_problem(api.request("POST", path, running[0], json=size), 422, "invalid_request")
    running[2].tty = None
    response = api.request("POST", path, running[0], json={"rows": 1, "cols": 1})
    assert_problem(response, 409, "not_a_terminal")
    running[2].end()
    assert_problem(api.request("POST", f"{running[1]}/signal", running[0], json={"signal": 9}), 409, "exec_ended")


@pytest.mark.parametrize("path", ["/exec/101/terminal", f"/execs/ex_{'0' * 26}/attach"])
def test_tickets(api: Api, path: str) -> None:
    """A ticket for a WebSocket, bound to the token, its secret, and the path."""
    token = api.token("guest:read")
    response = api.request("POST", "/tickets", token, json={"path": path})
    assert (response.status_code, response.json["expires_in"]) == (200, 30)
    token_id = token.removeprefix("pveg_").split(".")[0]
    maker, bound_to = api.supervisor.tickets[response.json["ticket"]]
    assert (maker.token_id, maker.secret[0], bound_to) == (token_id, 1, f"GET {path}")


@pytest.mark.parametrize("path", ["", "/execs", "/exec/101", "/exec/99/terminal", "/exec/101/terminal?x=1", "terminal"])
def test_tickets_are_for_websockets(api: Api, path: str) -> None:
    """No ticket stands for a token anywhere else."""
    assert_problem(api.request("POST", "/tickets", api.token(), json={"path": path}), 422, "invalid_request")
    assert api.supervisor.tickets == {}
