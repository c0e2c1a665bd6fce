"""Denials in the audit log: a request that was refused leaves a record, and stays refused without one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from gateway.api.route import Route
from gateway.api.services import Audit
from gateway.audit.record import Event, build_record
from gateway.auth.actor import Actor
from gateway.auth.tokens import Refusal, Refused
from gateway.errors import GatewayError

BURST = 20
PER_SECOND = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What was tried, from where; `vmid` None where the path names no possible guest."""

    route: Route
    vmid: int | None
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

    def record_actor(self, attempt: Attempt, reason: Refusal, actor: Actor) -> str | None:
        """A known caller who may not do this; the record's audit id, or None when it could not be had."""
        return self._commit(attempt, reason, actor.token_id, actor.token_name, {})

    def _commit(
        self,
        attempt: Attempt,
        reason: Refusal,
        token_id: str | None,
        token_name: str | None,
        more: dict[str, int],
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
            data={"reason": reason, "operation": attempt.route.operation_id, **more},
        )
        try:
            return self._audit.commit(record).audit_id
        except GatewayError as exc:
            log.error("request %s: denial (%s) not recorded: %s", attempt.request_id, reason, exc.detail)
            return None
