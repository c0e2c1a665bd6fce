"""The web's side of the supervisor's socket: blocking calls, safe in many threads and across fork."""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gateway.audit.record import Event
from gateway.clientwatch import Watch
from gateway.errors import ExecNotFound, GatewayError, GatewayRestarting
from gateway.exec.order import GuestKind
from gateway.exec.origin import Origin
from gateway.exec.reply import Found, OutputSlice, Redeemed, RunReply, Started, StdinReply
from gateway.exec.view import ExecView
from gateway.policy.root import RootChange
from gateway.supervisor.link.calling import ANSWER_SECONDS, Caller, Decide
from gateway.supervisor.link.feed import Feed
from gateway.supervisor.link.files import FilesLink

_HEALTH_SECONDS = 2.0
_INPUT_SECONDS = 40.0
_PAUSE_SECONDS = 20.0
_QUESTIONS, _QUESTION_BYTES = 64, 4000  # of one request to the nursery: launcher/protocol.h, REQUEST_MAX
_LET_GO_SECONDS = 20.0
_FILES_SECONDS = 330.0  # exec.queue_timeout_max, and the way into the guest
_ROOT_CHANGE_SECONDS = 1300.0  # others' before it, and its own ten minutes


class GuestFiles(Protocol):
    """Knows the identity of a guest's configuration."""

    def locate(self, vmid: int) -> tuple[GuestKind, str]: ...
    def config_id(self, vmid: int) -> str | None: ...


