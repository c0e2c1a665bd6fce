"""Execs over the supervisor's socket: run, started, looked at, listed, followed."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway import ulid
from gateway.exec.order import GuestKind, Order
from gateway.exec.origin import Origin
from gateway.supervisor.execs.acceptance import Acceptance
from gateway.supervisor.execs.acting import require_feeding
from gateway.supervisor.execs.following import Following
from gateway.supervisor.execs.looking import Looking
from gateway.supervisor.execs.queued import Attempt, Begun
from gateway.supervisor.execs.registry import Execs
from gateway.supervisor.link.protocol import ProtocolError
from gateway.supervisor.operations.asked import Table, decide_again, member, natural, optional
from gateway.supervisor.operations.connection import Connection, Reply

_MAX_WAIT = 60.0
_MAX_LISTED = 1000


class ExecOperations:
    """What a peer may ask for about execs; what acts on one that runs is in `acting_operations`."""

    def __init__(self, acceptance: Acceptance, execs: Execs, looking: Looking, following: Following) -> None:
        self._acceptance = acceptance
        self._execs = execs
        self._looking = looking
        self._following = following
        self.table: Table = {
            "run": self._run,
            "start": self._start,
            "get": self._get,
            "list": self._list,
            "events": self._events,
            "output": self._output,
        }

    async def _run(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        exec_id, replayed = await self._begin(connection, header, blobs, origin, spooled=False)
        connection.attends = exec_id
        ended = await self._execs.wait_end(exec_id)
        connection.attends = None
        view, stdout, stderr = ended or self._looking.result(exec_id, origin)
        return {"exec": view, "replayed": replayed}, (stdout, stderr)

    async def _start(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        attended = member(header, "attended", bool)
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
        vmid, config_id = member(header, "vmid", int), member(header, "config_id", str)
        key, word = optional(header, "key", str), optional(header, "kind", str)
        attended = optional(header, "attended", bool) or False
        terminal = optional(header, "terminal", bool) or False
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
            decide_again=lambda: decide_again(connection, origin, attempt.exec_id),
            key=key,
            spooled=spooled,
            attended=attended,
            terminal=terminal,
        )
        connection.begun, connection.attempt = Begun(exec_id, replayed), None
        connection.request = header, []  # its body is not needed again
        blobs.clear()
        return connection.begun

    async def _get(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, wait = member(header, "id", str), member(header, "wait", float)
        order = self._looking.order(exec_id, origin)
        if header.get("to_feed"):
            require_feeding(order, origin)
        if wait > 0:
            await self._execs.wait_end(exec_id, min(wait, _MAX_WAIT))
        return {
            "exec": self._looking.get(exec_id, origin),
            "guest": guest_of(order, self._looking.same_run(order)),
        }, ()

    async def _list(self, __: Connection, header: dict[str, Any], ___: list[bytes], origin: Origin) -> Reply:
        found, after = self._looking.page(
            origin,
            vmid=optional(header, "vmid", int),
            state=optional(header, "state", str),
            labels=member(header, "labels", dict),
            limit=min(member(header, "limit", int), _MAX_LISTED),
            after=optional(header, "after", str),
        )
        runs: dict[tuple[int, str], bool] = {}
        for order, _ in found:
            run = (order.vmid, order.incarnation)
            if run not in runs:
                runs[run] = self._looking.same_run(order)
        execs = [{"exec": view, "guest": guest_of(order, runs[order.vmid, order.incarnation])} for order, view in found]
        return {"execs": execs, "after": after}, ()

    async def _events(self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin) -> Reply:
        exec_id = member(header, "id", str)
        connection.follows.add(exec_id)
        reply, data = await self._following.events(
            connection,
            exec_id,
            origin,
            cursor=natural(header, "cursor"),
            seen=natural(header, "seen"),
            limit=natural(header, "limit"),
            wait=member(header, "wait", float),
        )
        if reply["ended"]:
            connection.follows.discard(exec_id)
        return reply, data

    async def _output(self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin) -> Reply:
        exec_id, stream = member(header, "id", str), header.get("stream")
        if stream not in ("stdout", "stderr"):
            raise ProtocolError("no such stream")
        order = self._looking.order(exec_id, origin)
        wait = member(header, "wait", float)
        if wait:
            connection.follows.add(exec_id)
        offset, length = natural(header, "offset"), natural(header, "length")
        reply, blobs = await self._following.output(
            connection, exec_id, origin, stream, offset=offset, length=length, wait=wait
        )
        return {**reply, "guest": guest_of(order, self._looking.same_run(order))}, blobs

    def closed(self, connection: Connection) -> None:
        """What hung on this connection is let go, and what its client ran may end with it."""
        self._following.left(connection, connection.follows)
        attended = connection.attends
        if attended is not None and connection.client_left and not _is_attended(attended, connection.peers):
            self._execs.client_gone(attended)


def _is_attended(exec_id: str, connections: set[Connection]) -> bool:
    return any(connection.attends == exec_id for connection in connections)


def guest_of(order: Order, same_run: bool) -> dict[str, Any]:
    """What the web needs to tell whether a new guest has the vmid now."""
    return {
        "vmid": order.vmid,
        "config_id": order.config_id,
        "same_run": same_run,
        "token_id": order.token_id,
        "terminal": order.terminal,
    }
