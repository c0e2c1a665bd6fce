"""Denials in the audit log: a request that was refused leaves a record, and stays refused without one."""

from __future__ import annotations

import logging
import threading
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
    GatewayError,
    GuestNotFound,
    OriginRefused,
    PolicyRefused,
    PrivilegeExceeded,
    TokenNotFound,
)

_DENIALS: Mapping[type[GatewayError], Denial] = {
    GuestNotFound: Denial.UNKNOWN_GUEST,
    ExecNotFound: Denial.UNKNOWN_EXEC,
    CommandNotGranted: Denial.COMMAND_NOT_GRANTED,
    PolicyRefused: Denial.POLICY_REFUSED,
    OriginRefused: Denial.FOREIGN_ORIGIN,
    TokenNotFound: Denial.UNKNOWN_TOKEN,
    PrivilegeExceeded: Denial.PRIVILEGE_EXCEEDED,
}
"""The errors of handlers, and of what is below them, that deny a known caller something."""

BURST = 20
PER_SECOND = 5.0

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
    """Records denials. Those of callers without a valid token are rationed, or anybody could fill the log.

    Of them 20 at once and 5 a second are recorded; the next record after a gap says how many it left out.
    """

    def __init__(self, audit: Audit, node: str, monotonic: Callable[[], float]) -> None:
        self._audit = audit
        self._node = node
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._left = float(BURST)
        self._last = monotonic()
        self._omitted = 0

    def record_stranger(self, attempt: Attempt, refused: Refused) -> None:
        """A caller who is not authenticated: no token, or one that is not valid now."""
        if refused.detail is not None:
            log.error("request %s: no token can be verified: %s", attempt.request_id, refused.detail)
        with self._lock:
            now = self._monotonic()
            self._left = min(float(BURST), self._left + (now - self._last) * PER_SECOND)
            self._last = now
            if self._left < 1:
                self._omitted += 1
                return
            self._left -= 1
            omitted, self._omitted = self._omitted, 0
        self._commit(attempt, refused.reason, refused.token_id, None, {"omitted": omitted} if omitted else {})

    def record_actor(
        self, attempt: Attempt, reason: Denial | Refusal, actor: Actor, more: Mapping[str, Any] | None = None
    ) -> str | None:
        """A known caller who may not do this, or not any more; the record's audit id, None when it could not be had."""
        return self._commit(attempt, reason, actor.token_id, actor.token_name, more or {})

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
            for name in ("field", "program", "refused", "token_id", "exceeds")
            if name in error.evidence
        }
        audit_id = self.record_actor(attempt, reason, actor, more)
        if isinstance(error, GuestNotFound) and attempt.vmid is not None:
            return GuestNotFound.for_vmid(attempt.vmid, audit_id=audit_id)
        error.evidence["audit_id"] = audit_id
        return error

    def _commit(
        self,
        attempt: Attempt,
        reason: Refusal | Denial,
        token_id: str | None,
        token_name: str | None,
        more: Mapping[str, Any],
    ) -> str | None:
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
            log.error("request %s: denial (%s) not recorded: %s", attempt.request_id, reason, exc.detail)
            return None
