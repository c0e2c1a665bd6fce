"""WebSockets under fuzz: each is opened, played on with good frames and one bad one, and judged by how it ends."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.exec.api import Api
from tests.exec.streams import detach
from tests.exec.websocket import NotUpgraded, WebSocket
from tests.fuzz.frames import BINARY, CLOSE, PING, PONG, TEXT, Move, Player, encode
from tests.fuzz.running import Tally, Target

MAX_SECONDS = 20.0
"""From the last that a client sends to the end of the connection."""
DOCUMENTED = frozenset({1000, 1001, 1002, 1007, 1009, 4400, 4401, 4403, 4404, 4408, 4409, 4416, 4422, 4429})
"""Close codes that a client may be told (docs/terminal-protocol.md), those of our own faults and absences apart."""

_MESSAGES = {"started", "ack", "gap", "error", "end"}
_STARTS: tuple[dict[str, Any], ...] = (
    {"command": ["cat"], "tty": {}},
    {"command": ["cat"], "stdin_open": True},
    {"command": "cat > /dev/null", "stdin_open": True, "window": 1},
    {"command": ["sleep", "9"]},
    {"command": "seq 20000; cat", "tty": {"rows": 5, "cols": 5}, "window": 4096},
)
_BAD_STARTS: tuple[tuple[Any, frozenset[int]], ...] = (
    ({"command": []}, frozenset({4422})),
    ({"command": ["cat"], "nonsense": 1}, frozenset({4422})),
    ({"command": ["cat"], "window": 0}, frozenset({4422})),
    ({"command": ["cat"], "window": 1 << 31}, frozenset({4422})),
    ({"command": ["cat"], "tty": {"rows": -1}}, frozenset({4422})),
    ({"command": "\0"}, frozenset({4422})),
    (["start"], frozenset({4400})),
)


class _Upgraded(WebSocket):
    """Only the upgrade is its own; what comes behind it is kept in `rest`, as bytes."""

    def _take(self, data: bytes) -> None:
        self.rest = data


@dataclass
class Heard:
    """What the server said on one connection."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    code: int | None = None
    reason: str = ""
    wrong: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def told_end(self) -> bool:
        return any(message["type"] == "end" for message in self.messages)


def fuzz_sockets(target: Target, *, count: int, seed: int, threads: int = 1) -> Tally:
    """Opens `count` WebSockets, from `threads` threads; equal ones for an equal seed with one thread."""
    tally, chance = Tally(), random.Random(seed)
    api = Api(urlsplit(target.url).port or 0, target.ca, target.token)
    with contextlib.closing(api), ThreadPoolExecutor(threads) as pool:
        held = detach(api, 101, ["cat"], stdin_open=True, timeout=600)
        seeds = [chance.random() for _ in range(count)]
        for name, seconds, wrong in pool.map(lambda one: _play(target, held, random.Random(one)), seeds):
            tally.requests += 1
            tally.slowest = max(tally.slowest, seconds)
            tally.statuses[101] += 1
            for what in wrong:
                tally.wrong[what] += 1
                tally.example.setdefault(what, f"a WebSocket: {name}")
        api.request("DELETE", f"/execs/{held}?wait=10")
    tally.secrets = [target.token]
    return tally


def _play(target: Target, held: str, chance: random.Random) -> tuple[str, float, list[str]]:
    """One connection from its upgrade to its end: what it was, how long it took to end, and what was wrong."""
    api = Api(urlsplit(target.url).port or 0, target.ca, target.token)
    starts = chance.random() < 0.6
    writes = starts or chance.random() < 0.5
    query = chance.choice(["", "&window=1", "&from=0"])
    path = "/exec/101/terminal" if starts else f"/execs/{held}/attach?write={int(writes)}{query}"
    player, moves = Player(chance, writes), list[Move]()
    with contextlib.closing(api):
        try:
            opened = _Upgraded(api, path, timeout=MAX_SECONDS)
        except NotUpgraded as refused:
            return path, 0.0, [f"WebSocket {path.split('?')[0][:6]}: {refused.answer.status}"]
        with opened:
            if starts:
                moves.append(_start(player, chance))
            if not moves or not moves[0].closes:
                moves += [player.next(good=True) for _ in range(chance.choice([0, 1, 3, 8]))]
                moves.append(player.next(good=chance.random() < 0.15))
            heard = Heard()
            began = _send(opened.sock, moves, player, heard)
            _listen(opened.sock, opened.rest, began + MAX_SECONDS, heard, polite=chance.random() < 0.9)
            seconds = time.monotonic() - began
    name = f"{path}: {', '.join(move.name for move in moves)} -> {heard.code} {heard.reason} {heard.messages[-2:]}"
    return name, seconds, list(_judge(moves, heard, writes))


