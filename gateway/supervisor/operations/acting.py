"""What acts on an exec that runs, over the supervisor's socket: input, signals, a terminal's size, its end; tickets."""

from __future__ import annotations

from typing import Any

from gateway.exec.origin import Origin
from gateway.supervisor.execs.acting import Acting
from gateway.supervisor.execs.looking import Looking
from gateway.supervisor.link.protocol import ProtocolError
from gateway.supervisor.operations.asked import Table, member, natural
from gateway.supervisor.operations.connection import Connection, Reply
from gateway.supervisor.operations.execs import guest_of
from gateway.supervisor.operations.tickets import Tickets


class ActingOperations:
    """A writer of input is known by its connection."""

    def __init__(self, acting: Acting, looking: Looking, tickets: Tickets) -> None:
        self._acting = acting
        self._looking = looking
        self._tickets = tickets
        self.table: Table = {
            "claim": self._claim,
            "stdin": self._stdin,
            "signal": self._signal,
            "resize": self._resize,
            "kill": self._kill,
            "ticket_make": self._make_ticket,
        }

    async def _claim(self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin) -> Reply:
        exec_id = member(header, "id", str)
        stdin = self._acting.claim(connection, exec_id, origin)
        connection.writes = exec_id
        return {"offset": stdin.offset, "eof": stdin.eof}, ()

    async def _stdin(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        if len(blobs) != 1:
            raise ProtocolError("input has one body")
        offset = None if header.get("offset") is None else natural(header, "offset")
        exec_id, eof = member(header, "id", str), member(header, "eof", bool)
        taken = await self._acting.put(connection, exec_id, origin, blobs[0], offset, eof=eof)
        return {"offset": taken.offset, "eof": taken.eof}, ()

    async def _signal(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, number = member(header, "id", str), member(header, "number", int)
        if not 1 <= number <= 64:
            raise ProtocolError("no such signal")
        await self._acting.signal(exec_id, origin, number, tree=member(header, "tree", bool))
        return {"exec": self._looking.get(exec_id, origin)}, ()

    async def _resize(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, rows, cols = member(header, "id", str), natural(header, "rows"), natural(header, "cols")
        if not (1 <= rows <= 32767 and 1 <= cols <= 32767):
            raise ProtocolError("no such size")
        self._acting.resize(exec_id, origin, rows, cols)
        return {"exec": self._looking.get(exec_id, origin)}, ()

    async def _kill(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id = member(header, "id", str)
        order = self._looking.order(exec_id, origin)
        return {
            "exec": await self._acting.kill(exec_id, origin),
            "guest": guest_of(order, self._looking.same_run(order)),
        }, ()

    async def _make_ticket(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        data = {"token_id": origin.token_id, "secret": member(header, "secret", list)}
        return {"ticket": self._tickets.make(origin.token_id, data, member(header, "path", str))}, ()

    def take_ticket(self, header: dict[str, Any]) -> Reply:
        """Of one who has nothing else to show yet."""
        return {"data": self._tickets.take(member(header, "ticket", str), member(header, "path", str))}, ()

    def closed(self, connection: Connection) -> None:
        """Others may write now."""
        if connection.writes is not None:
            self._acting.left(connection, connection.writes)

    def resumed(self, connection: Connection) -> None:
        """It was taken over from an earlier image of this program."""
        if connection.writes is not None:
            self._acting.resume(connection, connection.writes)
