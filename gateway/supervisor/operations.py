"""What a peer on the supervisor's socket can ask for: a line each in `Operations`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from gateway import ulid
from gateway.audit.record import Event
from gateway.config import Config
from gateway.errors import NodeNotReady, TokenStoreError
from gateway.errors_pve import OutcomeUnknown
from gateway.exec.order import GuestKind, Order
from gateway.exec.origin import Origin
from gateway.policy.root import RootChange
from gateway.supervisor import readiness
from gateway.supervisor.acceptance import Acceptance
from gateway.supervisor.acting import Acting, require_feeding
from gateway.supervisor.execs import Execs
from gateway.supervisor.file_sessions import EVENTS, REASONS, FileSessions, Held
from gateway.supervisor.following import Following
from gateway.supervisor.inspection import MAX_QUESTIONS, Inspections, is_question
from gateway.supervisor.looking import Looking
from gateway.supervisor.pauses import Pauses
from gateway.supervisor.protocol import ProtocolError
from gateway.supervisor.queued import Attempt, Begun
from gateway.supervisor.root_changes import RootChanges
from gateway.supervisor.server import Connection, Reply
from gateway.supervisor.tickets import Tickets

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_WAIT = 60.0
_MAX_LISTED = 1000
_DECISION_SECONDS = 2.0


class Operations:
    """Turns frames into calls. Whatever is no request of ours is a ProtocolError."""

    def __init__(
        self,
        config: Config,
        acceptance: Acceptance,
        execs: Execs,
        looking: Looking,
        following: Following,
        acting: Acting,
        tickets: Tickets,
        root_changes: RootChanges,
        pauses: Pauses,
        inspections: Inspections,
        show_figures: Callable[[], dict[str, Any]],
        files: FileSessions,
    ) -> None:
        self._acceptance = acceptance
        self._config = config
        self._execs = execs
        self._looking = looking
        self._following = following
        self._acting = acting
        self._tickets = tickets
        self._root_changes = root_changes
        self._pauses = pauses
        self._inspections = inspections
        self._show_figures = show_figures
        self._files = files
        self._handlers: dict[str, Callable[[Connection, dict[str, Any], list[bytes], Origin], Awaitable[Reply]]] = {
            "run": self._run,
            "start": self._start,
            "get": self._get,
            "list": self._list,
            "events": self._events,
            "output": self._output,
            "claim": self._claim,
            "stdin": self._stdin,
            "signal": self._signal,
            "resize": self._resize,
            "kill": self._kill,
            "ticket_make": self._make_ticket,
            "root_change": self._change_as_root,
            "pause": self._pause,
            "inspect": self._inspect,
            "files": self._open_files,
        }

    async def dispatch(self, connection: Connection, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """The answer to one request. Raises ProtocolError, or the GatewayError that is the answer."""
        operation = header.get("op")
        if operation == "health":
            return {"checks": readiness.checks(self._config), "running": len(self._execs.running)}, ()
        if operation == "figures":
            return self._show_figures(), ()
        if operation == "ticket_take":  # of one who has nothing else to show yet
            return {"data": self._tickets.take(_member(header, "ticket", str), _member(header, "path", str))}, ()
        if operation == "files_end":  # of the connection that has them in hand
            return self._end_files(connection, header), ()
        handler = self._handlers.get(str(operation))
        if handler is None:
            raise ProtocolError("no such operation")
        try:
            origin = Origin.from_wire(header.get("origin"))
        except ValueError as exc:
            raise ProtocolError(str(exc)) from exc
        try:
            return await handler(connection, header, blobs, origin)
        except OSError as exc:
            log.error("%s failed: %s", operation, exc)
            raise NodeNotReady(
                f"the node is out of something that a command needs ({exc.strerror}); try again", missing=["resources"]
            ) from exc

    def closed(self, connection: Connection) -> None:
        """A connection has closed: what hung on it is let go, and what its client ran may end with it."""
        self._following.left(connection, connection.follows)
        if connection.writes is not None:
            self._acting.left(connection, connection.writes)
        if isinstance(connection.holds, Held):
            self._files.lost(connection.holds, client_left=connection.client_left)
        attended = connection.attends
        if attended is not None and connection.client_left and not self._is_attended(attended, connection.peers):
            self._execs.client_gone(attended)

    def resumed(self, connection: Connection) -> None:
        """A connection was taken over from an earlier image of this program."""
        if connection.writes is not None:
            self._acting.resume(connection, connection.writes)

    def _is_attended(self, exec_id: str, connections: set[Connection]) -> bool:
        return any(connection.attends == exec_id for connection in connections)

    async def _run(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        exec_id, replayed = await self._begin(connection, header, blobs, origin, spooled=False)
        connection.attends = exec_id
        ended = await self._execs.wait_end(exec_id)
        connection.attends = None
        view, stdout, stderr = ended or self._looking.result(exec_id, origin)
        return {"exec": view, "replayed": replayed}, (stdout, stderr)

    async def _start(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        attended = _member(header, "attended", bool)
        exec_id, replayed = await self._begin(connection, header, blobs, origin, spooled=True)
        connection.attends = exec_id if attended else None
        execution = self._execs.running.get(exec_id)
        if execution is not None:
            await asyncio.wait([execution.started])
        return {"exec": self._looking.get(exec_id, origin), "replayed": replayed}, ()

    async def _begin(
        self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin, *, spooled: bool
    ) -> Begun:
        """Accepts what a request asks for, unless it has: under an earlier image of this program, perhaps."""
        if connection.begun is not None:
            return connection.begun
        vmid, config_id = _member(header, "vmid", int), _member(header, "config_id", str)
        key, word = _optional(header, "key", str), _optional(header, "kind", str)
        attended = _optional(header, "attended", bool) or False
        if len(blobs) != 1:
            raise ProtocolError("a run has one body")
        attempt = connection.attempt = connection.attempt or Attempt(ulid.new("ex_"), asyncio.get_running_loop().time())
        try:
            kind = GuestKind(word or GuestKind.LXC)
        except ValueError as exc:
            raise ProtocolError("no such kind of guest") from exc
        exec_id, replayed = await self._acceptance.start(
            vmid,
            blobs[0],
            origin,
            attempt,
            kind=kind,
            config_id=config_id,
            decide_again=lambda: self._decide_again(connection, origin, attempt.exec_id),
            key=key,
            spooled=spooled,
            attended=attended,
        )
        connection.begun, connection.attempt = Begun(exec_id, replayed), None
        connection.request = header, []  # its body is not needed again
        blobs.clear()
        return connection.begun

    async def _decide_again(self, connection: Connection, origin: Origin, exec_id: str) -> Origin:
        """The same caller as its token is now, which the web alone can tell. Raises TokenStoreError if it does not.

        `exec_id`: what is about to begin; empty where it is no exec.
        """
        try:
            answer = await connection.ask({"turn": exec_id}, _DECISION_SECONDS)
            now = Origin.from_wire(answer.get("origin"))
        except TimeoutError as exc:
            raise TokenStoreError("nobody could tell in time whether the token may do this still; try again") from exc
        except ValueError as exc:
            raise ProtocolError(str(exc)) from exc
        if now.token_id != origin.token_id:
            raise ProtocolError("another token's turn")
        return now

    async def _get(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, wait = _member(header, "id", str), _member(header, "wait", float)
        order = self._looking.order(exec_id, origin)
        if header.get("to_feed"):
            require_feeding(order, origin)
        if wait > 0:
            await self._execs.wait_end(exec_id, min(wait, _MAX_WAIT))
        return {
            "exec": self._looking.get(exec_id, origin),
            "guest": _guest_of(order, self._looking.same_run(order)),
        }, ()

    async def _list(self, __: Connection, header: dict[str, Any], ___: list[bytes], origin: Origin) -> Reply:
        found, after = self._looking.page(
            origin,
            vmid=_optional(header, "vmid", int),
            state=_optional(header, "state", str),
            labels=_member(header, "labels", dict),
            limit=min(_member(header, "limit", int), _MAX_LISTED),
            after=_optional(header, "after", str),
        )
        runs: dict[tuple[int, str], bool] = {}
        for order, _ in found:
            run = (order.vmid, order.incarnation)
            if run not in runs:
                runs[run] = self._looking.same_run(order)
        execs = [
            {"exec": view, "guest": _guest_of(order, runs[order.vmid, order.incarnation])} for order, view in found
        ]
        return {"execs": execs, "after": after}, ()

    async def _events(self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin) -> Reply:
        exec_id = _member(header, "id", str)
        connection.follows.add(exec_id)
        reply, data = await self._following.events(
            connection,
            exec_id,
            origin,
            cursor=_natural(header, "cursor"),
            seen=_natural(header, "seen"),
            limit=_natural(header, "limit"),
            wait=_member(header, "wait", float),
        )
        if reply["ended"]:
            connection.follows.discard(exec_id)
        return reply, data

    async def _output(self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin) -> Reply:
        exec_id, stream = _member(header, "id", str), header.get("stream")
        if stream not in ("stdout", "stderr"):
            raise ProtocolError("no such stream")
        order = self._looking.order(exec_id, origin)
        wait = _member(header, "wait", float)
        if wait:
            connection.follows.add(exec_id)
        offset, length = _natural(header, "offset"), _natural(header, "length")
        reply, blobs = await self._following.output(
            connection, exec_id, origin, stream, offset=offset, length=length, wait=wait
        )
        return {**reply, "guest": _guest_of(order, self._looking.same_run(order))}, blobs

    async def _claim(self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin) -> Reply:
        exec_id = _member(header, "id", str)
        stdin = self._acting.claim(connection, exec_id, origin)
        connection.writes = exec_id
        return {"offset": stdin.offset, "eof": stdin.eof}, ()

    async def _stdin(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        if len(blobs) != 1:
            raise ProtocolError("input has one body")
        offset = None if header.get("offset") is None else _natural(header, "offset")
        exec_id, eof = _member(header, "id", str), _member(header, "eof", bool)
        taken = await self._acting.put(connection, exec_id, origin, blobs[0], offset, eof=eof)
        return {"offset": taken.offset, "eof": taken.eof}, ()

    async def _signal(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, number = _member(header, "id", str), _member(header, "number", int)
        if not 1 <= number <= 64:
            raise ProtocolError("no such signal")
        await self._acting.signal(exec_id, origin, number, tree=_member(header, "tree", bool))
        return {"exec": self._looking.get(exec_id, origin)}, ()

    async def _resize(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, rows, cols = _member(header, "id", str), _natural(header, "rows"), _natural(header, "cols")
        if not (1 <= rows <= 32767 and 1 <= cols <= 32767):
            raise ProtocolError("no such size")
        self._acting.resize(exec_id, origin, rows, cols)
        return {"exec": self._looking.get(exec_id, origin)}, ()

    async def _make_ticket(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        data = {"token_id": origin.token_id, "secret": _member(header, "secret", list)}
        return {"ticket": self._tickets.make(origin.token_id, data, _member(header, "path", str))}, ()

    async def _change_as_root(
        self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin
    ) -> Reply:
        try:
            change = RootChange.from_wire(header.get("change"))
        except ValueError as exc:
            raise ProtocolError(str(exc)) from exc
        if header.get("begun"):  # an earlier image of this program had it in work: it is not made twice
            raise OutcomeUnknown("the supervisor was replaced meanwhile; look at the guest", vmid=change.vmid)
        has_waited = header.get("waits") is True
        connection.request = {**header, "waits": True}, []

        def begins() -> None:
            connection.request = {**header, "begun": True}, []

        said = await self._root_changes.make(
            change,
            origin,
            lambda: self._decide_again(connection, origin, ""),
            has_waited=has_waited,
            begins=begins,
        )
        return {"said": said}, ()

    async def _pause(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        vmid, node = _member(header, "vmid", int), _member(header, "node", str)
        return {"audit_id": await self._pauses.set(vmid, node, origin, paused=_member(header, "paused", bool))}, ()

    async def _inspect(self, _: Connection, header: dict[str, Any], __: list[bytes], ___: Origin) -> Reply:
        """It tells numbers of groups and nodes, which nobody has to be granted here: web decides who may ask."""
        vmid, questions = _member(header, "vmid", int), _member(header, "questions", list)
        if not 1 <= len(questions) <= MAX_QUESTIONS or not all(map(is_question, questions)):
            raise ProtocolError("no such questions")
        return {"found": await self._inspections.ask(vmid, questions)}, ()

    async def _open_files(
        self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin
    ) -> Reply:
        try:
            kind, event = GuestKind(_member(header, "kind", str)), Event(_member(header, "event", str))
        except ValueError as exc:
            raise ProtocolError(str(exc)) from exc
        if event not in EVENTS or connection.holds is not None:
            raise ProtocolError("no such event of files, or not now")
        held = await self._files.open(_member(header, "vmid", int), kind, event, _member(header, "data", dict), origin)
        connection.holds, connection.rights = held, held.session.give_pipes()
        connection.request = None
        return {"audit_id": held.intent["audit_id"]}, ()

    def _end_files(self, connection: Connection, header: dict[str, Any]) -> dict[str, Any]:
        held, outcome = connection.holds, _member(header, "outcome", dict)
        if not isinstance(held, Held) or outcome.get("reason") not in REASONS:
            raise ProtocolError("nothing of files to end, or not so")
        connection.holds = None
        self._files.end(held, outcome)
        return {}

    async def _kill(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id = _member(header, "id", str)
        order = self._looking.order(exec_id, origin)
        return {
            "exec": await self._acting.kill(exec_id, origin),
            "guest": _guest_of(order, self._looking.same_run(order)),
        }, ()


def _natural(header: dict[str, Any], name: str) -> int:
    value = _member(header, name, int)
    if value < 0:
        raise ProtocolError(f"{name} is negative")
    return value


def _guest_of(order: Order, same_run: bool) -> dict[str, Any]:
    """What the web needs to tell whether a new guest has the vmid now."""
    return {"vmid": order.vmid, "config_id": order.config_id, "same_run": same_run, "token_id": order.token_id}


def _member(header: dict[str, Any], name: str, kind: type[T]) -> T:
    value = header.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ProtocolError(f"{name} is not of type {kind.__name__}")
    return value


def _optional(header: dict[str, Any], name: str, kind: type[T]) -> T | None:
    return None if header.get(name) is None else _member(header, name, kind)
