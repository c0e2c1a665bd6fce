"""The three things the supervisor waits for, in one event loop: descriptors and timers, children, kernfs events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gateway.supervisor.kernel.children import Children
from gateway.supervisor.kernel.watch import PriorityWatch


@dataclass(frozen=True)
class Loop:
    """One of each, for everybody."""

    io: asyncio.AbstractEventLoop
    children: Children
    events: PriorityWatch

    @classmethod
    def start(cls, io: asyncio.AbstractEventLoop) -> Loop:
        return cls(io, Children(io), PriorityWatch(io))
