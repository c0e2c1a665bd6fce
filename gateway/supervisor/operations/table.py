"""What a peer on the supervisor's socket can ask for: the tables of the rooms, joined."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gateway.errors import SupervisorUnavailable
from gateway.exec.origin import Origin
from gateway.supervisor.link.protocol import ProtocolError
from gateway.supervisor.operations.acting import ActingOperations
from gateway.supervisor.operations.asked import Table
from gateway.supervisor.operations.connection import Connection, Reply
from gateway.supervisor.operations.execs import ExecOperations
from gateway.supervisor.operations.files import FileOperations
from gateway.supervisor.operations.guests import GuestOperations

log = logging.getLogger(__name__)


class Operations:
    """Turns frames into calls. Whatever is no request of ours is a ProtocolError.

    `show_health` and `show_figures` are for whoever may connect, and say nothing of any guest.
    """

    def __init__(
        self,
        execs: ExecOperations,
        acting: ActingOperations,
        files: FileOperations,
        guests: GuestOperations,
        *,
        show_health: Callable[[], dict[str, Any]],
        show_figures: Callable[[], dict[str, Any]],
    ) -> None:
        self._execs = execs
        self._acting = acting
        self._files = files
        self._show_health = show_health
        self._show_figures = show_figures
        self._handlers: Table = {**execs.table, **acting.table, **files.table, **guests.table}

    async def dispatch(self, connection: Connection, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """The answer to one request. Raises ProtocolError, or the GatewayError that is the answer."""
        operation = header.get("op")
        if operation == "health":
            return self._show_health(), ()
        if operation == "figures":
            return self._show_figures(), ()
        if operation == "ticket_take":
            return self._acting.take_ticket(header)
        if operation == "files_end":
            return self._files.end(connection, header)
        if operation == "files_let_go":
            return await self._files.let_go(header)
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
            raise SupervisorUnavailable(
                f"the supervisor is out of something that this needs ({exc.strerror}); try again", retry_after=1
            ) from exc

    def closed(self, connection: Connection) -> None:
        """A connection has closed: every room lets go what hung on it."""
        for room in (self._execs, self._acting, self._files):
            room.closed(connection)

    def resumed(self, connection: Connection) -> None:
        """A connection was taken over from an earlier image of this program."""
        self._acting.resumed(connection)
