"""Anchors: the chain's head, told to the journal now and then, so that a log cut at its end does not pass."""

from __future__ import annotations

import hmac
import json
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.audit.chain import Head
from gateway.audit.record import Fields, canonical, now

IDENTIFIER = "pve-exec-gateway-audit"
"""`journalctl -t` finds anchors by it."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """At `ts` the log reached `head`, in a file then called `file`."""

    head: Head
    file: str
    ts: str


class Anchors:
    """Sends the head when it is due, to journald's native socket, without ever waiting for it.

    Due: `every_records` after the last one, `every_seconds` after a change, and with each file begun. What
    the journal does not take is counted, and tried again when the next one is due.
    """

    def __init__(self, journal_socket: Path, key: bytes, *, every_records: int, every_seconds: float) -> None:
        self.sent = 0
        self.failed = 0
        self._path = str(journal_socket)
        self._key = key
        self._every_records = every_records
        self._every_seconds = every_seconds
        self._taken: Head | None = None
        self._tried = 0
        self._tried_at = 0.0
        self._file = 0

    def seconds_left(self, head: Head | None) -> float | None:
        """Until `head` is due by time; None when there is nothing new."""
        if head is None or head == self._taken:
            return None
        return max(0.0, self._tried_at + self._every_seconds - time.monotonic())

    def update(self, head: Head | None, file: str, files_begun: int, *, force: bool = False) -> None:
        """Send `head`, the last of `file`, if it is due. `files_begun` differs from before for another file."""
        left = self.seconds_left(head)
        if head is None or left is None:
            return
        many = head.seq - self._tried >= self._every_records
        if many or left == 0 or files_begun != self._file or force:
            self._tried, self._tried_at, self._file = head.seq, time.monotonic(), files_begun
            if self._send(head, file):
                self._taken = head

    def _send(self, head: Head, file: str) -> bool:
        """One datagram in journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), signed, because
        any local process may write to the journal under our name."""
        message = write_anchor(Anchor(head, file, now()), self._key)
        datagram = f"PRIORITY=5\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={message}\n".encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(datagram, self._path)
        except OSError:
            self.failed += 1
            return False
        self.sent += 1
        return True


def write_anchor(anchor: Anchor, key: bytes) -> str:
    """The anchor's one line of JSON; `sig` covers the rest."""
    body = {"file": anchor.file, "mac": anchor.head.mac, "seq": anchor.head.seq, "ts": anchor.ts}
    return canonical({**body, "sig": _sign(body, key)}).decode("ascii")


def read_anchors(lines: Iterable[str], key: bytes) -> Iterator[Anchor]:
    """The anchors in `lines`, as `journalctl -t pve-exec-gateway-audit -o cat` or `-o json` prints them.

    Lines that are not anchors signed with our key are passed over: anyone could have written them.
    """
    for line in lines:
        body = _read_object(line)
        if "MESSAGE" in body:
            body = _read_object(str(body["MESSAGE"]))
        signature = body.pop("sig", None)
        if isinstance(signature, str) and signature.isascii():
            try:
                genuine = hmac.compare_digest(signature, _sign(body, key))
            except ValueError:
                continue
            if genuine:
                yield Anchor(Head(body["seq"], body["mac"]), body["file"], body["ts"])


def _read_object(text: str) -> Fields:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sign(body: Fields, key: bytes) -> str:
    return hmac.digest(key, canonical(body), "sha256").hex()
