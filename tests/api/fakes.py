"""A supervisor and an audit log in memory, and what the API's tests share."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gateway import ulid
from gateway.api.figures import WebFigures
from gateway.app import make_figures
from gateway.audit.parts import Part
from gateway.audit.protocol import Receipt
from gateway.audit.record import Event
from gateway.audit.search import Page, Query
from gateway.auth.grants import Grant, parse_actions, parse_guests
from gateway.auth.tokens import TokenStore
from gateway.clientwatch import Watch
from gateway.errors import (
    AuditUnavailable,
    ExecEnded,
    ExecNotFound,
    GuestNotFound,
    GuestNotRunning,
    IdempotencyConflict,
)
from gateway.exec.origin import Origin
from gateway.exec.reply import Found, OutputSlice, Redeemed, RunReply, Started, StdinReply
from gateway.exec.spec import ExecSpec
from gateway.exec.view import ExecView, StreamCount
from gateway.histogram import SHORT, Histogram
from gateway.policy.root import RootChange
from gateway.supervisor.execs.figures import Figures
from gateway.supervisor.link.calling import Decide
from gateway.supervisor.link.feed import Feed
from gateway.supervisor.link.files import FilesLink
from tests.auth.changes import issue_token
from tests.contract import check_reply

from .fake_exec import FakeExec
from .fake_pve import FakePveApi

DAY = timedelta(days=1)


@dataclass
class FakeSupervisor:
    """Runs nothing: every exec in a known guest ends at once with `stdout`, unless `fails` says otherwise.

    One that is streamed or detached does what `plays` lets it do; `live` has them all.
    """

    guests: set[int] = field(default_factory=lambda: {101, 102})
    execs: dict[str, tuple[ExecView, str]] = field(default_factory=dict)
    streams: dict[str, bytes] = field(default_factory=dict)
    gap: tuple[int, int] | None = None
    stdout: bytes = b"ok\n"
    dropped_at: int | None = None
    fails: Exception | None = None
    bodies: list[bytes] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    plays: Callable[[FakeExec], None] = lambda exec_: exec_.end()
    terminals: set[str] = field(default_factory=set)
    """Those that were begun as terminals."""
    live: dict[str, FakeExec] = field(default_factory=dict)
    keys: dict[tuple[str, str], tuple[int, bytes, str]] = field(default_factory=dict)
    attended: list[bool] = field(default_factory=list)
    tickets: dict[str, tuple[Redeemed, str]] = field(default_factory=dict)
    root_changes: list[RootChange] = field(default_factory=list)
    pauses: list[tuple[int, bool]] = field(default_factory=list)
    found: dict[str, Found] = field(
        default_factory=lambda: {
            "/dev/zero": Found(0, stat.S_IFCHR | 0o666, 0, 0, 1, 5),
            "/data": Found(0, stat.S_IFDIR | 0o755, 0, 0, 0, 0),
        }
    )

    def locate(self, vmid: int) -> None:
        self._fail()
        if vmid not in self.guests:
            raise GuestNotFound("words of the domain", vmid=vmid)

    def run(
        self,
        vmid: int,
        body: bytes,
        origin: Origin,
        watch: Watch | None,
        key: str | None = None,
        *,
        again: Decide,
    ) -> RunReply:
        known = self._begin(vmid, body, origin, key)
        if known is not None:
            return RunReply(self.execs[known][0], self.stdout, b"", replayed=True)
        spec = ExecSpec.model_validate_json(body)
        view = make_view(vmid, spec.argv())
        self._remember(vmid, body, origin, key, view["id"])
        dropped = 0 if self.dropped_at is None else 10
        count: StreamCount = {
            "bytes": len(self.stdout) + dropped,
            "dropped": dropped,
            "dropped_at": self.dropped_at,
            "sha256": "0" * 64,
        }
        none: StreamCount = {"bytes": 0, "dropped": 0, "dropped_at": None, "sha256": "0" * 64}
        view["output"] = {"stdout": count, "stderr": none}
        self.execs[view["id"]] = (view, origin.token_id)
        return RunReply(view, self.stdout, b"")

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
    ) -> tuple[Started, Feed]:
        known = self._begin(vmid, body, origin, key, terminal=terminal)
        self.attended.append(attended)
        if known is not None:
            return Started(self.execs[known][0], True), self.live[known].feed(origin)
        spec = ExecSpec.model_validate_json(body)
        view = make_view(vmid, spec.argv(), "running")
        self._remember(vmid, body, origin, key, view["id"])
        exec_ = FakeExec(view)
        exec_.stdin_open = spec.stdin_open or spec.tty is not None
        exec_.tty = (spec.tty.rows, spec.tty.cols) if spec.tty else None
        self.execs[view["id"]] = (view, origin.token_id)
        self.live[view["id"]] = exec_
        if terminal:
            self.terminals.add(view["id"])
        started = Started(view.copy(), False)
        self.plays(exec_)
        return started, exec_.feed(origin)

    def feed(self, exec_id: str, origin: Origin) -> Feed:
        view = self.get(exec_id, origin)
        if exec_id not in self.live:
            exec_ = self.live[exec_id] = FakeExec(view)
            for stream, data in self.streams.items():
                start, end = self.gap or (len(data), len(data))
                for part in (data[:start], end - start, data[end:]):
                    exec_.write(stream, part)
        return self.live[exec_id].feed(origin)

    def put_stdin(self, exec_id: str, origin: Origin, data: bytes, offset: int | None, eof: bool) -> StdinReply:
        return StdinReply(*self._running(exec_id, origin).put_stdin(data, offset, eof))

    def signal(self, exec_id: str, origin: Origin, number: int, tree: bool) -> ExecView:
        return self._running(exec_id, origin).signal(number, tree)

    def resize(self, exec_id: str, origin: Origin, rows: int, cols: int) -> ExecView:
        return self._running(exec_id, origin).resize(rows, cols)

    def change_as_root(self, change: RootChange, origin: Origin, again: Decide) -> dict[str, Any]:
        self._fail()
        self.root_changes.append(change)
        return {"exit_code": 0, "status": None, "words": "", "upid": None, "audit_id": "au_1"}

    def pause(self, vmid: int, node: str, origin: Origin, *, paused: bool) -> str:
        self._fail()
        self.pauses.append((vmid, paused))
        return "au_1"

    def inspect(self, vmid: int, questions: Sequence[str], origin: Origin) -> list[Found]:
        self._fail()
        return [self.found.get(question, Found(2, 0, 0, 0, 0, 0)) for question in questions]

    def open_files(
        self, vmid: int, origin: Origin, event: Event, data: dict[str, Any], watch: Watch | None = None
    ) -> FilesLink:
        """Files are in real guests alone (tests/files)."""
        self._fail()
        self.bodies.append(json.dumps(data).encode())
        if vmid not in self.guests:
            raise GuestNotFound.for_vmid(vmid)
        raise GuestNotRunning(f"guest {vmid} is not running; start it first", vmid=vmid)

    def let_go(self, vmid: int) -> None:
        """Nothing is mounted here."""

    def make_ticket(self, origin: Origin, secret: tuple[int, str], method_and_path: str) -> str:
        self._fail()
        ticket = f"ticket{len(self.tickets)}"
        self.tickets[ticket] = (Redeemed(origin.token_id, secret), method_and_path)
        return ticket

    def take_ticket(self, ticket: str, method_and_path: str) -> Redeemed | None:
        self._fail()
        maker, path = self.tickets.pop(ticket, (None, ""))
        return maker if path == method_and_path else None

    def get(
        self, exec_id: str, origin: Origin, wait: float = 0, watch: Watch | None = None, *, to_feed: bool = False
    ) -> ExecView:
        self._fail()
        view, owner = self.execs.get(exec_id, (None, ""))
        if view is None or not origin.sees(owner, view["vmid"], terminal=exec_id in self.terminals):
            raise ExecNotFound.for_id(exec_id)
        if wait:
            view["state"] = "ended"
        return view

    def list(
        self,
        origin: Origin,
        vmid: int | None,
        state: str | None,
        labels: dict[str, str],
        limit: int,
        after: str | None,
    ) -> list[ExecView]:
        self._fail()
        found = [
            view
            for view, owner in self.execs.values()
            if origin.sees(owner, view["vmid"], terminal=view["id"] in self.terminals)
            and vmid in (None, view["vmid"])
            and state in (None, view["state"])
            and labels.items() <= view["labels"].items()
            and (after is None or view["id"] < after)
        ]
        return sorted(found, key=lambda view: view["id"], reverse=True)[:limit]

    def output(self, exec_id: str, stream: str, origin: Origin, offset: int, length: int) -> OutputSlice:
        view = self.get(exec_id, origin)
        if exec_id in self.live:
            members, blobs = self.live[exec_id].output(stream, offset, length)
            spans = tuple((start, end) for start, end in members["kept"])
            return OutputSlice(blobs[0], members["total"], spans, members["ended"])
        data = self.streams[stream]
        kept: tuple[tuple[int, int], ...] = ((0, len(data)),)
        if self.gap:
            kept = ((0, self.gap[0]), (self.gap[1], len(data)))
        end = next((end for start, end in kept if start <= offset < end), offset)
        return OutputSlice(data[offset : min(end, offset + length)], len(data), kept, view["state"] == "ended")

    def kill(self, exec_id: str, origin: Origin) -> ExecView:
        view = self.get(exec_id, origin)
        if view["state"] == "ended":
            raise ExecEnded("this exec has ended; DELETE has nothing to end", exec_id=exec_id)
        return view

    def health(self) -> dict[str, Any]:
        self._fail()
        return {"checks": self.checks}

    def figures(self) -> dict[str, Any]:
        self._fail()
        now = {"running": {}, "queued": 0, "surviving": 0, "places": 500, "remembered": 0, "connections": 1}
        return {**Figures("lxc-attach").to_wire(), "driver": "lxc-attach", **now, "spool_bytes": 0, "spool_limit": 1}

    def _running(self, exec_id: str, origin: Origin) -> FakeExec:
        self.get(exec_id, origin)
        if exec_id not in self.live:
            raise ExecEnded("this exec has ended", exec_id=exec_id)
        return self.live[exec_id]

    def _begin(self, vmid: int, body: bytes, origin: Origin, key: str | None, *, terminal: bool = False) -> str | None:
        """The exec that the key has begun before, if any."""
        self.locate(vmid)
        origin.require_permit(vmid, ExecSpec.model_validate_json(body), terminal=terminal)
        known = self.keys.get((origin.token_id, key or ""))
        if known is None:
            self.bodies.append(body)
            return None
        if known[:2] != (vmid, body) or (known[2] in self.terminals) is not terminal:
            raise IdempotencyConflict("the key was used for another request")
        return known[2]

    def _remember(self, vmid: int, body: bytes, origin: Origin, key: str | None, exec_id: str) -> None:
        if key is not None:
            self.keys[origin.token_id, key] = vmid, body, exec_id

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails


@dataclass
class FakeAudit:
    """Keeps the records; refuses them while `down`."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    down: bool = False
    queries: list[Query] = field(default_factory=list)
    page: Page = field(default_factory=Page)
    cursors: list[str | None] = field(default_factory=list)
    part: Part = field(default_factory=lambda: Part(None, 0, 0, 0, False, None))

    def commit(self, record: Mapping[str, Any], timeout: float = 2.0) -> Receipt:
        if self.down:
            raise AuditUnavailable("the audit writer does not answer")
        json.dumps(record)
        self.records.append(record)
        return Receipt(str(record["audit_id"]), len(self.records), "0" * 64)

    def search(self, query: Query, timeout: float = 0) -> Page:
        if self.down:
            raise AuditUnavailable("down")
        self.queries.append(query)
        return self.page

    def verify(self, after: str | None = None, timeout: float = 0) -> Part:
        if self.down:
            raise AuditUnavailable("down")
        self.cursors.append(after)
        return self.part

    def ping(self, timeout: float = 1.0) -> dict[str, Any]:
        if self.down:
            raise AuditUnavailable("the audit writer does not answer")
        names = ("records", "refused", "failures", "anchors_sent", "anchors_failed", "lag", "queued", "filled")
        return {"ok": True, **dict.fromkeys(names, 0), "sync_seconds": Histogram(SHORT).to_wire()}


