"""What streams cost: large output as a download, followed and as events, the first byte, idle followers, an echo."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator

from tests.bench.bare import LXC_ATTACH
from tests.bench.client import connect
from tests.bench.figures import median
from tests.bench.memory import proportional_memory
from tests.exec.api import Api
from tests.exec.streams import NDJSON, detach
from tests.exec.websocket import Session
from tests.pvesim.services import COMMANDS, Services

LARGE = 1 << 30
FOLLOWED_LIMIT = 64 << 20
"""The default of `spool.per_exec`: what is followed need not be kept."""
EVENTS = 256 << 20
IDLE_STREAMS = 500
SILENT = 10
TURNS = 100
_LOOK_EVERY = 128 << 20
_MIB = 1 << 20
SETTINGS = {"spool": {"per_exec": 2 << 30, "total": 8 << 30}}
"""So that a gibibyte is kept whole."""


class Bench:
    """One gateway, one guest, one token that may do all."""

    def __init__(self, services: Services, token: str, vmid: int) -> None:
        self._services = services
        self._vmid = vmid
        self._token = token
        self._api = Api(services.port, services.ca, token, timeout=120)

    def close(self) -> None:
        self._api.close()

    def figures(self) -> dict[str, float]:
        """All of them, in the units that their names end with."""
        return {**self._large(), **self._first_byte(), **self._idle(), "echo_p50_ms": self._echo()}

    def _large(self) -> dict[str, float]:
        """MiB/s of the kept bytes of a stream as they reach the client, and what memory grew by meanwhile."""
        before = self._memory()
        size = {"limit": LARGE}
        zeros = f"dd if=/dev/zero bs=1M count={LARGE // _MIB} 2>/dev/null"
        text = f"yes 'a line of a log, as long as such lines are: 64 bytes with newline' | head -c {EVENTS}"
        kept = self._ended(detach(self._api, self._vmid, zeros, output=size))
        grown = [0.0]

        def look() -> None:
            grown.append(self._memory() - before)

        download = LARGE / self._read(f"/execs/{kept}/stdout", LARGE, look)
        ready = f"read x; {zeros}"
        running = detach(self._api, self._vmid, ready, output={"limit": FOLLOWED_LIMIT}, stdin_open=True)
        begin = ("PUT", f"/execs/{running}/stdin?offset=0&eof=1", b"\n")
        follow = LARGE / self._read(f"/execs/{running}/stdout?follow=1", LARGE, look, when_open=begin)
        self._ended(running)
        lines = self._ended(detach(self._api, self._vmid, text, output={"limit": EVENTS}))
        events = EVENTS / self._read(f"/execs/{lines}/events", EVENTS, look)
        rates = {"download_mib_s": download, "follow_mib_s": follow, "ndjson_mib_s": events}
        return {name: rate / _MIB for name, rate in rates.items()} | {"grown_mb": max(grown)}

    def _first_byte(self) -> dict[str, float]:
        """Milliseconds to the first byte of `echo`, streamed and from a bare lxc-attach, in turns."""
        samples: dict[str, list[float]] = {"first_byte": [], "bare_first_byte": []}
        with contextlib.closing(self._connect()) as sock:
            for _ in range(TURNS):
                samples["first_byte"].append(_timed(self._first_event(sock)))
                samples["bare_first_byte"].append(_timed(_first_bare(self._vmid)))
        return {f"{name}_p50_ms": median(taken) for name, taken in samples.items()}

    def _idle(self) -> dict[str, float]:
        """KiB of our processes for each of many followers of silent commands, and what they cost others."""
        silent = [detach(self._api, self._vmid, ["sleep", "3600"]) for _ in range(SILENT)]
        true = {"command": ["/bin/true"]}

        def p50() -> float:
            return median([_timed(iter([lambda: self._api.post(self._vmid, true)])) for _ in range(TURNS)])

        alone, before = p50(), self._memory()
        with contextlib.ExitStack() as streams:
            for number in range(IDLE_STREAMS):
                sock = streams.enter_context(contextlib.closing(self._connect()))
                _send(sock, "GET", f"/execs/{silent[number % SILENT]}/events", self._token)
                _until(sock, b'"start"')
            each = (self._memory() - before) * 1e6 / 1024 / IDLE_STREAMS
            beside = p50()
        for exec_id in silent:
            self._api.request("DELETE", f"/execs/{exec_id}?wait=10")
        return {"idle_stream_kib": each, "beside_idle_times": beside / alone}

    def _echo(self) -> float:
        """Milliseconds from a key to its echo."""
        with Session(self._api, f"/exec/{self._vmid}/terminal") as terminal:
            terminal.start(["/bin/cat"], tty={})

            def key() -> None:
                terminal.type("x")
                terminal.until_shown("x")

            key()
            echo = median([_timed(iter([key])) for _ in range(TURNS)])
            terminal.bye()
        return echo

    def _first_event(self, sock: ssl.SSLSocket) -> Iterator[Callable[[], object]]:
        body = json.dumps({"command": ["/bin/echo", "x"]}).encode()

        def first() -> None:
            _send(sock, "POST", f"/exec/{self._vmid}", self._token, body, f"Accept: {NDJSON}")
            self._rest = _until(sock, b'"stdout"')

        yield first
        _until(sock, b"\r\n0\r\n\r\n", self._rest)

    def _read(
        self, path: str, size: int, look: Callable[[], None], when_open: tuple[str, str, bytes] | None = None
    ) -> float:
        """Seconds until a reply with so many bytes of output or more has come whole."""
        buffer = bytearray(_MIB)
        with contextlib.closing(self._connect()) as sock:
            _send(sock, "GET", path, self._token, None, "Connection: close")
            count = 0
            if when_open is not None:
                method, place, data = when_open
                answer = self._api.request(method, place, raw=data)
                assert answer.status == 200, answer.body
            began = time.perf_counter()
            looked = 0.0
            next_look = _LOOK_EVERY
            while taken := sock.recv_into(buffer):
                count += taken
                if count >= next_look:
                    at = time.perf_counter()
                    look()
                    looked += time.perf_counter() - at
                    next_look += _LOOK_EVERY
            seconds = time.perf_counter() - began - looked
        if count < size:
            raise RuntimeError(f"{path}: {count} bytes came of {size}")
        return seconds

    def _ended(self, exec_id: str) -> str:
        while (view := self._api.get(f"/execs/{exec_id}?wait=30").json())["state"] == "running":
            pass
        if view["exit_code"] != 0:
            raise RuntimeError(f"an exec failed: {view}")
        return exec_id

    def _connect(self) -> ssl.SSLSocket:
        return connect(("127.0.0.1", self._services.port), self._services.ca)

    def _memory(self) -> float:
        """MB of our processes, and of the commands that run, which are children of the supervisor."""
        return proportional_memory(self._services.pid(name) for name in COMMANDS)


def _timed(steps: Iterator[Callable[[], object]]) -> float:
    """Milliseconds of the first step; what follows it is done, and not counted."""
    step = next(steps)
    began = time.perf_counter()
    step()
    took = (time.perf_counter() - began) * 1000
    for step in steps:
        step()
    return took


def _first_bare(vmid: int) -> Iterator[Callable[[], object]]:
    read, write = os.pipe()
    argv = [LXC_ATTACH, "--clear-env", "-n", str(vmid), "--", "/bin/echo", "x"]
    pids: list[int] = []

    def first() -> None:
        pids.append(
            os.posix_spawn(LXC_ATTACH, argv, {"PATH": os.defpath}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
        )
        if os.read(read, 1) != b"x":
            raise RuntimeError("lxc-attach echoed nothing")

    yield first
    os.waitpid(pids[0], 0)
    os.close(read)
    os.close(write)


def _send(sock: ssl.SSLSocket, method: str, path: str, token: str, body: bytes | None = None, *more: str) -> None:
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", *more]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + (body or b""))


def _until(sock: ssl.SSLSocket, what: bytes, seen: bytes = b"") -> bytes:
    """Reads until `what` stands in what was seen before and comes; all of it."""
    while what not in seen:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError(f"closed before {what!r}: {seen[-500:]!r}")
        seen += data
    return seen
