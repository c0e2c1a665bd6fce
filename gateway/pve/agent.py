"""Commands in this node's virtual machines, by way of PVE's API and the QEMU guest agent in each.

PVE answers almost every failure with a 500, and the text tells which (PVE.md, API traps; qemu-server's
QemuServer/Agent.pm and QMPClient.pm). Each text that is known here says whether the command has been started; of any
other nobody knows.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from gateway.errors import GuestAgentUnavailable, GuestNotRunning, NodeNotReady
from gateway.exec.agent import (
    MAX_OUTPUT,
    AgentAway,
    AgentOutput,
    AgentRefused,
    AgentResult,
    AgentSilent,
    CommandForgotten,
)
from gateway.pve.answer import LongText
from gateway.pve.client import PveApi
from gateway.pve.failure import PveFailure, PveRefused, PveSilent

_NOT_RUNNING = re.compile(r"VM \d+ (is )?not running")
_NOT_STARTED = re.compile(
    r"No QEMU guest agent configured|QEMU guest agent is not running|Configuration file .* does not exist"
    r"|VM \d+ (is )?not running|unable to (open monitor|connect to)"
)
_SPAWN = re.compile(r"Failed to execute child process.*\((?P<why>[^()]*)\)", re.DOTALL)
_FORGOTTEN = re.compile(r"Agent error: (PID \d+ does not exist|Invalid parameter 'pid')")
_ERRNO = {
    os.strerror(number): errno.errorcode[number]
    for number in (errno.ENOENT, errno.EACCES, errno.E2BIG, errno.ENOEXEC, errno.ENOTDIR, errno.ENOMEM, errno.EISDIR)
}
"""glib's reasons for not starting a program, in the C locale that an agent runs in."""


class GuestAgents:
    """The agents of the machines of one node."""

    def __init__(self, api: PveApi, node: str) -> None:
        self._api = api
        self._node = node

    def check(self, vmid: int) -> None:
        """Raises GuestNotRunning, GuestAgentUnavailable, or NodeNotReady when PVE cannot be asked."""
        try:
            self._api.post(*self._path(vmid), "agent", "ping")
        except PveRefused as exc:
            self._explain(vmid, exc)
        except PveFailure as exc:
            raise NodeNotReady(f"{exc}; nothing was run", missing=["pve.api"], vmid=vmid) from exc

    def start(self, vmid: int, argv: list[str], stdin: bytes) -> int:
        """The pid of the command in the machine. Raises AgentRefused, AgentAway, AgentSilent."""
        parameters: dict[str, Any] = {"command": argv}
        if stdin:
            parameters["input-data"] = stdin.decode("latin-1")
        try:
            told = self._api.post(*self._path(vmid), "agent", "exec", **parameters)
        except PveSilent as exc:
            raise AgentSilent(str(exc)) from exc
        except PveRefused as exc:
            spawn = _SPAWN.search(exc.message)
            if spawn is not None:
                name = _ERRNO.get(spawn["why"], "EIO")
                why = spawn["why"] if name != "EIO" else "the guest agent could not start it"
                raise AgentRefused(why, name) from exc
            if exc.message.startswith("Agent error:"):
                raise AgentRefused("the guest agent refused it", "EPERM") from exc
            if exc.status in (400, 401, 403, 501, 595) or _NOT_STARTED.search(exc.message):
                raise AgentAway(str(exc)) from exc
            raise AgentSilent(str(exc)) from exc
        except PveFailure as exc:
            raise AgentAway(str(exc)) from exc
        pid = told.get("pid") if isinstance(told, dict) else None
        if type(pid) is not int:
            raise AgentSilent("the PVE API names no pid of the command")
        return pid

    def poll(self, vmid: int, pid: int) -> AgentResult | None:
        """How it ended, told once; None while it runs. Raises AgentAway, AgentSilent, CommandForgotten."""
        try:
            told = self._api.get(*self._path(vmid), "agent", "exec-status", pid=pid)
        except PveSilent as exc:
            raise AgentSilent(str(exc)) from exc
        except PveRefused as exc:
            if _FORGOTTEN.search(exc.message):
                raise CommandForgotten("the guest agent does not know the command any more") from exc
            raise AgentAway(str(exc)) from exc
        except PveFailure as exc:
            raise AgentAway(str(exc)) from exc
        if not isinstance(told, dict):
            raise AgentSilent("the PVE API's answer makes no sense")
        if not told.get("exited"):
            return None
        return AgentResult(
            exit_code=_number(told.get("exitcode")),
            signal=_number(told.get("signal")),
            stdout=_output(told, "out"),
            stderr=_output(told, "err"),
        )

    def _path(self, vmid: int) -> tuple[str | int, ...]:
        if not 100 <= vmid <= 999_999_999:
            raise ValueError("a vmid has three to nine digits")
        return "nodes", self._node, "qemu", vmid

    def _explain(self, vmid: int, exc: PveRefused) -> None:
        if _NOT_RUNNING.search(exc.message):
            raise GuestNotRunning(f"guest {vmid} is not running; start it first", vmid=vmid) from exc
        if exc.message.startswith("No QEMU guest agent configured"):
            raise GuestAgentUnavailable(
                f"guest {vmid} is a virtual machine without a guest agent: set its option `agent: 1` and install "
                "qemu-guest-agent in it",
                vmid=vmid,
            ) from exc
        if exc.message.startswith(("QEMU guest agent is not running", "VM ")):
            raise GuestAgentUnavailable(
                f"the guest agent of guest {vmid} does not answer: is qemu-guest-agent running in it?", vmid=vmid
            ) from exc
        if exc.status in (401, 403):
            raise NodeNotReady(
                f"PVE refuses the gateway's API token ({exc.status}); it needs VM.GuestAgent.Unrestricted on /vms",
                missing=["pve.agent_token_file"],
                vmid=vmid,
            ) from exc
        raise NodeNotReady(f"{exc}; nothing was run", missing=["pve.api"], vmid=vmid) from exc


def _output(told: dict[str, Any], name: str) -> AgentOutput:
    """What the agent kept of a stream. An agent before QEMU 10.1.1, 10.0.4 or 7.2.20 cuts without saying so, so that as
    much as it can keep counts as cut."""
    data = told.get(f"{name}-data", b"")
    if isinstance(data, str):
        try:
            data = data.encode("latin-1")
        except UnicodeEncodeError as exc:
            raise AgentSilent("the PVE API's answer makes no sense") from exc
    cut = isinstance(data, LongText) and data.cut > 0
    return AgentOutput(bytes(data), bool(told.get(f"{name}-truncated")) or cut or len(data) >= MAX_OUTPUT)


def _number(value: Any) -> int | None:
    return value if type(value) is int else None
