"""Acting on an exec that runs: input, signals, a terminal's size, its end. Recorded before anything happens."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.errors import CommandNotGranted, ExecEnded, ExecQueued, StdinClosed, WriterTaken
from gateway.exec.agent import require_possible
from gateway.exec.order import Order
from gateway.exec.origin import Origin
from gateway.exec.view import ExecView, Reason
from gateway.supervisor.execs.audit_trail import AuditTrail
from gateway.supervisor.execs.looking import Looking
from gateway.supervisor.execs.registry import Execs
from gateway.supervisor.execs.running import Running
from gateway.supervisor.output.stdin import Stdin

_ROOM_SECONDS = 30.0


class Taken(NamedTuple):
    """How much input a command has been given, and whether that is all of it."""

    offset: int
    eof: bool


class Acting:
    """What callers do to execs. A writer is known by the connection that it writes on."""

    def __init__(self, execs: Execs, looking: Looking, trail: AuditTrail) -> None:
        self._execs = execs
        self._looking = looking
        self._trail = trail

    def claim(self, writer: object, exec_id: str, origin: Origin) -> Stdin:
        """Makes it the only writer until `left`.

        Raises CommandNotGranted, WriterTaken, StdinClosed, ExecEnded, ExecNotFound.
        """
        execution, stdin = self._writable(writer, exec_id, origin)
        execution.writer = writer
        return stdin

    async def put(
        self, writer: object, exec_id: str, origin: Origin, data: bytes, offset: int | None, *, eof: bool
    ) -> Taken:
        """Gives the command input. Raises as `claim` does, StdinOffset, StdinBlocked, or AuditUnavailable.

        Who gives input is recorded, once for each token; what is given is not: its outcome counts the bytes. What an
        exec had taken before it ended is no error, nor is the end of input behind that.
        """
        taken = self._taken_before_the_end(exec_id, origin, len(data), offset)
        if taken is not None:
            return taken
        execution, stdin = self._writable(writer, exec_id, origin)
        if origin.token_id not in execution.input_from:
            await self._trail.input(execution.order, origin)
            execution.input_from.add(origin.token_id)
        await stdin.put(
            data,
            offset,
            eof=eof,
            timeout=_ROOM_SECONDS,
            may=lambda: _require_writer(writer, execution),  # who waits has claimed nothing: another may have meanwhile
        )
        return Taken(stdin.offset, stdin.eof)

    async def signal(self, exec_id: str, origin: Origin, number: int, *, tree: bool) -> None:
        """Sends a signal to the command, or to its tree, once it runs.

        Raises ExecEnded, AuditUnavailable, ExecNotFound.
        """
        order = self._looking.order(exec_id, origin)
        self._running(exec_id)
        require_possible(order, "signal")
        record = await self._trail.signal(order, origin, number, tree=tree)
        with self._trail.taken_back(record):
            await asyncio.wait([self._running(exec_id).started])  # on its way it is no command yet, but our launcher
            self._running(exec_id).signal(number, tree=tree)

    def resize(self, exec_id: str, origin: Origin, rows: int, cols: int) -> None:
        """Gives the terminal another size. Raises NotATerminal, ExecEnded, ExecNotFound."""
        order = self._looking.order(exec_id, origin)
        execution = self._running(exec_id)
        require_possible(order, "resize")
        execution.resize(rows, cols)

    async def kill(self, exec_id: str, origin: Origin) -> ExecView:
        """Begins to end the whole tree, once that is recorded. Raises ExecNotFound, AuditUnavailable, or ExecEnded.

        One that waits for a place has ended then.
        """
        order = self._looking.order(exec_id, origin)
        waiting = self._execs.queued.get(exec_id)
        if waiting is not None:
            with self._trail.taken_back(await self._trail.cancel(order, origin, queued=True)):
                if not waiting.has_its_place:
                    return self._execs.withdraw(waiting)
                await waiting.over(None)  # it is about to begin, or was refused a place
                self._end(self._looking.order(exec_id, origin))
        else:
            if exec_id not in self._execs.running:
                raise _ended(exec_id)
            require_possible(order, "kill")
            with self._trail.taken_back(await self._trail.cancel(order, origin)):
                self._end(order)
        return self._looking.get(exec_id, origin)

    def _end(self, order: Order) -> None:
        execution = self._execs.running.get(order.id)
        if execution is None:
            raise _ended(order.id)
        require_possible(order, "kill")
        if not execution.end(Reason.CANCELLED):
            raise _ended(order.id)

    def resume(self, writer: object, exec_id: str) -> None:
        """It had claimed the input under an earlier image of this program."""
        execution = self._execs.running.get(exec_id)
        if execution is not None:
            execution.writer = writer

    def left(self, writer: object, exec_id: str) -> None:
        """The writer's connection has closed: others may write."""
        execution = self._execs.running.get(exec_id)
        if execution is not None and execution.writer is writer:
            execution.writer = None

    def _writable(self, writer: object, exec_id: str, origin: Origin) -> tuple[Running, Stdin]:
        order = self._looking.order(exec_id, origin)
        require_feeding(order, origin)
        require_possible(order, "input")
        execution = self._running(exec_id)
        _require_writer(writer, execution)
        if execution.streams.stdin is None:
            raise StdinClosed(f"{exec_id} was started without an open stdin; run it with stdin_open: true", offset=0)
        return execution, execution.streams.stdin

    def _taken_before_the_end(self, exec_id: str, origin: Origin, size: int, offset: int | None) -> Taken | None:
        """What an ended exec has taken, if that is all that is given now."""
        order = self._looking.order(exec_id, origin)
        require_feeding(order, origin)
        end = self._execs.inputs.get(exec_id)
        if end is None or (size if offset is None else offset + size - end) > 0:
            return None
        return Taken(end, eof=True)

    def _running(self, exec_id: str) -> Running:
        execution = self._execs.running.get(exec_id)
        if execution is None:
            if exec_id in self._execs.queued:
                raise ExecQueued(f"{exec_id} waits for a place to run; try again when it runs", retry_after=1)
            raise ExecEnded(f"{exec_id} has ended already")
        return execution


def _require_writer(writer: object, execution: Running) -> None:
    if execution.writer not in (None, writer):
        raise WriterTaken(f"another client writes to {execution.order.id}; wait for it to leave, or attach to read")


def require_feeding(order: Order, origin: Origin) -> None:
    """Raises CommandNotGranted unless this caller may give the exec input: see Origin.may_feed."""
    if not origin.may_feed(order.vmid, order.terms, terminal=order.terminal):
        raise CommandNotGranted.for_field("stdin", order.vmid)


def _ended(exec_id: str) -> ExecEnded:
    return ExecEnded(f"{exec_id} has ended already; processes that it left behind were not touched")
