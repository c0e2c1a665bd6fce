"""A11, A23: large streams, whole, or cut at random points and resumed: no byte is lost, none comes twice."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from tests.exec.api import Api
from tests.exec.streams import NDJSON, Follower, Reply, detach, stream
from tests.exec.websocket import STDOUT, Closed, Output, WebSocket

MIB = 1 << 20
ODD = 65521


def cut_events(api: Api, vmid: int, *, cuts: int, mib: int, seed: int, accept: str) -> dict[str, float]:
    """An exec that writes `mib` to each of stdout and stderr; its events, cut `cuts` times on the way."""
    chance, follower = random.Random(seed), Follower()
    spec = {"command": _writer(mib), "on_disconnect": "continue", "output": {"limit": 2 * MIB}, "timeout": 600}
    points = _points(chance, cuts, 2 * mib * MIB)
    with stream(api, vmid, spec, accept) as reply:
        exec_id = _follow_until(reply, follower, points.pop(0) if points else None)
    assert exec_id is not None
    while follower.end is None:
        place = f"/execs/{exec_id}/events"
        with resume(api, place, follower.seq, accept, by_header=chance.random() < 0.5) as reply:
            _follow_until(reply, follower, points.pop(0) if points else None)
    counts = follower.end["exec"]["output"]
    _check(counts, follower.sizes, follower.hashes(), mib)
    return {"cuts": cuts, "MiB": 2 * mib}


def cut_output(api: Api, vmid: int, *, cuts: int, mib: int, seed: int) -> dict[str, float]:
    """The same for the raw bytes of both streams, one after the other, resumed by offset."""
    exec_id = detach(api, vmid, _writer(mib), output={"limit": 2 * mib * MIB}, timeout=600)
    sizes, hashes = {}, {}
    for name in ("stdout", "stderr"):
        chance, digest, offset = random.Random(seed), hashlib.sha256(), 0
        points = _points(chance, cuts // 2, mib * MIB)
        while True:
            point = points.pop(0) if points else None
            with Reply(api, "GET", f"/execs/{exec_id}/{name}?follow=1&offset={offset}") as reply:
                assert reply.status == 200, reply.read()
                for piece in reply.pieces():
                    offset += len(piece)
                    digest.update(piece)
                    if point is not None and offset >= point:
                        break
                else:
                    break
        sizes[name], hashes[name] = offset, digest.hexdigest()
    view = api.get(f"/execs/{exec_id}?wait=10").json()
    _check(view["output"], sizes, hashes, mib)
    return {"cuts": cuts, "MiB": 2 * mib}


def cut_attached(api: Api, vmid: int, *, cuts: int, mib: int, seed: int) -> dict[str, float]:
    """The same over WebSockets, attached again behind the last byte seen; `api` may open terminals."""
    exec_id = detach(api, vmid, _writer(mib), output={"limit": 2 * mib * MIB}, timeout=600)
    follower, points = Follower(), _points(random.Random(seed), cuts, 2 * mib * MIB)
    while follower.end is None:
        point = points.pop(0) if points else None
        with WebSocket(api, f"/execs/{exec_id}/attach?from={follower.seq}") as socket:
            while follower.end is None and (point is None or follower.seq < point):
                heard = socket.receive()
                assert not isinstance(heard, Closed), heard
                if isinstance(heard, Output):
                    follower.add("stdout" if heard.channel == STDOUT else "stderr", heard.offset, heard.data)
                elif heard["type"] == "end":
                    follower.end = heard
                else:
                    assert heard["type"] == "started", heard
                    assert heard["cursor"] == follower.seq, heard
    _check(follower.end["exec"]["output"], follower.sizes, follower.hashes(), mib)
    return {"cuts": cuts, "MiB": 2 * mib}


def _writer(mib: int) -> str:
    """Random bytes to both streams; in pieces of odd sizes, so that no edge is where another is."""
    one = f"head -c {ODD} /dev/urandom"
    rest = f"head -c {mib * MIB} /dev/urandom"
    return f"{one}; {one} >&2; {rest} & {rest} >&2; wait"


def _points(chance: random.Random, cuts: int, size: int) -> list[int]:
    return sorted(chance.randrange(1, size) for _ in range(cuts))


def _follow_until(reply: Reply, follower: Follower, point: int | None) -> str | None:
    """Follows until so many bytes were seen in all, or to the end; the exec's id, where the reply told it."""
    exec_id: str | None = None
    for event in reply.events():
        if event["type"] == "start":
            exec_id = event["exec"]["id"]
        follower.take(event)
        if point is not None and follower.seq >= point:
            break
    return exec_id


def resume(api: Api, place: str, seq: int, accept: str = NDJSON, *, by_header: bool = False, **options: Any) -> Reply:
    """The events behind the last one seen, asked for by query or by Last-Event-ID."""
    if by_header:
        return Reply(api, "GET", place, headers={"Accept": accept, "Last-Event-ID": str(seq)}, **options)
    return Reply(api, "GET", f"{place}?from={seq}", headers={"Accept": accept}, **options)


def _check(counts: dict[str, Any], sizes: dict[str, int], hashes: dict[str, str], mib: int) -> None:
    for name in ("stdout", "stderr"):
        assert counts[name]["bytes"] == sizes[name], f"{sizes[name]} bytes of {name} seen: {counts[name]}"
        assert counts[name]["bytes"] == mib * MIB + ODD, counts[name]
        assert counts[name]["sha256"] == hashes[name], f"{name} is another"
