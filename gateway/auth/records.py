"""The record of a token: what is stored of it, which never includes the token itself."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.auth.grants import Grant
from gateway.errors import GrantInvalid

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST = timedelta(days=3660)


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """One token. Times are UTC; `expires` None is never; no `networks` means from anywhere."""

    id: str
    name: str
    grants: tuple[Grant, ...]
    created: datetime
    expires: datetime | None = None
    networks: tuple[Network, ...] = ()
    revoked: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "id": self.id,
            "name": self.name,
            "grants": [grant.to_json() for grant in self.grants],
            "created": format_time(self.created),
            "expires": format_time(self.expires),
            "networks": [str(network) for network in self.networks],
            "revoked": format_time(self.revoked),
        }

    def dump(self) -> bytes:
        return json.dumps(self.to_json(), indent=2).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> TokenRecord:
        """The record that `dump` wrote. Raises ValueError: a doubtful record gives nothing."""
        fields = json.loads(data)
        if not isinstance(fields, dict) or fields.pop("version", None) != _VERSION:
            raise ValueError(f"not a token record of version {_VERSION}")
        if fields.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("a member is missing or unknown")
        try:
            return cls(
                id=fields["id"],
                name=parse_name(fields["name"]),
                grants=tuple(Grant.from_json(grant) for grant in fields["grants"]),
                created=_parse_time(fields["created"]),
                expires=_parse_time_or_none(fields["expires"]),
                networks=parse_networks(fields["networks"]),
                revoked=_parse_time_or_none(fields["revoked"]),
            )
        except (GrantInvalid, TypeError) as exc:
            raise ValueError(str(exc)) from exc


def parse_name(text: str) -> str:
    """A token's name, for people and logs. Raises GrantInvalid."""
    if not _NAME.fullmatch(text):
        raise GrantInvalid("a name is up to 64 letters, digits and ._@/-, the first a letter or digit")
    return text


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Source networks in CIDR form. Raises GrantInvalid, also when host bits are set."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as exc:
        raise GrantInvalid(f"network: {exc}; write it like 10.0.0.0/24 or 2001:db8::/64") from exc


def parse_lifetime(text: str) -> timedelta | None:
    """`30d`, `12h`, `45m`, `2w`; None for `never`. Raises GrantInvalid."""
    if text == "never":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    lifetime = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None
    if lifetime is None or lifetime > _LONGEST:
        raise GrantInvalid("a lifetime is a number and m, h, d or w, like 30d, at most ten years; or `never`")
    return lifetime


def format_time(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, whole seconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time lacks its zone")
    return moment


def _parse_time_or_none(text: str | None) -> datetime | None:
    return None if text is None else _parse_time(text)
