"""A14: the client of a silent exec goes away: with `kill` its tree is gone, with `continue` it runs on to its result.

Four ways to be its client (one reply, NDJSON, SSE, a WebSocket), three to go: the connection is closed, reset, or its
network is gone without a word, as with a notebook that is shut.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, kill_all, living, new_mark
from tests.exec.streams import NDJSON, SSE, stream
from tests.exec.waiting import until
from tests.exec.websocket import WebSocket
from tests.pvesim import boot, guests
from tests.soak.networks import Network

WAYS = ("reply", "NDJSON", "SSE", "WebSocket")
GONE_SECONDS = 2.0 + 4.0
"""Two seconds and a heartbeat."""
LOST_SECONDS = 30.0 + 5.0 + GONE_SECONDS
"""A silent network: TCP_USER_TIMEOUT, and how often streams are looked at (gateway.web)."""
ACTIONS = "exec:run,exec:terminal"

_RESET = struct.pack("ii", 1, 0)


class Client(Protocol):
    """Who has begun an exec on a connection of its own."""

    def close(self) -> None: ...


Begin = Callable[[dict[str, Any]], Client]
"""Sends the request for an exec; whose client that is."""


class Exec:
    """A silent exec that `api` sees and a client of its own began: two sessions, and nothing printed before its end."""

    def __init__(self, api: Api, vmid: int, on_disconnect: str, begin: Begin) -> None:
        self.on_disconnect = on_disconnect
        self.mark = new_mark()
        self._api = api
        self._gate = Path(guests.get(vmid).rootfs, "run", f"gate-{self.mark}")
        script = (
            f"setsid sleep {self.mark} & while [ ! -e /run/{self._gate.name} ]; do sleep 0.05; done;"
            f" kill $!; echo {self.mark}; exit 5"
        )
        labels = {"test": self.mark}
        self.client = begin({"command": script, "on_disconnect": on_disconnect, "labels": labels})
        self.id = begun(api, self.mark, self.mark)

    def check(self, within: float) -> float:
        """After the client went: fails unless it is as `on_disconnect` says; the seconds until its tree was gone."""
        began = time.monotonic()
        if self.on_disconnect == "continue":
            self._runs_on()
            return 0.0
        until(lambda: not living(self.mark), within=within, why="the tree is gone")
        took = time.monotonic() - began
        view = self._api.get(f"/execs/{self.id}?wait=5").json()
        assert view["reason"] == "client_gone", view
        return took

    def _runs_on(self) -> None:
        """It lives behind its client's leaving, ends by itself, and its result is there."""
        assert living(self.mark), "the tree is gone"
        self._gate.touch()
        view = self._api.get(f"/execs/{self.id}?wait=10").json()
        assert (view["reason"], view["exit_code"]) == ("exited", 5), view
        assert self._api.get(f"/execs/{self.id}/stdout").body == f"{self.mark}\n".encode()

    def close(self) -> None:
        """Whatever is left of it."""
        self.client.close()
        kill_all(self.mark)


def leave(api: Api, vmid: int, way: str, on_disconnect: str, *, reset: bool) -> float:
    """One client closes, or resets, its connection; the seconds until the tree was gone."""
    with contextlib.closing(Exec(api, vmid, on_disconnect, partial(_begin, api, vmid, way))) as one:
        if reset:
            client = one.client
            sock = client if isinstance(client, socket.socket) else client.sock  # type: ignore[attr-defined]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        one.client.close()
        if on_disconnect == "continue":
            _witness(api, vmid)
        return one.check(GONE_SECONDS)


@contextlib.contextmanager
def lost_network(gateway: Gateway, vmid: int) -> Iterator[dict[tuple[str, str], Exec]]:
    """Execs of clients whose network is cut now, by way and `on_disconnect`. The gateway listens on all addresses."""
    token = gateway.token("lost", actions=ACTIONS)
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(contextlib.closing(gateway.api(token)))
        network = stack.enter_context(contextlib.closing(Network()))
        outside = gateway.api(token, host=boot.ADDRESS)

        def begin(way: str, spec: dict[str, Any]) -> Client:
            with network.inside():
                return _begin(outside, vmid, way, spec)

        execs = {}
        for way in WAYS:
            for on_disconnect in ("kill", "continue"):
                one = Exec(api, vmid, on_disconnect, partial(begin, way))
                execs[way, on_disconnect] = stack.enter_context(contextlib.closing(one))
        network.cut()
        yield execs


def _begin(api: Api, vmid: int, way: str, spec: dict[str, Any]) -> Client:
    """As a client of the kind `way`."""
    if way == "reply":
        return api.begin(vmid, spec)
    if way == "WebSocket":
        terminal = WebSocket(api, f"/exec/{vmid}/terminal")
        terminal.say("start", **spec)
        return terminal
    return stream(api, vmid, spec, SSE if way == "SSE" else NDJSON)


def _witness(api: Api, vmid: int) -> None:
    """Returns when a client that went later has been seen to leave: the one before it has been, too."""
    with contextlib.closing(Exec(api, vmid, "kill", partial(_begin, api, vmid, "reply"))) as later:
        later.client.close()
        later.check(GONE_SECONDS)
