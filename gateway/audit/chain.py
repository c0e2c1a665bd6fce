"""The chain: each record's mac covers its own bytes, the mac before it among them, across files and restarts.

The mac stands last in the line, behind exactly the bytes that it covers.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass

from gateway.audit.record import MAX_BYTES, Fields, canonical


@dataclass(frozen=True, slots=True)
class Head:
    """The chain's last record: its number, counted from 1 and never restarted, and its mac in hex."""

    seq: int
    mac: str


_MAC_MEMBER = b',"mac":"%s"}'
_MAC_BYTES = len(_MAC_MEMBER % b"") + 64

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
        body = canonical({**record, "seq": before.seq + 1, "prev": before.mac})
        mac = self._mac(body)
        return Head(before.seq + 1, mac), body[:-1] + _MAC_MEMBER % mac.encode() + b"\n"

    def open(self, line: bytes) -> Sealed | None:
        """What `line` (without its newline) holds, or None unless every byte of it is as `seal` made it."""
        body, mac = line[:-_MAC_BYTES] + b"}", line[-_MAC_BYTES:]
        made = self._mac(body)
        if len(line) > MAX_BYTES or not hmac.compare_digest(mac, _MAC_MEMBER % made.encode()):
            return None
        record = json.loads(body)
        return Sealed(Head(record["seq"], made), record["prev"], record)

    def _mac(self, body: bytes) -> str:
        return hmac.digest(self._key, body, "sha256").hex()
