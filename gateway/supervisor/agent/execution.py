"""One exec in a virtual machine, from its start by the guest agent to what the agent tells of its end.

Nobody here can end it: past its time limit it has ended for its caller (`timeout`, one survivor: see
agent_survivor). What the agent cannot tell any more has no ending:
`unknown`.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from typing import Any, Protocol

from gateway.errors import NotATerminal
from gateway.exec.agent import (
    Agent,
    AgentAway,
    AgentFailure,
    AgentOutput,
    AgentRefused,
    AgentResult,
    CommandForgotten,
    refuse_operation,
)
from gateway.exec.ending import TIMEOUT_EXIT_CODE, Ending, signal_name, timestamp
from gateway.exec.order import Order
from gateway.exec.view import Reason, SpawnError
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.agent.survivor import AgentSurvivor
from gateway.supervisor.guests.machines import Machine
from gateway.supervisor.launching.handshake import failed_exit_code, spawn_error
from gateway.supervisor.output.streams import Streams

_FIRST_PAUSE = 0.05
_PAUSE_GROWTH = 1.5
_LONGEST_PAUSE = 1.0
_PIECE = 1 << 20


class Owner(Protocol):
    """Who is told what becomes of it."""

    def mark_go(self, order: Order, pid: int) -> None:
        """Called before the command may begin: from then on nobody can know that it did not. OSError: it must not."""

    def on_ended(self, execution: AgentExecution, left: AgentSurvivor | None) -> None:
        """Called once, when the outcome is known. `left`: the command lives on."""

    def on_survivors_gone(self, left: AgentSurvivor) -> None:
        """Called once, when that has ended, too."""

    def on_lost(self, execution: AgentExecution) -> None:
        """Called once instead, when nobody can know the outcome any more."""


class AgentExecution:
    """A command in a virtual machine."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        questions: Questions,
        owner: Owner,
        order: Order,
        machine: Machine,
        streams: Streams,
    ) -> None:
        self.order = order
        self.guest = machine
        self.streams = streams
        self.ending: Ending | None = None
        self.started: asyncio.Future[None] = io.create_future()
        self.writer: object = None
        self.input_from: set[str] = set()
        self._io = io
        self._questions = questions
        self._owner = owner
        self._over = False
        self._pid: int | None = None
        self._begun = io.time()
        self._ran: float | None = None
        self._life: asyncio.Task[None] | None = None
        self._left: AgentSurvivor | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def begin(self, argv: list[str], stdin: bytes) -> None:
        """Has the agent start the command."""
        try:
            self._owner.mark_go(self.order, 0)
        except OSError as exc:
            self._failed(spawn_error("spool", exc.errno or errno.EIO))
            return
        self._watch_time()
        self._life = self._io.create_task(self._live(argv, stdin))

    # ---- its life

    async def _live(self, argv: list[str], stdin: bytes) -> None:
        vmid = self.order.vmid

        def start(agent: Agent) -> int:
            return agent.start(vmid, argv, stdin)

        try:
            self._pid = await self._questions.ask(vmid, start, begun=True)  # on its way it cannot be handed over
        except AgentRefused as refusal:
            self._failed({"stage": "exec", "errno": refusal.errno, "message": str(refusal)})
        except AgentAway as away:
            self._failed({"stage": "agent", "errno": "EHOSTUNREACH", "message": str(away)})
        except AgentFailure:
            self._lose()
        else:
            self._ran = self._io.time()
            self._now_started()
            if not self._over:
                await self._follow(self._pid)
        if self._left is not None:  # its time was up before it had begun
            self._left.watch(self._pid)

    async def _follow(self, pid: int) -> None:
        """Asks until the agent has told. An agent that is away for a while may come back."""
        vmid, pause = self.order.vmid, _FIRST_PAUSE
        while not self.guest.closed:
            try:
                result = await self._questions.ask(vmid, lambda agent: agent.poll(vmid, pid))
            except CommandForgotten:
                if self.guest.alive():
                    self._lose()
                return  # else its death is about to be noticed
            except AgentFailure:
                result = None
            if result is not None:
                await self._told(result)
                return
            await asyncio.sleep(pause)
            pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)

    async def _told(self, result: AgentResult) -> None:
        if self._over:
            return
        for name, output in (("stdout", result.stdout), ("stderr", result.stderr)):
            await self._take(name, output)
            if self._over:
                return
        number = result.signal
        if number is None:
            self._finish(Reason.EXITED, result.exit_code)
        else:  # a Windows machine tells an exception code here
            known = 0 < number <= signal.SIGRTMAX
            self._finish(Reason.SIGNALED, 128 + number if known else None, signal=signal_name(number))

    async def _take(self, name: str, output: AgentOutput) -> None:
        """Keeps an output as any other, a piece a turn; what the agent did not keep is counted as one byte at least."""
        for start in range(0, len(output.data), _PIECE):
            self.streams.feed(name, output.data[start : start + _PIECE])
            await asyncio.sleep(0)
        if output.truncated:
            self.streams.lose(name, 1)

    # ---- its end

    def end(self, reason: Reason) -> bool:
        """Lets go of it. Only the supervisor's own end does so: everything else is refused before it comes here."""
        if self._over:
            return False
        if reason is Reason.GATEWAY_LOST:
            self._lose()
        return True

    def kill(self) -> None:
        """Nothing can."""

    def look_after(self) -> None:
        """The agent is being asked all the time."""

    def signal(self, number: int, *, tree: bool) -> None:
        raise refuse_operation("signal", self.order.vmid)

    def resize(self, rows: int, cols: int) -> None:
        raise NotATerminal(f"{self.order.id} was started without a tty")

    def guest_died(self) -> None:
        """QEMU is gone, and all that ran in it."""
        if self._life is not None:
            self._life.cancel()
        self._finish(Reason.CONTAINER_STOPPED, None)

    def _timed_out(self) -> None:
        left = AgentSurvivor(self._io, self._questions, self.order, self.guest, self._owner.on_survivors_gone)
        self._finish(Reason.TIMEOUT, TIMEOUT_EXIT_CODE, left=left)
        if self._pid is None:
            self._left = left
            return
        if self._life is not None:
            self._life.cancel()
        left.watch(self._pid)

    def _failed(self, error: SpawnError) -> None:
        self._finish(Reason.SPAWN_FAILED, failed_exit_code(error), spawn_error=error)

    def _finish(
        self,
        reason: Reason,
        exit_code: int | None,
        *,
        signal: str | None = None,
        spawn_error: SpawnError | None = None,
        left: AgentSurvivor | None = None,
    ) -> None:
        if not self._let_go():
            return
        now = self._io.time()
        ran = self._ran or now
        self.ending = Ending(
            reason=reason,
            exit_code=exit_code,
            signal=signal,
            ended_at=timestamp(),
            spawn_error=spawn_error,
            output=self.streams.counts(),
            usage={"cpu_ms": None, "memory_peak": None, "oom_killed": None},
            survivors=int(left is not None),
            timing={
                "queued_ms": self.order.queued_ms,
                "spawn_ms": round((ran - self._begun) * 1000),
                "run_ms": round((now - ran) * 1000),
            },
        )
        self._owner.on_ended(self, left)

    def _lose(self) -> None:
        if self._let_go():
            self._owner.on_lost(self)

    def _let_go(self) -> bool:
        """Whether this is its end, and not one after it."""
        if self._over:
            return False
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
        self.streams.close()
        self._now_started()
        return True

    def _now_started(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def _watch_time(self) -> None:
        self._deadline = self._io.call_at(self._begun + self.order.limits.timeout, self._timed_out)

    # ---- handing over to the next image of this program

    @property
    def can_be_handed_over(self) -> bool:
        """Whether the agent has started it and nobody waits for an answer: what is told then is told once."""
        return self._pid is not None and self._questions.quiet and self.guest.alive()

    def to_state(self) -> dict[str, Any]:
        """Everything that `resume` needs; times by the monotonic clock."""
        return {
            **self.streams.to_state(),
            "order": self.order.to_wire(),
            "pid": self._pid,
            "begun": self._begun,
            "ran": self._ran,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on with a command that an earlier image of this program had started."""
        self._pid, self._begun, self._ran = state["pid"], state["begun"], state["ran"]
        self._now_started()
        self._watch_time()
        self._life = self._io.create_task(self._follow(state["pid"]))
