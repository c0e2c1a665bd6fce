"""The drivers: what each cannot do, and how a gateway and a guest are made that use it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import new_mark
from tests.pvesim import guests
from tests.pvesim.api import machines
from tests.pvesim.api.process import running_api, write_token

_files = itertools.count()


class Ability(StrEnum):
    """What a request may ask for. The value is the name by which a driver without it refuses."""

    STREAMS = "streams"
    STDIN_OPEN = "stdin_open"
    LARGE_INPUT = "stdin"
    ANY_ARGUMENT = "command"
    TTY = "tty"
    ENV = "env"
    CWD = "cwd"
    USER = "user"
    BACKGROUND = "background"
    PLACEMENT = "placement"
    KILL_GRACE = "kill_grace"
    ON_DISCONNECT = "on_disconnect"
    ON_LIMIT = "output.on_limit"
    KILL = "kill"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Guest:
    """A guest that is reached by one driver. `stopped` is the vmid of one that does not run."""

    gateway: Gateway
    api: Api
    vmid: int
    stopped: int
    root: Path
    """The guest's root as the node sees it."""

    def put(self, data: bytes) -> str:
        """A file with these bytes, readable by all; its path in the guest."""
        path = f"run/conformance-{next(_files)}"
        (self.root / path).write_bytes(data)
        return f"/{path}"

    def has(self, path: str) -> bool:
        return (self.root / path.lstrip("/")).exists()


@dataclass(frozen=True)
class Driver:
    """One driver; `open` gives what is left to close to the stack."""

    name: str
    open: Callable[[ExitStack], Guest] = field(repr=False)
    cannot: frozenset[Ability] = frozenset()

    def can(self, abilities: set[Ability]) -> bool:
        return not self.cannot & abilities


def _open_gateway(stack: ExitStack, **settings: dict[str, Any]) -> tuple[Gateway, Api]:
    gateway = Gateway(**settings)
    stack.callback(gateway.close)
    api = gateway.api(gateway.token(f"conformance-{new_mark()}", actions="exec:run,exec:terminal"))
    stack.callback(api.close)
    return gateway, api


def _container(**settings: dict[str, Any]) -> Callable[[ExitStack], Guest]:
    def open_guest(stack: ExitStack) -> Guest:
        gateway, api = _open_gateway(stack, **settings)
        return Guest(gateway, api, vmid=104, stopped=103, root=guests.get(104).rootfs)

    return open_guest


def _machine(stack: ExitStack) -> Guest:
    """A virtual machine behind the simulated API. Its commands are processes of the node: its root is the node's."""
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pve-token-"))
    token_file = Path(directory, "pve.token")
    write_token(token_file)
    pve = stack.enter_context(running_api(agent_timeout=30.0))  # 12 MiB of output, on a busy machine
    gateway, api = _open_gateway(stack, pve={"api": pve.url, "agent_token_file": str(token_file)})
    running, stopped = machines.create(311), machines.create(312, start=False)
    stack.callback(stopped.destroy)
    stack.callback(running.destroy)
    return Guest(gateway, api, vmid=running.vmid, stopped=stopped.vmid, root=Path("/"))


DRIVERS = (
    Driver("liblxc", _container()),
    Driver("lxc-attach", _container(exec={"driver": "lxc-attach"})),
    Driver("pct", _container(exec={"driver": "pct"})),
    Driver("agent", _machine, cannot=frozenset(Ability)),
)
