"""A command in a virtual machine, by its guest agent: what an agent can do, and what it tells of a command.

The agent starts a command, is asked again and again, and tells once, when the command has ended and nobody holds its
output any more, how it ended and all that it wrote. It can neither end a command nor pass a signal, a stream, an
environment, a directory or a user on (PVE's API, agent/exec and agent/exec-status).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import DriverUnsupported
from gateway.exec.order import GuestKind, Order
from gateway.exec.spec import Background, ExecSpec, OnDisconnect, OnLimit, Placement

MAX_INPUT = 64 << 10
"""Bytes: maxLength of `input-data` in PVE's API schema."""
MAX_OUTPUT = 16 << 20
"""Bytes that an agent keeps of each stream: GUEST_EXEC_MAX_OUTPUT in QEMU's qga/commands.c."""
_MAX_REQUEST = 500 << 10
"""Bytes: $limit_max_post of pve-http-server is 512 KiB, for the whole body."""


@dataclass(frozen=True)
class AgentOutput:
    """What an agent kept of one stream. `truncated`: there was more, or there may have been; nobody knows how much."""

    data: bytes
    truncated: bool


@dataclass(frozen=True)
class AgentResult:
    """How a command ended: an exit code, or the number of the signal (or Windows exception) that ended it."""

    exit_code: int | None
    signal: int | None
    stdout: AgentOutput
    stderr: AgentOutput


class AgentFailure(Exception):
    """Something did not work; the text says what, and is safe to show."""


class AgentAway(AgentFailure):
    """The agent, or what leads to it, did not take the question: nothing was done."""


class AgentRefused(AgentFailure):
    """The agent answered that the command cannot be started; `errno` is the name of the reason."""

    def __init__(self, detail: str, errno: str) -> None:
        super().__init__(detail)
        self.errno = errno


class AgentSilent(AgentFailure):
    """The question may have reached the agent, its answer did not reach us: nobody knows what was done."""


class CommandForgotten(AgentFailure):
    """The agent does not know the command: it was started anew, or has told how it ended to somebody else."""


class Agent(Protocol):
    """The way to the guest agents of this node's machines. Every call blocks, for seconds at most."""

    def check(self, vmid: int) -> None:
        """Raises the GatewayError that says why no command can be run in the machine now."""

    def start(self, vmid: int, argv: list[str], stdin: bytes) -> int:
        """The pid of the command in the machine. Raises AgentAway, AgentRefused, AgentSilent."""

    def poll(self, vmid: int, pid: int) -> AgentResult | None:
        """How it ended, told once; None while it runs. Raises AgentAway, AgentSilent, CommandForgotten."""


def require_supported(spec: ExecSpec, vmid: int, *, streamed: bool) -> None:
    """Raises DriverUnsupported naming every field by which a request asks for what no guest agent can do.

    What a default asks for (its own cgroup, an end with its client) is left out; what was sent is taken at its word.
    """
    sent = spec.model_fields_set
    refused = {
        "streams": streamed,
        "tty": spec.tty is not None,
        "stdin_open": spec.stdin_open,
        "env": bool(spec.env),
        "cwd": spec.cwd is not None,
        "user": spec.user is not None,
        "kill_grace": spec.kill_grace is not None,
        "background": spec.background is not Background.DETACH,
        "placement": spec.placement is not Placement.OWN,
        "on_disconnect": "on_disconnect" in sent and spec.on_disconnect is OnDisconnect.KILL,
        "output.on_limit": spec.output.on_limit is OnLimit.KILL,
        "stdin": len(spec.stdin_bytes()) > MAX_INPUT,
        "command": not _is_transportable(spec),
    }
    unsupported = [name for name, asked in refused.items() if asked]
    if unsupported:
        raise DriverUnsupported(
            f"guest {vmid} is a virtual machine, and its guest agent cannot do this; nothing was run: "
            + "; ".join(_WHY[name] for name in unsupported),
            vmid=vmid,
            unsupported=unsupported,
        )


def require_possible(order: Order, operation: str) -> None:
    """Raises DriverUnsupported for what cannot be done to an exec of this kind of guest: see `refuse_operation`."""
    if order.kind is GuestKind.QEMU:
        raise refuse_operation(operation, order.vmid)


def refuse_operation(operation: str, vmid: int) -> DriverUnsupported:
    """The refusal of something that is done to an exec while it runs: `kill`, `signal`, `streams` and the like."""
    return DriverUnsupported(
        f"guest {vmid} is a virtual machine, and its guest agent cannot do this: {_WHY[operation]}",
        vmid=vmid,
        unsupported=[operation],
    )


_WHY = {
    "tty": "`tty`: it has no terminals",
    "stdin_open": "`stdin_open`: it takes input at the start only, in `stdin`",
    "env": "`env`: it gives its own environment; run `env NAME=value …`, with what is secret read from `stdin` instead",
    "cwd": "`cwd`: it gives its own directory; run `sh -c 'cd … && …'`",
    "user": "`user`: it gives its own user; run `su` or `runuser`",
    "kill_grace": "`kill_grace`: it ends no command",
    "background": "`background`: it does not see what a command leaves behind",
    "placement": "`placement`: there is no cgroup on this node to place it in",
    "on_disconnect": "`on_disconnect`: it ends no command; send `continue`, or leave it out",
    "output.on_limit": "`output.on_limit`: it ends no command",
    "stdin": f"`stdin`: it takes at most {MAX_INPUT} bytes",
    "command": "`command`: Proxmox VE passes on ASCII only, and half a MiB of it at most; send the rest on stdin",
    "streams": "it tells what a command wrote when the command has ended; ask for application/json, or detach it by "
    "`Prefer: respond-async`",
    "kill": "it ends no command; set a `timeout` inside the command, as timeout(1) does",
    "signal": "it passes no signal on",
    "resize": "it has no terminals",
    "input": "it takes input at the start only",
}


def _is_transportable(spec: ExecSpec) -> bool:
    """Whether the arguments arrive as they are.

    qemu-server sends each command to the agent through IO::Multiplex, which takes its length in characters for one in
    bytes: two bytes beyond ASCII, and the end of the request is never sent (measured with QMPClient.pm and qemu-ga 7.2:
    the call times out, and the agent hangs on the half request).
    """
    argv = spec.argv()
    if not all(argument.isascii() for argument in argv):
        return False
    return len(encode_request(argv, spec.stdin_bytes()[:MAX_INPUT])) <= _MAX_REQUEST


def encode_request(argv: list[str], stdin: bytes) -> bytes:
    """The body of agent/exec.

    JSON, not a form: pveproxy forgets all earlier arguments at an empty one in a form. Bytes of stdin go as the
    characters U+0000 to U+00FF, which PVE makes the same bytes of again (measured).
    """
    body: dict[str, object] = {"command": argv}
    if stdin:
        body["input-data"] = stdin.decode("latin-1")
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
