"""A token's record as people and programs are shown it: by the API, and by the command with --json."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from gateway.auth.records import TokenRecord, format_time


def describe(record: TokenRecord, now: datetime, last_used: datetime | None) -> dict[str, Any]:
    """Everything but a secret, of which there is none to show. Secrets that have ended are left out."""
    fields = record.to_json()
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state(now),
        "grants": fields["grants"],
        "expires": fields["expires"],
        "networks": fields["networks"],
        "limits": fields["limits"],
        "created": fields["created"],
        "created_by": record.created_by,
        "revision": record.revision,
        "secrets": [secret.to_json() for secret in record.secrets if secret.until is None or now < secret.until],
        "revoked": fields["revoked"],
        "last_used": format_time(last_used),
    }