def _start(player: Player, chance: random.Random) -> Move:
    if chance.random() < 0.2:
        body, codes = chance.choice(_BAD_STARTS)
        return Move("bad start", player.text({"type": "start", **body} if isinstance(body, dict) else body), codes)
    spec = {"type": "start", **chance.choice(_STARTS), "timeout": 5, "kill_grace": 0}
    return Move("start", player.text(spec))


def _send(sock: ssl.SSLSocket, moves: list[Move], player: Player, heard: Heard) -> float:
    """Sends all, cut at random places, and at the end a goodbye; the monotonic time when it was done."""
    data = b"".join(move.data for move in moves)
    if not moves[-1].closes and not moves[-1].silent:
        data += player.frame(CLOSE, struct.pack(">H", 1000))
    cuts = sorted(player.chance.randrange(len(data) + 1) for _ in range(player.chance.choice([0, 1, 5])))
    with contextlib.suppress(OSError):  # the server may have closed in the middle
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            sock.sendall(data[start:end])
        if moves[-1].silent:
            socket.socket.shutdown(sock, socket.SHUT_WR)
    return time.monotonic()


def _listen(sock: ssl.SSLSocket, rest: bytes, deadline: float, heard: Heard, *, polite: bool) -> None:
    """Takes frames apart until the connection ends; a reset behind the goodbye counts as its end.

    `polite`: the server's goodbye is answered; else it closes after two seconds.
    """
    buffer = bytearray(rest)
    with contextlib.suppress(TimeoutError):
        while True:
            for opcode, payload in _frames(buffer, heard):
                _note(opcode, payload, heard)
                if opcode == CLOSE and polite:
                    with contextlib.suppress(OSError):
                        sock.sendall(encode(CLOSE, payload[:2], mask=bytes(4)))
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = sock.recv(1 << 18)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if not data:
                heard.ended = True
                if buffer:
                    heard.wrong.append("a frame breaks off")
                return
            buffer += data


def _frames(buffer: bytearray, heard: Heard) -> Iterator[tuple[int, bytes]]:
    """The whole frames in the buffer, taken out of it."""
    while len(buffer) >= 2:
        size, at = buffer[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(buffer) < at:
                return
            size = int.from_bytes(buffer[2:at])
        if len(buffer) < at + size:
            return
        if buffer[0] & 0x70 or buffer[1] & 0x80:
            heard.wrong.append("a frame with reserved bits, or masked")
        yield buffer[0] & 0x0F, bytes(buffer[at : at + size])
        del buffer[: at + size]


def _note(opcode: int, payload: bytes, heard: Heard) -> None:
    if heard.code is not None:
        heard.wrong.append("a frame behind the goodbye")
    if opcode == TEXT:
        message = json.loads(payload)
        heard.messages.append(message)
        if message.get("type") not in _MESSAGES:
            heard.wrong.append("a message of no known type")
    elif opcode == BINARY:
        if len(payload) < 9 or payload[0] not in (1, 2):
            heard.wrong.append("output without channel and offset")
    elif opcode == CLOSE:
        heard.code = int.from_bytes(payload[:2]) if payload else 1005
        heard.reason = payload[2:].decode()
    elif opcode not in (PING, PONG):
        heard.wrong.append(f"a frame of opcode {opcode}")


def _judge(moves: list[Move], heard: Heard, writes: bool) -> Iterator[str]:
    """What is wrong with how it went, each a line that is the same for the same kind of wrong."""
    last = moves[-1]
    where = f"WebSocket, {last.name}"
    yield from (f"{where}: {wrong}" for wrong in heard.wrong)
    if not heard.ended:
        yield f"{where}: not ended within {MAX_SECONDS:.0f} s"
    for message in heard.messages:
        if message["type"] == "error" and message["code"] in ("internal_error", "supervisor_unavailable"):
            yield f"{where}: told {message['code']}"
    if last.silent:
        return  # who leaves so is told nothing
    if heard.code is None:
        yield f"{where}: ended without a close"
    elif heard.told_end or heard.reason == "writer_taken":
        return  # it was over before
    elif last.closes and heard.code not in last.closes:
        yield f"{where}: closed with {heard.code} {heard.reason} in place of {sorted(last.closes)}"
    elif not last.closes and heard.code != 1000:
        yield f"{where}: closed with {heard.code} {heard.reason}, and nothing was wrong"
    elif heard.code not in DOCUMENTED | last.closes:
        yield f"{where}: closed with {heard.code}, which is not documented"
