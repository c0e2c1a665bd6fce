"""A command in a virtual machine that outlives its ended exec: asked after until its agent has told how it ended.

What it tells is not kept. But the agent keeps it, up to 32 MiB, until somebody has asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.exec.agent import AgentFailure, CommandForgotten
from gateway.exec.order import Order
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.guests.machines import Machine

_FIRST_PAUSE = 1.0
_PAUSE_GROWTH = 1.5
_LONGEST_PAUSE = 15.0


class AgentSurvivor:
    """What is left of one exec."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        questions: Questions,
        order: Order,
        machine: Machine,
        gone: Callable[[AgentSurvivor], None],
    ) -> None:
        self.order = order
        self.guest = machine
        self._io = io
        self._questions = questions
        self._gone = gone
        self._pid: int | None = None
        self._life: asyncio.Task[None] | None = None
        self._released = False

    def watch(self, pid: int | None) -> None:
        """Asks from now on; `gone` is called when there is nothing more to ask. None: it never began."""
        self._pid = pid
        if pid is None or self.guest.closed:
            self.release()
        else:
            self._life = self._io.create_task(self._ask(pid))

    def release(self) -> None:
        """It has told, its agent knows nothing of it, or its machine has stopped."""
        if self._released:
            return
        self._released = True
        if self._life is not None:
            self._life.cancel()
        self._gone(self)

    def to_state(self) -> dict[str, Any]:
        """For the next image of this program."""
        return {"order": self.order.to_wire(), "pid": self._pid, "fds": {}}

    async def _ask(self, pid: int) -> None:
        vmid, pause = self.order.vmid, _FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            try:
                told = await self._questions.ask(vmid, lambda agent: agent.poll(vmid, pid)) is not None
            except CommandForgotten:
                told = True
            except AgentFailure:
                told = False
            if told:
                self.release()
                return
            pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)
