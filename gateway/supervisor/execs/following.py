"""Following an exec's output: what has come since, now or as soon as something comes, until its end."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.exec.origin import Origin
from gateway.supervisor.execs.looking import Looking
from gateway.supervisor.execs.registry import Execs
from gateway.supervisor.output.followers import Followers

_MAX_BYTES = 1 << 20
_MAX_WAIT = 60.0

Events = tuple[dict[str, Any], tuple[bytes, ...]]


class Following:
    """Answers those who follow an exec. A follower is known by the connection that it asks on."""

    def __init__(self, io: asyncio.AbstractEventLoop, execs: Execs, looking: Looking) -> None:
        self._io = io
        self._execs = execs
        self._looking = looking

    async def events(
        self, follower: object, exec_id: str, origin: Origin, *, cursor: int, seen: int, limit: int, wait: float
    ) -> Events:
        """Both streams in the order of their coming, from `cursor` on; see Feed.ask_events.

        A cursor past the newest byte gives nothing at once. Raises ExecNotFound, or OutputDropped for a cursor whose
        place is no longer known.
        """
        deadline = self._io.time() + min(wait, _MAX_WAIT)
        while True:
            recording, ended = self._looking.recording(exec_id, origin)
            total = recording.order.total
            if cursor > total:
                reply = {"events": [], "cursor": cursor, "total": total, "ended": ended}
                return {**reply, "exec": self._looking.get(exec_id, origin)}, ()
            if not ended and exec_id in self._execs.running:
                stdout, stderr = recording.order.offsets(cursor)
                self._followers(exec_id).took(follower, {"stdout": stdout, "stderr": stderr})
            if ended or total > max(seen, cursor) or not await self._news(exec_id, deadline):
                break
        events, blobs, cursor = recording.events(cursor, min(limit, _MAX_BYTES))
        reply = {"events": events, "cursor": cursor, "total": total, "ended": ended and cursor >= total}
        return {**reply, "exec": self._looking.get(exec_id, origin)}, tuple(blobs)

    async def output(
        self, follower: object, exec_id: str, origin: Origin, stream: str, *, offset: int, length: int, wait: float
    ) -> Events:
        """One stream's kept bytes from `offset` on, `length` at most and not past a gap; none inside one.

        With `wait`, for as long as there are none behind `offset` and the exec runs.
        """
        deadline = self._io.time() + min(wait, _MAX_WAIT)
        while True:
            recording, ended = self._looking.recording(exec_id, origin)
            source = recording.stream(stream)
            if wait and not ended and exec_id in self._execs.running:
                self._followers(exec_id).took(follower, {stream: offset})
            if ended or source.total > offset or not wait or not await self._news(exec_id, deadline):
                break
        data = source.read(offset, min(length, _MAX_BYTES))
        return {"total": source.total, "kept": source.layout.kept(source.total), "ended": ended}, (data,)

    def left(self, follower: object, exec_ids: set[str]) -> None:
        """The follower's connection has closed."""
        for exec_id in exec_ids:
            if exec_id in self._execs.running:
                self._followers(exec_id).left(follower)

    def _followers(self, exec_id: str) -> Followers:
        return self._execs.running[exec_id].streams.followers

    async def _news(self, exec_id: str, deadline: float) -> bool:
        """Whether something has come before `deadline`, its beginning or its end too."""
        left = deadline - self._io.time()
        if left <= 0:
            return False
        waiting = self._execs.queued.get(exec_id)
        return await (waiting.over(left) if waiting is not None else self._followers(exec_id).news(left))
