"""Changes of guests that the supervisor itself makes: announced in the audit log, made, and their ends told there,
whoever waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gateway.audit.record import Event
from gateway.audit.unfinished import UnfinishedChanges
from gateway.errors import GatewayError
from gateway.exec.origin import Origin
from gateway.supervisor.execs.audit_trail import AuditTrail, record_of

T = TypeVar("T")


class Announced:
    """Those of one node, all together."""

    def __init__(self, io: asyncio.AbstractEventLoop, trail: AuditTrail, unfinished: UnfinishedChanges) -> None:
        self._io = io
        self._trail = trail
        self._unfinished = unfinished
        self._working: set[asyncio.Task[Any]] = set()
        self._busy = 0

    @property
    def under_way(self) -> bool:
        """Whether any is being decided, made or answered: none can be handed to another image."""
        return bool(self._working or self._busy)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of it; it goes on to its end though the one who waits leaves."""
        task = self._io.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        with self.busy():
            return await asyncio.shield(task)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One is about to be made, or to be answered: it counts as under way."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def make(
        self,
        event: Event,
        origin: Origin,
        action: str,
        vmid: int,
        node: str,
        data: dict[str, Any] | None,
        act: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Makes it by `act`, whose data tell how it ended, as its outcome does; gives them with its `audit_id`.

        Raises AuditUnavailable, and what `act` raises, for what was not done: so says the log. To be called in what
        `finish` keeps.
        """
        intent = record_of(event, origin, action=action, vmid=vmid, node=node, data=data)
        change = self._unfinished.begin(intent)  # if we are killed, web says that its outcome is unknown
        await self._trail.commit(intent, change)
        try:
            outcome = await act()
        except GatewayError as error:
            self._trail.abort(intent, error.detail[:256], change)
            error.evidence.setdefault("audit_id", intent["audit_id"])
            raise
        except Exception:
            self._trail.note({**intent, "event": str(Event.GUEST_OUTCOME), "data": {"reason": "unknown"}}, change)
            raise
        self._trail.note({**intent, "event": str(Event.GUEST_OUTCOME), "data": outcome}, change)
        return {**outcome, "audit_id": intent["audit_id"]}
