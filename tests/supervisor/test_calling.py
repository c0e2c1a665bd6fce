"""Calls over the supervisor's socket: which connections are used again, and which never."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError, SupervisorUnavailable
from gateway.supervisor.link.calling import Caller
from gateway.supervisor.link.protocol import FrameReader, ProtocolError, encode

ERROR = {"error": {"code": "internal_error", "detail": "it failed", "evidence": {}}}
ANSWERS: dict[str, dict[str, Any]] = {"works": {"ok": {"on": 0}}, "fails": ERROR, "nonsense": {"what": 1}}

Ask = Callable[[str], int]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Asks a peer that answers as the operation says; gives the number of the connection that it came on."""
    path, came = tmp_path / "socket", list[int]()

    def serve(sock: socket.socket, number: int) -> None:
        reader = FrameReader()
        with sock:
            try:
                while True:
                    if (frame := reader.read(sock)) is not None:
                        came.append(number)
                        sock.sendall(encode(ANSWERS[frame[0]["op"]]))
            except (OSError, ProtocolError):
                return

    def accept() -> None:
        for number in range(10):
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock, number), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener, closing(Caller(path)) as caller:
        listener.bind(str(path))
        listener.listen()
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()

        def ask_once(operation: str) -> int:
            try:
                assert caller.ask({"op": operation}) == (ANSWERS[operation]["ok"], []), json.dumps(came)
            except GatewayError:
                assert operation != "works"
            return came[-1]

        yield ask_once
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def test_a_refusal_leaves_the_connection_as_good_as_new(ask: Ask) -> None:
    """One connection serves one call after the other, whether they are done or refused, a fault of its peer, too."""
    assert [ask(operation) for operation in ("works", "fails", "works", "fails", "works")] == [0] * 5


def test_nonsense_ends_the_connection(ask: Ask) -> None:
    """Who answers what nobody understands is asked nothing more on that connection."""
    assert [ask(operation) for operation in ("works", "nonsense", "works")] == [0, 0, 1]


def test_nobody_there(tmp_path: Path) -> None:
    """Without a supervisor nothing was run, and that is said."""
    with pytest.raises(SupervisorUnavailable, match="nothing was run"):
        Caller(tmp_path / "socket").ask({"op": "run"})