class SupervisorClient:
    """Calls that the supervisor answers. Each raises the GatewayError that it answers with.

    An exec is not shown when its guest has been replaced by another under the same vmid since.
    """

    def __init__(self, path: Path, guests: GuestFiles) -> None:
        self._caller = Caller(path)
        self._guests = guests

    def run(
        self,
        vmid: int,
        body: bytes,
        origin: Origin,
        watch: Watch | None,
        key: str | None = None,
        *,
        again: Decide | None = None,
    ) -> RunReply:
        """Runs the command that `body` (an ExecSpec as JSON) asks for, and waits for its end.

        `again` is asked for `origin` as it is then when the command has had to wait; without it, it does not run then.
        With an Idempotency-Key that has been used it is the exec of then, which is not run again. Raises ClientGone
        when the watched client leaves first: what happens then is the request's `on_disconnect`; and
        GatewayRestarting when this process can wait no longer: the exec goes on.
        """
        header = {**self._beginning("run", vmid, origin), "key": key}
        reply, (stdout, stderr) = self._caller.ask(header, body, again=again, watch=watch, timeout=None)
        return RunReply(reply["exec"], stdout, stderr, reply["replayed"])

    def start(
        self,
        vmid: int,
        body: bytes,
        origin: Origin,
        *,
        attended: bool,
        terminal: bool = False,
        again: Decide | None = None,
        watch: Watch | None = None,
        key: str | None = None,
    ) -> tuple[Started, Feed]:
        """Runs it and answers as soon as it runs; its output is followed by the Feed, which the caller closes.

        `attended`: the Feed's `leave` means that its client has left; `terminal`: it is begun as a terminal. Raises as
        `run` does.
        """
        header = {**self._beginning("start", vmid, origin), "key": key, "attended": attended, "terminal": terminal}
        sock = self._caller.connect()
        reply, _ = self._caller.ask_on(sock, header, body, again=again, watch=watch, timeout=None)
        started = Started(reply["exec"], reply["replayed"])
        return started, Feed(sock, started.view["id"], origin)

    def feed(self, exec_id: str, origin: Origin) -> Feed:
        """Follows or feeds an exec on a connection of its own, which the caller closes. Raises ExecNotFound."""
        self.get(exec_id, origin)
        return Feed(self._caller.connect(), exec_id, origin)

    def put_stdin(self, exec_id: str, origin: Origin, data: bytes, offset: int | None, eof: bool) -> StdinReply:
        """Gives the command input, 1 MiB at most, and waits until it, or its queue, has taken it.

        Raises StdinOffset (with `expected`), StdinClosed, StdinBlocked, WriterTaken or ExecEnded; then none was taken.
        """
        self.get(exec_id, origin)
        header = {"op": "stdin", "origin": origin.to_wire(), "id": exec_id, "offset": offset, "eof": eof}
        reply, _ = self._caller.ask(header, data, timeout=_INPUT_SECONDS)
        return StdinReply(reply["offset"], reply["eof"])

    def signal(self, exec_id: str, origin: Origin, number: int, tree: bool) -> ExecView:
        """Sends a signal to the command, or to its whole tree. Raises ExecEnded."""
        return self._act({"op": "signal", "number": number, "tree": tree}, exec_id, origin)

    def resize(self, exec_id: str, origin: Origin, rows: int, cols: int) -> ExecView:
        """Gives the terminal another size. Raises NotATerminal or ExecEnded."""
        return self._act({"op": "resize", "rows": rows, "cols": cols}, exec_id, origin)

    def get(
        self, exec_id: str, origin: Origin, wait: float = 0, watch: Watch | None = None, *, to_feed: bool = False
    ) -> ExecView:
        """The exec as it stands, after at most `wait` seconds (60 at most) for its end.

        A watch ends the waiting: raises ClientGone when the client leaves; at once when our own process ends.
        `to_feed`: raises CommandNotGranted unless the caller may give it input.
        """
        header = {"op": "get", "origin": origin.to_wire(), "id": exec_id, "wait": float(wait), "to_feed": to_feed}
        try:
            reply, _ = self._caller.ask(header, watch=watch if wait else None, timeout=wait + ANSWER_SECONDS)
        except GatewayRestarting:
            reply, _ = self._caller.ask({**header, "wait": 0.0})
        return self._shown(reply, origin, exec_id)

    def list(
        self, origin: Origin, vmid: int | None, state: str | None, labels: dict[str, str], limit: int, after: str | None
    ) -> list[ExecView]:
        """Up to `limit` execs, newest first, all older than `after`; fewer means that there are no more."""
        header = {"op": "list", "origin": origin.to_wire(), "vmid": vmid, "state": state, "labels": labels}
        shown: list[ExecView] = []
        while True:
            reply, _ = self._caller.ask({**header, "limit": limit - len(shown), "after": after})
            for entry in reply["execs"]:
                with contextlib.suppress(ExecNotFound):
                    shown.append(self._shown(entry, origin, entry["exec"]["id"]))
            after = reply["after"]
            if after is None or len(shown) >= limit:
                return shown

    def output(self, exec_id: str, stream: str, origin: Origin, offset: int, length: int) -> OutputSlice:
        """Kept bytes of `stdout` or `stderr`, from the stream's `offset`, 1 MiB at most; none inside a gap."""
        header = {"op": "output", "origin": origin.to_wire(), "id": exec_id, "stream": stream}
        reply, (data,) = self._caller.ask({**header, "offset": offset, "length": length, "wait": 0.0})
        self._check_same_guest(reply["guest"], origin, exec_id)
        kept = tuple((start, end) for start, end in reply["kept"])
        return OutputSlice(data, reply["total"], kept, reply["ended"])

    def kill(self, exec_id: str, origin: Origin) -> ExecView:
        """Begins to end the exec's whole tree. Raises ExecEnded when it has ended already."""
        self.get(exec_id, origin)
        reply, _ = self._caller.ask({"op": "kill", "origin": origin.to_wire(), "id": exec_id})
        return self._shown(reply, origin, exec_id)

    def _act(self, header: dict[str, Any], exec_id: str, origin: Origin) -> ExecView:
        self.get(exec_id, origin)
        reply, _ = self._caller.ask({**header, "origin": origin.to_wire(), "id": exec_id})
        view: ExecView = reply["exec"]
        return view

    def _beginning(self, operation: str, vmid: int, origin: Origin) -> dict[str, Any]:
        kind, config_id = self._guests.locate(vmid)
        return {"op": operation, "origin": origin.to_wire(), "vmid": vmid, "kind": kind, "config_id": config_id}

    def change_as_root(self, change: RootChange, origin: Origin, again: Decide) -> dict[str, Any]:
        """Has pvesh make the change; what it said (supervisor.root_changes). It is made though the client leaves.

        `again` is asked, by the name of "", for `origin` as it is then when the change has had to wait for its turn.

        Raises PolicyRefused, GuestNotFound, ...; OutcomeUnknown when the supervisor went away meanwhile.
        """
        header = {"op": "root_change", "origin": origin.to_wire(), "change": change.to_wire()}
        reply, _ = self._caller.ask(header, again=again, timeout=_ROOT_CHANGE_SECONDS)
        said: dict[str, Any] = reply["said"]
        return said

    def pause(self, vmid: int, node: str, origin: Origin, *, paused: bool) -> str:
        """Freezes or thaws a container; the record's `audit_id`. Raises GuestNotRunning, GuestFrozen, ... (Pauses.set);
        OutcomeUnknown when the supervisor went away meanwhile."""
        header = {"op": "pause", "origin": origin.to_wire(), "vmid": vmid, "node": node, "paused": paused}
        reply, _ = self._caller.ask(header, timeout=_PAUSE_SECONDS)
        return str(reply["audit_id"])

    def inspect(self, vmid: int, questions: Sequence[str], origin: Origin) -> builtins.list[Found]:
        """What a running container's own files say of these groups (by name) and places (by path).

        Raises GuestNotRunning, GuestFrozen, GuestSilent.
        """
        found: builtins.list[Found] = []
        while len(found) < len(questions):
            some = _fill_request(questions[len(found) :])
            header = {"op": "inspect", "origin": origin.to_wire(), "vmid": vmid, "questions": some}
            reply, _ = self._caller.ask(header)
            found += [Found(*numbers) for numbers in reply["found"]]
        return found

    def open_files(
        self, vmid: int, origin: Origin, event: Event, data: dict[str, Any], watch: Watch | None = None
    ) -> FilesLink:
        """A launcher in file mode in the guest, which the caller ends. `event` and `data` are what is recorded of it.

        Raises GuestNotRunning, GuestFrozen, TooManyExecs, AuditUnavailable, ...; nothing of it has been done then.
        """
        kind, _ = self._guests.locate(vmid)
        header = {"op": "files", "origin": origin.to_wire(), "vmid": vmid, "kind": kind, "event": event, "data": data}
        rights: list[int] = []
        sock = self._caller.connect()
        try:
            reply, _ = self._caller.ask_on(sock, header, watch=watch, timeout=_FILES_SECONDS, rights=rights)
            return FilesLink(sock, str(reply["audit_id"]), rights)
        except BaseException:
            for fd in rights:
                os.close(fd)
            raise

    def let_go(self, vmid: int) -> None:
        """Has nothing of a stopped container stay mounted for its files, for a change by PVE (StoppedRoots.let_go).

        Never raises: without it the change is made all the same, or PVE says what stands in its way.
        """
        with contextlib.suppress(GatewayError):
            self._caller.ask({"op": "files_let_go", "vmid": vmid}, timeout=_LET_GO_SECONDS)

    def make_ticket(self, origin: Origin, secret: tuple[int, str], method_and_path: str) -> str:
        """A ticket that stands for this secret once, within 30 s, for this alone. Raises TooManyRequests."""
        header = {"op": "ticket_make", "origin": origin.to_wire(), "secret": secret, "path": method_and_path}
        reply, _ = self._caller.ask(header)
        return str(reply["ticket"])

    def take_ticket(self, ticket: str, method_and_path: str) -> Redeemed | None:
        """Who has made this ticket for this; None when it is good for nothing (any more)."""
        reply, _ = self._caller.ask({"op": "ticket_take", "ticket": ticket, "path": method_and_path})
        match reply["data"]:
            case {"token_id": str(token_id), "secret": [int(generation), str(key)]}:
                return Redeemed(token_id, (generation, key))
        return None

    def locate(self, vmid: int) -> None:
        """Raises what `run` would for a guest that is not here, or of no kind that runs commands."""
        self._guests.locate(vmid)

    def health(self) -> dict[str, Any]:
        """The supervisor's own checks."""
        reply, _ = self._caller.ask({"op": "health"}, timeout=_HEALTH_SECONDS)
        return reply

    def figures(self) -> dict[str, Any]:
        """What it has counted, for /metrics (supervisor.figures)."""
        reply, _ = self._caller.ask({"op": "figures"}, timeout=_HEALTH_SECONDS)
        return reply

    def close(self) -> None:
        self._caller.close()

    # ---- one guest under a vmid is not the next

    def _shown(self, reply: dict[str, Any], origin: Origin, exec_id: str) -> ExecView:
        self._check_same_guest(reply["guest"], origin, exec_id)
        view: ExecView = reply["exec"]
        return view

    def _check_same_guest(self, guest: dict[str, Any], origin: Origin, exec_id: str) -> None:
        """The same run of the guest, or the same configuration file; the owner may read on after it was destroyed."""
        if guest["same_run"]:
            return
        now = self._guests.config_id(guest["vmid"])
        gone = now is None and origin.reaches_own(
            guest["token_id"], guest["vmid"], terminal=guest.get("terminal") is True
        )
        if now != guest["config_id"] and not gone:
            raise ExecNotFound.for_id(exec_id)


def _fill_request(questions: Sequence[str]) -> list[str]:
    """The first of these, as many as can be asked at once."""
    room, some = _QUESTION_BYTES, list[str]()
    for question in questions[:_QUESTIONS]:
        room -= len(question.encode()) + 1
        if some and room < 0:
            break
        some.append(question)
    return some