@dataclass
class Api:
    """The application under test with everything behind it."""

    client: FlaskClient
    supervisor: FakeSupervisor
    audit: FakeAudit
    tokens: TokenStore
    pve: FakePveApi = field(default_factory=lambda: FakePveApi(()))
    figures: WebFigures = field(default_factory=make_figures)

    def token(self, actions: str = "exec:run", guests: str = "101-199", **options: Any) -> str:
        """A new token."""
        grant = Grant(parse_actions(actions.split(",")), parse_guests(guests))
        record = self.tokens.prepare("test", [grant], **{"lifetime": DAY, **options})
        return issue_token(self.tokens, record)

    def request(self, method: str, path: str, token: str | None = None, **options: Any) -> Any:
        """One TestResponse; each is checked for what every reply must carry. (Any: to mypy `.json` may be None.)"""
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        response = self.client.open(path, method=method, headers=headers, **options)
        assert ulid.is_ulid(response.headers["X-Request-Id"].removeprefix("req_"))
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        is_document = response.headers["Cache-Control"] == "no-cache" and path.startswith(("/openapi.", "/docs"))
        assert is_document or response.headers["Cache-Control"] == "no-store"
        assert is_document or "html" not in response.headers.get("Content-Type", "")
        body = None if response.is_streamed else response.data
        check_reply(method, path, response.status_code, response.headers.items(), body)
        return response


