"""What the supervisor has recorded of execs: the intent before, the outcome after, a cancellation before it acts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.audit.aio import AsyncAuditClient
from gateway.audit.keys import Redactor
from gateway.audit.record import Event, build_aborted, build_record, new_audit_id
from gateway.audit.unfinished import Unfinished
from gateway.errors import GatewayError
from gateway.exec import trail
from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.exec.origin import Origin
from gateway.exec.spec import ExecSpec
from gateway.exec.view import State

log = logging.getLogger(__name__)


class AuditTrail:
    """The records of this node's execs."""

    def __init__(self, client: AsyncAuditClient, redactor: Redactor) -> None:
        self._client = client
        self.hash = redactor.hash

    def intent(self, spec: ExecSpec, order: Order) -> dict[str, Any]:
        """The record of what is about to run. Its key stands outside of `data`, of which a long record is cut."""
        data = trail.intent(spec, order, self.hash)
        record = _record(Event.EXEC_INTENT, order, asked_by=order, audit_id=order.audit_id, data=data)
        if order.idempotency is not None:
            record |= {"idempotency_key": order.idempotency, "fingerprint": order.fingerprint}
        return record

    async def commit(self, intent: dict[str, Any], change: Unfinished | None = None) -> None:
        """Returns when the intent is durable. Raises AuditUnavailable; then nothing may be done, and `change`, which
        remembers it, is closed."""
        await self._client.commit(intent, change=change)

    def abort(self, intent: dict[str, Any], reason: str, change: Unfinished | None = None) -> None:
        """Takes back what is durable: nothing of it was done. `change` is closed once that is durable, too."""
        self._post(build_aborted(intent, reason), str(intent.get("exec_id") or intent["audit_id"]), change)

    def never_began(self, order: Order, reason: str) -> None:
        """Has it written, without waiting, that one that was still queued has not been begun."""
        data = {"aborted": Event.EXEC_INTENT, "reason": reason}
        self._post(_record(Event.EXEC_ABORTED, order, asked_by=order, audit_id=order.audit_id, data=data), order.id)

    @contextmanager
    def taken_back(self, record: dict[str, Any]) -> Iterator[None]:
        """What `record` announced is done inside; if that fails, or comes too late, `aborted` follows."""
        try:
            yield
        except BaseException as exc:
            self.abort(record, exc.detail[:256] if isinstance(exc, GatewayError) else "its client left")
            raise

    async def cancel(self, order: Order, origin: Origin, *, queued: bool = False) -> dict[str, Any]:
        """The durable record of who ends this exec. Raises AuditUnavailable; then it is not ended.

        One that is still `queued` has no intent: what it would have run stands in this record.
        """
        data = {"state": State.QUEUED, "command": order.command, "labels": order.labels} if queued else None
        record = _record(Event.EXEC_CANCEL, order, asked_by=origin, audit_id=new_audit_id(), data=data)
        await self._client.commit(record)
        return record

    async def signal(self, order: Order, origin: Origin, number: int, *, tree: bool) -> dict[str, Any]:
        """The durable record of who sends this signal. Raises AuditUnavailable; then it is not sent."""
        data = {"signal": number, "to": "tree" if tree else "command"}
        record = _record(Event.EXEC_SIGNAL, order, asked_by=origin, audit_id=new_audit_id(), data=data)
        await self._client.commit(record)
        return record

    async def input(self, order: Order, origin: Origin) -> None:
        """Returns when it is recorded who begins to give input. Raises AuditUnavailable; then none is given."""
        await self._client.commit(_record(Event.EXEC_INPUT, order, asked_by=origin, audit_id=new_audit_id()))

    def outcome(self, order: Order, ending: Ending | None) -> None:
        """Has the outcome written, without waiting: an end cannot be refused. None: nobody knows it."""
        data = trail.outcome(ending) if ending is not None else {"reason": State.UNKNOWN}
        self._post(_record(Event.EXEC_OUTCOME, order, asked_by=order, audit_id=order.audit_id, data=data), order.id)

    def note(self, record: dict[str, Any], change: Unfinished | None = None) -> None:
        """Has any record written, without waiting; `change` is closed once it is durable."""
        self._post(record, str(record["audit_id"]), change)

    def _post(self, record: dict[str, Any], exec_id: str, change: Unfinished | None = None) -> None:
        try:
            self._client.post(record, change)
        except GatewayError as error:
            log.error("%s: %s is not in the audit log: %s", exec_id, record["event"], error.detail)


def _record(
    event: Event, order: Order, *, asked_by: Order | Origin, audit_id: str, data: dict[str, Any] | None = None
) -> dict[str, Any]:
    return record_of(
        event,
        asked_by,
        audit_id=audit_id,
        action=trail.action_of(order),
        vmid=order.vmid,
        node=order.node,
        exec_id=order.id,
        data=data,
    )


def record_of(
    event: Event,
    asked_by: Order | Origin,
    *,
    action: str,
    vmid: int,
    node: str,
    audit_id: str | None = None,
    exec_id: str | None = None,
    data: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A record of what this caller has asked for; without `audit_id` it names an operation of its own."""
    return build_record(
        event,
        audit_id=audit_id,
        request_id=asked_by.request_id,
        token_id=asked_by.token_id,
        token_name=asked_by.token_name,
        remote=asked_by.remote,
        action=action,
        vmid=vmid,
        node=node,
        exec_id=exec_id,
        data=data,
    )
