"""How an exec ended, in the words of the API, and the exit code that a shell would have given for it."""

from __future__ import annotations

import hashlib
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.exec.order import Order
from gateway.exec.view import ExecView, OutputCounts, Reason, SpawnError, State, StreamCount, Timing, Usage

TIMEOUT_EXIT_CODE = 124  # timeout(1)


@dataclass(frozen=True)
class Ending:
    """Everything that is known of an exec once it has ended."""

    reason: Reason
    exit_code: int | None
    signal: str | None
    ended_at: str
    spawn_error: SpawnError | None = None
    output: OutputCounts | None = None
    usage: Usage | None = None
    killed: int = 0
    survivors: int = 0
    timing: Timing | None = None

    def to_wire(self) -> dict[str, Any]:
        return {**vars(self)}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Ending:
        return cls(**{**data, "reason": Reason(data["reason"])})


def ending_unbegun(reason: Reason, *, queued_ms: int) -> Ending:
    """The ending of an exec whose command never began, because somebody ended it first."""
    nothing: StreamCount = {"bytes": 0, "dropped": 0, "dropped_at": None, "sha256": hashlib.sha256().hexdigest()}
    return Ending(
        reason=reason,
        exit_code=None,
        signal=None,
        ended_at=timestamp(),
        output={"stdout": nothing, "stderr": nothing},
        timing={"queued_ms": queued_ms, "spawn_ms": 0, "run_ms": 0},
    )


def exit_code_of(wait_status: int | None, reason: Reason) -> tuple[int | None, str | None]:
    """The exit code and the signal's name, from a status of waitpid(2): 128+n for a signal, 124 for a timeout."""
    if wait_status is None:
        return (TIMEOUT_EXIT_CODE if reason is Reason.TIMEOUT else None), None
    number = wait_status & 0x7F
    if number:
        code, name = 128 + number, signal_name(number)
    else:
        code, name = wait_status >> 8 & 0xFF, None
    return (TIMEOUT_EXIT_CODE if reason is Reason.TIMEOUT else code), name


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; real-time signals, most of which have no name, as `SIG40`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def timestamp() -> str:
    """Now, UTC, RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def render(order: Order, state: State, ending: Ending | None = None) -> ExecView:
    """The exec resource as the API shows it."""
    return {
        "id": order.id,
        "vmid": order.vmid,
        "node": order.node,
        "state": state,
        "reason": ending.reason if ending else None,
        "exit_code": ending.exit_code if ending else None,
        "signal": ending.signal if ending else None,
        "spawn_error": ending.spawn_error if ending else None,
        "command": order.command,
        "labels": order.labels,
        "created_at": order.created_at,
        "ended_at": ending.ended_at if ending else None,
        "output": ending.output if ending else None,
        "usage": ending.usage if ending else None,
        "killed": ending.killed if ending else 0,
        "survivors": ending.survivors if ending else 0,
        "timing": ending.timing if ending else None,
        "audit_id": order.audit_id,
    }
