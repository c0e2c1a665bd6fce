"""What the registry needs of an exec that runs, whatever runs it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.exec.view import Reason
from gateway.supervisor.guests.current import Run
from gateway.supervisor.output.streams import Streams


class Left(Protocol):
    """What outlives an ended exec: Survivors, AgentSurvivor."""

    order: Order

    def to_state(self) -> dict[str, Any]:
        """What the next image of this program needs to go on with it."""


class Running(Protocol):
    """An exec between its acceptance and its end: Execution, AgentExecution."""

    order: Order
    ending: Ending | None
    streams: Streams
    started: asyncio.Future[None]
    writer: object
    input_from: set[str]

    @property
    def guest(self) -> Run: ...

    @property
    def can_be_handed_over(self) -> bool:
        """Whether the next image of this program could go on with it now."""

    def end(self, reason: Reason) -> bool:
        """Begins to end it; False when it has ended already."""

    def kill(self) -> None:
        """Ends it now."""

    def signal(self, number: int, *, tree: bool) -> None:
        """Sends a signal to the command, or to its whole tree. Raises ExecEnded."""

    def resize(self, rows: int, cols: int) -> None:
        """Gives its terminal another size. Raises NotATerminal."""

    def look_after(self) -> None:
        """Called now and then."""

    def guest_died(self) -> None:
        """Its guest's run is over."""

    def to_state(self) -> dict[str, Any]:
        """What the next image of this program needs to go on with it."""
