"""Files in guests over the supervisor's socket: a session is opened, and ended by the connection that holds it."""

from __future__ import annotations

from typing import Any

from gateway.audit.record import Event
from gateway.errors_files import GuestFilesFailed
from gateway.exec.order import GuestKind
from gateway.exec.origin import Origin
from gateway.supervisor.files.sessions import EVENTS, REASONS, FileSessions, Held
from gateway.supervisor.link.protocol import ProtocolError
from gateway.supervisor.operations.asked import Table, member
from gateway.supervisor.operations.connection import Connection, Reply


class FileOperations:
    """What a peer may ask for about files."""

    def __init__(self, files: FileSessions) -> None:
        self._files = files
        self.table: Table = {
            "files": self._open_files,
        }

    async def _open_files(
        self, connection: Connection, header: dict[str, Any], _: list[bytes], origin: Origin
    ) -> Reply:
        try:
            kind, event = GuestKind(member(header, "kind", str)), Event(member(header, "event", str))
        except ValueError as exc:
            raise ProtocolError(str(exc)) from exc
        if event not in EVENTS or connection.holds is not None:
            raise ProtocolError("no such event of files, or not now")
        held = await self._files.open(member(header, "vmid", int), kind, event, member(header, "data", dict), origin)
        pipes = held.session.pipes.give()
        if not pipes:
            self._files.end(held, {"reason": "failed"})
            raise GuestFilesFailed("our process in the guest was ended as it began; send the request again")
        connection.holds, connection.rights = held, pipes
        connection.request = None
        return {"audit_id": held.intent["audit_id"]}, ()

    async def let_go(self, header: dict[str, Any]) -> Reply:
        """For whoever may connect: it touches nothing that anybody uses, and tells nothing."""
        await self._files.let_go(member(header, "vmid", int))
        return {}, ()

    def end(self, connection: Connection, header: dict[str, Any]) -> Reply:
        """By the connection that has them in hand."""
        held, outcome = connection.holds, member(header, "outcome", dict)
        if not isinstance(held, Held) or outcome.get("reason") not in REASONS:
            raise ProtocolError("nothing of files to end, or not so")
        connection.holds = None
        self._files.end(held, outcome)
        return {}, ()

    def closed(self, connection: Connection) -> None:
        """Whoever held a session has gone."""
        if isinstance(connection.holds, Held):
            self._files.lost(connection.holds, client_left=connection.client_left)
