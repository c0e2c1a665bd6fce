"""The terms of a token beside its grants: name, source networks, lifetime and limits, as people write them."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.errors import GrantInvalid

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NETWORKS = 64
MAX_RATE = 100_000.0
MIN_RATE = 0.001
MAX_RUNNING = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LIFETIME = re.compile(r"([1-9][0-9]{0,8})([smhdw])", re.ASCII)
_LONGEST = timedelta(days=3660)
LONGEST_OVERLAP = timedelta(days=30)


@dataclass(frozen=True)
class Limits:
    """What one token may take; None: what the configuration lets any token have.

    `rate`: requests a second, on each node. `max_running`: execs at the same time, on each node.
    """

    rate: float | None = None
    max_running: int | None = None

    def __post_init__(self) -> None:
        rate, running = self.rate, self.max_running
        if rate is not None and not (type(rate) in (int, float) and MIN_RATE <= rate <= MAX_RATE):
            raise GrantInvalid(f"a rate is {MIN_RATE:g} to {MAX_RATE:g} requests a second")
        if running is not None and not (type(running) is int and 1 <= running <= MAX_RUNNING):
            raise GrantInvalid(f"max_running is 1 to {MAX_RUNNING}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Limits:
        """The limits that `to_json` described. Raises GrantInvalid for anything else."""
        if not isinstance(data, dict) or data.keys() != {"rate", "max_running"}:
            raise GrantInvalid("limits have the members `rate` and `max_running`")
        return cls(data["rate"], data["max_running"])

    def within(self, most: Limits) -> bool:
        """Whether these allow no more than `most` does."""
        return all(
            (math.inf if own is None else own) <= (math.inf if allowed is None else allowed)
            for own, allowed in ((self.rate, most.rate), (self.max_running, most.max_running))
        )


NO_LIMITS = Limits()


def parse_name(text: str) -> str:
    """A token's name, for people and logs. Raises GrantInvalid."""
    if not _NAME.fullmatch(text):
        raise GrantInvalid("a name is up to 64 letters, digits and ._@/-, the first a letter or digit")
    return text


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Source networks in CIDR form, at most 64. Raises GrantInvalid, also when host bits are set, or a zone: that is an
    interface's of one node, and callers are compared without theirs."""
    try:
        networks = tuple(_parse_network(text) for text in texts)
    except ValueError as exc:
        raise GrantInvalid(f"network: {exc}; write it like 10.0.0.0/24 or 2001:db8::/64") from exc
    if len(networks) > MAX_NETWORKS:
        raise GrantInvalid(f"a token has at most {MAX_NETWORKS} networks")
    return networks


def _parse_network(text: str) -> Network:
    if "%" in text:  # what follows may be any text (RFC 4007, 11.2), and Python keeps it as it is
        raise ValueError("a network has no zone")
    return ipaddress.ip_network(text)


def networks_within(networks: tuple[Network, ...], most: tuple[Network, ...]) -> bool:
    """Whether every address in `networks` is in `most`; none of either means all addresses."""
    if not most:
        return True
    return bool(networks) and all(
        any(network.version == outer.version and network.subnet_of(outer) for outer in most)  # type: ignore[arg-type]
        for network in networks
    )


def parse_duration(text: str) -> timedelta:
    """`30d`, `12h`, `45m`, `10s`, `2w`. Raises GrantInvalid."""
    match = _LIFETIME.fullmatch(text)
    duration = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None
    if duration is None or duration > _LONGEST:
        raise GrantInvalid("a time is a number and s, m, h, d or w, like 30d, at most ten years")
    return duration


def parse_overlap(text: str) -> timedelta:
    """How long a replaced secret stays valid: `0`, or up to 30 days like `1h`. Raises GrantInvalid."""
    overlap = timedelta() if text == "0" else parse_duration(text)
    if overlap > LONGEST_OVERLAP:
        raise GrantInvalid(f"an overlap is at most {LONGEST_OVERLAP.days} days")
    return overlap


def parse_expiry(text: str, now: datetime) -> datetime | None:
    """When a token ends: a lifetime like `30d`, a time like `2030-01-01T00:00:00Z`, or `never` (None).

    In whole seconds. Raises GrantInvalid, also for what is past or more than ten years ahead.
    """
    if text == "never":
        return None
    if _LIFETIME.fullmatch(text):
        return _whole(now + parse_duration(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise GrantInvalid(
            "a token's end is a lifetime like 30d, 12h or 2w, a time with its zone like 2030-01-01T00:00:00Z, or never"
        )
    try:
        moment = _whole(moment.astimezone(UTC))
    except OverflowError as exc:
        raise GrantInvalid("a token ends at most ten years from now; or `never`") from exc
    if moment <= now:
        raise GrantInvalid("a token's end lies ahead")
    if moment > now + _LONGEST:
        raise GrantInvalid("a token ends at most ten years from now; or `never`")
    return moment


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
