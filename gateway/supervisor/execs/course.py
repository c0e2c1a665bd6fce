"""What has become of an exec so far: plain facts, from which its ending follows, and which travel to the next image."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from gateway.exec.ending import Ending, exit_code_of, timestamp
from gateway.exec.order import Order
from gateway.exec.spec import TtySpec
from gateway.exec.view import OutputCounts, Reason, SpawnError, Usage
from gateway.supervisor.launching.handshake import failed_exit_code


class Phase(StrEnum):
    """STARTING  the command is on its way into the guest
    RUNNING   the command was told to go
    LINGERING the command has ended, its tree has not, and its end is being waited for
    ENDED     the outcome is known; descendants that were to live on may still do so
    """

    STARTING = "starting"
    RUNNING = "running"
    LINGERING = "lingering"
    ENDED = "ended"


@dataclass
class Course:
    """Times are by the monotonic clock, which all images of this program share."""

    begun: float
    phase: Phase = Phase.STARTING
    spawn_error: SpawnError | None = None
    command_pid: int | None = None
    """The command (the launcher, at first), for as long as it has not been reaped."""
    wait_status: int | None = None
    end_reason: Reason | None = None
    """Why it was ended; the first reason stays."""
    killed: int = 0
    ran: float | None = None
    """Since when the program itself runs."""
    command_ended: float | None = None
    kill_at: float | None = None
    """When the grace of its end is over: it was asked to end."""
    size: TtySpec | None = None
    """Of its terminal, if it has one."""

    @property
    def ends_by_itself(self) -> bool:
        """Whether nobody has ended it, nor has it failed to begin."""
        return self.end_reason is None and self.spawn_error is None

    def note_killed(self, processes: int) -> None:
        """So many of its tree were sent TERM or KILL at once: the largest number counts."""
        self.killed = max(self.killed, processes)

    def reason(self) -> Reason:
        if self.end_reason is not None:
            return self.end_reason
        if self.spawn_error is not None:
            return Reason.SPAWN_FAILED
        signaled = self.wait_status is not None and self.wait_status & 0x7F
        return Reason.SIGNALED if signaled else Reason.EXITED

    def ending(self, order: Order, now: float, output: OutputCounts, usage: Usage, survivors: int) -> Ending:
        """What is known of it, now that nothing more of it can happen."""
        reason = self.reason()
        exit_code, signal_name = exit_code_of(self.wait_status, reason)
        failed = self.spawn_error if reason is Reason.SPAWN_FAILED else None
        if failed is not None:
            exit_code, signal_name = failed_exit_code(failed), None
        ended = self.command_ended or now
        ran = self.ran or ended
        return Ending(
            reason=reason,
            exit_code=exit_code,
            signal=signal_name,
            ended_at=timestamp(),
            spawn_error=failed,
            output=output,
            usage=usage,
            killed=self.killed,
            survivors=survivors,
            timing={
                "queued_ms": order.queued_ms,
                "spawn_ms": round((ran - self.begun) * 1000),
                "run_ms": round((ended - ran) * 1000),
            },
        )

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs, in JSON."""
        return {**vars(self), "size": [self.size.rows, self.size.cols] if self.size is not None else None}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Course:
        self = cls(**{field.name: state[field.name] for field in fields(cls)})
        self.phase = Phase(self.phase)
        self.end_reason = Reason(self.end_reason) if self.end_reason is not None else None
        self.size = TtySpec(rows=state["size"][0], cols=state["size"][1]) if state["size"] is not None else None
        return self
