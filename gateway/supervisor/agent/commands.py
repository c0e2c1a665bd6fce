"""One command after another in a virtual machine: started by its agent, and asked after until that has told its end."""

from __future__ import annotations

import asyncio

from gateway.exec.agent import (
    Agent,
    AgentFailure,
    AgentRefused,
    AgentResult,
    AgentSilent,
    CommandForgotten,
)
from gateway.files.machine import Cause
from gateway.files.wire import Failure, Step
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.agent.scripts import command, read_failure
from gateway.supervisor.guests.machines import Machine

_FIRST_PAUSE = 0.01
_PAUSE_GROWTH = 1.5
_LONGEST_PAUSE = 0.5
_WAIT_SECONDS = 20.0
"""More than the machine gives a command, and less than the web waits for an answer."""


class CommandFailed(Exception):
    """It did not end well, or nobody knows."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class AgentCommands:
    """Those of one session. `in_hand`: one has been asked for, and its end is not known yet."""

    def __init__(
        self, io: asyncio.AbstractEventLoop, questions: Questions, machine: Machine, wait_s: float = _WAIT_SECONDS
    ) -> None:
        self.machine = machine
        self.in_hand = False
        self._io = io
        self._wait_s = wait_s
        self._deadline = 0.0
        self._questions = questions

    async def run(self, script: str, *arguments: str, stdin: bytes = b"", last: bool = False) -> bytes:
        """What it wrote to stdout. Raises CommandFailed.

        Until questions may be asked it is not begun, but for the `last` one of a session, which cannot be handed over;
        once begun, it is waited for.
        """
        try:
            result = await self._wait(await self._start(command(script, *arguments), stdin, last=last))
        finally:
            self.in_hand = False
        if result.exit_code != 0:
            raise CommandFailed(read_failure(result.exit_code, result.stderr.data))
        if result.stdout.truncated:
            raise refused(Cause.NONSENSE)
        return result.stdout.data

    async def _start(self, argv: list[str], stdin: bytes, *, last: bool) -> int:
        vmid = self.machine.vmid

        def start(agent: Agent) -> int:
            self.in_hand, self._deadline = True, self._io.time() + self._wait_s
            return agent.start(vmid, argv, stdin)

        try:
            return await self._questions.ask(vmid, start, begun=last)
        except AgentRefused as exc:
            raise refused(Cause.PROGRAMS if exc.errno == "ENOENT" else Cause.DENIED) from exc
        except AgentFailure as exc:
            raise refused(Cause.AWAY) from exc

    async def _wait(self, pid: int) -> AgentResult:
        vmid, pause = self.machine.vmid, _FIRST_PAUSE
        away = False
        while self._io.time() < self._deadline:
            await asyncio.sleep(pause)
            try:
                result = await self._questions.ask(vmid, lambda agent: agent.poll(vmid, pid), begun=True)
            except (CommandForgotten, AgentSilent) as exc:  # it may have told its end, to nobody
                raise refused(Cause.AWAY) from exc
            except AgentFailure:
                away, result = True, None
            else:
                away = False
            if result is not None:
                return result
            pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)
        raise refused(Cause.AWAY if away else Cause.STALLED)


def refused(cause: Cause) -> CommandFailed:
    """For what an agent did not do, and no program of the machine has said why."""
    return CommandFailed(Failure(cause, Step.AGENT))
