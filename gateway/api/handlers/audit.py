"""GET /audit and GET /audit/verify: the audit log as far as the caller may read it, and whether it is whole."""

from __future__ import annotations

from dataclasses import asdict

from gateway.api.call import Call, Reply
from gateway.api.models.audit import AuditQuery, Order, VerifyQuery, Witness
from gateway.api.services import Services
from gateway.audit.search import Query
from gateway.auth.actions import Action
from gateway.auth.grants import ALL_GUESTS


def list_records(services: Services, call: Call) -> Reply:
    """A page of records. One who may not read about every guest sees only records about guests that he may."""
    asked: AuditQuery = call.query
    reach = call.actor.reach(Action.AUDIT_READ)
    page = services.audit.search(
        Query(
            events=tuple(map(str, asked.event)),
            token_id=asked.token,
            vmid=asked.vmid,
            exec_id=asked.exec_id,
            request_id=asked.request_id,
            audit_id=asked.audit_id,
            outcome=asked.outcome,
            since=asked.since,
            until=asked.until,
            guests=None if reach == ALL_GUESTS else reach,
            newest_first=asked.order is Order.NEWEST,
            after=asked.after,
            limit=asked.limit,
        )
    )
    return Reply({"records": page.records, "next": page.next})


def verify_log(services: Services, call: Call) -> Reply:
    """A part of the log, as long as it takes some seconds, from the begin or from where the part before ended.

    Who may not read all records is told that it is good or not, and no numbers and places of records.
    """
    asked: VerifyQuery = call.query
    part = services.audit.verify(asked.after)
    sees_all = call.actor.reach(Action.AUDIT_READ) == ALL_GUESTS
    checked = [Witness.WRITER] if part.head_checked else []
    return Reply(
        {
            "good": part.fault is None,
            "fault": asdict(part.fault) if part.fault and sees_all else None,
            "records": part.records if sees_all else None,
            "first": part.first if sees_all else None,
            "last": part.last if sees_all else None,
            "checked": checked,
            "unchecked": [witness for witness in Witness if witness not in checked],
            "next": part.next,
        }
    )
