"""What is done to guests as root, over the supervisor's socket: changes by pvesh, pauses, looks inside."""

from __future__ import annotations

from typing import Any

from gateway.errors_pve import OutcomeUnknown
from gateway.exec.origin import Origin
from gateway.policy.root import RootChange
from gateway.supervisor.changes.pauses import Pauses
from gateway.supervisor.changes.root_changes import RootChanges
from gateway.supervisor.launching.inspection import MAX_QUESTIONS, Inspections, is_question
from gateway.supervisor.link.protocol import ProtocolError
from gateway.supervisor.operations.asked import Table, decide_again, member
from gateway.supervisor.operations.connection import Connection, Reply


class GuestOperations:
    """What a peer may ask for about a guest itself."""

    def __init__(self, root_changes: RootChanges, pauses: Pauses, inspections: Inspections) -> None:
        self._root_changes = root_changes
        self._pauses = pauses
        self._inspections = inspections
        self.table: Table = {
            "root_change": self._change_as_root,
            "pause": self._pause,
            "inspect": self._inspect,
        }

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
            lambda: decide_again(connection, origin, ""),
            has_waited=has_waited,
            begins=begins,
        )
        return {"said": said}, ()

    async def _pause(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        vmid, node = member(header, "vmid", int), member(header, "node", str)
        return {"audit_id": await self._pauses.set(vmid, node, origin, paused=member(header, "paused", bool))}, ()

    async def _inspect(self, _: Connection, header: dict[str, Any], __: list[bytes], ___: Origin) -> Reply:
        """It tells numbers of groups and nodes, which nobody has to be granted here: web decides who may ask."""
        vmid, questions = member(header, "vmid", int), member(header, "questions", list)
        if not 1 <= len(questions) <= MAX_QUESTIONS or not all(map(is_question, questions)):
            raise ProtocolError("no such questions")
        return {"found": await self._inspections.ask(vmid, questions)}, ()
