"""The record of a token: what is stored of it, which never includes the token itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from gateway.auth.grants import Grant
from gateway.auth.terms import NO_LIMITS, Limits, Network, parse_name, parse_networks
from gateway.errors import GrantInvalid

_VERSION = 1
_PAGE = 512


class TokenState(StrEnum):
    """What a token is now. One that is revoked stays so; one that has expired can be rotated."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, kw_only=True)
class Secret:
    """One secret of a token: its number, the key of the ring that signed it, and when it ends if before the token."""

    generation: int
    key: str
    until: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        return {"generation": self.generation, "key": self.key, "until": format_time(self.until)}


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """One token. Times are UTC; `expires` None is never; no `networks` means from anywhere.

    `revision` counts its versions. `secrets` holds the current one first, and the one before it while that overlaps.
    `created_by` is the token that asked for it, or `local` for the command on the node.
    """

    id: str
    name: str
    grants: tuple[Grant, ...]
    created: datetime
    created_by: str = "local"
    revision: int = 1
    secrets: tuple[Secret, ...] = ()
    expires: datetime | None = None
    networks: tuple[Network, ...] = ()
    limits: Limits = NO_LIMITS
    revoked: datetime | None = None

    def state(self, now: datetime) -> TokenState:
        if self.revoked is not None:
            return TokenState.REVOKED
        expired = self.expires is not None and self.expires <= now
        return TokenState.EXPIRED if expired else TokenState.ACTIVE

    def died(self, now: datetime) -> datetime | None:
        """Since when it has been of no use; None while it is active."""
        ends = [moment for moment in (self.revoked, self.expires) if moment is not None and moment <= now]
        return min(ends) if ends else self.revoked

    def to_json(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "id": self.id,
            "name": self.name,
            "grants": [grant.to_json() for grant in self.grants],
            "created": format_time(self.created),
            "created_by": self.created_by,
            "revision": self.revision,
            "secrets": [secret.to_json() for secret in self.secrets],
            "expires": format_time(self.expires),
            "networks": [str(network) for network in self.networks],
            "limits": self.limits.to_json(),
            "revoked": format_time(self.revoked),
        }

    def dump(self) -> bytes:
        return pad(json.dumps(self.to_json(), indent=2).encode(), self.revision)

    @classmethod
    def parse(cls, data: bytes) -> TokenRecord:
        """The record that `dump` wrote. Raises ValueError: a doubtful record gives nothing."""
        fields = json.loads(data)
        version = fields.pop("version", None) if isinstance(fields, dict) else None
        if type(version) is not int or version != _VERSION:
            raise ValueError(f"not a token record of version {_VERSION}")
        if fields.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("a member is missing or unknown")
        if type(fields["revision"]) is not int or not isinstance(fields["created_by"], str):
            raise ValueError("revision is a whole number, created_by is text")
        networks = fields["networks"]
        if not all(isinstance(fields[name], list) for name in ("grants", "secrets", "networks")):
            raise ValueError("grants, secrets and networks are lists")
        if not all(isinstance(network, str) for network in networks):
            raise ValueError("a network is text")
        try:
            return cls(
                id=fields["id"],
                name=parse_name(fields["name"]),
                grants=tuple(Grant.from_json(grant) for grant in fields["grants"]),
                created=_parse_time(fields["created"]),
                created_by=fields["created_by"],
                revision=fields["revision"],
                secrets=tuple(_parse_secret(secret) for secret in fields["secrets"]),
                expires=_parse_time_or_none(fields["expires"]),
                networks=parse_networks(networks),
                limits=Limits.from_json(fields["limits"]),
                revoked=_parse_time_or_none(fields["revoked"]),
            )
        except (GrantInvalid, TypeError, OverflowError) as exc:
            raise ValueError(str(exc)) from exc


def pad(data: bytes, revision: int) -> bytes:
    """`data` and newlines, so that one version of a file never has the size of the 511 before it.

    On the other nodes of a cluster a file that was replaced keeps its inode (libfuse numbers paths, and did not see the
    rename), and pmxcfs keeps whole seconds: two changes within one second show in the size or not at all.
    """
    return data + b"\n" * (1 + (revision - len(data) - 1) % _PAGE)


def format_time(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, whole seconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _parse_secret(data: Any) -> Secret:
    if not isinstance(data, dict) or data.keys() != {"generation", "key", "until"}:
        raise ValueError("a secret has the members `generation`, `key` and `until`")
    if type(data["generation"]) is not int or not isinstance(data["key"], str):
        raise ValueError("a secret's `generation` is a whole number, `key` is text")
    return Secret(generation=data["generation"], key=data["key"], until=_parse_time_or_none(data["until"]))


def _parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time lacks its zone")
    return moment.astimezone(UTC)


def _parse_time_or_none(text: str | None) -> datetime | None:
    return None if text is None else _parse_time(text)
