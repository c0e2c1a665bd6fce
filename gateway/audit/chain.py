"""The chain: each record's mac covers its own bytes and the mac before it, across files and restarts."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import Any

from gateway.audit.record import MAX_BYTES, Fields, canonical


@dataclass(frozen=True, slots=True)
class Head:
    """The chain's last record: its number, counted from 1 and never restarted, and its mac in hex."""

    seq: int
    mac: str


GENESIS = Head(0, "0" * 64)
"""What the first record of a chain names as the one before it."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record in its place in the chain."""

    head: Head
    prev: str
    record: Fields


class Chain:
    """Makes and checks lines with one key. It holds no position: the caller does."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, record: Fields, before: Head) -> tuple[Head, bytes]:
        """The line of `record` after `before`, newline included, and the new head."""
        body = {**record, "seq": before.seq + 1, "prev": before.mac}
        mac = self._mac(before.mac, body)
        return Head(before.seq + 1, mac), canonical({**body, "mac": mac}) + b"\n"

    def open(self, line: bytes) -> Sealed | None:
        """What `line` (without its newline) holds, or None unless every byte of it is as `seal` made it."""
        if len(line) > MAX_BYTES:
            return None
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or canonical(record) != line:
                return None
        except (ValueError, RecursionError):
            return None
        seq, prev, mac = record.get("seq"), record.get("prev"), record.pop("mac", None)
        if type(seq) is not int or not isinstance(prev, str) or not isinstance(mac, str):
            return None
        if not (prev.isascii() and mac.isascii()):
            return None
        if not hmac.compare_digest(mac, self._mac(prev, record)):
            return None
        return Sealed(Head(seq, mac), prev, record)

    def _mac(self, prev: str, body: dict[str, Any]) -> str:
        return hmac.digest(self._key, prev.encode("ascii") + canonical(body), "sha256").hex()
