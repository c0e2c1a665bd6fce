"""What is recorded of a change to tokens and keys: the intent is durable before the change is made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.audit.record import Event, build_aborted, build_record
from gateway.auth.actions import Action
from gateway.errors import AuditUnavailable, GatewayError

log = logging.getLogger(__name__)


class Audit(Protocol):
    """The audit log (audit.client.AuditClient)."""

    def commit(self, record: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Trail:
    """The records of one who changes tokens: a token, by a request, or the administrator on the node."""

    audit: Audit
    node: str
    remote: str = "local"
    request_id: str | None = None
    token_id: str | None = None
    token_name: str | None = None

    @contextmanager
    def announced(self, event: Event, data: Mapping[str, Any]) -> Iterator[str]:
        """The change is made inside; the record's audit id. Any failure in it is recorded as `aborted`.

        Raises AuditUnavailable, and then nothing has been done.
        """
        record = build_record(
            event,
            request_id=self.request_id,
            token_id=self.token_id,
            token_name=self.token_name,
            remote=self.remote,
            action=Action.TOKEN_ADMIN,
            node=self.node,
            data=data,
        )
        try:
            self.audit.commit(record)
        except AuditUnavailable as exc:
            raise AuditUnavailable(
                f"nothing was changed: {exc.detail}; is pve-exec-gateway-audit running?", **exc.evidence
            ) from exc
        try:
            yield str(record["audit_id"])
        except GatewayError as exc:
            self._take_back(record, exc.detail[:256])
            raise
        except BaseException as exc:
            self._take_back(record, f"broken off by {type(exc).__name__}: whether it was done is not known")
            raise

    def _take_back(self, record: Mapping[str, Any], reason: str) -> None:
        try:
            self.audit.commit(build_aborted(record, reason))
        except GatewayError as exc:
            log.error("%s of %s failed, and its end is not recorded: %s", record["event"], self.remote, exc.detail)
