"""An exec as the API shows it: the resource, its states and the ways it can end."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypedDict


class State(StrEnum):
    """Where an exec is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """How an exec ended. `exit_code` follows the shell so that a CLI can pass it on; this is the truth."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    OUTPUT_LIMIT = "output_limit"
    CLIENT_GONE = "client_gone"
    SPAWN_FAILED = "spawn_failed"
    CONTAINER_STOPPED = "container_stopped"
    GATEWAY_LOST = "gateway_lost"


class StreamCount(TypedDict):
    """What one output stream carried: all bytes counted and hashed, `dropped` of them not kept.

    `dropped_at` is the offset of the first dropped byte; null when nothing was dropped.
    `sha256` is null when the gateway was restarted and could not carry the hash on.
    """

    bytes: int
    dropped: int
    dropped_at: int | None
    sha256: str | None


class OutputCounts(TypedDict):
    """How much there was of both streams; with `tty` all of it is stdout."""

    stdout: StreamCount
    stderr: StreamCount


class Encodings(TypedDict):
    """`utf-8`, or `base64` where the kept bytes are not valid UTF-8."""

    stdout: str
    stderr: str


class Usage(TypedDict):
    """What the whole tree used. Null where the kernel's controller is not enabled for the guest."""

    cpu_ms: int | None
    memory_peak: int | None
    oom_killed: int | None


class Timing(TypedDict):
    """Milliseconds: waiting for a place, starting, running."""

    queued_ms: int
    spawn_ms: int
    run_ms: int


class SpawnError(TypedDict):
    """Why the command never began: the step, the errno's name, a sentence."""

    stage: str
    errno: str
    message: str


class ExecView(TypedDict):
    """The exec resource. Members that are not known yet are null."""

    id: str
    vmid: int
    node: str
    state: Annotated[str, State]
    reason: Annotated[str, Reason] | None
    exit_code: int | None
    signal: str | None
    spawn_error: SpawnError | None
    command: list[str]
    labels: dict[str, str]
    created_at: str
    ended_at: str | None
    output: OutputCounts | None
    usage: Usage | None
    killed: int
    survivors: int
    timing: Timing | None
    audit_id: str


class ExecResult(ExecView):
    """The exec resource with its output, as `POST /exec/{vmid}` answers. A 202 waits for none: there it is empty, and
    is read from `/execs/{id}/stdout`."""

    stdout: str
    stderr: str
    encoding: Encodings
