"""Exports a range of the log with the proof that it is whole: its lines as they are, and a signed last line.

The lines carry the chain: none can be changed, left out or added inside. The last line names both ends, so none can be
left out there. `check_export` needs the key and nothing else; who has no key still has every record.
"""

from __future__ import annotations

import csv
import hmac
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gateway.audit.chain import GENESIS, Chain, Head, Sealed
from gateway.audit.files import open_files, read_lines
from gateway.audit.keys import AuditKeys
from gateway.audit.record import Fields, canonical, now

COLUMNS = (
    "seq",
    "ts",
    "event",
    "token_id",
    "token_name",
    "remote",
    "action",
    "vmid",
    "exec_id",
    "request_id",
    "audit_id",
    "outcome",
    "command",
    "record",
)
"""Of a CSV export. `record` is the line itself, from which all others are made."""

_MANIFEST = "export"


@dataclass(frozen=True, slots=True)
class Span:
    """From the first record written at `since` or later to the last one written before `until`, without a gap; or by
    number, both ends inclusive."""

    since: str | None = None
    until: str | None = None
    first: int | None = None
    last: int | None = None

    def begins(self, sealed: Sealed) -> bool:
        return (self.first is None or sealed.head.seq >= self.first) and (
            self.since is None or sealed.record["ts"] >= self.since
        )

    def holds(self, sealed: Sealed) -> bool:
        return (self.last is None or sealed.head.seq <= self.last) and (
            self.until is None or sealed.record["ts"] < self.until
        )


@dataclass(frozen=True, slots=True)
class ExportFault:
    """The first line of an export, counted from 1, that is not as it was exported."""

    line: int
    detail: str


def export(directory: Path, keys: AuditKeys, span: Span, *, as_csv: bool) -> Iterator[str]:
    """The export, line by line. Lines of the log that are not genuine are left out, and counted. Raises OSError.

    The clock may have been set back inside the span: what lies between its ends is exported whatever its time.
    """
    chain = Chain(keys.chain)
    before, end, records, forged = GENESIS, GENESIS, 0, 0
    if as_csv:
        yield _row(COLUMNS)
    last = _find_last(directory, chain, span)
    with open_files(directory, chain) as files:
        for line in read_lines(files, chain):
            sealed = line.sealed
            if sealed is None:
                forged += bool(records)
                continue
            if not records:
                if not span.begins(sealed):
                    continue
                before = Head(sealed.head.seq - 1, sealed.prev)
            if sealed.head.seq > last:
                break
            records, end = records + 1, sealed.head
            yield _row(_cells(line.raw)) if as_csv else line.raw.decode("ascii") + "\n"
    if not records:
        end = before
    yield _manifest_line(_sign(keys, before, end, records, forged), as_csv=as_csv)


def check_export(file: IO[str], keys: AuditKeys) -> tuple[int, ExportFault | None]:
    """How many records an export holds, and what is wrong with it, if anything. CSV is told by its heading."""
    chain = Chain(keys.chain)
    walk = _Walk()
    lines = _read(file)
    for number, raw in lines:
        walk.begin = walk.begin or number
        manifest = _read_manifest(raw, keys) if raw is not None else None
        if manifest is not None:
            behind = ExportFault(number + 1, "it stands behind the signed end") if next(lines, None) else None
            return walk.records, _check_manifest(manifest, number, walk) or behind
        if walk.fault is None:
            walk.fault = _step(walk, number, raw, chain)
    return walk.records, walk.fault or ExportFault(walk.last + 1, "the export has no signed end: lines are missing")


@dataclass(slots=True)
class _Walk:
    """What was read so far. After a fault only the end is looked for: it knows how the export began."""

    begin: int = 0
    last: int = 0
    behind: Head = GENESIS
    at: Head | None = None
    records: int = 0
    fault: ExportFault | None = None


