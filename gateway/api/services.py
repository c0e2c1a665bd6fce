"""What handlers work with: the services of one gateway, made once in `gateway.app`."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gateway.api.documents import Documents
from gateway.api.figures import WebFigures
from gateway.api.shares import Shares
from gateway.audit.parts import Part
from gateway.audit.protocol import Receipt
from gateway.audit.record import Event
from gateway.audit.search import Page, Query
from gateway.auth.tokens import TokenStore
from gateway.clientwatch import Watch
from gateway.config import Config
from gateway.devices.sysfs import Sysfs
from gateway.devices.tree import DeviceTree
from gateway.exec.origin import Origin
from gateway.exec.reply import Found, OutputSlice, Redeemed, RunReply, Started, StdinReply
from gateway.exec.view import ExecView
from gateway.guests.changes import Changes
from gateway.guests.maker import Maker
from gateway.guests.pace import Pace
from gateway.policy.node import NodePolicy
from gateway.policy.root import RootChange
from gateway.pve.freezer import Freezer
from gateway.pve.guests import GuestMap
from gateway.pve.pools import PoolFile
from gateway.pve.service import Pve
from gateway.supervisor.link.calling import Decide
from gateway.supervisor.link.feed import Feed
from gateway.supervisor.link.files import FilesLink

Stream = Literal["stdout", "stderr"]


class Supervisor(Protocol):
    """The supervisor as the web sees it (supervisor.client.SupervisorClient). All raise GatewayError."""

    def run(
        self,
        vmid: int,
        body: bytes,
        origin: Origin,
        watch: Watch | None,
        key: str | None = None,
        *,
        again: Decide,
    ) -> RunReply: ...

    def start(
        self,
        vmid: int,
        body: bytes,
        origin: Origin,
        *,
        attended: bool,
        terminal: bool = False,
        again: Decide,
        key: str | None = None,
        watch: Watch | None = None,
    ) -> tuple[Started, Feed]: ...

    def locate(self, vmid: int) -> None: ...

    def feed(self, exec_id: str, origin: Origin) -> Feed: ...

    def get(
        self, exec_id: str, origin: Origin, wait: float = 0, watch: Watch | None = None, *, to_feed: bool = False
    ) -> ExecView: ...

    def list(
        self,
        origin: Origin,
        vmid: int | None,
        state: str | None,
        labels: dict[str, str],
        limit: int,
        after: str | None,
    ) -> list[ExecView]: ...

    def output(self, exec_id: str, stream: Stream, origin: Origin, offset: int, length: int) -> OutputSlice: ...

    def put_stdin(self, exec_id: str, origin: Origin, data: bytes, offset: int | None, eof: bool) -> StdinReply: ...

    def signal(self, exec_id: str, origin: Origin, number: int, tree: bool) -> ExecView: ...

    def resize(self, exec_id: str, origin: Origin, rows: int, cols: int) -> ExecView: ...

    def kill(self, exec_id: str, origin: Origin) -> ExecView: ...

    def change_as_root(self, change: RootChange, origin: Origin, again: Decide) -> dict[str, Any]: ...

    def pause(self, vmid: int, node: str, origin: Origin, *, paused: bool) -> str: ...

    def inspect(self, vmid: int, questions: Sequence[str], origin: Origin) -> builtins.list[Found]: ...
    def open_files(
        self, vmid: int, origin: Origin, event: Event, data: dict[str, Any], watch: Watch | None = None
    ) -> FilesLink: ...

    def let_go(self, vmid: int) -> None: ...

    def make_ticket(self, origin: Origin, secret: tuple[int, str], method_and_path: str) -> str: ...

    def take_ticket(self, ticket: str, method_and_path: str) -> Redeemed | None: ...

    def health(self) -> dict[str, Any]: ...

    def figures(self) -> dict[str, Any]: ...


class Audit(Protocol):
    """The audit log as the web sees it (audit.client.AuditClient). Raises AuditUnavailable."""

    def commit(self, record: Mapping[str, Any], timeout: float = ...) -> Receipt: ...

    def ping(self, timeout: float = ...) -> dict[str, Any]: ...

    def search(self, query: Query, timeout: float = ...) -> Page: ...

    def verify(self, after: str | None = None, timeout: float = ...) -> Part: ...


@dataclass(frozen=True)
class Services:
    """Everything a handler may call. `documents` are the same for everybody.

    `pve` asks PVE's API; `guests` and `pools` know from the cluster's files which guest a vmid is, and who is in which
    pool, and `freezer` which containers stand still, without asking anybody; `changes` has PVE change something, on
    record, and `maker` makes guests; `pace` is that of all who wait for what no task tells. `devices` and `sysfs` look
    at the node's devices.

    `streams` counts replies that stay: event streams, downloads, WebSockets. See `streams.take_stream`.
    `starts` counts terminals whose exec is being started. `figures` counts requests, for /metrics.
    """

    config: Config
    supervisor: Supervisor
    audit: Audit
    tokens: TokenStore
    policy: NodePolicy
    pve: Pve
    guests: GuestMap
    freezer: Freezer
    changes: Changes
    maker: Maker
    pools: PoolFile
    pace: Pace
    devices: DeviceTree
    sysfs: Sysfs
    documents: Documents
    streams: Shares
    starts: Shares
    figures: WebFigures
