"""Copies of every durable record for others to collect: best effort, never waited for, and what is lost is counted."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.audit.clock import moment_of
from gateway.audit.record import Event, Fields, note
from gateway.errors import ConfigError

RECORD_IDENTIFIER = "pve-exec-gateway-record"
"""`journalctl -t` finds the copies by it."""

MAX_QUEUED = 10_000
MAX_QUEUED_BYTES = 8 << 20
MAX_DATAGRAM = 32 << 10
"""Bytes of a syslog message; a longer record is not copied but named, by its seq and mac. UDP allows for 64 KiB."""

_RETRY_SECONDS = 0.5
_NOTE_SECONDS = 60.0
_FINISH_SECONDS = 1.0
_SEND_SECONDS = 1.0
_FACILITY_AUTHPRIV = 10
_NOTICE, _WARNING = 5, 4
_LOST = f'"event":"{Event.AUDIT_LOST}"'.encode()

Send = Callable[[bytes], None]
"""Sends one record's line. Raises OSError when that cannot be done now, ValueError when it never can."""


class Sink:
    """One place that copies go to, with a queue and a thread of its own. While it cannot be reached they wait."""

    def __init__(self, name: str, send: Send) -> None:
        self.name = name
        self.sent = 0
        self.lost = 0
        self._send = send
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._why = ""
        self._untold = 0
        self._told_at = -_NOTE_SECONDS
        self._ends = False
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def offer(self, lines: Sequence[bytes]) -> None:
        """Queue `lines`, or count them as lost where there are too many already."""
        with self._changed:
            for line in lines:
                if len(self._queue) >= MAX_QUEUED or self._bytes + len(line) > MAX_QUEUED_BYTES:
                    self._lose(line, self._why or "it takes records more slowly than they come")
                else:
                    self._queue.append(line)
                    self._bytes += len(line)
            self._changed.notify()

    def take_losses(self, *, force: bool = False) -> list[Fields]:
        """A note of what was lost since the last one, at most once a minute."""
        with self._changed:
            if not self._untold or (time.monotonic() - self._told_at < _NOTE_SECONDS and not force):
                return []
            self._told_at = time.monotonic()
            untold, self._untold = self._untold, 0
            return [note(Event.AUDIT_LOST, sink=self.name, records=untold, why=self._why)]

    def seconds_left(self) -> float | None:
        """Until a note is due; None when nothing was lost."""
        with self._changed:
            return max(0.0, self._told_at + _NOTE_SECONDS - time.monotonic()) if self._untold else None

    def finish(self) -> None:
        """Send what is queued, for at most a second; the rest is lost."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join(_FINISH_SECONDS)
        with self._changed:
            while self._queue:
                self._lose(self._queue.popleft(), self._why or "the writer ended")
            self._bytes = 0

    def status(self) -> dict[str, Any]:
        with self._changed:
            return {"name": self.name, "sent": self.sent, "lost": self.lost, "queued": len(self._queue)}

    def _lose(self, line: bytes, why: str) -> None:
        """The lock is held. The loss of a note about losses is counted, but not noted: that would never end."""
        self.lost += 1
        self._why = why
        if _LOST not in line:
            self._untold += 1

    def _run(self) -> None:
        while (line := self._next()) is not None:
            try:
                self._send(line)
            except ValueError as exc:
                self._drop(line, str(exc))
            except OSError as exc:
                with self._changed:
                    self._why = exc.strerror or str(exc)
                    if self._ends:
                        return
                    self._changed.wait(_RETRY_SECONDS)
            else:
                self._drop(line, None)

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._queue:
                if self._ends:
                    return None
                self._changed.wait()
            return self._queue[0]

    def _drop(self, line: bytes, lost: str | None) -> None:
        """The first of the queue was sent, or never can be."""
        with self._changed:
            if not self._queue or self._queue[0] is not line:
                return
            self._queue.popleft()
            self._bytes -= len(line)
            if lost is None:
                self.sent += 1
            else:
                self._lose(line, lost)


class Sinks:
    """All that are configured; often none."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = tuple(sinks)

    def offer(self, lines: Sequence[bytes]) -> None:
        for sink in self._sinks:
            sink.offer(lines)

    def take_losses(self, *, force: bool = False) -> list[Fields]:
        return [found for sink in self._sinks for found in sink.take_losses(force=force)]

    def seconds_left(self) -> float | None:
        return min((left for sink in self._sinks if (left := sink.seconds_left()) is not None), default=None)

    def finish(self) -> None:
        for sink in self._sinks:
            sink.finish()

    def status(self) -> list[dict[str, Any]]:
        return [sink.status() for sink in self._sinks]


def make_sinks(journal: Path | None, syslog: str | None) -> Sinks:
    """`journal`: journald's native socket. Raises ConfigError for a `syslog` that is neither path nor udp URL."""
    sinks = []
    if journal is not None:
        sinks.append(Sink("journal", _to_journal(journal)))
    if syslog is not None:
        sinks.append(Sink("syslog", _to_syslog(syslog)))
    return Sinks(sinks)


def _to_journal(path: Path) -> Send:
    """systemd.io/JOURNAL_NATIVE_PROTOCOL: one field a line. A record's line holds no newline, nor does its event."""
    send = _to_unix(str(path))

    def to_journal(line: bytes) -> None:
        event = json.loads(line)["event"]
        head = f"PRIORITY={_severity(event)}\nSYSLOG_IDENTIFIER={RECORD_IDENTIFIER}\nPVEG_EVENT={event}\nMESSAGE="
        send(head.encode() + line.rstrip(b"\n") + b"\n")

    return to_journal


def _to_syslog(target: str) -> Send:
    """RFC 5424 in one datagram each: over a local socket (RFC 3164's `/dev/log`) or over UDP (RFC 5426)."""
    send = _to_udp(target) if target.startswith("udp://") else _to_unix(target)
    name = re.sub(r"[^\x21-\x7e]", "_", socket.gethostname())[:255] or "-"
    frame = f"1 %s {name} pve-exec-gateway {os.getpid()} %s - "

    def to_syslog(line: bytes) -> None:
        event = json.loads(line)["event"]
        head = f"<{_FACILITY_AUTHPRIV * 8 + _severity(event)}>" + frame % (moment_of(line) or "-", event)
        message = line.rstrip(b"\n")
        if len(message) > MAX_DATAGRAM:
            raise ValueError("a record was too long for a datagram")
        send(head.encode() + message)

    return to_syslog


def _to_unix(path: str) -> Send:
    if not path.startswith("/"):
        raise ConfigError(f"audit.syslog: {path!r} is neither a socket's absolute path nor udp://ADDRESS:PORT")

    def to_unix(datagram: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_SEND_SECONDS)
            sock.sendto(datagram, path)

    return to_unix


def _to_udp(target: str) -> Send:
    """Addresses only: a name that does not resolve would hold the sink up."""
    try:
        parts = urlsplit(target)
        host, port = parts.hostname or "", parts.port or 514
        family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    except (ValueError, OSError):
        raise ConfigError(
            f"audit.syslog: {target!r} is not like udp://192.0.2.1:514; names are not looked up"
        ) from None

    def to_udp(datagram: bytes) -> None:
        with socket.socket(family[0], socket.SOCK_DGRAM) as sock:
            sock.settimeout(_SEND_SECONDS)
            sock.sendto(datagram, family[4])

    return to_udp


def _severity(event: str) -> int:
    bad = event.endswith((":denied", ":aborted", ":torn", ":lost", ":full", ":clock"))
    return _WARNING if bad else _NOTICE