def _step(walk: _Walk, number: int, raw: bytes | None, chain: Chain) -> ExportFault | None:
    walk.last = number
    if raw is None:
        return ExportFault(number, "the columns are not those of the record")
    sealed = chain.open(raw)
    if sealed is None:
        return ExportFault(number, "the line is not as the writer wrote it, or was made with another key")
    at = walk.at
    if at is None:
        walk.behind = Head(sealed.head.seq - 1, sealed.prev)
    elif (sealed.head.seq, sealed.prev) != (at.seq + 1, at.mac):
        return ExportFault(number, f"record {at.seq + 1} should stand here, not {sealed.head.seq}")
    walk.at, walk.records = sealed.head, walk.records + 1
    return None


def _check_manifest(manifest: Fields, number: int, walk: _Walk) -> ExportFault | None:
    behind, to = (Head(**manifest[name]) for name in ("behind", "to"))
    if walk.at is not None and behind != walk.behind:
        return ExportFault(walk.begin, f"record {behind.seq + 1} should stand here: lines are missing, or were moved")
    if walk.fault is not None:
        return walk.fault
    if (walk.at or behind) != to or walk.records != manifest["records"]:
        return ExportFault(number, f"the export ended with record {to.seq}: lines are missing at the end")
    return None


def _find_last(directory: Path, chain: Chain, span: Span) -> int:
    """The number of the span's last record; 0 for none. Only a time needs a look: clocks are set back."""
    if span.until is None:
        return span.last if span.last is not None else sys.maxsize
    last = 0
    with open_files(directory, chain) as files:
        for line in read_lines(files, chain):
            if line.sealed and span.holds(line.sealed):
                last = line.sealed.head.seq
    return last


def _sign(keys: AuditKeys, before: Head, end: Head, records: int, forged: int) -> Fields:
    body = {
        "v": 1,
        "behind": {"seq": before.seq, "mac": before.mac},
        "to": {"seq": end.seq, "mac": end.mac},
        "records": records,
        "left_out": forged,
        "ts": now(),
    }
    return {_MANIFEST: body, "sig": _signature(keys, body)}


def _signature(keys: AuditKeys, body: Fields) -> str:
    return hmac.digest(keys.anchor, b"export " + canonical(body), "sha256").hex()


def _manifest_line(manifest: Fields, *, as_csv: bool) -> str:
    text = canonical(manifest).decode("ascii")
    return _row([_MANIFEST, *[""] * (len(COLUMNS) - 2), text]) if as_csv else text + "\n"


def _read_manifest(raw: bytes, keys: AuditKeys) -> Fields | None:
    if not raw.startswith(b'{"export":'):
        return None
    try:
        manifest = json.loads(raw)
        body, signature = manifest[_MANIFEST], str(manifest["sig"])
        genuine = hmac.compare_digest(signature.encode(), _signature(keys, body).encode())
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(body) if genuine else None


def _read(file: IO[str]) -> Iterator[tuple[int, bytes | None]]:
    """Each line's number and the record line in it; None where CSV columns do not fit their record."""
    heading = file.readline()
    if heading != _row(COLUMNS):
        if heading:
            yield 1, _encode(heading)
        for number, text in enumerate(file, 2):
            yield number, _encode(text)
        return
    try:
        for number, row in enumerate(csv.reader(file), 2):
            raw = _encode(row[-1]) if len(row) == len(COLUMNS) else None
            if raw is not None and row[0] != _MANIFEST and row != _cells_or_none(raw):
                raw = None
            yield number, raw
    except csv.Error:
        yield 0, None


def _encode(text: str) -> bytes:
    return text.removesuffix("\n").encode("utf-8", "surrogateescape")


def _cells_or_none(raw: bytes) -> list[str] | None:
    try:
        return _cells(raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _cells(raw: bytes) -> list[str]:
    record = json.loads(raw)
    actor, data = record.get("actor") or {}, record.get("data") or {}
    command = data.get("command")
    named: dict[str, Any] = {
        **record,
        "token_id": actor.get("token_id"),
        "token_name": actor.get("name"),
        "outcome": data.get("reason"),
        "command": canonical({"": command})[4:-1].decode("ascii") if command is not None else None,
    }
    return [*(_harmless(named.get(name)) for name in COLUMNS[:-1]), raw.decode("ascii")]


def _harmless(value: object) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, CSV injection) and no terminal for control bytes."""
    if value is None:
        return ""
    text = canonical({"": str(value)})[5:-2].decode("ascii").replace('\\"', '"')
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _row(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