def make_view(vmid: int, command: list[str], state: str = "ended") -> ExecView:
    """An exec as the supervisor shows it."""
    return {
        "id": ulid.new("ex_"),
        "vmid": vmid,
        "node": "pve1",
        "state": state,
        "reason": "exited",
        "exit_code": 0,
        "signal": None,
        "spawn_error": None,
        "command": command,
        "labels": {},
        "created_at": "2026-01-01T00:00:00Z",
        "ended_at": "2026-01-01T00:00:01Z",
        "output": None,
        "usage": {"cpu_ms": 1, "memory_peak": None, "oom_killed": None},
        "killed": 0,
        "survivors": 0,
        "timing": {"queued_ms": 0, "spawn_ms": 9, "run_ms": 3},
        "audit_id": "au_" + "0" * 26,
    }


def assert_problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The one shape of every failure; gives its document."""
    assert response.status_code == status, response.data
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.data)
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:pve-exec-gateway:problem:{code}"
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert isinstance(problem["title"], str) and isinstance(problem["detail"], str) and problem["detail"]
    assert isinstance(problem["retryable"], bool)
    for error in problem.get("errors", []):
        assert error.keys() == {"path", "code", "message"}
    assert ("Retry-After" in response.headers) == (status in (429, 503))
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    return problem


def without_ids(problem: dict[str, Any]) -> dict[str, Any]:
    """A problem less what differs from one request to the next; that it was there is kept."""
    return {name: "" if name in ("request_id", "audit_id", "vmid") else value for name, value in problem.items()}
