"""Denials in the audit log: a request that was refused leaves a record, and stays refused without one."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.api.route import Route
from gateway.api.services import Audit
from gateway.audit.record import Event, build_record
from gateway.auth.actor import Actor, Denial
from gateway.auth.tokens import Refusal, Refused
from gateway.errors import (
    CommandNotGranted,
    ExecNotFound,
    Forbidden,
    GatewayError,
    GuestNotFound,
    OriginRefused,
    PolicyRefused,
    PrivilegeExceeded,
    TokenNotFound,
)
from gateway.errors_pve import TaskNotFound
from gateway.rates import Rates

_DENIALS: Mapping[type[GatewayError], Denial] = {
    Forbidden: Denial.ACTION_NOT_GRANTED,
    GuestNotFound: Denial.UNKNOWN_GUEST,
    ExecNotFound: Denial.UNKNOWN_EXEC,
    CommandNotGranted: Denial.COMMAND_NOT_GRANTED,
    PolicyRefused: Denial.POLICY_REFUSED,
    OriginRefused: Denial.FOREIGN_ORIGIN,
    TokenNotFound: Denial.UNKNOWN_TOKEN,
    TaskNotFound: Denial.UNKNOWN_TASK,
    PrivilegeExceeded: Denial.PRIVILEGE_EXCEEDED,
}
"""The errors of handlers, and of what is below them, that deny a known caller something."""

STRANGERS = 20, 1.0
TOKEN = 20, 0.1
TOKENS = 200, 1.0
"""How many at once, and how many a second, are recorded: of all strangers, of one token, of all tokens.

Together two a second for ever, 100 MB a day: less than half of the 8 GiB that a log has for its 30 days by default.
"""

_STRANGER = ""
"""No token has this id."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What was tried, from where; `vmid` and `exec_id` None where the path names no possible guest or exec."""

    route: Route
    vmid: int | None
    exec_id: str | None
    remote: str
    request_id: str


class DenialLog:
    """Records denials, rationed by `STRANGERS`, `TOKEN` and `TOKENS`, or anybody could fill the log with them, and a
    full log stops the node. The next record of the same caller (of any stranger) says how many were left out before it.
    """

    def __init__(self, audit: Audit, node: str, monotonic: Callable[[], float]) -> None:
        self._audit = audit
        self._node = node
        self._each = Rates(TOKEN[0], monotonic=monotonic)
        self._all = Rates(TOKENS[0], monotonic=monotonic)
        self._strangers = Rates(STRANGERS[0], monotonic=monotonic)
        self._lock = threading.Lock()
        self._omitted: Counter[str] = Counter()

    def record_stranger(self, attempt: Attempt, refused: Refused) -> None:
        """A caller who is not authenticated: no token, or one that is not valid now."""
        if refused.detail is not None:
            log.error("request %s: no token can be verified: %s", attempt.request_id, refused.detail)
        if self._strangers.take(_STRANGER, STRANGERS[1]).retry_after:
            self._omit(_STRANGER, 1)
        else:
            self._commit(_STRANGER, attempt, refused.reason, refused.token_id, None, {})

    def record_actor(
        self, attempt: Attempt, reason: Denial | Refusal, actor: Actor, more: Mapping[str, Any] | None = None
    ) -> str | None:
        """A known caller who may not do this, or not any more; its record's audit id, None without a record."""
        caller = actor.token_id
        if self._each.take(caller, TOKEN[1]).retry_after or self._all.take("", TOKENS[1]).retry_after:
            self._omit(caller, 1)
            return None
        return self._commit(caller, attempt, reason, caller, actor.token_name, more or {})

    def refuse(self, attempt: Attempt, actor: Actor, error: GatewayError) -> GatewayError:
        """`error` as the caller may see it. If it is a denial, and not recorded yet, it is recorded, and carries the
        record's audit id.

        A guest or an exec that is not there is told, and recorded, like one out of reach: they must not be told apart.
        """
        reason = next((reason for kind, reason in _DENIALS.items() if isinstance(error, kind)), None)
        if reason is None or "audit_id" in error.evidence:
            return error
        more: dict[str, Any] = {
            name: error.evidence[name]
            for name in ("field", "program", "refused", "token_id", "upid", "exceeds")
            if name in error.evidence
        }
        named = error.evidence.get("vmid", attempt.vmid)
        if named != attempt.vmid:  # a clone's new one, a backup's old one
            more["named_vmid"] = named
        audit_id = self.record_actor(attempt, reason, actor, more)
        if isinstance(error, GuestNotFound) and named is not None:
            return GuestNotFound.for_vmid(named, audit_id=audit_id)
        error.evidence["audit_id"] = audit_id
        return error

    def _omit(self, caller: str, count: int) -> None:
        with self._lock:
            self._omitted[caller] += count

    def _commit(
        self,
        caller: str,
        attempt: Attempt,
        reason: Refusal | Denial,
        token_id: str | None,
        token_name: str | None,
        more: Mapping[str, Any],
    ) -> str | None:
        with self._lock:
            omitted = self._omitted.pop(caller, 0)
        if omitted:
            more = {**more, "omitted": omitted}
        record = build_record(
            Event.REQUEST_DENIED,
            request_id=attempt.request_id,
            token_id=token_id,
            token_name=token_name,
            remote=attempt.remote,
            action=attempt.route.action,
            vmid=attempt.vmid,
            node=self._node,
            exec_id=attempt.exec_id,
            data={"reason": reason, "operation": attempt.route.operation_id, **more},
        )
        try:
            return self._audit.commit(record).audit_id
        except GatewayError as exc:
            self._omit(caller, omitted + 1)
            log.error(
                "request %s of %s: denial (%s) not recorded: %s",
                attempt.request_id,
                token_id or "a stranger",
                reason,
                exc.detail,
            )
            return None
